"""Cross entropy with z-loss and label smoothing as T5X has it, as sums and counts; the step divides once.

A batch's loss is `sum(weights * token losses) / factor`, with weights and factor taken from the whole
batch before the forward pass, so that it is the same however the rows are split.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from genrec_jax import checks
from genrec_jax.errors import UserError
from genrec_jax.parallel import rules
from genrec_jax.pipeline.batch import Batch

NORMALIZERS = (
    "NUM_REAL_TARGET_TOKENS",
    "NUM_TOTAL_TARGET_TOKENS",
    "AVERAGE_PER_SEQUENCE",
    "NONE",
)
MAX_LOGITS_BYTES = 256 << 20
"""Unless told otherwise, the loss has at most so many bytes of float32 logits on a device at once."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The settings of the loss.

    Attributes:
        z_loss: adds `z_loss * log(Z)**2` per target token, which keeps logits from drifting.
        label_smoothing: probability mass spread over all other tokens.
        normalizing_factor: what the sum over target tokens is divided by; T5X's names. The number of
            real target tokens is the global batch's; `NUM_TOTAL_TARGET_TOKENS` counts padding too,
            except that of empty rows, whose number depends on the devices; `AVERAGE_PER_SEQUENCE` gives
            every example, not every token, the same weight; `NONE` leaves the sum (T5X's default); or a
            constant.
        positions_at_a_time: how many target positions of every row have their logits in memory at
            once; the backward pass computes them again. 0: all of them, which is faster where they fit.
            None: as many as `MAX_LOGITS_BYTES` holds, where the mesh does not split the rows; where it
            does, all of them, for each part would bring the head's gradient together anew.
    """

    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    normalizing_factor: str | float | int = "NUM_REAL_TARGET_TOKENS"
    positions_at_a_time: int | None = None

    def __post_init__(self):
        factor = self.normalizing_factor
        if factor not in NORMALIZERS:
            try:
                checks.check_number("LossConfig.normalizing_factor", factor, above=0)
            except UserError as error:
                raise UserError(f"{error}, or one of {', '.join(NORMALIZERS)}") from None
        checks.number_fields(self, "z_loss", least=0)
        checks.number_fields(self, "label_smoothing", least=0, below=1)
        checks.whole_fields(self, "positions_at_a_time", least=0, otherwise="what fits")


def token_losses(
    logits_BTV: Float[Array, "B T V"],
    targets_BT: Int[Array, "B T"],
    *,
    vocab_size: int,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Cross entropy and z-loss of every position.

    Args:
        logits_BTV: float32; those beyond `vocab_size` must be masked already.
        targets_BT: the right tokens.
        vocab_size: real tokens, over which label smoothing spreads.
        z_loss: see `LossConfig`.
        label_smoothing: see `LossConfig`; the entropy of the smoothed target is taken off, so that a
            perfect prediction costs 0.

    Returns:
        Cross entropy in nats, without the z-loss; and the z-loss, already multiplied by `z_loss`.
    """
    log_z_BT = jax.scipy.special.logsumexp(logits_BTV, axis=-1)
    # A comparison and a sum rather than a gather: both fuse, and neither minds a split vocabulary.
    tokens_V = jnp.arange(logits_BTV.shape[-1], dtype=targets_BT.dtype)
    hit_BTV = targets_BT[:, :, None] == tokens_V[None, None, :]
    right_BT = jnp.sum(jnp.where(hit_BTV, logits_BTV, 0.0), axis=-1)
    if label_smoothing == 0:
        cross_entropy_BT = log_z_BT - right_BT
    else:
        confidence = 1.0 - label_smoothing
        low = label_smoothing / (vocab_size - 1)
        all_BT = jnp.sum(logits_BTV[:, :, :vocab_size], axis=-1)
        constant = -(
            confidence * jnp.log(confidence) + (vocab_size - 1) * low * jnp.log(low + 1e-20)
        )
        expected_BT = (confidence - low) * right_BT + low * all_BT
        cross_entropy_BT = log_z_BT - expected_BT - constant
    return cross_entropy_BT, z_loss * jnp.square(log_z_BT)


def positions_at_once(
    config: LossConfig,
    rows: int,
    length: int,
    vocab_size: int,
    *,
    row_ways: int = 1,
    vocab_ways: int = 1,
) -> int:
    """How many target positions of every row have their logits in memory at once.

    Args:
        config: what is asked for.
        rows: that are worked on at once, on all devices.
        length: positions of a row.
        vocab_size: logits of a position.
        row_ways: devices that share the rows.
        vocab_ways: devices that share the vocabulary.
    """
    if config.positions_at_a_time is not None:
        return min(config.positions_at_a_time or length, length)
    if row_ways > 1:
        return length
    parts = -(-4 * rows * length * vocab_size // (vocab_ways * MAX_LOGITS_BYTES))
    return -(-length // max(1, parts))


def token_losses_of_hidden(
    hidden_BTD: Float[Array, "B T D"],
    targets_BT: Int[Array, "B T"],
    logits_of: Callable[[Float[Array, "B C D"]], Float[Array, "B C V"]],
    config: LossConfig,
    *,
    vocab_size: int,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """`token_losses` from what the head takes, with few logits in memory at a time (`positions_at_once`).

    Args:
        hidden_BTD: the decoder's output.
        targets_BT: the right tokens.
        logits_of: the head.
        config: z-loss, label smoothing, positions at a time (C).
        vocab_size: real tokens.
    """

    def of_positions(hidden_BCD, targets_BC):
        return token_losses(
            logits_of(hidden_BCD),
            targets_BC,
            vocab_size=vocab_size,
            z_loss=config.z_loss,
            label_smoothing=config.label_smoothing,
        )

    rows, length = targets_BT.shape
    width = positions_at_once(
        config,
        rows,
        length,
        jax.eval_shape(logits_of, hidden_BTD).shape[-1],
        row_ways=rules.ways_of("batch"),
        vocab_ways=rules.ways_of("vocab"),
    )
    if width == length:
        return of_positions(hidden_BTD, targets_BT)
    missing = -length % width

    def in_chunks(array):
        padded = jnp.pad(array, ((0, 0), (0, missing)) + ((0, 0),) * (array.ndim - 2))
        chunks = padded.reshape(padded.shape[0], -1, width, *padded.shape[2:])
        return jnp.moveaxis(chunks, 1, 0)

    def whole(chunks_NBC):
        joined = jnp.moveaxis(chunks_NBC, 0, 1)
        return joined.reshape(joined.shape[0], -1)[:, :length]

    _, (cross_entropy_NBC, z_loss_NBC) = jax.lax.scan(
        lambda _, chunk: (None, jax.checkpoint(of_positions)(*chunk)),
        None,
        (in_chunks(hidden_BTD), in_chunks(targets_BT)),
    )
    return whole(cross_entropy_NBC), whole(z_loss_NBC)


def weights_and_factor(
    batch: Batch, normalizing_factor: str | float | int
) -> tuple[Shaped[Array, "B T"], Shaped[Array, ""]]:
    """The weight of every target position and what the weighted sum is divided by.

    Args:
        batch: the whole batch of a step, packed or not.
        normalizing_factor: see `LossConfig`.
    """
    weights_BT = jnp.asarray(batch.decoder_loss_weights_BT, jnp.float32)
    if normalizing_factor == "NUM_REAL_TARGET_TOKENS":
        return weights_BT, jnp.maximum(jnp.sum(weights_BT), 1.0)
    if normalizing_factor == "NUM_TOTAL_TARGET_TOKENS":
        used_B = jnp.any(jnp.asarray(batch.decoder_segment_ids_BT) > 0, axis=1)
        positions = jnp.sum(used_B.astype(jnp.float32)) * weights_BT.shape[1]
        return weights_BT, jnp.maximum(positions, 1.0)
    if normalizing_factor == "AVERAGE_PER_SEQUENCE":
        segments_BT = jnp.asarray(batch.decoder_segment_ids_BT)
        same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
        lengths_BT = jnp.sum(jnp.where(same_BTT, weights_BT[:, None, :], 0.0), axis=-1)
        weights_BT = weights_BT / jnp.maximum(lengths_BT, 1e-9)
        return weights_BT, jnp.maximum(jnp.sum(weights_BT), 1e-9)
    if normalizing_factor == "NONE":
        return weights_BT, jnp.asarray(1.0, jnp.float32)
    return weights_BT, jnp.asarray(normalizing_factor, jnp.float32)
