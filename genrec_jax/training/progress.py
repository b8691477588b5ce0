"""The progress display of training: a bar in a terminal, occasional lines elsewhere."""

import sys
import time
from typing import Protocol, runtime_checkable

import rich.console
import rich.progress

from genrec_jax.progress import duration

LINE_SECONDS = 30.0


@runtime_checkable
class Display(Protocol):
    """Shows the progress of the loop."""

    def update(self, step: int, values: dict[str, float]) -> None:
        """Steps done, and the newest logged values."""
        ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def close(self) -> None:
        """Takes the bar away."""
        ...


class Bar:
    """A rich progress bar on stderr, with loss, examples and tokens a second, and time left."""

    def __init__(self, start: int, stop: int, console: rich.console.Console | None = None):
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("training"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[values]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=console or rich.console.Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=stop, completed=start, values="compiling")
        self._progress.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Moves the bar."""
        if values:
            self._progress.update(self._task, completed=step, values=describe(values))
        else:
            self._progress.update(self._task, completed=step)

    def say(self, text: str) -> None:
        """Prints above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Stops drawing."""
        self._progress.stop()


class Lines:
    """Plain lines on stderr, for logs: messages, and progress at most every `LINE_SECONDS`."""

    def __init__(self, start: int, stop: int):
        self._start, self._stop = start, stop
        self._began = time.monotonic()
        self._last = -LINE_SECONDS

    def update(self, step: int, values: dict[str, float]) -> None:
        """Prints a line if there is something new and the last one is old."""
        now = time.monotonic()
        if not values or (now - self._last < LINE_SECONDS and step < self._stop):
            return
        self._last = now
        left = (now - self._began) / max(1, step - self._start) * (self._stop - step)
        self.say(f"step {step}/{self._stop}  {describe(values)}  {duration(left)} left")

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to take away."""


class Silent:
    """Shows nothing: on all hosts but the first, and where a program asks for it."""

    def update(self, step: int, values: dict[str, float]) -> None:
        """Shows nothing."""

    def say(self, text: str) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Nothing to take away."""


def make_display(start: int, stop: int) -> Display:
    """A bar where stderr is a terminal, else plain lines."""
    return Bar(start, stop) if sys.stderr.isatty() else Lines(start, stop)


def describe(values: dict[str, float]) -> str:
    """The values worth a glance, on one line."""
    shown = [f"loss {values['loss']:.4f}"] if "loss" in values else []
    shown += [
        f"{_short(values[name])} {label}"
        for name, label in (
            ("examples_per_second", "examples/s"),
            ("tokens_per_second", "tokens/s"),
        )
        if name in values
    ]
    shown += [
        f"{values[name]:.1%} {label}"
        for name, label in (("mfu", "of peak"), ("input_wait_share", "waiting for input"))
        if name in values
    ]
    return "  ".join(shown)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.0f}"
