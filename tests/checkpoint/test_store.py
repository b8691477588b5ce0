"""Checkpoints: exact round trips, damage found, pruning, full disks."""

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genrec_jax.checkpoint import manifest, store
from genrec_jax.errors import UserError
from genrec_jax.pytree import pytree_dataclass


@pytree_dataclass
class State:
    step: Any
    params: Any
    opt_state: Any


def make_state(seed: int) -> State:
    rng = np.random.default_rng(seed)
    params = {
        "encoder": {"kernel": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)},
        "head": jnp.asarray(rng.normal(size=(4, 16)), jnp.bfloat16),
    }
    return State(jnp.int32(seed), params, optax.adam(1e-3).init(params))


def abstract(state: State) -> State:
    def leaf(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)

    return jax.tree.map(leaf, state)


def assert_same(left: Any, right: Any) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path, notices):
    opened = store.CheckpointStore(tmp_path / "checkpoints", keep_latest=3, notify=notices.append)
    yield opened
    opened.close()


def test_a_restored_state_is_bit_for_bit_the_saved_one(checkpoints):
    state = make_state(7)
    checkpoints.save(7, state, metrics={"hr@10": 0.25}, progress={"examples": 3})
    checkpoints.wait()
    restored = checkpoints.restore(None, abstract(make_state(0)))
    assert_same(restored, state)
    assert isinstance(restored.opt_state[0], optax.ScaleByAdamState)
    assert checkpoints.progress(7) == {"examples": 3}
    assert checkpoints.metrics(7) == {"hr@10": 0.25}


def test_arrays_come_back_with_the_shardings_asked_for(checkpoints):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    state = make_state(1)
    checkpoints.save(1, state)
    checkpoints.wait()
    wanted = abstract(state)
    kernel = jax.ShapeDtypeStruct((6, 4), jnp.float32, sharding=spread)
    wanted.params["encoder"]["kernel"] = kernel
    restored = checkpoints.restore(1, wanted)
    assert restored.params["encoder"]["kernel"].sharding == spread
    assert_same(restored, state)


