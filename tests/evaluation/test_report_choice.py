"""Which evaluation the report shows, and its alarm where that is not of the best checkpoint."""

import shutil

import pytest

from genrec_jax.cli import main
from genrec_jax.data import artefacts
from genrec_jax.evaluation import report_choice, report_compare, report_data, results, stored
from tests.evaluation import report_run, tiny_run
from tests.evaluation.report_page import Page

NEWER = "2030-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    """The checkpoint of step 400 is evaluated as the best, and is it; step 1000's stands beside it."""
    folder = tmp_path_factory.mktemp("choice")
    made = report_run.make_reported_run(folder / "run", tiny_run.make_dataset(folder, num_users=30))
    tiny_run.add_checkpoint(made, 400)
    tiny_run.add_checkpoint(made, 1000)
    return made


@pytest.fixture
def run(shared_run, tmp_path):
    return shutil.copytree(shared_run.path, tmp_path / "run")


def evaluate_again(run, name, **entries):
    """As if `genrec evaluate` had been asked for something else, later."""
    folder = shutil.copytree(run / "eval/test-400", run / "eval" / name)
    file = folder / results.METRICS_FILE
    file.unlink()
    content = results.load(run / "eval/test-400" / results.METRICS_FILE)
    artefacts.write_json(file, content | {"created": NEWER} | entries)


def shown(run):
    (view,) = report_data.read_run(run, name="run", data={}, num_examples=0).evaluations
    return view


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("test-1000", {"step": 1000, "checkpoint": 1000}),
        ("test-1000", {"step": 1000, "checkpoint": "best"}),
        ("test-400-beams10", {"num_beams": 10}),
        ("test-400-bfloat16", {"dtype": "bfloat16"}),
    ],
)
def test_the_best_checkpoint_and_the_usual_search_come_before_the_newest(run, name, entries):
    evaluate_again(run, name, **entries)
    view = shown(run)
    assert view.folder == stored.find(run).folder == run / "eval/test-400"
    assert view.checkpoint == report_choice.Standing("best")


def test_without_checkpoints_what_was_evaluated_as_the_best_is_shown(run):
    shutil.rmtree(run / "checkpoints")
    evaluate_again(run, "test-1000", step=1000, checkpoint=1000)
    view = shown(run)
    assert view.folder.name == "test-400"
    assert view.checkpoint == report_choice.Standing("best when it was evaluated")


def test_a_best_checkpoint_named_by_its_step_is_the_best(run):
    evaluate_again(run, "test-400-later", checkpoint=400)
    shutil.rmtree(run / "eval/test-400")
    assert shown(run).checkpoint == report_choice.Standing("best")


@pytest.mark.parametrize(
    ("entries", "said", "facts"),
    [
        (
            {"step": 1000, "checkpoint": 1000},
            "of step 1,000, evaluated as `1000`; the best checkpoint is of step 400.",
            "step 1,000 (not the best, which is step 400)",
        ),
        (
            {"step": 40, "checkpoint": "best"},
            "of step 40, the best checkpoint when it was evaluated; the best is now of step 400.",
            "step 40 (no longer the best, which is step 400)",
        ),
        (
            {"parameters": "of another training"},
            "of an earlier checkpoint of step 400; its parameters are others now.",
            "step 400 (since replaced)",
        ),
    ],
)
def test_what_is_not_of_the_best_checkpoint_raises_the_alarm(
    run, shared_run, tmp_path, capsys, entries, said, facts
):
    """Beside a run that is shown at its best; on the page and on the terminal."""
    evaluate_again(run, f"test-{entries.get('step', 4000)}", **entries)
    shutil.rmtree(run / "eval/test-400")
    sound = shutil.copytree(shared_run.path, tmp_path / "sound")
    output = tmp_path / "page.html"
    assert main.main(["report", str(run), str(sound), "--output", str(output)]) == 0
    alarm = f"run, toystore: the figures are {said} Run `genrec evaluate {run}`, then this report"
    told = capsys.readouterr().err
    assert told.startswith(alarm) and told.count("\n") == 1
    text = Page(output.read_text(encoding="utf-8")).text
    assert f"Not the best checkpoint: {alarm}" in text
    assert f"Checkpoint {facts}" in text and "Checkpoint step 400 (best)" in text
    assert "NOT of the best checkpoint for 1 of 2 runs" in text


def test_runs_at_their_best_are_compared_without_an_alarm(run, shared_run, tmp_path, capsys):
    sound = shutil.copytree(shared_run.path, tmp_path / "sound")
    output = tmp_path / "page.html"
    assert main.main(["report", str(run), str(sound), "--output", str(output)]) == 0
    text = Page(output.read_text(encoding="utf-8")).text
    assert capsys.readouterr().err == "" and "Not the best checkpoint" not in text
    assert "each run's main row, best checkpoint, seen items kept" in text


@pytest.mark.parametrize(("others", "averaged"), [(0, True), (1, False), (2, True)])
def test_seeds_at_the_best_checkpoint_are_not_averaged_with_others(
    shared_run, tmp_path, others, averaged
):
    """What was named of every run may be averaged: one rule for all, which the alarm tells."""
    folders = [shutil.copytree(shared_run.path, tmp_path / f"seed{seed}") for seed in range(2)]
    for seed, folder in enumerate(folders):
        artefacts.write_json(
            folder / "run.json", shared_run.manifest | {"settings": {"seed": seed}}
        )
        file = folder / "eval/test-400" / results.METRICS_FILE
        entries = {"run_dir": folder.name} | ({"step": 1000} if seed < others else {})
        artefacts.write_json(file, results.load(file) | entries)
    named = [
        report_data.read_run(folder, name=folder.name, data={}, num_examples=0)
        for folder in folders
    ]
    text = str(report_compare.comparison(named))
    assert ("2 seeds: mean" in text) == averaged
    assert ("some of their figures are of the best checkpoint and some are not" in text) != averaged
