"""The training loop: dispatches steps, reads each one's metrics a step later, saves, validates, stops.

It knows nothing of datasets and models: `training.run` hands it functions. Everything that a resumed
run needs beside the training state is a small JSON value saved with each checkpoint, so that a run
killed at any moment ends, after a restart, with the same parameters, bit for bit.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np

from genrec_jax.checkpoint.store import CheckpointStore
from genrec_jax.errors import UserError
from genrec_jax.training.early_stopping import BestSoFar, Mode
from genrec_jax.training.logging import MetricsLog
from genrec_jax.training.preemption import StopReached, StopRequest
from genrec_jax.training.prefetch import Prefetcher
from genrec_jax.training.progress import Display
from genrec_jax.training.throughput import Utilisation

Stopped = Literal["finished", "preempted", "early_stopping"]
Metrics = dict[str, Any]
FINITE = (("loss_sum", "grad_norm"), ("param_norm",))
"""What must be finite: before the update, and after it, which is told where the first is."""
LATEST = ("param_norm", "learning_rate")
"""Logged as the last step of a window has them; the rest are sums or means over it."""
KEPT_SUMS = ("examples", "target_tokens", "cells", "padding", "seconds", "steps")


class NonFiniteLoss(UserError):
    """The loss, the gradients or the updated parameters became NaN or infinite; it names the batch."""


@runtime_checkable
class Batches(Protocol):
    """Prepared batches by step."""

    def prepare(self, step: int) -> "Prepared":
        """The batch of a step, on the device; called in a background thread."""
        ...

    def describe(self, step: int) -> str:
        """The contents of a step's batch: epoch, task, example numbers."""
        ...


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A batch on the device and its counts: this host's share times the number of hosts.

    Attributes:
        batch: what the step takes.
        examples: examples that the step consumes.
        cells: positions of inputs and targets.
        padding: those of them that hold padding.
    """

    batch: Any
    examples: int
    cells: int
    padding: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When the loop does what; all in steps, `None` for never.

    Attributes:
        train_steps: steps in all.
        log_period: between lines of the log.
        eval_period: between validations.
        checkpoint_period: between checkpoints; the last step is always saved, and so is the best.
        patience: validations without improvement before the run stops early.
        metric: the validation metric that picks the best checkpoint.
        mode: whether it is better larger or smaller.
    """

    train_steps: int
    log_period: int = 100
    eval_period: int | None = None
    checkpoint_period: int | None = None
    patience: int | None = None
    metric: str = "hr@10"
    mode: Mode = "max"


