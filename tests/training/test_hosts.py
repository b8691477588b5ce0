"""Two and four real processes on loopback: one device's training, one run, one checkpoint, any restart."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from genrec_jax.checkpoint import restore, run_log
from genrec_jax.parallel import mesh as meshes
from tests.model import fixture_params
from tests.training import test_step

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Arguments of both: port, processes, this process, mesh sizes, then the script's own. `RUN` takes dataset,
# run dir, steps between checkpoints (0: none), whether to validate, and the steps of each start.
JOIN = """
import json, sys
import jax
port, count, number, sizes, *rest = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", int(count), int(number))
assert jax.process_count() == int(count)
sizes = json.loads(sizes)
"""

STEPS = (
    JOIN
    + """
import numpy as np
from jax.experimental import multihost_utils
from genrec_jax.parallel import mesh as meshes, rules
from genrec_jax.training import inputs, state, step
from tests.model import fixture_params
from tests.training import test_step as given
mesh = meshes.make_mesh(*sizes)
share = meshes.row_share(mesh)
train_state = state.create_state(given.EIGHT_HEADS, given.OPTIMIZER, mesh, 0)
train_step = step.jit_train_step(given.EIGHT_HEADS, given.OPTIMIZER, given.LOSS, mesh)
seen = []
for number in range(3):
    rows = jax.tree.map(
        lambda array: np.split(array, share.count)[share.index], given.packed_batch(number % 3)
    )
    batch = inputs.place(rows, rules.batch_sharding(mesh))
    train_state, metrics = train_step(train_state, batch, jax.random.key(1))
    values = jax.device_get(metrics)
    seen.append([float(values["loss_sum"] / values["target_tokens"]), float(values["grad_norm"])])
params = multihost_utils.process_allgather(train_state.params, tiled=True)
if jax.process_index() == 0:
    np.savez(rest[0], **fixture_params.flatten(params))
print(json.dumps(seen))
"""
)

RUN = (
    JOIN
    + """
import dataclasses
from genrec_jax.training import config, run, schedules
from genrec_jax.training.optimizers import Optimizer
from tests.training.tiny import TINY
data, folder, period, validates, *steps = rest
period = int(period) or None
settings = config.TrainConfig(
    model_dir=folder,
    train_steps=1,
    model=TINY,
    data=config.DataConfig(
        datasets=[data], mixture="openp5_sequential", batch_size=16, history=5, max_shapes=1,
        feature_lengths={"inputs": 96, "targets": None},
    ),
    optimizer=Optimizer(learning_rate=schedules.LearningRate(peak=0.01)),
    mesh=config.MeshConfig(*sizes),
    validation=config.ValidationConfig(
        period=period if int(validates) else None, loss_batches=1, users=8, num_beams=10
    ),
    checkpoints=config.CheckpointConfig(period=period),
    log_period=1,
)
for count in steps:
    print(run.train(dataclasses.replace(settings, train_steps=int(count))).text())
