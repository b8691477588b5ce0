"""Learning rates as functions of the step; the optimizer and the metrics read the same one."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
        warmup_steps: length of the warm-up; or give `warmup_share`.
        warmup_share: length of the warm-up as a share of `total_steps` (OpenP5: 0.05).
        total_steps: steps of the run; needed by `linear`, `cosine` and `warmup_share`.
        final_share: where `linear` and `cosine` end.
    """

    peak: float = 1e-3
    decay: str = "constant"
    warmup_steps: int = 0
    warmup_share: float | None = None
    total_steps: int | None = None
    final_share: float = 0.0

    def __post_init__(self):
        if self.decay not in ("constant", "rsqrt", "linear", "cosine"):
            raise UserError(
                f"decay is {self.decay!r}; wanted 'constant', 'rsqrt', 'linear' or 'cosine'"
            )
        needs_total = self.decay in ("linear", "cosine") or self.warmup_share is not None
        if needs_total and self.total_steps is None:
            raise UserError(
                f"the learning rate (decay={self.decay!r}, warmup_share={self.warmup_share}) needs"
                " total_steps; set it to the number of training steps"
            )
        if not self.peak >= 0:
            raise UserError(f"the learning rate's peak is {self.peak}; wanted 0 or more")
        if self.warmup_steps < 0:
            raise UserError(f"warmup_steps is {self.warmup_steps}; wanted 0 or more")
        for field in ("warmup_share", "final_share"):
            share = getattr(self, field)
            if share is not None and not 0 <= share <= 1:
                raise UserError(
                    f"{field} is {share}; wanted a share from 0 to 1, such as 0.05 for five percent"
                )
        if self.warmup_share is not None and self.warmup_steps:
            raise UserError("got both warmup_steps and warmup_share; wanted one of them")

    def warmup(self) -> int:
        """Length of the warm-up in steps."""
        if self.warmup_share is None:
            return self.warmup_steps
        return int(self.warmup_share * (self.total_steps or 0))

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
