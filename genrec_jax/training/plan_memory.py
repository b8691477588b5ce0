"""Memory of a training or recommend step on one device, counted without compiling anything.

What the backward pass needs is read off the trace of the real loss, made for the share of the model
that one device works on; the rest are sums of shapes. XLA's own figure, where it can be had, is the
judge: it fuses, reuses buffers and schedules.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from genrec_jax.decoding.search import BeamConfig
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import rules
from genrec_jax.parallel.mesh import Sizes
from genrec_jax.pipeline.batch import Batch
from genrec_jax.training import losses
from genrec_jax.training import state as state_lib
from genrec_jax.training import step as step_lib
from genrec_jax.training.losses import LossConfig
from genrec_jax.training.optimizers import Optimizer
from genrec_jax.training.state import TrainState

FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        params: the parameters, float32.
        optimizer: the optimizer's state.
        activations: everything else that lives during a step: gradients, what the backward pass needs,
            logits, caches, gathered parameters, the batch.
    """

    params: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.params + self.optimizer + self.activations


def abstract_batch(rows: int, input_length: int, target_length: int) -> Batch:
    """The shapes of a batch."""

    def make() -> Batch:
        inputs_BL = jnp.zeros((rows, input_length), jnp.int32)
        targets_BT = jnp.zeros((rows, target_length), jnp.int32)
        return Batch(
            encoder_input_tokens_BL=inputs_BL,
            decoder_target_tokens_BT=targets_BT,
            decoder_input_tokens_BT=targets_BT,
            decoder_loss_weights_BT=targets_BT.astype(jnp.float32),
            encoder_segment_ids_BL=inputs_BL,
            decoder_segment_ids_BT=targets_BT,
            encoder_positions_BL=inputs_BL,
            decoder_positions_BT=targets_BT,
            encoder_whole_word_ids_BL=inputs_BL,
        )

    return jax.eval_shape(make)


@functools.lru_cache(maxsize=8)
def state_shapes(model: T5Config, optimizer: Optimizer) -> TrainState:
    """`state.state_shapes`, kept: a search over meshes asks for the same ones again and again."""
    return state_lib.state_shapes(model, optimizer)


def share_of_device(model: T5Config, tensor: int) -> T5Config:
    """The network as wide as the part of it that one of `tensor` devices works on."""
    return dataclasses.replace(
        model,
        num_heads=max(1, model.num_heads // tensor),
        mlp_dim=max(1, model.mlp_dim // tensor),
        vocab_size=max(1, model.padded_vocab_size // tensor),
    )


def of_training(
    model: T5Config,
    optimizer: Optimizer,
    loss: LossConfig,
    sizes: Sizes,
    *,
    rows: int,
    input_length: int,
    target_length: int,
    microbatches: int = 1,
) -> Memory:
    """Counts a training step.

    Args:
        model: the network, with its remat policy.
        optimizer: the update rule.
        loss: what is minimised.
        sizes: of the mesh.
        rows: rows of a batch over all devices.
        input_length: tokens of an input row.
        target_length: tokens of a target row.
        microbatches: parts that the rows are worked on in.
    """
    shapes = state_shapes(dataclasses.replace(model, remat="none"), optimizer)
    params = rules.bytes_on_a_device(shapes.params, sizes)
    own_rows = max(1, rows // (sizes.data * sizes.fsdp * microbatches))
    share = share_of_device(model, sizes.tensor)
    lengths = input_length, target_length
    positions = losses.positions_at_once(
        loss,
        own_rows,
        target_length,
        model.padded_vocab_size,
        row_ways=sizes.data * sizes.fsdp,
        vocab_ways=sizes.tensor,
    )
    loss = dataclasses.replace(loss, positions_at_a_time=positions)
    one, two = (_kept_for_backward(share, loss, count, *lengths) for count in (1, 2))
    kept = one + (own_rows - 1) * (two - one)
    width = 2 if model.dtype == "bfloat16" else FLOAT32
    scores = own_rows * share.num_heads * input_length * (input_length + target_length) * FLOAT32
    hidden = own_rows * input_length * (share.mlp_dim * 2 + share.embed_dim * 4) * width
    logits = own_rows * positions * share.padded_vocab_size * FLOAT32
    gradients = params * (1 if microbatches == 1 else 2)
    working = 2 * scores + hidden + logits
    return Memory(
        params=params,
        optimizer=rules.bytes_on_a_device(shapes.opt_state, sizes),
        activations=gradients + kept + working + _gathered(share, sizes, width),
    )


def of_recommending(
    model: T5Config,
    beams: BeamConfig,
    sizes: Sizes,
    *,
    rows: int,
    input_length: int,
    slots: int,
    kept_logits: int,
    trie: Any,
) -> Memory:
    """Counts a recommend step.

    Args:
        model: the network.
        beams: how to search.
        sizes: of the mesh.
        rows: prompts of a batch over all devices.
        input_length: tokens of a prompt.
        slots: cache slots of an example: the common prefix, and one for each beam and step.
        kept_logits: bytes of logits that are kept at most on a device.
        trie: the catalogue, or its shapes; it is on every device whole.
    """
    _, params = t5.abstract_graph_and_params(model)
    share = share_of_device(model, sizes.tensor)
    width = 2 if model.dtype == "bfloat16" else FLOAT32
    own_rows = max(1, rows // (sizes.data * sizes.fsdp))
    of_token = 2 * share.num_decoder_layers * share.num_heads * share.head_dim * width
    # The cache is written in place, but a loop's carry may stand twice.
    caches = own_rows * of_token * (input_length + 2 * slots)
    scores = 2 * own_rows * share.num_heads * input_length**2 * FLOAT32
    hidden = own_rows * input_length * (share.mlp_dim * 2 + share.embed_dim * 4) * width
    logits = own_rows * beams.num_beams * share.padded_vocab_size * FLOAT32
    catalogue = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trie))
    decoding = caches + 2 * min(logits, kept_logits)
    return Memory(
        params=rules.bytes_on_a_device(params, sizes),
        optimizer=0,
        activations=max(decoding, scores + hidden) + catalogue + _gathered(share, sizes, width),
    )


@functools.lru_cache(maxsize=256)
def _kept_for_backward(
    share: T5Config, loss: LossConfig, rows: int, input_length: int, target_length: int
) -> int:
    """Bytes that the forward pass leaves for the backward pass, parameters and batch aside."""
    graphdef, params = t5.abstract_graph_and_params(share)
    batch = abstract_batch(rows, input_length, target_length)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def backward(params, batch, key):
        weights_BT, _ = losses.weights_and_factor(batch, loss.normalizing_factor)

        def total(params) -> Array:
            return step_lib.loss_and_sums(
                params, batch, weights_BT, key, graphdef=graphdef, loss_config=loss
            )[0]

        return jax.vjp(total, params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, params, batch, key))
    given = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((params, batch))}
    own = [leaf for leaf in kept if (leaf.shape, leaf.dtype) not in given]
    return sum(_bytes(leaf) for leaf in own)


def _gathered(share: T5Config, sizes: Sizes, width: int) -> int:
    """Parameters that `fsdp` brings together: the embedding, the head, and two layers at a time."""
    if sizes.fsdp == 1:
        return 0
    joined = share.num_heads * share.head_dim
    layer = share.embed_dim * (
        8 * joined + len(share.mlp_activations) * share.mlp_dim + share.mlp_dim
    )
    tables = 1 if share.tied_head else 2
    return tables * share.padded_vocab_size * share.embed_dim * FLOAT32 + 2 * layer * width


def _bytes(leaf: Any) -> int:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf.size * 8
    return leaf.size * leaf.dtype.itemsize