"""
)


def start(
    script: str, sizes: tuple[int, int, int], *rest: object, caches: pathlib.Path | None = None
) -> list[subprocess.Popen]:
    """One process for each device of the mesh, each with a cache of its own, as on a machine of its own."""
    count = int(np.prod(sizes))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0",
        **({"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"} if count > 1 else {}),
        "PYTHONPATH": str(ROOT),
    }
    words = [json.dumps(sizes), *map(str, rest)]

    def own_cache(number: int) -> dict[str, str]:
        return {} if caches is None else {"GENREC_STORAGE_CACHE": str(caches / f"machine{number}")}

    return [
        subprocess.Popen(
            [sys.executable, "-c", script, str(port), str(count), str(number), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | own_cache(number),
        )
        for number in range(count)
    ]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """What each printed, once all have ended well; none is left behind."""
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return outputs


@pytest.fixture(scope="module")
def three_steps_on_one_device():
    return test_step.run_steps(test_step.EIGHT_HEADS, meshes.single_device_mesh(), steps=3)


@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 2, 2), (2, 2, 1)], ids=str)
def test_hosts_give_one_devices_losses_and_parameters(three_steps_on_one_device, tmp_path, sizes):
    """Hosts along `tensor` hold the same rows; those along `data` and `fsdp` other ones."""
    outputs = finish(start(STEPS, sizes, tmp_path / "params.npz"))
    losses, trained = three_steps_on_one_device
    for output in outputs:
        np.testing.assert_allclose(json.loads(output.splitlines()[-1]), losses, rtol=1e-5)
    theirs = np.load(tmp_path / "params.npz")
    for name, array in fixture_params.flatten(trained.params).items():
        np.testing.assert_allclose(theirs[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def losses_of(folder: pathlib.Path) -> dict[int, float]:
    """The loss of every step that a run logged."""
    records = run_log.read_metrics(folder)
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["", "file://"], ids=["one file system", "a URL"])
def test_checkpoints_of_four_hosts_resume_on_four_two_and_one(toy_dataset, tmp_path, scheme):
    """On four bit for bit, elsewhere to 1e-5 over ten steps, with dropout and packed rows."""
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    four = (1, 2, 2)
    finish(start(RUN, four, toy_dataset, whole, 2, 0, 12))
    caches = tmp_path / "begins"
    finish(start(RUN, four, toy_dataset, f"{scheme}{begun}", 2, 0, 2, caches=caches))
    expected = losses_of(whole)
    assert list(expected) == list(range(1, 13))
    for sizes in [four, (1, 2, 1), (1, 1, 1)]:
        resumed = tmp_path / f"on{np.prod(sizes)}"
        shutil.copytree(begun, resumed)
        caches = tmp_path / f"goes_on_on{np.prod(sizes)}"
        place = f"{scheme}{resumed}"
        outputs = finish(start(RUN, sizes, toy_dataset, place, 2, 0, 12, caches=caches))
        assert all("trained 12 steps, 192 examples" in output for output in outputs)
        seen = losses_of(resumed)
        assert list(seen) == list(expected)
        np.testing.assert_allclose(list(seen.values()), list(expected.values()), rtol=1e-5)
        params = [
            jax.tree.leaves(restore.restore_params(folder, "latest")) for folder in (whole, resumed)
        ]
        for one, other in zip(*params, strict=True):
            if sizes == four:
                assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
            else:
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "scheme",
    [pytest.param("", marks=pytest.mark.long), "file://"],
    ids=["one file system", "a URL"],
)
def test_two_hosts_save_resume_and_agree(toy_dataset, tmp_path, scheme):
    sizes, runs = (1, 2, 1), [tmp_path / "whole", tmp_path / "halves"]
    for folder, steps in zip(runs, [(6,), (3, 6)], strict=True):
        caches = tmp_path / f"{folder.name}_caches"
        place = f"{scheme}{folder}"
        outputs = finish(start(RUN, sizes, toy_dataset, place, 2, 1, *steps, caches=caches))
        assert not any("OCDBT" in output or "object size" in output for output in outputs)
    params = [jax.tree.leaves(restore.restore_params(folder, "latest")) for folder in runs]
    for whole, halves in zip(*params, strict=True):
        assert np.asarray(whole).tobytes() == np.asarray(halves).tobytes()
    records = [run_log.read_metrics(folder) for folder in runs]
    assert [r["step"] for r in records[0] if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    last = [[r for r in record if r["kind"] == "train"][-1] for record in records]
    assert last[0]["loss"] == last[1]["loss"]
    assert last[0]["examples"] == last[1]["examples"] == 96
    if scheme:
        assert not list(tmp_path.rglob("*.host1")), "lists of a host's files go when all are there"
        kept = (tmp_path / "halves_caches" / "machine1").glob("*.training-host1/checkpoints/*/*")
        assert {path.name for path in kept} <= {"manifest.json", ".manifest.json.fetched"}
        saved = (tmp_path / "halves" / "checkpoints" / "6" / "params").rglob("1.0")
        assert list(saved), "both hosts wrote"


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["", "file://"], ids=["one file system", "a URL"])
def test_a_signal_to_one_host_stops_both_at_one_step(toy_dataset, tmp_path, scheme):
    place = f"{scheme}{tmp_path / 'run'}"
    caches = tmp_path / "caches"
    processes = start(RUN, (1, 2, 1), toy_dataset, place, 0, 0, 100_000, caches=caches)

    def has_begun() -> bool:
        logs = [tmp_path / "run", *caches.glob("machine0/*.training")]
        return any(run_log.read_metrics(folder) for folder in logs)

    while not has_begun() and processes[0].poll() is None:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes)
    steps = restore.open_store(restore.RunDir.load(tmp_path / "run")).steps()
    assert len(steps) == 1
    assert restore.choose_step(restore.RunDir.load(tmp_path / "run"), "latest") == steps[0]
    assert all(f"stopped on request after {steps[0]} steps" in output for output in outputs)


@pytest.mark.long
def test_a_signal_while_hosts_validate_is_heard_by_both_and_the_validation_is_made_up(
    toy_dataset, tmp_path
):
    """Two of three places at which they ask are within the validation that follows every step."""
    folder, sizes = tmp_path / "run", (1, 2, 1)
    processes = start(RUN, sizes, toy_dataset, folder, 1, 1, 100_000)

    def validated() -> list[int]:
        records = run_log.read_metrics(folder)
        return [record["step"] for record in records if record["kind"] == "validation"]

    while len(validated()) < 2 and processes[0].poll() is None:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes)
    step = restore.choose_step(restore.RunDir.load(folder), "latest")
    assert all(f"stopped on request after {step} steps" in output for output in outputs)
    assert validated() in (list(range(1, step)), list(range(1, step + 1)))
    finish(start(RUN, sizes, toy_dataset, folder, 1, 1, step + 1))
    assert validated() == list(range(1, step + 2))
