"""Parameters from a run dir, for evaluation, recommendation and a new run's start; no optimizer state."""

import pathlib
from typing import Any, Literal

import jax
from flax import nnx
from jax.sharding import Mesh

from genrec_jax.checkpoint import store
from genrec_jax.checkpoint.run_dir import CHECKPOINTS, RunDir
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import hosts, rules
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.progress import print_notice

Which = int | Literal["best", "latest"]


def open_store(run_dir: RunDir) -> store.CheckpointStore:
    """The run's checkpoints, for reading: finding steps."""
    return store.CheckpointStore(
        run_dir.checkpoint_dir,
        best_metric=run_dir.selection["metric"],
        best_mode="max" if run_dir.selection["mode"] == "max" else "min",
        mirror=None if run_dir.mirror is None else run_dir.mirror.below(CHECKPOINTS),
    )


def choose_step(run_dir: RunDir, which: Which = "best") -> int:
    """The step that `best` or `latest` mean, or the one given, once its checkpoint is found valid.

    `best` is the checkpoint best on validation; the latest where none was validated, or where the
    best is damaged (a notice says so). On several hosts each of them calls it; host 0 looks.

    Raises:
        UserError: no valid checkpoint, or not that one; it lists those there are.
    """
    checkpoints = open_store(run_dir)
    if isinstance(which, int):
        _check(checkpoints, which)
        return which
    if which not in ("best", "latest"):
        raise UserError(f"checkpoint is {which!r}; wanted `best`, `latest` or a step")
    step = checkpoints.best_step() if which == "best" else None
    if step is not None:
        problem = _damage(checkpoints, step)
        if problem is None:
            return step
        print_notice(f"passing over the best checkpoint, of step {step}: {problem}")
    step = checkpoints.latest_valid_step()
    if step is None:
        raise UserError(
            "holds no valid checkpoint yet. Train with `genrec train`", file=run_dir.location
        )
    return step


def best_now(run_dir: RunDir) -> int | None:
    """The step that `best` means by the manifests alone; None where there is no checkpoint.

    Their files are not checked and no device is opened.
    """
    checkpoints = open_store(run_dir)
    best = checkpoints.find_best()
    return max(checkpoints.steps(), default=None) if best is None else best


def restore_params(
    run_dir: RunDir | artefacts.PathLike,
    step: Which = "best",
    mesh: Mesh | None = None,
) -> nnx.State:
    """The parameters of one checkpoint, bit for bit, each array straight onto its devices.

    Args:
        run_dir: the run.
        step: a step, `best` on validation, or `latest`.
        mesh: where they go; this host's first device when not given.

    Raises:
        UserError: no such checkpoint, a damaged one, or parameters that do not fit the run's network.
    """
    opened = run_dir if isinstance(run_dir, RunDir) else RunDir.load(run_dir)
    return restore_chosen(opened, choose_step(opened, step), mesh)


def restore_chosen(run_dir: RunDir, step: int, mesh: Mesh | None = None) -> nnx.State:
    """As `restore_params`, for a step from `choose_step`, which has checked the checksums."""
    folder = open_store(run_dir).bring(step, only=store.PARAMS)
    return restore_folder(folder, run_dir.model_config, mesh or mesh_lib.single_device_mesh())


def restore_folder(folder: pathlib.Path, model_config: T5Config, mesh: Mesh) -> nnx.State:
    """The parameters of one checkpoint dir that is known to be valid.

    Args:
        folder: the checkpoint dir, absolute.
        model_config: the network that will take them.
        mesh: where they go.

    Raises:
        UserError: they do not fit `model_config`.
    """
    _, abstract = t5.abstract_graph_and_params(model_config)
    wanted = with_shardings(abstract, mesh)
    named = store.name_leaves({store.PARAMS: wanted})
    restored = store.restore_items(folder, {store.PARAMS: named})[store.PARAMS]
    return jax.tree.unflatten(jax.tree.structure(wanted), [restored[name] for name in named])


def with_shardings(abstract: Any, mesh: Mesh) -> Any:
    """The same pytree of shapes, each with the sharding that its logical axes give it on `mesh`."""

    def place(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, abstract, rules.tree_shardings(abstract, mesh))


def _check(checkpoints: store.CheckpointStore, step: int) -> None:
    problem = _damage(checkpoints, step)
    if problem is not None:
        standing = ", ".join(map(str, checkpoints.steps())) or "none"
        raise UserError(
            f"no checkpoint to restore: {problem}. Steps there: {standing}",
            file=f"{checkpoints.location}/{step}",
        )


def _damage(checkpoints: store.CheckpointStore, step: int) -> str | None:
    """What is wrong with a checkpoint's parameters: as host 0 sees it, so that all hosts agree."""
    return hosts.from_first(lambda: checkpoints.damage(step, only=store.PARAMS))
