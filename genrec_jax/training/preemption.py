"""Stop requests: after SIGTERM or Ctrl-C a run ends at the next step, with a checkpoint.

A running validation stops after its current batch and is repeated when the run resumes. A second
Ctrl-C interrupts at once, for a run that is still compiling its first step.

One process listens to the signals itself; several agree on the place through JAX's preemption service,
which the coordinator of `jax.distributed` runs, since all hosts must save the same step. It listens to
SIGTERM alone, so Ctrl-C on one of them is sent on as that.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopReached(Exception):
    """Ends a validation early because the run should stop; the loop catches it."""


class StopRequest:
    """Whether the run has been asked to stop; a context manager, active inside its `with` block.

    Signal handlers belong to the main thread: elsewhere only `request()` stops the run.
    """

    def __init__(self):
        self._requested = threading.Event()
        self._times_asked = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()
        alone = jax.process_count() == 1
        if main:
            for number in (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def request(self) -> None:
        """Asks the run to stop after the step it is at, or within the validation."""
        self._requested.set()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def requested(self) -> bool:
        """Whether this process has been asked; other hosts may not know yet."""
        return self._requested.is_set()

    def reached(self) -> bool:
        """Whether to save and stop here; every host asks at the same places, and stops at the same one.

        Several hosts are told so once, and count how often they asked.
        """
        self._times_asked += 1
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._times_asked)
        return self._requested.is_set()

    def raise_if_reached(self) -> None:
        """For a validation, before each of its batches.

        Raises:
            StopReached: the run is to save and stop here.
        """
        if self.reached():
            raise StopReached

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one interrupts
        self.request()
