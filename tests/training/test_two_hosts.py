"""Two real processes on loopback train one run: same rows, same checkpoint, same restart."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from genrec_jax.checkpoint import restore
from genrec_jax.training import logging

SCRIPT = """
import dataclasses, sys
import jax
port, number, data, folder, *steps = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.training import config, run, schedules
from genrec_jax.training.optimizers import Optimizer
sys.path.insert(0, ROOT)
from tests.training.tiny import TINY
settings = config.TrainConfig(
    model_dir=folder,
    train_steps=1,
    model=TINY,
    data=config.DataConfig(
        datasets=[data], mixture="openp5_sequential", batch_size=16, history=5, max_shapes=1,
        feature_lengths={"inputs": 96, "targets": None},
    ),
    optimizer=Optimizer(learning_rate=schedules.LearningRate(peak=0.01)),
    mesh=config.MeshConfig(data=1, fsdp=2),
    validation=config.ValidationConfig(
        period=2 if int(steps[0]) < 100 else None, loss_batches=1, users=8, num_beams=10
    ),
    checkpoints=config.CheckpointConfig(period=2 if int(steps[0]) < 100 else None),
    log_period=1,
)
assert jax.process_count() == 2
for count in steps:
    print(run.train(dataclasses.replace(settings, train_steps=int(count))).text())
"""


def start(data: pathlib.Path, folder: pathlib.Path, *steps: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    root = str(pathlib.Path(__file__).parent.parent.parent)
    script = SCRIPT.replace("ROOT", repr(root))
    arguments = [str(data), str(folder), *map(str, steps)]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, str(port), str(number), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return outputs


@pytest.mark.long
def test_two_hosts_save_resume_and_agree(toy_dataset, tmp_path):
    finish(start(toy_dataset, tmp_path / "whole", 6))
    finish(start(toy_dataset, tmp_path / "halves", 3, 6))
    runs = [tmp_path / "whole", tmp_path / "halves"]
    params = [jax.tree.leaves(restore.restore_params(folder, "latest")) for folder in runs]
    for whole, halves in zip(*params, strict=True):
        assert np.asarray(whole).tobytes() == np.asarray(halves).tobytes()
    records = [logging.read_metrics(folder) for folder in runs]
    assert [r["step"] for r in records[0] if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    last = [[r for r in record if r["kind"] == "train"][-1] for record in records]
    assert last[0]["loss"] == last[1]["loss"]
    assert last[0]["examples"] == last[1]["examples"] == 96


@pytest.mark.long
def test_a_signal_to_one_host_stops_both_at_one_step(toy_dataset, tmp_path):
    processes = start(toy_dataset, tmp_path / "run", 100_000)
    while not logging.read_metrics(tmp_path / "run") and processes[0].poll() is None:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes)
    steps = restore.open_store(restore.RunDir.load(tmp_path / "run")).steps()
    assert len(steps) == 1
    assert all(f"stopped on request after {steps[0]} steps" in output for output in outputs)
