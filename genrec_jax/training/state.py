"""The one immutable training state, born sharded; only the training step replaces it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int

from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
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
    params = t5.drawn_params(config, seed)
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


def state_from_params(
    config: T5Config, optimizer: Optimizer, mesh: Mesh, params: nnx.State
) -> TrainState:
    """The state of a run that starts from given parameters: step 0, fresh optimizer.

    Args:
        config: the model.
        optimizer: the update rule.
        mesh: where the state lives. Parameters that lie there already are not copied.
        params: of that model.
    """
    wanted = abstract_state(config, optimizer, mesh)
    placed = jax.tree.map(
        lambda leaf, array: jax.device_put(jnp.asarray(array, leaf.dtype), leaf.sharding),
        wanted.params,
        params,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (wanted.step, wanted.opt_state))
    start = jax.jit(
        lambda params: (jnp.zeros((), jnp.int32), optimizer.init(params)), out_shardings=shardings
    )
    step, opt_state = start(placed)
    return TrainState(step, placed, opt_state)


def number_of_parameters(params: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
