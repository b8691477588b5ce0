"""Incremental decoding equals teacher-forced decoding, token by token and with a prefix in one pass."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.model import incremental, t5
from genrec_jax.model.config import T5Config

CONFIG = T5Config(
    vocab_size=300,
    embed_dim=16,
    num_heads=2,
    head_dim=6,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=3,
    whole_word_embedding=False,
    dropout_rate=0.0,
)
BATCH, BEAMS, LENGTH, STEPS = 3, 4, 9, 6


@pytest.mark.parametrize(
    ("changes", "chunks"),
    [
        ({}, (1, 1, 1, 1, 1, 1)),
        ({}, (3, 1, 2)),
        ({"scan_layers": False}, (4, 2)),
        ({"relative_bias_per_layer": True}, (3, 3)),
        ({"tied_head": True, "scale_head_input": True, "mlp_activations": ("relu",)}, (6,)),
    ],
)
def test_equals_teacher_forcing(changes, chunks):
    config = dataclasses.replace(CONFIG, **changes)
    model = t5.T5(config, rngs=nnx.Rngs(3))
    random = np.random.default_rng(0)
    prompts_BL = random.integers(1, 300, (BATCH, LENGTH)).astype(np.int32)
    prompts_BL[1, 4:] = 0
    tokens_BMT = random.integers(1, 300, (BATCH, BEAMS, STEPS)).astype(np.int32)
    tokens_BMT[:, :, 0] = 0
    valid_BL = jnp.asarray(prompts_BL > 0)
    encoded_BLD = model.encode(jnp.asarray(prompts_BL))

    decode = nnx.jit(
        lambda model, tokens_BT: model.decode(
            tokens_BT,
            encoded_BLD,
            encoder_segment_ids_BL=valid_BL.astype(jnp.int32),
            decoder_segment_ids_BT=jnp.ones((BATCH, STEPS), jnp.int32),
        )
    )
    expected = [decode(model, jnp.asarray(tokens_BMT[:, beam])) for beam in range(BEAMS)]

    decode_step = nnx.jit(incremental.decode_step)
    cross = incremental.cross_keys_values(model, encoded_BLD)
    cache = incremental.empty_cache(config, BATCH, BEAMS, STEPS + 2)
    got, position = [], 0
    for chunk in chunks:
        hidden_BMQD, cache = decode_step(
            model,
            jnp.asarray(tokens_BMT[:, :, position : position + chunk]),
            jnp.asarray(position, jnp.int32),
            cache,
            cross,
            valid_BL,
        )
        got.append(hidden_BMQD)
        position += chunk
    logits = model.logits(jnp.concatenate(got, axis=2))
    expected_logits = model.logits(jnp.stack(expected, axis=1))
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5, rtol=1e-5)


def test_beams_hold_different_hypotheses():
    """The oracle above would not notice beams that read each other's cache if all were alike."""
    model = t5.T5(CONFIG, rngs=nnx.Rngs(0))
    encoded_BLD = model.encode(jnp.ones((1, 4), jnp.int32))
    cross = incremental.cross_keys_values(model, encoded_BLD)
    valid_BL = jnp.ones((1, 4), bool)
    cache = incremental.empty_cache(CONFIG, 1, 2, 2)
    first = jnp.asarray([[[5], [6]]])
    _, cache = incremental.decode_step(model, first, 0, cache, cross, valid_BL)
    swapped = incremental.SelfCache(cache.keys_NBMSHK[:, :, ::-1], cache.values_NBMSHK[:, :, ::-1])
    again = jnp.asarray([[[7], [7]]])
    hidden, _ = incremental.decode_step(model, again, 1, cache, cross, valid_BL)
    reordered, _ = incremental.decode_step(model, again, 1, swapped, cross, valid_BL)
    np.testing.assert_allclose(hidden, reordered[:, ::-1], atol=1e-6)
    assert np.abs(hidden[0, 0] - hidden[0, 1]).max() > 1e-3
