"""The best validation so far, and whether training should stop early."""

import dataclasses
import math
from typing import Any, Literal

Mode = Literal["max", "min"]


@dataclasses.dataclass(frozen=True)
class BestSoFar:
    """The best value of the selection metric; saved with every checkpoint.

    Attributes:
        value: of the metric; None before the first validation.
        step: at which it was measured.
        waited: validations since then.
    """

    value: float | None = None
    step: int = 0
    waited: int = 0

    def update(self, value: float, step: int, mode: Mode) -> "BestSoFar":
        """The best after one more validation; equal, NaN or infinite values are no improvement."""
        better = self.value is None or (value > self.value if mode == "max" else value < self.value)
        if better and math.isfinite(value):
            return BestSoFar(value=value, step=step, waited=0)
        return dataclasses.replace(self, waited=self.waited + 1)

    def should_stop(self, patience: int | None) -> bool:
        """Whether the last `patience` validations brought no improvement (None: never stop)."""
        return patience is not None and self.value is not None and self.waited >= patience

    def to_json(self) -> dict[str, Any]:
        """Plain values for the checkpoint's manifest."""
        return dataclasses.asdict(self)
