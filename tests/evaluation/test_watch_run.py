"""Watching a real run dir while another process adds checkpoints to it."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest

from genrec_jax.checkpoint import manifest, run_log
from genrec_jax.evaluation import watch
from genrec_jax.evaluation.checkpoints import RunEvaluation
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.parallel import mesh as meshes
from tests.evaluation import tiny_run

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOB = """
import sys
from genrec_jax.checkpoint.run_dir import RunDir
from tests.evaluation import tiny_run
run_dir = RunDir.load(sys.argv[1])
for step in (20, 30):
    tiny_run.add_checkpoint(run_dir, step)
(run_dir.path / "finished.json").write_text("{}")
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    dataset = tiny_run.make_dataset(folder, num_users=20)
    return tiny_run.make_run(folder / "run", [dataset.path], steps=(10,))


def open_evaluation(run_dir):
    config = EvaluateConfig(
        split="validation", templates=("A1",), num_beams=6, batch_size=32, max_users=10
    )
    return RunEvaluation(run_dir, config, mesh=meshes.single_device_mesh())


def test_evaluates_what_another_process_saves_until_it_is_done(run_dir):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", JOB, str(run_dir.path)], env=environment) as job:
        steps = [
            written[0].metrics["step"]
            for written in watch.watch_run(
                run_dir.path, open_evaluation, poll_seconds=0.05, timeout_seconds=120.0
            )
        ]
        assert job.wait() == 0
    assert steps == [10, 20, 30]
    folders = sorted(path.name for path in run_dir.eval_dir.iterdir())
    assert folders == [f"validation-{step}-sample10-beams6" for step in (10, 20, 30)]


def test_a_checkpoint_pruned_before_its_turn_is_told_of(run_dir, tmp_path):
    """Both checkpoints are there when the watcher looks; the second goes while the first is read."""
    for step in (40, 50):
        tiny_run.add_checkpoint(run_dir, step)
    (run_dir.path / run_log.FINISHED).write_text("{}")
    notices = []

    @dataclasses.dataclass
    class Pruning:
        evaluation: RunEvaluation

        def evaluate(self, step):
            if step == 40:
                manifest.remove(run_dir.checkpoint_dir / "40")
            return self.evaluation.evaluate(step)

    evaluated = [
        written[0].metrics["step"]
        for written in watch.watch_run(
            run_dir.path, lambda opened: Pruning(open_evaluation(opened)), notify=notices.append
        )
    ]
    assert evaluated[-1] == 50
    assert 40 not in evaluated
    assert "checkpoint 40 was removed" in notices[0]
