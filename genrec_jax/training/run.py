"""`train`: the one call behind `genrec train`, from a configuration to a run dir with checkpoints."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
from typing import Any

import jax
from jax.sharding import Mesh

from genrec_jax import storage
from genrec_jax.checkpoint import initial, restarts, restore
from genrec_jax.checkpoint.run_dir import (
    CHECKPOINTS,
    EVENTS_FOLDER,
    MANIFEST,
    RunDir,
    is_small,
)
from genrec_jax.checkpoint.run_log import FINISHED, METRICS_FILE
from genrec_jax.checkpoint.store import CheckpointStore
from genrec_jax.data import artefacts, dataset
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.mirror import Mirror
from genrec_jax.model import t5
from genrec_jax.parallel import hosts, rules
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.parallel.profiling import TracedSteps
from genrec_jax.pipeline import mixture_audit
from genrec_jax.progress import print_notice
from genrec_jax.training import announcement, likes, validation
from genrec_jax.training import inputs as inputs_lib
from genrec_jax.training import progress as progress_lib
from genrec_jax.training import state as state_lib
from genrec_jax.training import step as step_lib
from genrec_jax.training.config import (
    FREE_ON_RESUME,
    ONLY_AT_THE_START,
    WHY_NOT_FREE,
    TrainConfig,
)
from genrec_jax.training.inputs import Inputs
from genrec_jax.training.lock import FILE as LOCK_FILE
from genrec_jax.training.lock import RunLock
from genrec_jax.training.logging import EVENTS_FILE, MetricsLog
from genrec_jax.training.loop import Loop, Progress, Result, Schedule
from genrec_jax.training.preemption import StopRequest
from genrec_jax.training.state import TrainState
from genrec_jax.training.throughput import Utilisation


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        run_dir: path or URL of the run dir.
        step: steps done.
        stopped: `finished`, `preempted` (start it again to go on) or `early_stopping`.
        seconds: of training over all restarts, validation left out.
        examples: trained on.
        metric: the validation metric that chose the best checkpoint.
        best_step: of the best checkpoint; None where nothing was validated.
        best_value: of the metric, there.
    """

    run_dir: artefacts.PathLike
    step: int
    stopped: str
    seconds: float
    examples: int
    metric: str
    best_step: int | None
    best_value: float | None

    def text(self) -> str:
        """A few lines for a person, the last one what to type next."""
        why = {
            "finished": "trained",
            "preempted": "stopped on request after",
            "early_stopping": "stopped early (no better validation) after",
        }[self.stopped]
        minutes = self.seconds / 60
        lines = [f"{why} {self.step} steps, {self.examples} examples in {minutes:.1f} minutes"]
        if self.step == 0 and self.stopped == "finished":
            lines = ["no training: the parameters are those given, as they are"]
        if self.best_step is not None:
            lines.append(
                f"best validation {self.metric}: {self.best_value:.4f} at step {self.best_step}"
            )
        lines.append(f"run dir: {self.run_dir}")
        if self.stopped == "preempted":
            lines.append("the same command goes on from here")
        else:
            lines.append(f"next: genrec evaluate {self.run_dir}")
        return "\n".join(lines)


