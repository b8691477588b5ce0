"""Prepares the next batches in a thread and puts them on the device while a step runs."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Hands out `prepare(step)` for consecutive steps, made ahead in one background thread.

    Since `prepare` is a pure function of the step, nothing is lost when it is closed early.

    Args:
        prepare: makes the batch of a step and moves it to the device; called in the thread.
        start: first step.
        stop: step after the last.
        ahead: how many batches to hold ready.
    """

    def __init__(self, prepare: Callable[[int], Item], start: int, stop: int, *, ahead: int = 2):
        self._ready: queue.Queue[tuple[int, Item | BaseException]] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(prepare, start, stop), name="prefetch", daemon=True
        )
        self._thread.start()
        self.seconds_waited = 0.0

    def next(self, step: int) -> Item:
        """The batch of `step`, which must be the one after the last; raises what the thread raised."""
        before = time.perf_counter()
        number, item = self._ready.get()
        self.seconds_waited += time.perf_counter() - before
        if isinstance(item, BaseException):
            raise item
        if number != step:
            raise ValueError(f"the next prefetched batch is of step {number}, not {step}")
        return item

    def close(self) -> None:
        """Stops the thread and drops what it had prepared."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread.join()

    def _work(self, prepare: Callable[[int], Item], start: int, stop: int) -> None:
        step = start
        try:
            for step in range(start, stop):
                if not self._put(step, prepare(step)):
                    return
        except BaseException as error:  # handed to the loop, which raises it
            self._put(step, error)

    def _put(self, step: int, item: Item | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put((step, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