@dataclasses.dataclass
class Progress:
    """The progress of a run, apart from the training state; saved with every checkpoint.

    Attributes:
        totals: sums since the start of the run.
        window: sums since the last line of the log.
        best: the best validation.
        owes_validation: a stop came before the validation of this step was through.
    """

    totals: dict[str, float]
    window: dict[str, float]
    best: BestSoFar
    owes_validation: bool = False

    @classmethod
    def start(cls) -> "Progress":
        """The progress of a new run."""
        return cls(dict.fromkeys(KEPT_SUMS, 0.0), {}, BestSoFar())

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Progress":
        """As `to_json` gave it."""
        return cls(
            dict(value["totals"]),
            dict(value["window"]),
            BestSoFar(**value["best"]),
            value["owes_validation"],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, copied, because a checkpoint is written while training continues."""
        return {
            "totals": dict(self.totals),
            "window": dict(self.window),
            "best": self.best.to_json(),
            "owes_validation": self.owes_validation,
        }


@dataclasses.dataclass(frozen=True)
class Result:
    """How the loop ended.

    Attributes:
        state: the training state.
        step: steps done.
        stopped: why it ended.
        progress: counts and the best validation.
    """

    state: Any
    step: int
    stopped: Stopped
    progress: Progress


class Loop:
    """One run, from a state at `step` to the end."""

    def __init__(
        self,
        *,
        schedule: Schedule,
        train_step: Callable[[Any, Any, int], tuple[Any, Metrics]],
        batches: Batches,
        store: CheckpointStore,
        display: Display,
        log: MetricsLog | None = None,
        validate: Callable[[Any], dict[str, float]] | None = None,
        utilisation: Utilisation | None = None,
    ):
        """Binds the run's parts.

        Args:
            schedule: when to do what.
            train_step: (state, batch, step) -> (state, metrics); takes the state over (donated).
            batches: batches by step.
            store: where checkpoints go.
            display: what the person watching sees.
            log: where metrics go; None on all hosts but the first.
            validate: parameters -> validation metrics; every host calls it. It may ask the stop request
                between its batches, and raise `StopReached`.
            utilisation: counts operations, for the share of the devices' peak.
        """
        self._schedule = schedule
        self._train_step = train_step
        self._batches = batches
        self._store = store
        self._display = display
        self._log = log
        self._validate = validate
        self._utilisation = utilisation
        self._saved = -1

    def run(
        self,
        state: Any,
        step: int = 0,
        progress: Progress | None = None,
        stop: StopRequest | None = None,
    ) -> Result:
        """Trains until the last step, an early stop or SIGTERM, and leaves a complete checkpoint.

        Args:
            state: the training state after `step` steps.
            step: steps done already.
            progress: as saved with that state's checkpoint; None where there is none yet.
            stop: an active one, where the caller wants to be able to stop; else SIGTERM is heeded
                while this runs.

        Raises:
            NonFiniteLoss: a step's loss, its gradients' norm or that of the parameters after it is not
                finite; nothing is saved from it on.
            UserError: the disk is full.
            Exception: what a validation raises; on one host its step is saved before, and owes it.
        """
        if stop is None:
            with StopRequest() as own:
                return self.run(state, step, progress, own)
        self._saved = -1 if progress is None else step
        progress = progress or Progress.start()
        schedule = self._schedule
        stopped: Stopped = "finished"
        if progress.best.should_stop(schedule.patience):
            return Result(state, step, "early_stopping", progress)
        if stop.requested and jax.process_count() == 1:
            return Result(state, step, "preempted", progress)
        if progress.owes_validation:
            measured = self._measure(state, step, progress)
            if not progress.owes_validation:
                self._store.record(step, metrics=measured, progress=progress.to_json())
        elif schedule.train_steps == 0:  # the run is what it starts from
            self._save(step, state, self._validate_if_due(state, step, progress), progress)
        if progress.owes_validation:
            self._store.wait()
            return Result(state, step, "preempted", progress)
        if progress.best.should_stop(schedule.patience):
            return Result(state, step, "early_stopping", progress)
        prefetcher = Prefetcher(self._batches.prepare, step, schedule.train_steps)
        clock = _Clock(prefetcher)
        unread: tuple[int, Metrics, Prepared] | None = None
        try:
            while step < schedule.train_steps:
                prepared = prefetcher.next(step)
                state, metrics = self._train_step(state, prepared.batch, step)
                if unread is not None:
                    self._read(*unread, progress)
                unread = (step, metrics, prepared)
                step += 1
                self._store.raise_if_failed()
                wants_stop = stop.reached()
                if not (wants_stop or self._is_due(step)):
                    self._display.update(step - 1, {})
                    continue
                self._read(*unread, progress)
                unread = None
                clock.add_to(progress)
                if self._at(step, schedule.log_period):
                    self._log_window(step, progress)
                measured = self._validate_if_due(state, step, progress, wants_stop)
                clock.restart()
                owing = progress.owes_validation
                better = bool(measured) and progress.best.step == step
                early = bool(measured) and progress.best.should_stop(schedule.patience)
                last = early or owing or wants_stop or step == schedule.train_steps
                if last or better or self._at(step, schedule.checkpoint_period):
                    self._save(step, state, measured, progress)
                if early or owing or (wants_stop and step < schedule.train_steps):
                    stopped = "early_stopping" if early else "preempted"
                    break
            self._store.wait()
        finally:
            prefetcher.close()
        return Result(state, step, stopped, progress)

    def _is_due(self, step: int) -> bool:
        schedule = self._schedule
        periods = (schedule.log_period, schedule.eval_period, schedule.checkpoint_period)
        return step == schedule.train_steps or any(self._at(step, period) for period in periods)

    def _at(self, step: int, period: int | None) -> bool:
        return period is not None and (step % period == 0 or step == self._schedule.train_steps)

    def _read(self, step: int, metrics: Metrics, prepared: Prepared, progress: Progress) -> None:
        """Reads the metrics of a step (number `step`, from 0), waiting for it to be computed."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        found = ([n for n in names if not math.isfinite(values[n])] for names in FINITE)
        if wrong := next(filter(None, found), None):
            self._store.wait()
            raise NonFiniteLoss(
                f"at step {step + 1} {' and '.join(wrong)} became {values[wrong[0]]}, on the batch of"
                f" {self._batches.describe(step)}. Checkpoints before it stand (steps:"
                f" {', '.join(map(str, self._store.steps())) or 'none'}). Lower the learning rate, warm up"
                " longer or clip the gradients"
            )
        values |= {"steps": 1.0, "examples": float(prepared.examples)}
        values |= {"cells": float(prepared.cells), "padding": float(prepared.padding)}
        if self._utilisation is not None:
            values["flops"] = self._utilisation.flops(prepared.batch)
        for name, value in values.items():
            before = 0.0 if name in LATEST else progress.window.get(name, 0.0)
            progress.window[name] = before + value
            if name in KEPT_SUMS:
                progress.totals[name] += value

    def _log_window(self, step: int, progress: Progress) -> None:
        window, totals = progress.window, progress.totals
        steps, tokens = max(1.0, window["steps"]), max(1.0, window["target_tokens"])
        seconds = max(1e-9, window["seconds"])
        values = {"seconds": totals["seconds"], "loss": window["loss_sum"] / tokens}
        if "z_loss_sum" in window:
            values["z_loss"] = window["z_loss_sum"] / tokens
        values["grad_norm"] = window["grad_norm"] / steps
        values |= {name: window[name] for name in LATEST if name in window}
        real = window["cells"] - window["padding"]
        values |= {
            "examples": totals["examples"],
            "target_tokens": totals["target_tokens"],
            "padding_share": window["padding"] / max(1.0, window["cells"]),
            "input_wait_share": min(1.0, window["waited"] / seconds),
            "steps_per_second": window["steps"] / seconds,
            "examples_per_second": window["examples"] / seconds,
            "tokens_per_second": real / seconds,
        }
        if self._utilisation is not None:
            share = self._utilisation.share(window.get("flops", 0.0), seconds)
            if share is not None:
                values["mfu"] = share
        if self._log is not None:
            self._log.write(step, "train", values)
        self._display.update(step, values)
        progress.window.clear()

    def _validate_if_due(
        self, state: Any, step: int, progress: Progress, wants_stop: bool = False
    ) -> dict[str, float]:
        if self._validate is None or not self._at(step, self._schedule.eval_period):
            return {}
        progress.owes_validation = True
        if wants_stop:
            return {}
        try:
            return self._measure(state, step, progress)
        except Exception:
            if jax.process_count() == 1:  # of several hosts the others may not be here to save
                self._save(step, state, {}, progress)
                self._store.wait()
            raise

    def _measure(self, state: Any, step: int, progress: Progress) -> dict[str, float]:
        """The validation of this step, which is owed; nothing where a stop comes before it is through."""
        assert self._validate is not None
        schedule = self._schedule
        try:
            measured = self._validate(state.params)
        except StopReached:
            self._display.say(f"the validation at step {step} is left for when the run goes on")
            return {}
        if schedule.metric not in measured:
            raise UserError(
                f"the best checkpoint is chosen by {schedule.metric!r}; the validation measured"
                f" {', '.join(sorted(measured))}. Choose one of these"
            )
        if self._log is not None:  # which may fail, and then the validation is owed still
            seconds = {
                "seconds": progress.totals["seconds"],
                "examples": progress.totals["examples"],
            }
            self._log.write(step, "validation", {**seconds, **measured})
        progress.owes_validation = False
        progress.best = progress.best.update(measured[schedule.metric], step, schedule.mode)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
        mark = "  (best so far)" if progress.best.step == step else ""
        self._display.say(f"validation at step {step}: {shown}{mark}")
        return measured

    def _save(self, step: int, state: Any, measured: dict[str, float], progress: Progress) -> None:
        if step != self._saved:
            self._store.save(step, state, metrics=measured, progress=progress.to_json())
            self._saved = step


class _Clock:
    """Seconds of training, validation left out, and how many of them were spent waiting for input."""

    def __init__(self, prefetcher: Prefetcher):
        self._prefetcher = prefetcher
        self.restart()

    def restart(self) -> None:
        self._since = time.perf_counter()
        self._waited = self._prefetcher.seconds_waited

    def add_to(self, progress: Progress) -> None:
        seconds = time.perf_counter() - self._since
        waited = self._prefetcher.seconds_waited - self._waited
        self.restart()
        progress.totals["seconds"] += seconds
        progress.window["seconds"] = progress.window.get("seconds", 0.0) + seconds
        progress.window["waited"] = progress.window.get("waited", 0.0) + waited


def count_cells(*segment_ids: np.ndarray) -> tuple[int, int]:
    """Positions of some segment id arrays, and how many of them are padding (0)."""
    cells = sum(array.size for array in segment_ids)
    return cells, cells - sum(int(np.count_nonzero(array)) for array in segment_ids)
