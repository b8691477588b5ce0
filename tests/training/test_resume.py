"""Real processes, really killed: a run that is started again ends as one that was left alone."""

import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from genrec_jax.checkpoint import restore, run_log

CONFIG = """
from __gin__ import dynamic_registration
from genrec_jax.model import config as model_config
from genrec_jax.training import config
from genrec_jax.training import schedules

include 'gin_configs/models/t5_tiny.gin'
include 'gin_configs/runs/train.gin'

MIXTURE_OR_TASK_NAME = "openp5_sequential"
DATA_DIR = "{data}"
BATCH_SIZE = 16
TRAIN_STEPS = {steps}
CHECKPOINT_PERIOD = 2
EVAL_PERIOD = None
TASK_FEATURE_LENGTHS = {{"inputs": 96, "targets": None}}
model_config.T5Config.embed_dim = 16
model_config.T5Config.num_heads = 2
model_config.T5Config.head_dim = 8
model_config.T5Config.mlp_dim = 32
model_config.T5Config.num_encoder_layers = 1
model_config.T5Config.num_decoder_layers = 1
config.DataConfig.max_shapes = 1
config.DataConfig.history = 5
config.TrainConfig.log_period = 1
schedules.LearningRate.warmup_steps = 0
"""


class Runs:
    """Starts `genrec train` on one configuration, in its own process."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path, steps: int):
        self.folder = folder
        self.config = folder / "tiny.gin"
        self.config.write_text(CONFIG.format(data=data, steps=steps))

    def command(self, name: str, *flags: str) -> list[str]:
        own = [f"--gin_file={self.config}", f'--gin.MODEL_DIR="{self.folder / name}"']
        return [sys.executable, "-m", "genrec_jax.cli.main", "train", *own, *flags]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "GENREC_COMPILATION_CACHE": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, name: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(name),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )

    def finish(self, name: str) -> str:
        process = self.start(name)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-3000:]
        return output

    def logged(self, name: str) -> int:
        """The last step that the run has logged."""
        folder = self.folder / name
        lines = (folder / "metrics.jsonl").is_file() and run_log.read_metrics(folder)
        return lines[-1]["step"] if lines else 0

    def interrupt(self, name: str, number: int, seconds: float) -> tuple[int, str] | None:
        """Sends a signal some time after the run takes a step; None when it ended before."""
        log = self.folder / name / "metrics.jsonl"
        before = log.stat().st_ino if log.is_file() else None
        process = self.start(name)
        start = None
        while process.poll() is None and (start is None or self.logged(name) <= start):
            if start is None and log.is_file() and log.stat().st_ino != before:
                start = self.logged(name)  # the log is cut back to where the run goes on from
            time.sleep(0.01)
        time.sleep(seconds)
        if process.poll() is None:
            process.send_signal(number)
        output, _ = process.communicate(timeout=900)
        return (
            None
            if process.returncode == 0 and number == signal.SIGKILL
            else (
                process.returncode,
                output,
            )
        )


def assert_same_runs(left: pathlib.Path, right: pathlib.Path) -> None:
    params = [jax.tree.leaves(restore.restore_params(f, "latest")) for f in (left, right)]
    for a, b in zip(*params, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    records = [run_log.read_metrics(f) for f in (left, right)]
    for a, b in zip(*records, strict=True):
        for name in ("step", "kind", "loss", "grad_norm", "learning_rate", "examples"):
            assert a[name] == b[name]


def kill_often(runs: Runs, kills: int, draws: random.Random, longest: float) -> int:
    done = 0
    while done < kills:
        ended = runs.interrupt("killed", signal.SIGKILL, draws.uniform(0, longest))
        if ended is None:
            return done
        assert ended[0] == -signal.SIGKILL, ended[1][-3000:]
        done += 1
    return done


def test_killed_and_terminated_runs_end_bit_for_bit_as_one_left_alone(toy_dataset, tmp_path):
    runs = Runs(tmp_path, toy_dataset, steps=60)
    runs.finish("whole")
    assert kill_often(runs, 3, random.Random(4), longest=0.7) == 3
    code, output = runs.interrupt("killed", signal.SIGTERM, 0.1) or (None, "")
    assert code == 0, output[-3000:]
    stopped_at = restore.choose_step(restore.RunDir.load(tmp_path / "killed"), "latest")
    assert f"after {stopped_at} steps" in output or stopped_at == 60
    output = runs.finish("killed")
    assert stopped_at == 60 or f"going on from step {stopped_at} of 60" in output
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.long
def test_a_hundred_kills_end_bit_for_bit_as_a_run_left_alone(toy_dataset, tmp_path):
    runs = Runs(tmp_path, toy_dataset, steps=3000)
    runs.finish("whole")
    kills = kill_often(runs, 100, random.Random(5), longest=1.5)
    assert kills == 100, "the run ended before a hundred kills: give it more steps"
    runs.finish("killed")
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.long
def test_a_run_that_fills_the_disk_stops_readably_and_goes_on_when_there_is_room(
    toy_dataset, tmp_path
):
    runs = Runs(tmp_path, toy_dataset, steps=20)
    runs.finish("whole")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=4m none {disk}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (unshare -m)")
    first = shlex.join(runs.command("disk/run", "--gin.TRAIN_STEPS=10"))
    again = shlex.join(runs.command("disk/run"))
    script = f"""{mount} && {first} || exit 1
        dd if=/dev/zero of={disk}/filler bs=4096 2>/dev/null
        {again}; echo "exit code $?"
        rm {disk}/filler && {again} && cp -r {disk}/run {tmp_path}/after"""
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, env=runs.environment
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    assert "exit code 2" in ran.stdout
    assert "the disk is full" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "going on from step 10 of 20" in ran.stderr
    assert_same_runs(tmp_path / "whole", tmp_path / "after")
