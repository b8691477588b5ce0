"""Incremental decoding of a tree of beams equals teacher-forced decoding of each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.model import incremental, stacks, t5
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


@pytest.mark.parametrize("most_masked", [BEAMS, BEAMS - 1], ids=["masked", "by_lineage"])
@pytest.mark.parametrize(
    ("changes", "split", "shared"),
    [
        ({}, False, 3),
        ({}, True, 1),
        ({"scan_layers": False, "relative_bias_per_layer": True}, False, 6),
        ({"tied_head": True, "scale_head_input": True, "mlp_activations": ("relu",)}, True, 3),
    ],
)
def test_equals_teacher_forcing(changes, split, shared, most_masked, monkeypatch):
    """Beams that begin alike and part ways, each continuing another at every step."""
    monkeypatch.setattr(incremental, "MOST_MASKED", most_masked)
    config = dataclasses.replace(CONFIG, **changes)
    graphdef, params = t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(3)))
    random = np.random.default_rng(0)
    prompts_BL = random.integers(1, 300, (BATCH, LENGTH)).astype(np.int32)
    prompts_BL[1, 4:] = 0
    valid_BL = jnp.asarray(prompts_BL > 0)
    tokens_BQ = random.integers(1, 300, (BATCH, shared)).astype(np.int32)
    tokens_BQ[:, 0] = 0
    steps = STEPS - shared
    parents_SBM = random.integers(0, BEAMS, (steps, BATCH, BEAMS)).astype(np.int32)
    tokens_SBM = random.integers(1, 300, (steps, BATCH, BEAMS)).astype(np.int32)

    model = nnx.merge(graphdef, stacks.split_layers(params) if split else params)

    @jax.jit
    def begin(prompts_BL, tokens_BQ):
        encoded_BLD = model.encode(prompts_BL)
        cross = incremental.cross_keys_values(model, encoded_BLD)
        hidden_BQD, cache = incremental.feed_shared(model, tokens_BQ, cross, valid_BL)
        return encoded_BLD, cross, hidden_BQD, incremental.make_room(cache, BEAMS, steps)

    @jax.jit
    def feed(parents_BM, tokens_BM, position, cache):
        cache = incremental.continue_beams(cache, parents_BM)
        return incremental.feed_beams(model, tokens_BM, position, cache, cross, valid_BL)

    encoded_BLD, cross, hidden_BQD, cache = begin(prompts_BL, tokens_BQ)
    # What a beam was fed, and what came out: both continue the parent's.
    said = np.repeat(tokens_BQ[:, None], BEAMS, axis=1)
    got = np.repeat(np.asarray(hidden_BQD)[:, None], BEAMS, axis=1)
    for step in range(steps):
        parents_BM = parents_SBM[step] if step else np.zeros((BATCH, BEAMS), np.int32)
        rows_B1 = np.arange(BATCH)[:, None]
        hidden_BMD, cache = feed(parents_BM, tokens_SBM[step], shared + step, cache)
        said = np.concatenate([said[rows_B1, parents_BM], tokens_SBM[step][:, :, None]], axis=2)
        got = np.concatenate([got[rows_B1, parents_BM], hidden_BMD[:, :, None]], axis=2)

    @jax.jit
    def expected(said_YT):
        whole = nnx.merge(graphdef, params)
        hidden_YTD = whole.decode(
            said_YT,
            jnp.repeat(encoded_BLD, BEAMS, axis=0),
            encoder_segment_ids_BL=jnp.repeat(valid_BL, BEAMS, axis=0).astype(jnp.int32),
            decoder_segment_ids_BT=jnp.ones((BATCH * BEAMS, STEPS), jnp.int32),
        )
        return whole.logits(hidden_YTD)

    wanted = expected(said.reshape(-1, STEPS)).reshape(BATCH, BEAMS, STEPS, -1)
    np.testing.assert_allclose(jax.jit(model.logits)(got), wanted, atol=1e-5, rtol=1e-5)
    if steps > 1:
        assert np.abs(got[0, 0] - got[0, 1:]).max() > 1e-3  # the beams are not all alike


def test_memory_of_wide_beams_grows_with_the_beams_and_not_with_their_square():
    """Of one step, compiled: four times the beams take at most five times the memory."""
    graphdef, params = t5.graph_and_params(t5.T5(CONFIG, rngs=nnx.Rngs(3)))
    valid_BL = jnp.ones((1, LENGTH), bool)

    def bytes_of(beams: int) -> int:
        def step(params, tokens_BM):
            model = nnx.merge(graphdef, params)
            cross = incremental.cross_keys_values(model, jnp.ones((1, LENGTH, CONFIG.embed_dim)))
            start_BQ = jnp.zeros((1, 1), jnp.int32)
            _, cache = incremental.feed_shared(model, start_BQ, cross, valid_BL)
            cache = incremental.make_room(cache, beams, STEPS)
            cache = incremental.continue_beams(cache, jnp.zeros((1, beams), jnp.int32))
            return incremental.feed_beams(model, tokens_BM, 1, cache, cross, valid_BL)[0]

        tokens = jax.ShapeDtypeStruct((1, beams), jnp.int32)
        analysis = jax.jit(step).lower(params, tokens).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert bytes_of(4000) < 5 * bytes_of(1000)


def test_split_layers_are_the_stack_layer_by_layer():
    config = dataclasses.replace(CONFIG, relative_bias_per_layer=True)
    _, params = t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(0)))
    split = dict(nnx.to_flat_state(stacks.split_layers(params)))
    again = dict(nnx.to_flat_state(stacks.stack_layers(stacks.split_layers(params))))
    for path, variable in nnx.to_flat_state(params):
        ours, theirs = split[path].get_value(), variable.get_value()
        if "layers" in path:
            assert isinstance(ours, stacks.LayerTuple) and len(ours) == len(theirs)
        np.testing.assert_array_equal(np.asarray(ours), theirs)
        assert again[path].get_value().shape == theirs.shape
        np.testing.assert_array_equal(again[path].get_value(), theirs)
