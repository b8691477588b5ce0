"""Being asked to stop: SIGTERM ends a run at the next step, with a checkpoint, not in the middle.

One process listens to the signal itself; several agree on the step through JAX's preemption service,
which the coordinator of `jax.distributed` runs, since all hosts must save the same step.
"""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Whether the run has been asked to stop; a context manager, active inside its `with` block.

    Signal handlers belong to the main thread: elsewhere only `request()` stops the run.
    """

    def __init__(self):
        self._requested = threading.Event()
        self._previous = None

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and main:
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def request(self) -> None:
        """Asks the run to stop after the step it is at."""
        self._requested.set()

    @property
    def requested(self) -> bool:
        """Whether this process has been asked; other hosts may not know yet."""
        return self._requested.is_set()

    def after_step(self, step: int) -> bool:
        """Whether to save and stop, now that `step` steps are done; every host calls it each step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._requested.is_set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._requested.set()
