"""A trace of a few training steps, for TensorBoard's profile page or Perfetto."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from genrec_jax.data import artefacts

SKIPPED_STEPS = 10
TRACED_STEPS = 5


class TracedSteps:
    """A train step that writes a trace of some of its calls, the same on every host.

    The first calls are left out: they compile, and fill the input queue.
    """

    def __init__(
        self,
        train_step: Callable[[Any, Any, int], tuple[Any, Any]],
        folder: artefacts.PathLike,
        *,
        say: Callable[[str], None] = lambda text: None,
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
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
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
        traced = self._calls - self._skip
        self._say(f"trace of {traced} steps: tensorboard --logdir {self._folder}")

    def close(self) -> None:
        """Ends a trace that the run's end cut short."""
        if self._tracing:
            self._stop()
        elif self._calls <= self._skip:
            self._say(
                f"no trace: it begins after {self._skip} steps, and this run made {self._calls}"
            )
