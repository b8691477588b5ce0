"""Learning rates as functions of the step; the optimizer and the metrics read the same one."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax import checks
from genrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """A warm-up to `peak`, then what `decay` says. The first step is number 0.

    A linear warm-up starts from 0, as T5X's and Hugging Face's do, so the first step moves nothing.

    Attributes:
        peak: the highest rate.
        decay: `constant`; `rsqrt`, which holds `peak` for `warmup_steps` and then falls with one over
            the square root of the step (T5's pretraining: peak 0.01, warm-up 10,000); `linear` or
            `cosine`, which reach `final_share * peak` at `total_steps`.
        warmup_steps: length of the warm-up; None: what `warmup_share` says.
        warmup_share: length of the warm-up as a share of `total_steps` (OpenP5: 0.05); None: no warm-up.
        total_steps: steps of the run; needed by `linear`, `cosine` and `warmup_share`.
        final_share: where `linear` and `cosine` end.
    """

    peak: float = 1e-3
    decay: str = "constant"
    warmup_steps: int | None = None
    warmup_share: float | None = None
    total_steps: int | None = None
    final_share: float = 0.0

    def __post_init__(self):
        checks.check_choice(
            "LearningRate.decay", self.decay, ("constant", "rsqrt", "linear", "cosine")
        )
        if self.depends_on_total and self.total_steps is None:
            raise UserError(
                f"the learning rate (decay={self.decay!r}, warmup_share={self.warmup_share}) needs"
                " total_steps; set it to the number of training steps"
            )
        checks.number_fields(self, "peak", least=0)
        checks.whole_fields(self, "warmup_steps", least=0, otherwise="as `warmup_share` says")
        checks.whole_fields(self, "total_steps", least=0, otherwise="none are needed")
        shares = ("final_share",) if self.warmup_share is None else ("final_share", "warmup_share")
        checks.number_fields(self, *shares, least=0, most=1)
        if self.final_share and self.decay not in ("linear", "cosine"):
            raise UserError(
                f"LearningRate.final_share is {self.final_share}, where decay={self.decay!r} has no end;"
                " wanted 0, or decay 'linear' or 'cosine'"
            )

    @property
    def warms_up_by_share(self) -> bool:
        """Whether the length of the warm-up follows `total_steps`."""
        return self.warmup_steps is None and self.warmup_share is not None

    @property
    def depends_on_total(self) -> bool:
        """Whether `total_steps` changes anything."""
        return self.decay in ("linear", "cosine") or self.warms_up_by_share

    def warmup(self) -> int:
        """Length of the warm-up in steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return int((self.warmup_share or 0) * (self.total_steps or 0))

    def notice(self, steps: int) -> str | None:
        """A line for the user of a run of so many steps that ends within the warm-up; None otherwise."""
        warmup = self.warmup()
        if self.decay == "rsqrt" or not 0 < steps <= warmup:
            return None
        return (
            f"the learning rate is still warming up when this run ends: {warmup:,} steps of warm-up,"
            f" {steps:,} steps in all. --gin.schedules.LearningRate.warmup_steps sets the former"
        )

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The rate of a step."""
        done = jnp.asarray(step, jnp.float32)
        warmup = self.warmup()
        peak = jnp.asarray(self.peak, jnp.float32)
        if self.decay == "rsqrt":
            held = max(1, warmup)
            return peak * jnp.sqrt(held / jnp.maximum(done, held))
        rising = jnp.minimum(done / warmup, 1.0) if warmup else jnp.float32(1.0)
        if self.decay == "constant":
            return peak * rising
        total = self.total_steps or 0
        progress = jnp.clip((done - warmup) / max(1, total - warmup), 0.0, 1.0)
        left = 1.0 - progress if self.decay == "linear" else 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return peak * rising * (self.final_share + (1.0 - self.final_share) * left)
