"""AdamW (Loshchilov & Hutter 2019)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx
from jaxtyping import Array

from genrec_jax import checks


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    """The optimizer's settings; the defaults are those of OpenP5's public repository but for the norms.

    Attributes:
        b1: decay of the first moment.
        b2: decay of the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled, times the learning rate.
        undecayed: parameters with one of these logical axes do not decay: norms and position biases.
            (The repository means to leave norms out too, by a name that T5's do not have, so that it
            decays them; `gin_configs/runs/train_openp5.gin` does as it does.)
        clip_norm: gradients whose global norm is larger are scaled down to it; None to leave them.
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    undecayed: tuple[str, ...] = ("norm_embed", "relpos_buckets")
    clip_norm: float | None = 1.0

    def __post_init__(self):
        checks.number_fields(self, "b1", "b2", least=0, below=1)
        checks.number_fields(self, "epsilon", above=0)
        checks.number_fields(self, "weight_decay", least=0)
        if self.clip_norm is not None:
            checks.number_fields(self, "clip_norm", above=0)


def decay_mask(params: Any, undecayed: Sequence[str]) -> Any:
    """True for parameters that decay: those without any of the logical axes `undecayed`."""

    def decays(variable: nnx.Variable) -> nnx.Variable:
        axes = variable.get_metadata()["axes"]
        return variable.replace(not any(axis in undecayed for axis in axes))

    return jax.tree.map(decays, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def adamw(
    config: AdamWConfig, learning_rate: Callable[[Any], Array]
) -> optax.GradientTransformation:
    """The transformation.

    Args:
        config: settings.
        learning_rate: function of the step, from 0.
    """
    steps = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm is not None else []
    steps.append(
        optax.adamw(
            learning_rate,
            b1=config.b1,
            b2=config.b2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=lambda params: decay_mask(params, config.undecayed),
        )
    )
    return optax.chain(*steps)
