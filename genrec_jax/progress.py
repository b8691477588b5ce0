"""Progress on stderr: one rich bar per step, or plain lines without a terminal. Durations for reading."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich import console, progress

PLAIN_LINE_EVERY_SECONDS = 20.0


def print_notice(text: str) -> None:
    """Shows the user a line."""
    print(text, file=sys.stderr, flush=True)


class Steps:
    """The steps of one command, shown as they happen.

    Args:
        enabled: False shows nothing (library use, tests).
    """

    def __init__(self, *, enabled: bool = False):
        self._enabled = enabled
        self._bars = None
        if enabled and sys.stderr.isatty():
            self._bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                console=console.Console(stderr=True),
            )

    @contextlib.contextmanager
    def running(self) -> Iterator["Steps"]:
        """Keeps the bars on the screen while the block runs."""
        with self._bars or contextlib.nullcontext():
            yield self

    @contextlib.contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Shows one step; yields a function that takes how much of `total` is done so far."""
        if self._bars is not None:
            task = self._bars.add_task(description, total=total)
            bars = self._bars
            yield lambda done: bars.update(task, completed=done)
            bars.update(task, total=total or 1, completed=total or 1)
            return
        begun = told = time.monotonic()

        def tell(done: int) -> None:
            nonlocal told
            if self._enabled and time.monotonic() - told > PLAIN_LINE_EVERY_SECONDS:
                told = time.monotonic()
                share = f"{100 * done / total:.0f}%" if total else f"{done}"
                print(f"{description}: {share}", file=sys.stderr, flush=True)

        yield tell
        seconds = time.monotonic() - begun
        if self._enabled and seconds > 1:
            print(f"{description}: done in {seconds:.0f} s", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds for reading: `232 us`, `12.4 ms`, `1.9 s`, `3 min 20 s`, `2 h 05 min`."""
    if 0 < seconds < 1:
        return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
