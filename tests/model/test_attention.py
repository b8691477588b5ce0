"""Implementations of attention against each other, against NumPy, and dropout's meaning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.train_step import packed_batch
from genrec_jax.errors import UserError
from genrec_jax.model import attention, t5
from genrec_jax.model.config import T5Config

BATCH, QUERIES, KEYS, HEADS, WIDTH = 3, 5, 7, 2, 8


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    queries = random.normal(size=(BATCH, QUERIES, HEADS, WIDTH)).astype(np.float32)
    keys, values = random.normal(size=(2, BATCH, KEYS, HEADS, WIDTH)).astype(np.float32)
    bias = random.normal(size=(HEADS, QUERIES, KEYS)).astype(np.float32)
    mask = random.random((BATCH, QUERIES, KEYS)) < 0.6
    mask[:, :, 0] = True  # each query sees a key
    return tuple(map(jnp.asarray, (queries, keys, values, bias, mask)))


def by_hand(queries, keys, values, bias, mask, drop=None):
    """Row by row; `drop[b, h, s]` is what the weights of a key are multiplied by after the softmax."""
    queries, keys, values, bias, mask = map(np.asarray, (queries, keys, values, bias, mask))
    out = np.zeros_like(queries)
    for b in range(BATCH):
        for h in range(HEADS):
            for q in range(QUERIES):
                scores = keys[b, :, h] @ queries[b, q, h] + bias[h, q]
                weights = np.where(mask[b, q], np.exp(scores), 0.0)
                weights = weights / weights.sum()
                if drop is not None:
                    weights = weights * drop[b, h]
                out[b, q, h] = weights @ values[b, :, h]
    return out


@pytest.mark.parametrize("implementation", ["own", "xla", "cudnn"])
def test_is_softmax_attention(arrays, implementation):
    queries, keys, values, bias, mask = arrays
    got = attention.dot_product_attention(
        queries, keys, values, mask_BQS=mask, bias_HQS=bias, implementation=implementation
    )
    np.testing.assert_allclose(got, by_hand(*arrays), atol=1e-5)


@pytest.mark.parametrize("implementation", ["own", "xla"])
def test_dropout_drops_weights_of_a_key_for_all_queries_alike(arrays, implementation):
    """T5X's dropout: after the softmax, whose sum still has the dropped weights, one draw per key."""
    queries, keys, values, bias, mask = arrays
    key = jax.random.key(3)
    got = attention.dot_product_attention(
        queries,
        keys,
        values,
        mask_BQS=mask,
        bias_HQS=bias,
        dropout_rate=0.4,
        dropout_key=key,
        implementation=implementation,
    )
    kept = jax.random.bernoulli(key, 0.6, (BATCH, HEADS, 1, KEYS))[:, :, 0]
    assert 0 < np.mean(kept) < 1
    np.testing.assert_allclose(got, by_hand(*arrays, drop=np.asarray(kept) / 0.6), atol=1e-5)


@pytest.mark.parametrize("implementation", ["xla"])
def test_gradients_do_not_hang_on_the_implementation(arrays, implementation):
    *differentiated, mask = arrays

    def total(arrays, implementation):
        queries, keys, values, bias = arrays
        out = attention.dot_product_attention(
            queries,
            keys,
            values,
            mask_BQS=mask,
            bias_HQS=bias,
            dropout_rate=0.3,
            dropout_key=jax.random.key(1),
            implementation=implementation,
        )
        return jnp.sum(jnp.sin(out))

    ours, theirs = (jax.grad(total)(differentiated, name) for name in ("own", implementation))
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(one, other, atol=2e-5)


CONFIG = T5Config(
    vocab_size=130,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.2,
    whole_word_embedding=False,
)


@pytest.mark.parametrize("implementation", ["xla", "cudnn"])
def test_a_model_is_the_same_with_any(implementation, monkeypatch):
    """All three blocks of both stacks take the implementation that the configuration names."""
    dtype = "bfloat16" if implementation == "cudnn" else "float32"
    batch = packed_batch(CONFIG, 7, row_length=24, length=12, target=6)
    asked = []
    original = attention.dot_product_attention

    def spy(*args, **how):
        asked.append(how["implementation"])
        return original(*args, **how)

    monkeypatch.setattr("genrec_jax.model.stacks.dot_product_attention", spy)

    def logits(name):
        config = dataclasses.replace(CONFIG, dtype=dtype, attention=name)
        model = t5.T5(config, rngs=nnx.Rngs(0))
        return model(batch, jax.random.key(0))

    ours = logits("own")
    assert set(asked) == {"own"}
    asked.clear()
    theirs = logits(implementation)
    assert set(asked) == {implementation} and len(asked) >= 3
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"remat": "minimal"}, "remat is 'minimal'; wanted one of 'none', 'dots', 'full'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"attention": "flash"}, "attention is 'flash'; wanted one of 'own', 'xla', 'cudnn'"),
        ({"dropout_rate": 10.0}, "dropout_rate is 10.0; wanted a share"),
        ({"dropout_rate": -0.1}, "dropout_rate is -0.1"),
        ({"num_decoder_layers": 0}, "num_decoder_layers is 0"),
        ({"attention": "cudnn"}, "cuDNN's kernel wants 'bfloat16'"),
        ({"attention": "cudnn", "dtype": "bfloat16", "head_dim": 12}, "a multiple of 8"),
    ],
)
def test_settings_that_are_none_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **wrong)
