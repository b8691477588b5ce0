"""The one immutable training state, born sharded; only the training step replaces it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int

from genrec_jax.model.config import T5Config
from genrec_jax.model.t5 import T5
from genrec_jax.parallel import rules
from genrec_jax.pytree import pytree_dataclass
from genrec_jax.training.optimizers import Optimizer


@pytree_dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
        step: steps done.
        params: the model's parameters, float32.
        opt_state: the optimizer's state.
    """

    step: Int[Array, ""]
    params: nnx.State
    opt_state: Any


def _initial(config: T5Config, optimizer: Optimizer, seed: jax.Array) -> TrainState:
    rngs = nnx.Rngs(params=jax.random.key(seed))
    params = nnx.state(T5(config, rngs=rngs), nnx.Param)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def state_shapes(config: T5Config, optimizer: Optimizer) -> TrainState:
    """The state's structure; leaves are `jax.ShapeDtypeStruct` without shardings."""
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    return jax.eval_shape(lambda seed: _initial(config, optimizer, seed), seed)


def abstract_state(config: T5Config, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """The state's structure; leaves are `jax.ShapeDtypeStruct` with shardings, for restoring."""
    shapes = state_shapes(config, optimizer)
    shardings = rules.tree_shardings(shapes, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def state_shardings(config: T5Config, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """The sharding of every leaf of the state."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh))


def create_state(config: T5Config, optimizer: Optimizer, mesh: Mesh, seed: int) -> TrainState:
    """A fresh state at step 0; each device makes its own shards only.

    Args:
        config: the model.
        optimizer: the update rule.
        mesh: where the state lives; the values do not depend on it.
        seed: of the initial parameters.
    """
    shardings = state_shardings(config, optimizer, mesh)
    init = jax.jit(lambda seed: _initial(config, optimizer, seed), out_shardings=shardings)
    return init(jnp.asarray(seed, jnp.uint32))


def with_params(state: TrainState, params: nnx.State, optimizer: Optimizer) -> TrainState:
    """The state of a run that starts from given parameters: step 0, fresh optimizer.

    Args:
        state: a fresh state, which gives the placement.
        params: same structure and shapes as `state.params`.
        optimizer: the update rule.
    """
    placed = jax.tree.map(
        lambda old, new: jax.device_put(jnp.asarray(new, old.dtype), old.sharding),
        state.params,
        params,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(placed)
    return dataclasses.replace(
        state, step=jnp.zeros_like(state.step), params=placed, opt_state=opt_state
    )


def number_of_parameters(params: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
