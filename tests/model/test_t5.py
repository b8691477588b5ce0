"""What the fixtures do not show: whole-word embedding, compute in bfloat16, and where dropout is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from tests.model import draws

CONFIG = T5Config(
    vocab_size=130,
    embed_dim=16,
    num_heads=2,
    head_dim=6,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_whole_words=8,
    dropout_rate=0.0,
)
TOKENS_BL = jnp.asarray([[5, 6, 7, 8, 9, 1]])


@nnx.jit
def encode(model, tokens_BL, whole_word_ids_BL):
    return model.encode(tokens_BL, whole_word_ids_BL=whole_word_ids_BL)


def test_whole_words_are_added_to_the_tokens():
    """Equal to a network without them whose token rows already hold the sums."""
    words_BL = jnp.asarray([[1, 1, 2, 3, 99, 0]])  # 99 is beyond the table: its last row
    model = t5.T5(CONFIG, rngs=nnx.Rngs(0))
    got = encode(model, TOKENS_BL, words_BL)

    plain = t5.T5(dataclasses.replace(CONFIG, whole_word_embedding=False), rngs=nnx.Rngs(1))
    plain.encoder = model.encoder
    table = np.array(model.token_embedding[...])
    words = np.asarray(model.whole_word_embedding[...])
    for token, row in zip([5, 6, 7, 8, 9, 1], [1, 1, 2, 3, 7, 0], strict=True):
        table[token] += words[row]
    plain.token_embedding[...] = jnp.asarray(table)
    np.testing.assert_allclose(got, encode(plain, TOKENS_BL, None), atol=1e-5)


def test_forgotten_whole_words_are_an_error():
    model = t5.T5(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="whole_word_ids_BL"):
        model.encode(TOKENS_BL)


def test_bfloat16_is_close_and_its_logits_are_float32():
    words_BL = jnp.ones_like(TOKENS_BL)
    exact = t5.T5(CONFIG, rngs=nnx.Rngs(0))
    rounded = t5.T5(dataclasses.replace(CONFIG, dtype="bfloat16"), rngs=nnx.Rngs(0))
    encoded_BLD = encode(rounded, TOKENS_BL, words_BL)
    assert encoded_BLD.dtype == jnp.bfloat16
    exact_BLD = np.asarray(encode(exact, TOKENS_BL, words_BL))
    error = np.abs(np.asarray(encoded_BLD, np.float32) - exact_BLD).mean()
    assert 0 < error < 0.02 * np.abs(exact_BLD).mean()
    logits = rounded.logits(encoded_BLD)
    assert logits.dtype == jnp.float32
    assert logits.shape == (1, 6, 256)
    assert float(logits[:, :, 130:].max()) < -1e9


@pytest.mark.parametrize("scan_layers", [True, False])
def test_dropout_is_where_t5x_has_it_and_no_two_places_share_a_draw(monkeypatch, scan_layers):
    """One draw for all positions, of attention weights for all queries. 3 encoder and 2 decoder layers."""
    rows, inputs, targets, embed, mlp, heads, rate = 5, 11, 7, 16, 24, 2, 0.1
    config = dataclasses.replace(
        CONFIG, num_encoder_layers=3, dropout_rate=rate, scan_layers=scan_layers
    )
    model = t5.T5(config, rngs=nnx.Rngs(0))
    batch = draws.batch(rows, inputs, targets)
    drawn = draws.record(monkeypatch)
    model.hidden(batch, jax.random.key(0))
    stream = (rows, 1, embed)  # embeddings, a block's output before it is added, the final norm
    over_inputs, over_targets = (rows, heads, 1, inputs), (rows, heads, 1, targets)
    encoder_layer = [over_inputs, stream, (rows, 1, mlp), stream]
    decoder_layer = [over_targets, stream, over_inputs, stream, (rows, 1, mlp), stream]
    ends = [stream] * 4
    jax.effects_barrier()
    assert sorted(draw.shape for draw in drawn) == sorted(
        3 * encoder_layer + 2 * decoder_layer + ends
    )
    assert {draw.kept for draw in drawn} == {1 - rate}
    assert len({draw.key for draw in drawn}) == len(drawn)
