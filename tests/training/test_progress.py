"""What people see: a bar with loss and speed in a terminal, few plain lines elsewhere."""

import io

import rich.console

from genrec_jax.training import progress

VALUES = {"loss": 1.23456, "examples_per_second": 512.0, "tokens_per_second": 20_480.0}


def test_a_terminal_gets_a_bar():
    stream = io.StringIO()
    console = rich.console.Console(file=stream, force_terminal=True, width=160)
    bar = progress.Bar(0, 100, console)
    bar.update(40, VALUES)
    bar.say("validation at step 40: [loss] 1.0")
    bar.close()
    shown = stream.getvalue()
    assert "40/100" in shown
    assert "loss 1.2346  512 examples/s  20.5k tokens/s" in shown
    assert "validation at step 40: [loss] 1.0" in shown
    assert "left" in shown


def test_the_share_of_the_peak_is_shown_where_it_is_known():
    assert "of peak" not in progress.describe(VALUES)
    shown = progress.describe(VALUES | {"mfu": 0.4321, "input_wait_share": 0.004})
    assert shown.endswith("20.5k tokens/s  43.2% of peak  0.4% waiting for input")


def test_a_log_gets_a_line_at_first_and_at_the_end(capsys):
    lines = progress.Lines(0, 100)
    lines.update(10, VALUES)
    lines.update(20, VALUES)
    lines.update(30, {})
    lines.update(100, VALUES)
    shown = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in shown] == ["step 10/100", "step 100/100"]
    assert "loss 1.2346" in shown[0]
    assert shown[1].endswith("0.0 s left")


def test_a_run_without_a_terminal_gets_lines(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(progress.make_display(0, 10), progress.Lines)
