"""The choice of optimizer and learning rate, as one value that the training step takes."""

import dataclasses
from typing import Any

import optax
from jaxtyping import Array

from genrec_jax.training import adafactor, adamw
from genrec_jax.training.adafactor import AdafactorConfig
from genrec_jax.training.adamw import AdamWConfig
from genrec_jax.training.schedules import LearningRate


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update rule with its learning rate.

    Attributes:
        rule: settings of the rule, which say which rule it is.
        learning_rate: schedule.
    """

    rule: AdafactorConfig | AdamWConfig = dataclasses.field(default_factory=AdafactorConfig)
    learning_rate: LearningRate = dataclasses.field(default_factory=LearningRate)

    def transformation(self) -> optax.GradientTransformation:
        """The Optax transformation."""
        if isinstance(self.rule, AdafactorConfig):
            return adafactor.adafactor(self.rule, self.learning_rate)
        return adamw.adamw(self.rule, self.learning_rate)

    def init(self, params: Any) -> Any:
        """State of the optimizer before the first step."""
        return self.transformation().init(params)

    def apply(self, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        """New parameters and optimizer state."""
        updates, opt_state = self.transformation().update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def rate(self, step: Any) -> Array:
        """The learning rate of a step, from 0."""
        return self.learning_rate(step)
