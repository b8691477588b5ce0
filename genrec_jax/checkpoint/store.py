"""Orbax checkpoints of a training run: saved in the background, verified by a manifest, pruned.

    checkpoints/<step>/params/        the parameters alone: all that evaluation restores
    checkpoints/<step>/optimizer/     everything else of the training state
    checkpoints/<step>/manifest.json  checksums, written after Orbax's commit

On several hosts every method is called by all of them; host 0 looks at the disk and tells the rest. At a
URL each of them has a folder of its own (`separate_hosts`).
"""

import dataclasses
import errno
import math
import pathlib
import shutil
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import orbax.checkpoint as ocp

from genrec_jax.checkpoint import manifest, separate_hosts
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.mirror import Mirror
from genrec_jax.parallel import hosts
from genrec_jax.progress import print_notice

State = TypeVar("State")
PARAMS, OPTIMIZER = "params", "optimizer"


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: `<run dir>/checkpoints`; made when the first checkpoint is saved.
        keep_latest: how many of the newest to keep; at least 2 leaves one to fall back to.
        keep_every: keep for good every checkpoint whose step is a multiple of this.
        best_metric: keep the one that is best by this validation metric.
        best_mode: whether the metric is better when larger (`max`) or smaller (`min`).
        notify: called with a line for the user when a damaged checkpoint is passed over.
        mirror: of the directory, where the run dir is at a URL; a checkpoint counts once it is there.
        before_commit: called before a checkpoint becomes valid, in the thread that makes it so.
    """

    def __init__(
        self,
        directory: artefacts.PathLike,
        *,
        keep_latest: int = 2,
        keep_every: int | None = None,
        best_metric: str | None = None,
        best_mode: Literal["max", "min"] = "max",
        notify: Callable[[str], None] = print_notice,
        mirror: Mirror | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ):
        if keep_latest < 1:
            raise UserError(f"keep_latest is {keep_latest}; wanted at least 1")
        self.directory = pathlib.Path(directory).absolute()
        self._keep_latest = keep_latest
        self._keep_every = keep_every
        self._best_metric = best_metric
        self._best_mode = best_mode
        self._notify = notify
        self._mirror = mirror
        self._before_commit = before_commit
        self._checkpointer: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saving = -1

    @property
    def location(self) -> str:
        """The directory, or its URL if the store is at one."""
        return str(self.directory) if self._mirror is None else self._mirror.url

    @property
    def _separate(self) -> bool:
        """Whether the hosts' folders are not the same one."""
        return self._mirror is not None and jax.process_count() > 1

    # Saving

    def save(
        self,
        step: int,
        state: Any,
        *,
        metrics: dict[str, float] | None = None,
        progress: dict[str, Any] | None = None,
    ) -> None:
        """Starts saving `state`; returns once it is copied off the device, so it may be donated.

        Args:
            step: training steps done; the caller has found that step's loss and parameters finite.
            state: a pytree with a field `params`; every leaf an array.
            metrics: validation metrics of this step.
            progress: the loop's own JSON state, given back by `progress(step)`.

        Raises:
            UserError: the disk is full, now or during the save before; older checkpoints stand.
        """
        named = name_leaves(state)
        params = {n: leaf for n, leaf in named.items() if n.startswith("params.")}
        rest = {n: leaf for n, leaf in named.items() if n not in params}

        def make_room() -> None:
            self.wait()
            self._check_space(step, list(named.values()))
            if self._separate or jax.process_index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._remove(str(step))

        hosts.together(make_room, on=lambda host: True, file=self.location)
        if self._checkpointer is None:
            self._checkpointer = (
                separate_hosts.checkpointer(PARAMS, OPTIMIZER)
                if self._separate
                else ocp.AsyncCheckpointer(_handler(PARAMS, OPTIMIZER))
            )
        self._saving = step
        try:
            self._checkpointer.save(
                self.directory / str(step),
                args=ocp.args.Composite(
                    **{PARAMS: ocp.args.PyTreeSave(params), OPTIMIZER: ocp.args.PyTreeSave(rest)}
                ),
            )
        except Exception as error:
            raise self._explain(error) from error
        checkpointer = self._checkpointer

        def finish():
            try:
                elsewhere: manifest.Files = {}
                if self._mirror is not None and self._separate:
                    written = checkpointer.wait_until_finished
                    elsewhere = separate_hosts.gather(self._mirror, str(step), written)
                else:
                    checkpointer.wait_until_finished()
                if jax.process_index() == 0:
                    self._before_commit()
                    manifest.write(
                        self.directory / str(step),
                        step=step,
                        metrics=metrics or {},
                        progress=progress or {},
                        elsewhere=elsewhere,
                    )
                    if self._mirror is not None:
                        left = f"{step}/{manifest.NAME}" if self._separate else str(step)
                        self._mirror.publish(left, last=[manifest.NAME])
                    self._prune()
            except BaseException as error:  # raised again in the loop's thread, by wait()
                self._error = error

        self._thread = threading.Thread(target=finish, name="checkpoint-manifest")
        self._thread.start()

    def record(self, step: int, *, metrics: dict[str, float], progress: dict[str, Any]) -> None:
        """Writes what was measured after a checkpoint was saved into its manifest; its arrays stand.

        Args:
            step: of a complete checkpoint.
            metrics: validation metrics of this step.
            progress: the loop's own JSON state, in place of what was saved.

        Raises:
            UserError: there is no such checkpoint, or the store cannot be written.
        """

        def rewrite() -> None:
            self._before_commit()
            found = self._manifest(step)
            changed = dataclasses.replace(found, metrics=metrics, progress=progress)
            manifest.replace(self.directory / str(step), changed)
            if self._mirror is not None:
                self._mirror.publish(f"{step}/{manifest.NAME}")
            self._prune()

        hosts.together(rewrite, on=lambda host: host == 0, file=self.location)

    def wait(self) -> None:
        """Blocks until the save in progress is complete, manifest included.

        Raises:
            UserError: that save found the disk full; older checkpoints stand.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise self._explain(error) from error

    def close(self) -> None:
        """Waits for the last save and frees Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer = None

    def raise_if_failed(self) -> None:
        """Raises what a background save ran into, without waiting for one that still runs.

        On several hosts it does not: the next save does, on all of them.
        """
        if jax.process_count() == 1 and self._thread is not None and not self._thread.is_alive():
            self.wait()

    # Finding

    def steps(self) -> list[int]:
        """Steps that have a dir with a readable manifest, rising; their checksums are not checked."""
        if not self.directory.is_dir():
            return []
        folders = (path for path in self.directory.iterdir() if path.name.isdecimal())
        return sorted(int(path.name) for path in folders if manifest.read(path) is not None)

    def latest_valid_step(self) -> int | None:
        """The newest step whose every byte is as written; notices name those passed over."""
        return hosts.from_first(self._find_latest)

    def damage(self, step: int, *, only: str | None = None) -> str | None:
        """What is wrong with a checkpoint, or with one of its items (`manifest.damage`)."""
        folder = self.bring(step, only=only)
        return manifest.damage(folder, only=only) if folder.is_dir() else "there is none"

    def bring(self, step: int, *, only: str | None = None) -> pathlib.Path:
        """The folder of a checkpoint, or of one of its items; downloaded first if it is at a URL."""
        if self._mirror is not None:
            parts = [f"{step}/{only}", f"{step}/{manifest.NAME}"] if only else [str(step)]
            self._mirror.bring(*parts)
        return self.directory / str(step)

    def best_step(self) -> int | None:
        """The step best by `best_metric` among those present; None when none was measured.

        Of equally good ones the earliest wins, so that the choice does not depend on pruning.
        """
        return hosts.from_first(self.find_best)

    def find_best(self) -> int | None:
        """As `best_step`, as this host alone finds it: no other is asked, and no device is opened."""
        if self._best_metric is None:
            return None
        sign = 1 if self._best_mode == "max" else -1
        scored = [(step, self.metrics(step).get(self._best_metric)) for step in self.steps()]
        measured = [
            (sign * value, -step)
            for step, value in scored
            if value is not None and not math.isnan(value)
        ]
        return -max(measured)[1] if measured else None

    def progress(self, step: int) -> dict[str, Any]:
        """The `progress` that was saved with `step`."""
        return self._manifest(step).progress

    def metrics(self, step: int) -> dict[str, float]:
        """The validation metrics saved with `step`."""
        found = manifest.read(self.directory / str(step))
        return {} if found is None else found.metrics

    # Restoring

    def restore(self, step: int | None, abstract_state: State) -> State:
        """Restores a whole training state, each array straight onto its devices.

        Args:
            step: which; None for the latest valid one.
            abstract_state: the state's structure, its leaves `jax.ShapeDtypeStruct` with shardings.

        Raises:
            UserError: no such checkpoint, or its arrays are not those asked for.
        """
        if step is None:
            step = self.latest_valid_step()
        if step is None:
            raise UserError("holds no valid checkpoint to restore", file=self.location)
        named = name_leaves(abstract_state)
        params = {n: leaf for n, leaf in named.items() if n.startswith("params.")}
        rest = {n: leaf for n, leaf in named.items() if n not in params}
        folder = self.bring(step)
        restored = restore_items(folder, {PARAMS: params, OPTIMIZER: rest})
        if self._separate and jax.process_index():  # host 0 looks after what is kept
            manifest.remove(folder)
        leaves = {**restored[PARAMS], **restored[OPTIMIZER]}
        structure = jax.tree.structure(abstract_state)
        return jax.tree.unflatten(structure, [leaves[name] for name in named])

    def discard_after(self, step: int | None) -> None:
        """Removes checkpoints newer than `step`, and the remains of interrupted saves and prunings."""
        if jax.process_index() == 0:
            here = {path.name for path in self.directory.glob("*")}
            there = set() if self._mirror is None else self._mirror.names()
            for name in here | {name.split("/")[0] for name in there}:
                newer = step is None or not name.isdecimal() or int(name) > step
                if newer or manifest.read(self.directory / name) is None:
                    self._remove(name)
        hosts.barrier()

    # Inside

    def _find_latest(self) -> int | None:
        if not self.directory.is_dir():
            return None
        folders = [path for path in self.directory.iterdir() if path.name.isdecimal()]
        for path in sorted(folders, key=lambda p: int(p.name), reverse=True):
            problem = self.damage(int(path.name))
            if problem is None:
                return int(path.name)
            self._notify(f"passing over checkpoint {self.location}/{path.name}: {problem}")
        return None

    def _prune(self) -> None:
        steps = self.steps()
        keep = set(steps[-self._keep_latest :]) | {self.find_best()}
        for step in steps:
            every = self._keep_every is not None and step % self._keep_every == 0
            if step not in keep and not every:
                self._remove(str(step))

    def _remove(self, name: str) -> None:
        manifest.remove(self.directory / name)
        if self._mirror is not None and jax.process_index() == 0:
            self._mirror.remove(name, first=[manifest.NAME])

    def _check_space(self, step: int, leaves: list[Any]) -> None:
        """Of all that is written to one disk: every host's arrays, or this host's shards."""
        needed = sum(
            sum(shard.data.nbytes for shard in leaf.addressable_shards if shard.replica_id == 0)
            if self._separate
            else leaf.nbytes
            for leaf in leaves
        )
        present = next(p for p in (self.directory, *self.directory.parents) if p.exists())
        free = shutil.disk_usage(present).free
        if free < needed:
            self._saving = step
            raise self._disk_full(f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")

    def _manifest(self, step: int) -> manifest.Manifest:
        found = manifest.read(self.directory / str(step))
        if found is None:
            raise UserError("has no readable manifest", file=f"{self.location}/{step}")
        return found

    def _explain(self, error: BaseException) -> BaseException:
        return self._disk_full(None) if _is_disk_full(error) else error

    def _disk_full(self, detail: str | None) -> UserError:
        if self._separate or jax.process_index() == 0:
            for path in self.directory.glob(f"{self._saving}*"):
                if path.name.split(".")[0] == str(self._saving):
                    manifest.remove(path)
        standing = ", ".join(map(str, self.steps())) or "none"
        return UserError(
            f"the disk is full{'' if detail is None else f' ({detail})'}: the checkpoint of step"
            f" {self._saving} was not written. Earlier checkpoints stand (steps: {standing}). Free"
            " some space and run the same command again; it goes on from the latest",
            file=self.location,
        )


def name_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by dotted path, such as `params.encoder.layers.query`, in tree order."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {".".join(_key_name(key) for key in path): leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        raise ValueError("two leaves of the state have the same path")
    return named


def restore_items(folder: pathlib.Path, items: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Restores some items of one checkpoint dir.

    Args:
        folder: `checkpoints/<step>`.
        items: item name -> leaf name -> `jax.ShapeDtypeStruct`, with a sharding.

    Raises:
        UserError: the checkpoint's arrays differ in name or shape from those asked for.
    """
    problems = []
    with ocp.Checkpointer(_handler(PARAMS, OPTIMIZER)) as checkpointer:
        saved = checkpointer.metadata(folder).item_metadata
        for item, wanted in items.items():
            found = {} if saved[item] is None else dict(saved[item].tree)
            problems += [
                f"{name} is not in the checkpoint" for name in wanted.keys() - found.keys()
            ]
            problems += [f"{name} is not in the model" for name in found.keys() - wanted.keys()]
            problems += [
                f"{name} has shape {tuple(found[name].shape)}, the model {tuple(wanted[name].shape)}"
                for name in wanted.keys() & found.keys()
                if tuple(found[name].shape) != tuple(wanted[name].shape)
            ]
        if problems:
            raise UserError(
                "does not hold this model's state: " + "; ".join(sorted(problems)[:8]),
                file=str(folder),
            )
        arguments = {
            item: ocp.args.PyTreeRestore(
                item=wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)
            )
            for item, wanted in items.items()
        }
        restored = checkpointer.restore(folder, args=ocp.args.Composite(**arguments))
    return {item: restored[item] for item in items}


def _handler(*items: str) -> ocp.CompositeCheckpointHandler:
    handlers: dict[str, Any] = {item: ocp.PyTreeCheckpointHandler() for item in items}
    return ocp.CompositeCheckpointHandler(**handlers)


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "quota exceeded" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False
