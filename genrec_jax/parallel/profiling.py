"""A trace of a few steps of training or evaluation, for TensorBoard's profile page or Perfetto."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax

from genrec_jax.data import artefacts

SKIPPED_STEPS = 10
TRACED_STEPS = 5
TRACED_BATCHES = 5

Say = Callable[[str], None]
Item = TypeVar("Item")


class TracedSteps:
    """A train step that writes a trace of some of its calls, the same on every host.

    The first calls are left out: they compile, and fill the input queue.
    """

    def __init__(
        self,
        train_step: Callable[[Any, Any, int], tuple[Any, Any]],
        folder: artefacts.PathLike,
        *,
        say: Say = lambda text: None,
        skip: int = SKIPPED_STEPS,
        count: int = TRACED_STEPS,
    ):
        """Wraps a step.

        Args:
            train_step: (state, batch, step) -> (state, metrics).
            folder: where the trace goes: `<folder>/plugins/profile/<time>/`.
            say: told where the trace lies, or that the run was too short for one.
            skip: calls before the trace.
            count: calls in it.
        """
        self._train_step = train_step
        self._folder = pathlib.Path(folder).absolute()
        self._say = say
        self._skip, self._count = skip, count
        self._calls = 0
        self._tracing = False

    def __call__(self, state: Any, batch: Any, step: int) -> tuple[Any, Any]:
        """One step."""
        if self._calls == self._skip:
            jax.block_until_ready(state)
            _start(self._folder)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = self._train_step(state, batch, step)
        self._calls += 1
        if self._tracing and self._calls == self._skip + self._count:
            jax.block_until_ready(result)
            self._stop()
        return result

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        self._say(_told(self._calls - self._skip, "steps", self._folder))

    def close(self) -> None:
        """Ends a trace that the run's end cut short."""
        if self._tracing:
            self._stop()
        elif self._calls <= self._skip:
            self._say(
                f"no trace: it begins after {self._skip} steps, and this run made {self._calls}"
            )


class TracedBatches:
    """Hands batches on, the first few of all under a trace, each warmed up before it begins."""

    def __init__(
        self,
        folder: artefacts.PathLike,
        *,
        say: Say = lambda text: None,
        count: int = TRACED_BATCHES,
    ):
        """Traces once, however often it is asked to hand batches on.

        Args:
            folder: where the trace goes: `<folder>/plugins/profile/<time>/`.
            say: told where the trace lies.
            count: batches in it, or as many as there are.
        """
        self._folder = pathlib.Path(folder).absolute()
        self._say, self._count = say, count
        self._done = False

    def trace(self, batches: Iterable[Item], warm_up: Callable[[Item], Any]) -> Iterator[Item]:
        """The batches as they came. What their consumer does between two is a step of the trace.

        Args:
            batches: what is worked on.
            warm_up: does with a batch what the consumer will, so that all is compiled; called, before
                the trace, with each batch that will be in it.
        """
        batches = iter(batches)
        first = [] if self._done else list(itertools.islice(batches, self._count))
        for batch in first:
            warm_up(batch)
        if first:
            self._done = True
            _start(self._folder)
            try:
                for number, batch in enumerate(first):
                    with jax.profiler.StepTraceAnnotation("evaluate", step_num=number):
                        yield batch
                jax.block_until_ready(jax.live_arrays())  # what the consumer has not waited for
            finally:
                jax.profiler.stop_trace()
            self._say(_told(len(first), "batches", self._folder))
        yield from batches


def _start(folder: pathlib.Path) -> None:
    jax.profiler.start_trace(folder, create_perfetto_trace=True)


def _told(number: int, what: str, folder: pathlib.Path) -> str:
    return f"trace of {number} {what}: tensorboard --logdir {folder}"
