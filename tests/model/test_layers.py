"""Dropout by hand: what one draw does, and where the feed-forward block applies its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genrec_jax.model import layers
from genrec_jax.model.config import T5Config

CONFIG = T5Config(
    vocab_size=130,
    embed_dim=16,
    num_heads=2,
    head_dim=6,
    mlp_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def test_dropout_keeps_the_mean_and_drops_a_column_at_all_positions():
    rows, length, width, rate = 200, 3, 300, 0.25
    dropped_BLD = np.asarray(
        layers.dropout(jnp.ones((rows, length, width)), rate, jax.random.key(0))
    )
    assert set(np.unique(dropped_BLD)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(
        dropped_BLD, np.broadcast_to(dropped_BLD[:, :1], dropped_BLD.shape)
    )
    # 60,000 draws: the mean's standard deviation is 0.0024.
    assert abs(dropped_BLD[:, 0].mean() - 1) < 0.01
    # Rows and columns draw by themselves: their means vary as those of 300 and of 200 draws do.
    kept_BD = dropped_BLD[:, 0] > 0
    for axis, draws in ((0, rows), (1, width)):
        expected = np.sqrt(rate * (1 - rate) / draws)
        np.testing.assert_allclose(kept_BD.mean(axis).std(), expected, rtol=0.3)


def test_no_key_and_no_rate_drop_nothing():
    x_BLD = jnp.full((2, 3, 4), 0.3)
    for rate, key in ((0.5, None), (0.0, jax.random.key(0))):
        np.testing.assert_array_equal(layers.dropout(x_BLD, rate, key), x_BLD)


def test_the_feed_forward_block_drops_what_goes_into_its_last_product():
    """Written out in NumPy with the draw that the key gives."""
    rate, key = 0.4, jax.random.key(3)
    config = dataclasses.replace(CONFIG, dropout_rate=rate)
    block = layers.FeedForward(config, 1, rngs=nnx.Rngs(0))
    graphdef, stacked = nnx.split(block)
    one = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[0], stacked))
    x_BLD = jax.random.normal(jax.random.key(1), (5, 7, 16))
    keep_B1F = np.asarray(jax.random.bernoulli(key, 1 - rate, (5, 1, 24)))
    gate_BLF = np.asarray(jax.nn.gelu(x_BLD @ one.wi_0[...], approximate=True))
    hidden_BLF = gate_BLF * np.asarray(x_BLD @ one.wi_1[...]) * keep_B1F / (1 - rate)
    np.testing.assert_allclose(one(x_BLD, key), hidden_BLF @ np.asarray(one.wo[...]), atol=1e-5)
