"""A run dir at a URL: trained, gone on with elsewhere, evaluated, asked and reported from there."""

import dataclasses
import json
import pathlib
import random
import signal

import fsspec
import jax
import numpy as np
import pytest

from genrec_jax import mirror
from genrec_jax.checkpoint import restore, run_dir, run_log
from genrec_jax.cli import main
from genrec_jax.errors import UserError
from genrec_jax.evaluation import checkpoints, report, watch
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.training import config, preemption, run
from tests.training import test_resume

URL, PLACE = "memory://bucket/runs/toys", "/bucket/runs/toys"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Goes to another machine when called: the store is the same, nothing else is."""
    machines = iter(range(100))

    def move() -> None:
        monkeypatch.setenv("GENREC_STORAGE_CACHE", str(tmp_path / f"machine{next(machines)}"))

    move()
    return move


@pytest.fixture
def store():
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def whole(make_config):
    """A run of 6 steps on a file system."""
    settings = make_config()
    train(settings)
    return settings


def train(settings, steps: int = 6, **options) -> run.Summary:
    mesh = mesh_lib.single_device_mesh()
    settings = dataclasses.replace(settings, train_steps=steps)
    return run.train(settings, mesh=mesh, show_progress=False, **options)


def there(settings):
    return dataclasses.replace(settings, model_dir=URL)


def params_of(place) -> list[bytes]:
    params = restore.restore_params(place, "latest")
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]


def names(store) -> set[str]:
    return {name.removeprefix(f"{PLACE}/") for name in store.find(PLACE)}


def test_from_training_to_the_report_nothing_is_needed_but_the_url(
    whole, store, elsewhere, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_COMPILATION_CACHE", "")
    before = set(tmp_path.iterdir())
    train(there(whole), steps=3)
    assert "finished.json" in names(store)
    elsewhere()
    summary = train(there(whole))
    assert (summary.step, summary.stopped) == (6, "finished")
    assert f"next: genrec evaluate {URL}" in summary.text()
    elsewhere()
    assert run_dir.RunDir.load(URL).settings["train_steps"] == 6, "as of the last start"
    # The same files, the same parameters, the same log.
    local = pathlib.Path(whole.model_dir)
    files = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    top = {name.split("/")[0] for name in files}
    assert {name.split("/")[0] for name in names(store)} == top - {"train.lock"}
    steps = {name.split("/")[1] for name in names(store) if name.startswith("checkpoints/")}
    assert steps == {path.name for path in (local / "checkpoints").iterdir()}
    assert params_of(URL) == params_of(local)
    copied = tmp_path / "log"
    copied.mkdir()
    store.get_file(f"{PLACE}/metrics.jsonl", str(copied / "metrics.jsonl"))
    last, wanted = run_log.read_metrics(copied)[-1], run_log.read_metrics(local)[-1]
    assert [last[name] for name in ("step", "loss", "examples")] == [
        wanted[name] for name in ("step", "loss", "examples")
    ]

    # Evaluated twice: the second adds a template to what the first one left in the store.
    asked = EvaluateConfig(num_beams=10, batch_size=16, max_users=16, templates=("A1",))
    mesh = mesh_lib.single_device_mesh()
    wanted = checkpoints.evaluate_checkpoint(local, "latest", asked, mesh=mesh)[0]
    found = checkpoints.evaluate_checkpoint(URL, "latest", asked, mesh=mesh)[0]
    assert found.folder == f"{URL}/eval/test-6-sample16-beams10" and found.metrics["run_dir"] == URL
    for name in ("users", "systems", "lists"):
        assert found.metrics[name] == wanted.metrics[name]
    elsewhere()
    second = dataclasses.replace(asked, templates=("A2",))
    told = []
    evaluation = checkpoints.RunEvaluation(URL, second, mesh=mesh, profile=told.append)
    merged = evaluation.evaluate("latest")[0]
    assert told and any(name.startswith("tensorboard/plugins/profile/") for name in names(store))
    assert set(merged.metrics["templates"]) == {"A1", "A2"}
    assert (
        json.loads(store.cat_file(f"{PLACE}/eval/test-6-sample16-beams10/metrics.json"))
        == merged.metrics
    )
    assert store.size(f"{PLACE}/eval/test-6-sample16-beams10/predictions.parquet") > 0

    elsewhere()
    assert main.main(["recommend", URL, "--user", "shopper_17", "-k", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["run_dir"] == URL and len(printed["recommendations"]) == 3
    assert main.main(["recommend", str(local), "--user", "shopper_17", "-k", "3", "--json"]) == 0
    alike = json.loads(capsys.readouterr().out)["recommendations"]
    assert [one["source_id"] for one in printed["recommendations"]] == [
        one["source_id"] for one in alike
    ]

    elsewhere()
    for _ in range(2):  # an earlier report is replaced
        assert main.main(["report", URL]) == 0
        assert f"{URL}/report.html" in capsys.readouterr().out
    page = store.cat_file(f"{PLACE}/report.html").decode()
    assert report.MARK in page and URL in page and "Not evaluated yet" not in page
    assert set(tmp_path.iterdir()) - before <= {copied, *tmp_path.glob("machine*")}


def test_the_best_checkpoint_is_kept_and_found_and_a_run_starts_from_it(
    make_config, store, elsewhere
):
    settings = make_config(
        validation=config.ValidationConfig(period=2),
        checkpoints=config.CheckpointConfig(period=2, keep_latest=1),
    )
    measured = iter((0.2, 0.5, 0.1))
    train(there(settings), validate=lambda params: {"hr@10": next(measured)})
    assert {name.split("/")[1] for name in names(store) if "checkpoints/" in name} == {"4", "6"}
    elsewhere()
    run_dir = restore.RunDir.load(URL)
    assert restore.choose_step(run_dir) == 4
    assert not (run_dir.checkpoint_dir / "4" / "optimizer").exists(), "only what is used is copied"
    elsewhere()
    begun = make_config(initial_checkpoint=URL)
    train(begun, steps=0)
    params = [jax.tree.leaves(restore.restore_params(place)) for place in (begun.model_dir, URL)]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_a_validation_made_up_elsewhere_is_recorded_where_the_run_is(make_config, store, elsewhere):
    settings = make_config(
        validation=config.ValidationConfig(period=2), checkpoints=config.CheckpointConfig(period=2)
    )
    measured = iter((0.2, 0.5, 0.1))

    def stopped_at_the_second(params):
        value = next(measured)
        if value == 0.5:
            raise preemption.StopReached
        return {"hr@10": value}

    assert train(there(settings), validate=stopped_at_the_second).stopped == "preempted"
    elsewhere()
    again = iter((0.5, 0.1))
    train(there(settings), validate=lambda params: {"hr@10": next(again)})
    elsewhere()
    opened = restore.RunDir.load(URL)
    assert restore.choose_step(opened) == 4
    records = [r for r in run_log.read_metrics(opened.path) if r["kind"] == "validation"]
    assert [(r["step"], r["hr@10"]) for r in records] == [(2, 0.2), (4, 0.5), (6, 0.1)]


def test_a_checkpoint_that_was_not_uploaded_whole_does_not_count(
    whole, store, elsewhere, monkeypatch
):
    """The store fails in the middle of the second checkpoint; the next start goes on from the first."""
    plain = type(store).put_file
    written = []

    def failing(self, file, place, **options):
        if "/checkpoints/4/" in place:
            written.append(place)
            if len(written) > 3:
                raise ConnectionError("gone")
        return plain(self, file, place, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "put_file", failing)
        with pytest.raises(UserError, match=rf"^{URL}/checkpoints: the store failed .*gone"):
            train(there(whole))
    assert len(written) > 3 and not store.exists(f"{PLACE}/checkpoints/4/manifest.json")
    elsewhere()
    assert restore.choose_step(restore.RunDir.load(URL), "latest") == 2
    summary = train(there(whole))
    assert summary.step == 6 and params_of(URL) == params_of(whole.model_dir)


def test_checkpoints_are_evaluated_as_they_appear_at_the_url(whole, store):
    evaluated = []

    class Evaluation:
        def evaluate(self, step):
            evaluated.append((step, restore.choose_step(restore.RunDir.load(URL), step)))
            return ()

    def look(timeout: float) -> None:
        list(watch.watch_run(URL, lambda run_dir: Evaluation(), timeout_seconds=timeout))  # type: ignore

    with pytest.raises(UserError, match="no new checkpoint"):
        look(0.0)
    train(there(whole))
    look(0.0)
    assert evaluated == [(step, step) for step in sorted({4, 6})]


def test_other_settings_are_refused(whole, store):
    train(there(whole), steps=2)
    changed = dataclasses.replace(there(whole), seed=5)
    with pytest.raises(UserError, match=rf"^{URL}: holds a run with other settings"):
        train(changed)
    with pytest.raises(UserError, match=r"^memory://bucket/none: holds no run.json"):
        restore.RunDir.load("memory://bucket/none")


class RunsAtUrl(test_resume.Runs):
    """In their own processes, each with a cache of its own; `file://` stands for the store."""

    starts = 0

    def command(self, name: str, *flags: str) -> list[str]:
        own = super().command(name, *flags)
        return [word.replace('MODEL_DIR="', 'MODEL_DIR="file://') for word in own]

    @property
    def environment(self) -> dict[str, str]:
        self.starts += 1
        return super().environment | {
            "GENREC_STORAGE_CACHE": str(self.folder / f"cache{self.starts}")
        }


@pytest.mark.long
def test_a_killed_process_goes_on_from_the_url(toy_dataset, tmp_path):
    runs = RunsAtUrl(tmp_path, toy_dataset, steps=60)
    test_resume.Runs(tmp_path, toy_dataset, steps=60).finish("whole")
    assert test_resume.kill_often(runs, 3, random.Random(4), longest=0.7) == 3
    ended = runs.interrupt("killed", signal.SIGTERM, 0.1)
    assert ended is not None and ended[0] == 0, ended
    runs.finish("killed")
    assert not list((tmp_path / "killed").rglob("train.lock"))
    test_resume.assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_folder_that_grows_is_copied_as_it_is_at_the_moment(tmp_path, store):
    grown = mirror.Mirror(URL, tmp_path)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a").write_text("one")
    grown.publish_growing("log", "absent")
    assert names(store) == {"log/a"}
    grown.below("log").remove("a")
    grown.remove("log")
    assert not store.find(PLACE)