def test_the_manifest_lists_every_file(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    folder = tmp_path / "checkpoints" / "1"
    on_disk = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert on_disk == set(manifest.read(folder).files) | {"manifest.json"}


def _truncate(folder: pathlib.Path) -> None:
    victim = max(folder.rglob("params/**/d/*"), key=lambda p: p.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)


def _flip_a_bit(folder: pathlib.Path) -> None:
    victim = max(folder.rglob("optimizer/**/d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def _lose_a_file(folder: pathlib.Path) -> None:
    next(folder.rglob("params/manifest.ocdbt")).unlink()


def _stop_before_the_manifest(folder: pathlib.Path) -> None:
    (folder / "manifest.json").unlink()


def _tear_the_manifest(folder: pathlib.Path) -> None:
    os.truncate(folder / "manifest.json", 100)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_truncate, "bytes"),
        (_flip_a_bit, "checksum"),
        (_lose_a_file, "missing"),
        (_stop_before_the_manifest, "interrupted"),
        (_tear_the_manifest, "interrupted"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_aloud(
    checkpoints, notices, tmp_path, harm, said
):
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    checkpoints.wait()
    assert checkpoints.latest_valid_step() == 2
    assert not notices
    harm(tmp_path / "checkpoints" / "2")
    assert checkpoints.latest_valid_step() == 1
    assert len(notices) == 1
    assert "checkpoints/2" in notices[0]
    assert said in notices[0]
    assert_same(checkpoints.restore(None, abstract(make_state(0))), make_state(1))


def test_saving_over_a_damaged_checkpoint_mends_it(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    _flip_a_bit(tmp_path / "checkpoints" / "1")
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.latest_valid_step() is None
    checkpoints.discard_after(None)
    assert not list((tmp_path / "checkpoints").iterdir())
    checkpoints.save(1, make_state(4))
    checkpoints.wait()
    assert_same(checkpoints.restore(None, abstract(make_state(0))), make_state(4))


def test_retention_keeps_latest_best_and_every_nth(tmp_path):
    opened = store.CheckpointStore(
        tmp_path, keep_latest=2, keep_every=4, best_metric="hr@10", best_mode="max"
    )
    scores = {1: 0.1, 2: 0.5, 3: 0.2, 5: 0.5, 7: 0.3}
    for step in range(1, 11):
        measured = {"hr@10": scores[step]} if step in scores else {}
        opened.save(step, make_state(step), metrics=measured)
    opened.wait()
    assert opened.steps() == [2, 4, 8, 9, 10]
    assert opened.best_step() == 2
    opened.close()


def test_what_is_measured_after_a_save_is_recorded_and_decides_what_is_kept(tmp_path):
    opened = store.CheckpointStore(tmp_path, keep_latest=1, best_metric="hr@10")
    opened.save(1, make_state(1), metrics={"hr@10": 0.5})
    opened.save(2, make_state(2), progress={"owes": True})
    opened.wait()
    assert (opened.steps(), opened.best_step()) == ([1, 2], 1)
    opened.record(2, metrics={"hr@10": 0.6}, progress={"owes": False})
    assert (opened.steps(), opened.best_step()) == ([2], 2)
    assert opened.progress(2) == {"owes": False}
    assert opened.latest_valid_step() == 2, "its checksums stand"
    assert_same(opened.restore(2, abstract(make_state(0))), make_state(2))
    with pytest.raises(UserError, match=r"has no readable manifest"):
        opened.record(3, metrics={}, progress={})
    opened.close()


def test_the_smallest_loss_is_best_in_min_mode(tmp_path):
    opened = store.CheckpointStore(tmp_path, keep_latest=1, best_metric="loss", best_mode="min")
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        opened.save(step, make_state(step), metrics={"loss": loss})
    opened.close()
    assert opened.steps() == [2, 3]
    assert opened.best_step() == 2


def test_a_metric_that_does_not_exist_is_left_out(tmp_path):
    """Ratings that are all likes have no AUC; such a checkpoint is saved, and is never the best."""
    opened = store.CheckpointStore(tmp_path, keep_latest=3, best_metric="auc")
    for step, area in ((1, 0.6), (2, float("nan"))):
        opened.save(step, make_state(step), metrics={"auc": area, "loss": 1.5})
    opened.close()
    assert opened.steps() == [1, 2]
    assert opened.metrics(2) == {"loss": 1.5}
    assert opened.best_step() == 1


def test_a_checkpoint_of_another_model_names_the_differences(checkpoints):
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    other = make_state(1)
    other.params["encoder"]["bias"] = jnp.zeros((3,))
    other.params["head"] = jnp.zeros((4, 8), jnp.bfloat16)
    with pytest.raises(UserError, match=r"params.encoder.bias is not in the checkpoint.*\(4, 16\)"):
        checkpoints.restore(1, abstract(other))


def test_too_little_space_is_found_before_anything_is_written(checkpoints, monkeypatch):
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UserError, match=r"disk is full.*steps: 1\)"):
        checkpoints.save(2, make_state(2))
    assert checkpoints.latest_valid_step() == 1


FULL_DISK = """
import shutil, sys
sys.path.insert(0, {tests!r})
from genrec_jax.checkpoint import store
from genrec_jax.errors import UserError
import jax.numpy as jnp, numpy as np
import test_store
disk = sys.argv[1]
opened = store.CheckpointStore(disk + "/checkpoints")
def big(seed):
    noise = np.random.default_rng(seed).normal(size=550_000).astype(np.float32)
    return test_store.State(jnp.int32(seed), {{"w": jnp.asarray(noise)}}, {{}})
opened.save(1, big(1)); opened.wait()
usage = shutil.disk_usage(disk)
shutil.disk_usage = lambda path: usage._replace(free=10**12)  # so that the write itself meets the end
try:
    opened.save(2, big(2)); opened.wait()
except UserError as error:
    print("stopped:", error)
assert opened.latest_valid_step() == 1
test_store.assert_same(opened.restore(1, test_store.abstract(big(1))), big(1))
opened.discard_after(1)
print("stands")
"""


def test_a_disk_that_fills_during_the_save_leaves_the_checkpoint_before(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=3m none {disk}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (unshare -m)")
    script = FULL_DISK.format(tests=str(pathlib.Path(__file__).parent))
    ran = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'{mount} && exec "$0" -c "$1" {disk}',
            sys.executable,
            script,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "stopped:" in ran.stdout
    assert "the disk is full" in ran.stdout
    assert ran.stdout.endswith("stands\n")