def train(
    config: TrainConfig,
    *,
    operative_config: str | None = None,
    mesh: Mesh | None = None,
    validate: validation.Validate | None = None,
    show_progress: bool = True,
    profile: bool = False,
) -> Summary:
    """Trains a new run or resumes a stopped one; on several hosts each of them calls it.

    Args:
        config: every setting.
        operative_config: what gin configured, for the run dir's `config.gin`.
        mesh: devices to train on, instead of all of them as `config.mesh` shares them out.
        validate: parameters -> metrics, instead of what `config.validation` describes.
        show_progress: whether to draw on stderr.
        profile: write a trace of a few steps to `<model_dir>/tensorboard`.

    Raises:
        UserError: settings, data or disk that do not allow it; `NonFiniteLoss` when training diverges.
    """
    validates = validate is None and config.validation.period is not None
    with StopRequest() as stop, contextlib.ExitStack() as closing:
        if mesh is None:
            mesh = _make_mesh(config)
        inputs = _open_inputs(config, mesh)
        liked = _check_inputs(config, inputs, validates)
        steps = config.steps(inputs.steps_per_epoch)
        begun = None
        if config.optimizer.learning_rate.warms_up_by_share:
            begun = restarts.warmup_begun(config.model_dir)
        config = config.resolved(steps=steps, vocab_size=inputs.vocabulary.size, warmup_begun=begun)
        run_dir, lock = _open_run_dir(config, inputs, operative_config)
        if lock is not None:
            closing.callback(lock.release)
        store = CheckpointStore(
            run_dir.checkpoint_dir,
            keep_latest=config.checkpoints.keep_latest,
            keep_every=config.checkpoints.keep_every,
            best_metric=config.validation.metric,
            best_mode=config.validation.mode,
            mirror=None if run_dir.mirror is None else run_dir.mirror.below(CHECKPOINTS),
            before_commit=functools.partial(_publish_records, run_dir),
        )
        closing.callback(store.close)
        state, step, progress = _start(config, store, mesh, inputs.vocabulary)
        with contextlib.ExitStack() as records:  # complete before the run is marked as finished
            first_host = jax.process_index() == 0
            owes = progress is not None and progress.owes_validation
            log = None
            records.callback(_publish_records, run_dir, EVENTS_FOLDER)
            if first_host:
                log = MetricsLog(run_dir.path, after_step=step, owes_validation=owes)
                records.callback(log.close)
            shown = show_progress and first_host
            display = progress_lib.make_display(step, steps) if shown else progress_lib.Silent()
            records.callback(display.close)
            if shown:  # it looks at thousands of examples
                told = announcement.lines(
                    config,
                    inputs,
                    run_dir,
                    step=step,
                    steps=steps,
                    num_params=state_lib.number_of_parameters(state.params),
                    liked=liked,
                )
                for line in told:
                    display.say(line)
            if validates:
                validate = validation.make_validate(
                    config, inputs, run_dir, mesh, before_batch=stop.raise_if_reached
                )
            jitted = step_lib.jit_train_step(
                config.model, config.optimizer, config.loss, mesh, microbatches=config.microbatches
            )
            dropout_key = jax.random.fold_in(jax.random.key(config.seed), 1)
            train_step = lambda state, batch, step: jitted(state, batch, dropout_key)  # noqa: E731
            if profile:
                train_step = TracedSteps(train_step, run_dir.events_dir, say=display.say)
                records.callback(train_step.close)
            loop = Loop(
                schedule=Schedule(
                    train_steps=steps,
                    log_period=config.log_period,
                    eval_period=config.validation.period,
                    checkpoint_period=config.checkpoints.period,
                    patience=config.validation.patience,
                    metric=config.validation.metric,
                    mode=config.validation.mode,
                ),
                train_step=train_step,
                batches=inputs.batches,
                store=store,
                display=display,
                log=log,
                validate=validate,
                utilisation=Utilisation(config.model, list(mesh.devices.flat)),
            )
            result = loop.run(state, step, progress, stop)
        return _finish(config, run_dir, result)


def _make_mesh(config: TrainConfig) -> Mesh:
    """The mesh over all devices; refused before anything is opened where the model does not fit it."""
    _, params = t5.abstract_graph_and_params(config.model)
    sizes = dataclasses.asdict(config.mesh)
    mesh = mesh_lib.make_mesh(**sizes, divisions=rules.divisions(params))
    rules.check_mesh(params, mesh)
    return mesh


def _open_inputs(config: TrainConfig, mesh: Mesh) -> Inputs:
    """What to train on, opened by every host; where one of them cannot, all say why."""
    given = hosts.together(
        lambda: inputs_lib.open_inputs(config.data, config.seed, mesh, config.microbatches),
        file=config.model_dir,
    )
    assert given is not None
    return given


def _check_inputs(config: TrainConfig, inputs: Inputs, validates: bool) -> dict[str, float]:
    """Checks that the inputs can be validated as the settings have it; the share of likes by task."""
    if config.data.mixture_module is not None:  # its tasks are known once they are read
        return {}
    if validates:
        validation.check(config, inputs)
    return likes.trained_shares(inputs.mixture)


