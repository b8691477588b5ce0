"""`genrec report` as a user types it."""

import shutil

import pytest

from genrec_jax.cli import main
from tests.evaluation import report_run, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return report_run.make_reported_run(
        folder / "quickstart", tiny_run.make_dataset(folder, num_users=60)
    )


def test_it_writes_the_page_and_prints_where(run, tmp_path, capsys):
    output = tmp_path / "deep" / "page.html"
    words = ["report", str(run.path), "--output", str(output), "--title", "Ours", "--examples", "2"]
    assert main.main(words) == 0
    assert capsys.readouterr().out == f"{output}\n"
    text = output.read_text(encoding="utf-8")
    assert "<title>Ours</title>" in text
    assert text.count("<article") == 2


def test_a_run_that_was_never_evaluated_is_named(run, tmp_path, capsys):
    bare = shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("eval"))
    words = ["report", str(run.path), str(bare), "--output", str(tmp_path / "page.html")]
    assert main.main(words) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'page.html'}\n"
    assert said.err.startswith(f"{bare}: not evaluated") and said.err.count("\n") == 1
    assert f"run `genrec evaluate {bare}`" in said.err


def test_without_output_it_lies_in_the_run_dir(run, capsys):
    assert main.main(["report", str(run.path)]) == 0
    assert (run.path / "report.html").is_file()
    assert str(run.path / "report.html") in capsys.readouterr().out


def test_a_mistake_is_one_readable_line(tmp_path, capsys):
    assert main.main(["report", str(tmp_path / "nothing"), "--output", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "genrec train" in said


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(["report", "--help"])
    assert stopped.value.code == 0
    assert "genrec report runs/quickstart" in capsys.readouterr().out
