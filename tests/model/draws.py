"""Records dropout's draws, also those in scanned layers and compiled steps."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from genrec_jax.pipeline.batch import Batch


class Draw(NamedTuple):
    """One draw.

    Attributes:
        key: its numbers.
        kept: the share that is kept.
        shape: of what is drawn.
    """

    key: tuple[int, ...]
    kept: float
    shape: tuple[int, ...]


def record(monkeypatch: pytest.MonkeyPatch) -> list[Draw]:
    """A list that grows by every draw made from here on; `jax.effects_barrier` waits for the last."""
    drawn: list[Draw] = []
    bernoulli = jax.random.bernoulli

    def recorded(key, kept, shape):
        def add(numbers):
            drawn.append(Draw(tuple(np.asarray(numbers).tolist()), kept, shape))

        jax.debug.callback(add, jax.random.key_data(key))
        return bernoulli(key, kept, shape)

    monkeypatch.setattr(jax.random, "bernoulli", recorded)
    return drawn


def batch(rows: int, inputs: int, targets: int) -> Batch:
    """Rows of one example each, without padding."""
    ones_BL, ones_BT = (np.ones((rows, length), np.int32) for length in (inputs, targets))
    positions_BL, positions_BT = (np.cumsum(ones, axis=1) - 1 for ones in (ones_BL, ones_BT))
    return Batch(
        encoder_input_tokens_BL=positions_BL + 2,
        decoder_target_tokens_BT=positions_BT + 2,
        decoder_input_tokens_BT=positions_BT + 1,
        decoder_loss_weights_BT=ones_BT.astype(np.float32),
        encoder_segment_ids_BL=ones_BL,
        decoder_segment_ids_BT=ones_BT,
        encoder_positions_BL=positions_BL,
        decoder_positions_BT=positions_BT,
        encoder_whole_word_ids_BL=ones_BL,
    )