def _open_run_dir(
    config: TrainConfig, inputs: Inputs, operative_config: str | None
) -> tuple[RunDir, RunLock | None]:
    """The run dir, found or made, and host 0's lock on it."""
    settings = config.to_json() | {"artefacts": inputs.fingerprints()}
    mirror = _mirror(config.model_dir)
    folder = pathlib.Path(config.model_dir) if mirror is None else mirror.folder
    lock = None

    def open_first() -> None:
        nonlocal lock
        _refuse_dataset_dir(config.model_dir)
        lock = RunLock(folder)
        if mirror is not None:
            _start_from_store(mirror)
        if not _goes_on(folder, settings, inputs, operative_config, mirror):
            _create_run_dir(folder, config, inputs, settings, operative_config)
            if mirror is not None:
                names = (path.name for path in folder.iterdir() if path.name != LOCK_FILE)
                mirror.publish(*names, last=[MANIFEST])

    def open_own() -> RunDir:
        number = jax.process_index()
        if mirror is not None and number:
            _start_from_store(mirror)
        if number and not RunDir.exists(folder):
            raise UserError(
                f"host {number} does not see the run dir that host 0 made, {folder}; MODEL_DIR must lie on"
                " a file system that all hosts share, or be a URL"
            )
        return dataclasses.replace(RunDir.load(folder), mirror=mirror)

    try:
        hosts.together(open_first, on=lambda host: host == 0, file=config.model_dir)
        run_dir = hosts.together(open_own, file=config.model_dir)
    except Exception:
        if lock is not None:
            lock.release()
        raise
    assert run_dir is not None
    return run_dir, lock


def _refuse_dataset_dir(model_dir: str) -> None:
    """Raises `UserError` where `prepare --overwrite` or `index --overwrite` might delete the run."""
    for manifest, kind in ((dataset.MANIFEST, "a dataset dir"), (item_ids.MANIFEST, "an index")):
        if storage.exists(storage.join(model_dir, manifest)) and not RunDir.exists(model_dir):
            raise UserError(
                f"is {kind} (it holds {manifest}); wanted a folder of its own for the run, made here."
                " Set MODEL_DIR to another, such as runs/first",
                file=model_dir,
            )


def _mirror(model_dir: str) -> Mirror | None:
    """Where this process works on a run dir at a URL; None for one that is on a file system."""
    if not storage.is_remote(model_dir):
        return None
    here, number = storage.cache_folder(model_dir), jax.process_index()
    own = f"-host{number}" if number else ""
    return Mirror(model_dir.rstrip("/"), here.with_name(f"{here.name}.training{own}"))


def _start_from_store(mirror: Mirror) -> None:
    """Makes the working folder what the store has, checkpoints and events aside."""
    mirror.folder.mkdir(parents=True, exist_ok=True)
    for path in mirror.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()
    storage.fetch(mirror.url, mirror.folder, is_small)


def _publish_records(run_dir: RunDir, events: str = f"{EVENTS_FOLDER}/{EVENTS_FILE}") -> None:
    """If the run dir is at a URL, uploads this host's log so far."""
    if run_dir.mirror is not None:
        log = [METRICS_FILE] if jax.process_index() == 0 else []
        run_dir.mirror.publish_growing(*log, events)


def _goes_on(
    folder: pathlib.Path,
    settings: dict[str, Any],
    inputs: Inputs,
    operative_config: str | None,
    mirror: Mirror | None,
) -> bool:
    """Whether there is a run in `folder` to go on with; one that saved nothing binds nobody."""
    if not RunDir.exists(folder):
        return False
    run_dir = dataclasses.replace(RunDir.load(folder), mirror=mirror)
    try:
        run_dir.check_settings(settings, free=FREE_ON_RESUME, reasons=WHY_NOT_FREE)
    except UserError:
        if run_dir.checkpoint_dir.is_dir() and any(run_dir.checkpoint_dir.iterdir()):
            raise
        print_notice(f"{run_dir.location}: the run there never got to a checkpoint; starting anew")
        return False
    inputs.mend_tries(run_dir)
    steps = restore.open_store(run_dir).steps()
    if steps:
        settings = settings | {name: run_dir.settings[name] for name in ONLY_AT_THE_START}
    restarts.record(
        run_dir,
        settings,
        inputs.datasets,
        step=max(steps, default=0),
        operative_config=operative_config,
    )
    (run_dir.path / FINISHED).unlink(missing_ok=True)
    if mirror is not None:
        mirror.remove(FINISHED)
    return True


