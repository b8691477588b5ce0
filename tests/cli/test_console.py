"""What commands print is shown as it is, in tables and beside progress bars too."""

import io
import pathlib
import sys

import rich.table

from genrec_jax import progress
from genrec_jax.cli import console

TEXT = "[/b] [red]x[/] :smile: [link=y]"


def test_texts_tables_and_titles_are_shown_as_they_are(capsys):
    made = console.make(width_elsewhere=132)
    table = rich.table.Table(TEXT, title=TEXT)
    table.add_row(TEXT)
    made.print(TEXT, style="yellow")
    made.print(table)
    assert capsys.readouterr().out.count(TEXT) == 4


def test_a_step_of_a_progress_bar_is_shown_as_it_is(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "132")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    steps = progress.Steps(enabled=True)
    with steps.running(), steps.step(f"fetching {TEXT}", 1):
        pass
    assert f"fetching {TEXT}" in terminal.getvalue()


def test_no_command_has_a_console_of_its_own():
    files = pathlib.Path(console.__file__).parent.glob("*.py")
    assert [file.name for file in files if "Console(" in file.read_text()] == ["console.py"]
