"""Our T5 against numbers that T5X and Hugging Face themselves computed."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from genrec_jax.model import attention, t5
from tests.model import fixture_params

TOLERANCE = 5e-5


def encode(model, batch):
    return model.encode(
        jnp.asarray(batch.encoder_input_tokens_BL),
        segment_ids_BL=jnp.asarray(batch.encoder_segment_ids_BL),
    )


@pytest.mark.parametrize("name", fixture_params.T5X)
@pytest.mark.parametrize("scan", [True, False])
def test_forward_equals_t5x_everywhere(shared, name, scan):
    fixture = shared / "fixtures" / name
    _, graphdef, params = fixture_params.load(fixture)
    graphdef = nnx.split(
        t5.T5(
            dataclasses.replace(fixture_params.config_of(name), scan_layers=scan), rngs=nnx.Rngs(0)
        )
    )[0]
    io = dict(np.load(fixture / "io.npz"))
    batch = fixture_params.batch_of(io)
    encoded = fixture_params.run(graphdef, params, encode, batch)
    logits = fixture_params.run(graphdef, params, lambda model, batch: model(batch), batch)
    # Padding positions too: we mask padding queries as T5X does.
    np.testing.assert_allclose(encoded, io["encoded"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(logits, io["logits"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["t5x_t511", "t5x_t50"])
def test_packed_rows_equal_t5x(shared, name):
    fixture = shared / "fixtures" / name
    _, graphdef, params = fixture_params.load(fixture)
    io = dict(np.load(fixture / "io_packed.npz"))
    batch = fixture_params.batch_of(io)
    encoded = fixture_params.run(graphdef, params, encode, batch)
    logits = fixture_params.run(graphdef, params, lambda model, batch: model(batch), batch)
    np.testing.assert_allclose(encoded, io["encoded"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(logits, io["logits"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", fixture_params.HF)
def test_forward_and_loss_equal_hugging_face(shared, name):
    fixture = shared / "fixtures" / name
    _, graphdef, params = fixture_params.load(fixture)
    io = dict(np.load(fixture / "io.npz"))
    batch = fixture_params.batch_of(
        {
            "encoder_input_tokens": io["input_ids"],
            "decoder_target_tokens": io["labels_padded"],
            "decoder_input_tokens": io["decoder_input_ids"],
            "decoder_loss_weights": (io["labels"] != -100).astype(np.float32),
        }
    )
    encoded = fixture_params.run(graphdef, params, encode, batch)
    logits = fixture_params.run(graphdef, params, lambda model, batch: model(batch), batch)
    prompt = io["attention_mask"] == 1
    real = io["labels"] != -100
    np.testing.assert_allclose(
        np.asarray(encoded)[prompt], io["encoder_last_hidden_state"][prompt], atol=TOLERANCE, rtol=0
    )
    np.testing.assert_allclose(np.asarray(logits)[real], io["logits"][real], atol=TOLERANCE, rtol=0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, io["labels_padded"])
    np.testing.assert_allclose(np.asarray(losses)[real].mean(), io["loss"], rtol=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets_equal_t5x(shared, bidirectional):
    io = np.load(shared / "fixtures" / "t5x_t511" / "io.npz")
    buckets = attention.relative_buckets(
        jnp.asarray(io["relpos/relative_position"]).reshape(1, -1),
        bidirectional=bidirectional,
        num_buckets=32,
        max_distance=128,
    )
    key = "bucket_bidirectional" if bidirectional else "bucket_causal"
    np.testing.assert_array_equal(buckets.ravel(), io[f"relpos/{key}"].ravel())
