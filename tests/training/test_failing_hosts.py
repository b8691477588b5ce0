"""One of two hosts fails, in every way that the other cannot see: both end within seconds, and say why."""

import pathlib
import signal
import subprocess
import time

import pytest

from genrec_jax.checkpoint import restore, run_log
from tests.training import test_hosts

SECONDS = 40
"""Far from the five minutes that a process left to itself waits in JAX's shutdown."""

# `genrec train --multihost` with something wrong on one host: arguments of `test_hosts.start`, then the
# fault, where to leave the time at which it came, dataset, and a run dir for each process.
TRAIN = """
import os, sys, time
port, count, number, sizes, fault, came, data, *run_dirs = sys.argv[1:]
number = int(number)
os.environ["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
os.environ["JAX_NUM_PROCESSES"], os.environ["JAX_PROCESS_ID"] = count, str(number)
from genrec_jax.cli import main
from genrec_jax.errors import UserError
from genrec_jax.training import logging, run
from genrec_jax.training.inputs import PlacedBatches

def fail(error):
    with open(came, "w") as file:
        file.write(str(time.time()))
    raise error

def full(self, step, kind, values, write=logging.MetricsLog.write):
    if step == 5:
        fail(UserError("the disk is full", file="metrics.jsonl"))
    write(self, step, kind, values)

def broken(self, step, prepare=PlacedBatches.prepare):
    if step == 5:
        fail(UserError("holds no prompt", file="data") if fault == "data" else ZeroDivisionError("oh"))
    return prepare(self, step)

def closed(*arguments):
    fail(UserError("cannot be read", file="data"))

if fault == "disk" and number == 0:
    logging.MetricsLog.write = full
if fault in ("data", "bug") and number == 1:
    PlacedBatches.prepare = broken
if fault == "inputs" and number == 1:
    run.inputs_lib.open_inputs = closed
macros = {
    "DATA_DIR": repr(data), "MODEL_DIR": repr(run_dirs[number]), "TRAIN_STEPS": 100_000,
    "BATCH_SIZE": 16, "MIXTURE_OR_TASK_NAME": "'openp5_sequential'", "EVAL_PERIOD": None,
    "TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": None}, "config.TrainConfig.log_period": 1,
    "config.DataConfig.max_shapes": 1,
}
small = {"embed_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
small |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
macros |= {f"model_config.T5Config.{name}": value for name, value in small.items()}
files = ("gin_configs/models/t5_tiny.gin", "gin_configs/runs/train.gin")
words = [f"--gin_file={file}" for file in files]
sys.exit(main.main(["train", "--multihost", *words, *(f"--gin.{n}={v}" for n, v in macros.items())]))
"""


def ended(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Exit codes and what was printed; none is left behind."""
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


@pytest.mark.parametrize(
    ("fault", "code", "host", "reason"),
    [
        ("disk", 2, 0, "error: metrics.jsonl: the disk is full"),
        ("data", 2, 1, "error: data: holds no prompt"),
        pytest.param("bug", 1, 1, "error: ZeroDivisionError: oh", marks=pytest.mark.long),
    ],
)
def test_a_host_that_fails_ends_all(toy_dataset, tmp_path, fault, code, host, reason):
    came, run_dir = tmp_path / "came", tmp_path / "run"
    words = (fault, came, toy_dataset, run_dir, run_dir)
    codes, outputs = ended(test_hosts.start(TRAIN, (2, 1, 1), *words))
    assert time.time() - float(came.read_text()) < SECONDS
    assert codes == [code, code], outputs
    own, other = outputs[host], outputs[1 - host]
    assert own.splitlines()[-1] == f"genrec train: {reason}"
    assert other.splitlines()[-1] == f"host {host} ended this job: genrec train: {reason}"
    assert ("Traceback" in own) == (fault == "bug")


def test_what_one_host_cannot_open_both_name(toy_dataset, tmp_path):
    came, run_dir = tmp_path / "came", tmp_path / "run"
    words = ("inputs", came, toy_dataset, run_dir, run_dir)
    codes, outputs = ended(test_hosts.start(TRAIN, (2, 1, 1), *words))
    assert time.time() - float(came.read_text()) < SECONDS
    assert codes == [2, 2], outputs
    heard, own = (output.splitlines()[-1] for output in outputs)
    assert own == "genrec train: error: data: cannot be read"
    assert heard == f"genrec train: error: {run_dir}: host 1 failed: data: cannot be read"


def test_a_run_dir_that_one_host_does_not_see_is_named(toy_dataset, tmp_path):
    began = time.monotonic()
    words = ("", tmp_path / "came", toy_dataset, tmp_path / "run", tmp_path / "elsewhere")
    codes, outputs = ended(test_hosts.start(TRAIN, (2, 1, 1), *words))
    assert time.monotonic() - began < 60 + SECONDS
    assert codes == [2, 2], outputs
    for output in outputs:
        assert f"host 1 does not see the run dir that host 0 made, {tmp_path}/elsewhere" in output
        assert "MODEL_DIR must lie on a file system that all hosts share" in output


def test_an_interrupt_of_one_host_saves_and_stops_both(toy_dataset, tmp_path):
    folder = tmp_path / "run"
    words = ("", tmp_path / "came", toy_dataset, folder, folder)
    processes = test_hosts.start(TRAIN, (2, 1, 1), *words)
    while not has_logged(folder) and processes[0].poll() is None:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGINT)
    sent = time.monotonic()
    codes, outputs = ended(processes)
    assert time.monotonic() - sent < SECONDS
    assert codes == [0, 0], outputs
    step = restore.choose_step(restore.RunDir.load(folder), "latest")
    assert f"stopped on request after {step} steps" in outputs[0]


def has_logged(folder: pathlib.Path) -> bool:
    return any(run_log.read_metrics(folder))
