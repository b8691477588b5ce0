"""One pure training step, and the one place where it is jitted, donated and given its shardings."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.model.layers import Key
from genrec_jax.parallel import rules
from genrec_jax.parallel.on_mesh import OnMesh
from genrec_jax.pipeline.batch import Batch
from genrec_jax.training import losses
from genrec_jax.training.losses import LossConfig
from genrec_jax.training.optimizers import Optimizer
from genrec_jax.training.state import TrainState, state_shardings

Metrics = dict[str, Array]


def loss_and_sums(
    params: nnx.State,
    batch: Batch,
    weights_BT: Array,
    dropout_key: Key | None,
    *,
    graphdef: nnx.GraphDef,
    loss_config: LossConfig,
) -> tuple[Array, Metrics]:
    """The weighted sum of the losses of a batch's rows, and what metrics are made of.

    Args:
        params: the model's parameters.
        batch: rows.
        weights_BT: from `losses.weights_and_factor` of the whole batch.
        dropout_key: None means no dropout.
        graphdef: the model's structure.
        loss_config: what is minimised.

    Returns:
        The sum to be divided by the factor; `loss_sum` (cross entropy in nats over target tokens,
        unweighted), `z_loss_sum` and `target_tokens`.
    """
    model = nnx.merge(graphdef, params)
    cross_entropy_BT, z_loss_BT = losses.token_losses_of_hidden(
        model.hidden(batch, dropout_key),
        jnp.asarray(batch.decoder_target_tokens_BT),
        model.logits,
        loss_config,
        vocab_size=model.config.vocab_size,
    )
    total = jnp.sum((cross_entropy_BT + z_loss_BT) * weights_BT)
    real_BT = (jnp.asarray(batch.decoder_loss_weights_BT) > 0).astype(jnp.float32)
    sums = {
        "loss_sum": jnp.sum(cross_entropy_BT * real_BT),
        "z_loss_sum": jnp.sum(z_loss_BT * real_BT),
        "target_tokens": jnp.sum(real_BT),
    }
    return total, sums


def train_step(
    state: TrainState,
    batch: Batch,
    dropout_key: Key | None,
    *,
    graphdef: nnx.GraphDef,
    optimizer: Optimizer,
    loss_config: LossConfig,
    microbatches: int = 1,
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
        state: before the step.
        batch: the rows of all hosts.
        dropout_key: the run's key; the step folds its number in. None means no dropout.
        graphdef: the model's structure.
        optimizer: update rule and learning rate.
        loss_config: what is minimised.
        microbatches: the rows are worked on in so many parts, one after another, to save memory; each
            draws its own dropout, without which the update is the same for any number of parts.

    Returns:
        The state after the step; `loss_sum`, `z_loss_sum`, `target_tokens` over the whole batch,
        `grad_norm` (global, before any clipping), `param_norm` (global, after the update) and
        `learning_rate`.
    """
    key = None if dropout_key is None else jax.random.fold_in(dropout_key, state.step)
    weights_BT, factor = losses.weights_and_factor(batch, loss_config.normalizing_factor)

    def part_loss(params, rows, weights, key):
        total, sums = loss_and_sums(
            params, rows, weights, key, graphdef=graphdef, loss_config=loss_config
        )
        return total / factor, sums

    gradient = jax.grad(part_loss, has_aux=True)
    if microbatches == 1:
        grads, sums = gradient(state.params, batch, weights_BT, key)
    else:
        grads, sums = _accumulated(gradient, state.params, batch, weights_BT, key, microbatches)
    params, opt_state = optimizer.apply(grads, state.opt_state, state.params)
    metrics = sums | {
        "grad_norm": global_norm(grads),
        "param_norm": global_norm(params),
        "learning_rate": optimizer.rate(state.step),
    }
    return TrainState(state.step + 1, params, opt_state), metrics


def global_norm(tree: Any) -> Float[Array, ""]:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def _accumulated(
    gradient: Callable, params: Any, batch: Batch, weights_BT: Array, key: Any, parts: int
) -> tuple[Any, Metrics]:
    """Sums gradients and metrics over parts of the rows; part p has rows p, p + parts, ..."""
    rows = weights_BT.shape[0]
    if rows % parts:
        raise UserError(
            f"a batch of {rows} rows cannot be split into {parts} microbatches; choose a divisor"
        )

    def split(array):
        grouped = jnp.reshape(jnp.asarray(array), (rows // parts, parts, *array.shape[1:]))
        return jnp.swapaxes(grouped, 0, 1)

    def add_part(totals, part):
        number, part_batch, part_weights = part
        part_key = None if key is None else jax.random.fold_in(key, number)
        results = gradient(params, part_batch, part_weights, part_key)
        return jax.tree.map(jnp.add, totals, results), None

    stacked = (jnp.arange(parts), jax.tree.map(split, batch), split(weights_BT))
    first = jax.tree.map(lambda array: array[0], stacked)
    shapes = jax.eval_shape(lambda part: gradient(params, part[1], part[2], key), first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    totals, _ = jax.lax.scan(add_part, zeros, stacked)
    return totals


def jit_train_step(
    config: T5Config,
    optimizer: Optimizer,
    loss_config: LossConfig,
    mesh: Mesh,
    *,
    microbatches: int = 1,
) -> OnMesh[[TrainState, Batch, Key | None], tuple[TrainState, Metrics]]:
    """`train_step` compiled over a mesh; the state that is passed in is taken over (donated).

    It compiles once per shape of batch. Rows must be a multiple of the mesh's `data * fsdp`.
    """
    graphdef, _ = t5.abstract_graph_and_params(config)
    step = functools.partial(
        train_step,
        graphdef=graphdef,
        optimizer=optimizer,
        loss_config=loss_config,
        microbatches=microbatches,
    )
    shardings = state_shardings(config, optimizer, mesh)
    everywhere = rules.replicated(mesh)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, rules.batch_sharding(mesh), everywhere),
        out_shardings=(shardings, everywhere),
    )
    return OnMesh(jitted, mesh)


def jit_eval_step(
    config: T5Config, loss_config: LossConfig, mesh: Mesh
) -> OnMesh[[nnx.State, Batch], Metrics]:
    """`(params, batch) -> sums` without dropout, for validation loss; compiled over a mesh."""
    graphdef, _ = t5.abstract_graph_and_params(config)

    def sums_of(params, batch):
        weights_BT, _ = losses.weights_and_factor(batch, "NUM_REAL_TARGET_TOKENS")
        _, sums = loss_and_sums(
            params, batch, weights_BT, None, graphdef=graphdef, loss_config=loss_config
        )
        return sums

    jitted = jax.jit(sums_of, out_shardings=rules.replicated(mesh))
    return OnMesh(jitted, mesh)
