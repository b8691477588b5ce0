"""A GPU's lists are the CPU's, in float32 at the highest precision.

benchmarks/README.md has the command.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from genrec_jax.decoding import constraints, network
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import build_trie, item_ranks
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.batch import PromptBatch

pytestmark = pytest.mark.gpu
VOCAB, ROWS, LENGTH, BEAMS = 96, 6, 12, 20
CONFIG = T5Config(
    vocab_size=VOCAB,
    embed_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


@pytest.fixture
def gpu() -> jax.Device:
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")
    return jax.devices()[0]


def catalogue():
    """300 ids of 1 to 4 tokens, some of them the beginning of others."""
    rng = np.random.default_rng(0)
    ids = {(5, *rng.integers(2, 20, rng.integers(0, 4)).tolist()) for _ in range(2_000)}
    ids = sorted(ids)[:300]
    values = np.concatenate([np.asarray(one) for one in ids])
    return build_trie(values, np.cumsum([0, *map(len, ids)]), vocab_size=VOCAB)


def lists_on(device: jax.Device, excluding: bool):
    """Lists and scores of random prompts, all put on one device; the last row is padding."""
    graphdef, params = t5.graph_and_params(t5.T5(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    tokens_BL = rng.integers(2, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    tokens_BL[1, 7:], tokens_BL[-1] = 0, 0
    nobody_B = np.full(ROWS, -1, np.int32)
    batch = PromptBatch(tokens_BL, np.zeros_like(tokens_BL), nobody_B, nobody_B)
    trie, excluded = catalogue(), None
    if excluding:
        excluded = constraints.constraints_of(item_ranks(trie), [np.arange(0, 300, 3)] * ROWS)
    arguments = jax.device_put((params, batch, trie, excluded), device)
    with jax.default_matmul_precision("highest"):
        step = make_recommend_step(graphdef, BeamConfig(BEAMS, BEAMS))
        result = step(*arguments)
    assert result.items_BR.devices() == {device}
    return jax.device_get(result)


@pytest.mark.parametrize("kept_logits", [True, False])
@pytest.mark.parametrize("excluding", [False, True])
def test_the_lists_are_the_cpus(gpu, excluding, kept_logits, monkeypatch):
    if not kept_logits:
        monkeypatch.setattr(network, "_kept_here", lambda: 0)
        monkeypatch.setattr(network, "VOCABULARY_CHUNK", 40)
    ours, wanted = lists_on(gpu, excluding), lists_on(jax.devices("cpu")[0], excluding)
    assert np.all(wanted.items_BR[:-1] >= 0) and np.all(wanted.items_BR[-1] == -1)
    assert np.any(wanted.items_BR[:-1] % 3 == 0) == (not excluding)
    assert np.array_equal(ours.items_BR, wanted.items_BR)
    np.testing.assert_allclose(ours.scores_BR, wanted.scores_BR, rtol=0, atol=2e-5)
