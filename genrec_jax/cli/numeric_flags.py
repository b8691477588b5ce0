"""Numbers on the command line: what a flag may be is said where it is declared, and by its error."""

import argparse
import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Whole:
    """The `type` of a flag that takes a whole number.

    Attributes:
        least: the smallest that it may be.
        most: the largest; None for no limit.
    """

    least: int
    most: int | None = None

    def __call__(self, text: str) -> int:
        """Reads the number; argparse names the flag in front of the error."""
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < self.least or (self.most is not None and value > self.most):
            upper = "" if self.most is None else f" to {self.most}"
            raise argparse.ArgumentTypeError(
                f"got {text!r}; wanted a whole number from {self.least}{upper}"
            )
        return value


@dataclasses.dataclass(frozen=True)
class Finite:
    """The `type` of a flag that takes any number, but not `nan` or `inf`.

    Attributes:
        least: the smallest that it may be; None for no limit.
        above: what it must exceed; None for no limit.
    """

    least: float | None = None
    above: float | None = None

    def __call__(self, text: str) -> float:
        """Reads the number; argparse names the flag in front of the error."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        low = self.least is not None and value < self.least
        if not math.isfinite(value) or low or (self.above is not None and value <= self.above):
            limit = "" if self.least is None else f" from {self.least:g}"
            limit += "" if self.above is None else f" above {self.above:g}"
            raise argparse.ArgumentTypeError(f"got {text!r}; wanted a number{limit}")
        return value


SEED = Whole(0)
COUNT = Whole(1)