def _create_run_dir(
    folder: pathlib.Path,
    config: TrainConfig,
    inputs: Inputs,
    settings: dict[str, Any],
    operative_config: str | None,
) -> RunDir:
    data = config.data
    return RunDir.create(
        folder,
        model_config=config.model,
        mixture={
            "name": data.mixture,
            "module": data.mixture_module,
            "tasks": list(inputs.tasks),
            "history": data.history,
            "templates_per_example": data.templates_per_example,
            "max_input_length": data.max_input_length,
            "max_target_length": data.max_target_length,
            "cut": data.cut,
            **_measured(config, inputs),
            "num_candidates": data.num_candidates,
            "like_above": data.like_above,
            "seed": config.seed,
        },
        datasets=inputs.datasets,
        index_dirs=inputs.index_dirs,
        vocabulary=inputs.vocabulary,
        templates_text=inputs.templates_text,
        write_trie=inputs.write_trie,
        selection={"metric": config.validation.metric, "mode": config.validation.mode},
        settings=settings,
        operative_config=operative_config,
    )


def _measured(config: TrainConfig, inputs: Inputs) -> dict[str, Any]:
    """Shares of prompts that are cut, and the audit; only its author knows them of a SeqIO mixture."""
    if config.data.mixture_module is not None:
        return {}
    audit = mixture_audit.check_mixture(inputs.mixture, inputs.splits)
    return {
        "cut_shares": inputs.mixture.cut_shares(),
        "audit": [dataclasses.asdict(result) for result in audit],
    }


def _start(
    config: TrainConfig, store: CheckpointStore, mesh: Mesh, vocabulary: Vocabulary
) -> tuple[TrainState, int, Progress | None]:
    """The state to start from: the latest checkpoint, given parameters, or fresh ones."""
    step = store.latest_valid_step()
    damaged = store.steps() if step is None else []
    if damaged:
        raise UserError(
            f"every checkpoint here is damaged (steps: {', '.join(map(str, damaged))}), and starting over"
            " would remove them. Bring back a copy of one, or remove the folder to start over",
            file=store.location,
        )
    store.discard_after(step)
    if step is not None:
        abstract = state_lib.abstract_state(config.model, config.optimizer, mesh)
        progress = Progress.from_json(store.progress(step))
        return store.restore(step, abstract), step, progress
    if config.initial_checkpoint is None:
        return state_lib.create_state(config.model, config.optimizer, mesh, config.seed), 0, None
    params = initial.initial_params(
        config.initial_checkpoint,
        config.initial_step,
        config.model,
        vocabulary=vocabulary,
        options=config.new_tokens,
        seed=config.seed,
        mesh=mesh,
        trained=config.train_steps != 0,
    )
    return state_lib.state_from_params(config.model, config.optimizer, mesh, params), 0, None


def _finish(config: TrainConfig, run_dir: RunDir, result: Result) -> Summary:
    best, totals = result.progress.best, result.progress.totals
    summary = Summary(
        run_dir=storage.join(config.model_dir),
        step=result.step,
        stopped=result.stopped,
        seconds=totals["seconds"],
        examples=int(totals["examples"]),
        metric=config.validation.metric,
        best_step=None if best.value is None else best.step,
        best_value=best.value,
    )
    if jax.process_index() == 0 and result.stopped != "preempted":
        content = dataclasses.asdict(summary)
        artefacts.write_json(
            run_dir.output_path(FINISHED), content | {"run_dir": str(summary.run_dir)}
        )
    return summary
