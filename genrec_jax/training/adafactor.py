"""Adafactor (Shazeer & Stern 2018) with T5X's settings; layers stacked on one axis are kept apart.

Differences from `optax.adafactor`: T5X's order of operations, so that its steps are reproduced, and
statistics, clipping and parameter scale per layer of a stacked parameter.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from genrec_jax import checks
from genrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class AdafactorConfig:
    """T5X's defaults.

    Attributes:
        decay_rate: the second moment decays by `1 - (step + 1) ** -decay_rate`.
        step_offset: T5X's name for steps of an earlier run, taken off the step in that formula. Here
            every run counts its steps from 0, so there are none.
        clipping_threshold: largest root mean square of a parameter's update before scaling.
        multiply_by_parameter_scale: step sizes are relative to the parameter's root mean square.
        min_dim_size_to_factor: a matrix is factored if both sides are at least this long.
        epsilon1: added to the squared gradient.
        epsilon2: least parameter scale.
    """

    decay_rate: float = 0.8
    step_offset: int = 0
    clipping_threshold: float = 1.0
    multiply_by_parameter_scale: bool = True
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3

    def __post_init__(self):
        checks.number_fields(self, "decay_rate", above=0, most=1)
        checks.number_fields(self, "clipping_threshold", "epsilon1", above=0)
        checks.number_fields(self, "epsilon2", least=0)
        checks.whole_fields(self, "min_dim_size_to_factor")
        checks.flag_fields(self, "multiply_by_parameter_scale")
        # The field stays for the `config.gin` and the settings of earlier runs, which name it.
        if self.step_offset:
            raise UserError(
                f"AdafactorConfig.step_offset is {self.step_offset}; wanted 0. A run that starts from"
                " INITIAL_CHECKPOINT_PATH counts its steps and its optimizer's from 0"
            )


class AdafactorState(NamedTuple):
    """Second moments.

    Attributes:
        count: steps taken.
        moments: by parameter path, either `full`, or `row` (of the shorter side) and `column`.
    """

    count: Int[Array, ""]
    moments: dict[str, dict[str, nnx.Variable]]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Which dimensions of a parameter are averaged over: none ever mixes layers."""

    axes: tuple[str, ...]
    row: int | None
    column: int | None

    @property
    def within_layer(self) -> tuple[int, ...]:
        return tuple(n for n, axis in enumerate(self.axes) if axis != "layers")

    def without(self, dimension: int) -> tuple[str, ...]:
        return self.axes[:dimension] + self.axes[dimension + 1 :]


def layout_of(axes: tuple[str, ...], shape: tuple[int, ...], min_size: int) -> _Layout:
    """Decides whether a parameter is factored, and which side is the row (the shorter one)."""
    sides = [n for n, axis in enumerate(axes) if axis != "layers"]
    if len(sides) != 2 or min(shape[n] for n in sides) < min_size:
        return _Layout(axes, None, None)
    order = np.argsort([shape[n] for n in sides], kind="stable")
    return _Layout(axes, row=sides[int(order[0])], column=sides[int(order[1])])


def named_variables(tree: Any) -> dict[str, nnx.Variable]:
    """The variables of a state by their "/"-joined path, in the tree's order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def adafactor(
    config: AdafactorConfig, learning_rate: Callable[[Any], Array]
) -> optax.GradientTransformation:
    """The transformation; its parameters must be variables that carry their logical `axes`.

    Args:
        config: settings.
        learning_rate: function of the step, from 0.
    """

    def layout(variable: nnx.Variable) -> _Layout:
        shape = tuple(variable.get_value().shape)
        axes = variable.get_metadata()["axes"]
        return layout_of(axes, shape, config.min_dim_size_to_factor)

    def zeros(variable: nnx.Variable, dropped: int | None) -> nnx.Variable:
        shape = list(variable.get_value().shape)
        axes = variable.get_metadata()["axes"]
        if dropped is not None:
            del shape[dropped]
            axes = layout(variable).without(dropped)
        return nnx.Variable(jnp.zeros(shape, jnp.float32), axes=axes)

    def init(params) -> AdafactorState:
        moments = {}
        for name, variable in named_variables(params).items():
            where = layout(variable)
            if where.row is None:
                moments[name] = {"full": zeros(variable, None)}
            else:
                moments[name] = {
                    "row": zeros(variable, where.column),
                    "column": zeros(variable, where.row),
                }
        return AdafactorState(jnp.zeros((), jnp.int32), moments)

    def update(updates, state: Any, params=None) -> tuple[Any, Any]:
        step = state.count
        decay = 1.0 - (step.astype(jnp.float32) + 1.0) ** (-config.decay_rate)
        rate = learning_rate(step)
        named_grads = named_variables(updates)
        steps, moments = [], {}
        for name, variable in named_variables(params).items():
            grad = named_grads[name].get_value()
            old = {kind: moment.get_value() for kind, moment in state.moments[name].items()}
            scaled, new = _precondition(grad, old, layout(variable), decay, config)
            moments[name] = {
                kind: moment.replace(new[kind]) for kind, moment in state.moments[name].items()
            }
            step_size = rate
            if config.multiply_by_parameter_scale:
                rms = _rms(variable.get_value(), layout(variable))
                step_size = rate * jnp.maximum(rms, config.epsilon2)
            steps.append(-step_size * scaled)
        steps = jax.tree.unflatten(jax.tree.structure(updates), steps)
        return steps, AdafactorState(step + 1, moments)

    return optax.GradientTransformation(init, update)


def _rms(array: Float[Array, "..."], layout: _Layout) -> Float[Array, "..."]:
    """Root mean square of each layer, with the averaged dimensions kept as 1."""
    return jnp.sqrt(jnp.mean(jnp.square(array), axis=layout.within_layer, keepdims=True))


def _precondition(
    grad: Float[Array, "..."],
    moments: dict[str, Array],
    layout: _Layout,
    decay: Float[Array, ""],
    config: AdafactorConfig,
) -> tuple[Float[Array, "..."], dict[str, Array]]:
    """The clipped update before step sizes, and the new moments."""
    squared = grad * grad + config.epsilon1
    if layout.row is None or layout.column is None:
        full = decay * moments["full"] + (1.0 - decay) * squared
        new, scaled = {"full": full}, grad * full**-0.5
    else:
        row = decay * moments["row"] + (1.0 - decay) * jnp.mean(squared, axis=layout.column)
        column = decay * moments["column"] + (1.0 - decay) * jnp.mean(squared, axis=layout.row)
        new = {"row": row, "column": column}
        row_kept = jnp.expand_dims(row, layout.column)
        mean = jnp.mean(row_kept, axis=layout.row, keepdims=True)
        row_factor = (row_kept / mean) ** -0.5
        column_factor = jnp.expand_dims(column**-0.5, layout.row)
        scaled = grad * row_factor * column_factor
    clip = jnp.maximum(1.0, _rms(scaled, layout) / config.clipping_threshold)
    return scaled / clip, new
