"""The jitted recommend step against Hugging Face's beam search and teacher-forced brute force."""

import dataclasses
import itertools

import chex
import jax
import numpy as np
import pytest

from genrec_jax.decoding import network, search
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import build_trie
from genrec_jax.model import incremental
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.parallel import rules
from genrec_jax.pipeline.batch import PromptBatch
from tests.decoding import crossing
from tests.model import fixture_params

MODELS = ("hf_t511", "hf_t50")


@pytest.fixture(scope="module", params=MODELS)
def fixture(request, shared):
    return load(shared / "fixtures" / request.param)


@pytest.fixture(scope="module")
def one_model(shared):
    """For what does not depend on the architecture."""
    return load(shared / "fixtures" / MODELS[0])


def load(folder):
    _, graphdef, params = fixture_params.load(folder)
    return graphdef, params, dict(np.load(folder / "beams.npz"))


def prompts(stored, rows=slice(None)):
    tokens_BL = stored["input_ids"][rows]
    none_B = np.full(len(tokens_BL), -1, np.int32)
    return PromptBatch(tokens_BL, np.zeros_like(tokens_BL), none_B, none_B)


def trie_of(stored, items=slice(None)):
    tokens, lengths = stored["item_tokens"][items], stored["item_lengths"][items]
    values = np.concatenate([row[:length] for row, length in zip(tokens, lengths, strict=True)])
    return build_trie(values, np.concatenate([[0], np.cumsum(lengths)]), vocab_size=1152)


def searched(fixture, config):
    graphdef, params, stored = fixture
    return make_recommend_step(graphdef, config)(params, prompts(stored), trie_of(stored))


@pytest.mark.parametrize(
    "name, num_beams, penalty", [("lp0_b10", 10, 0.0), ("lp1_b10", 10, 1.0), ("lp0_b20", 20, 0.0)]
)
def test_hugging_face_lists(fixture, name, num_beams, penalty):
    """With its finishing rule every list and score is Hugging Face's; without, as good or better."""
    stored = fixture[2]
    config = BeamConfig(num_beams, num_beams, penalty, finish_within_beams=True)
    result = searched(fixture, config)
    assert np.array_equal(result.items_BR, stored[f"{name}_items"])
    np.testing.assert_allclose(result.scores_BR, stored[f"{name}_scores"], atol=5e-5)
    # The stored sequences are those items' tokens between the start and end-of-sequence.
    for item, sequence in zip(
        np.asarray(result.items_BR).ravel(), stored[f"{name}_sequences"].reshape(-1, 8), strict=True
    ):
        length = stored["item_lengths"][item]
        assert np.array_equal(sequence[1 : length + 1], stored["item_tokens"][item, :length])
        assert sequence[length + 1] == 1
    ours = searched(fixture, dataclasses.replace(config, finish_within_beams=False))
    assert np.all(ours.scores_BR >= stored[f"{name}_scores"] - 5e-5)
    length_R = stored["item_lengths"][np.asarray(ours.items_BR)] + 1
    brute_BI = stored["brute_scores"]
    exact = np.take_along_axis(brute_BI, np.asarray(ours.items_BR), axis=1) / length_R**penalty
    np.testing.assert_allclose(ours.scores_BR, exact, atol=5e-5)


def test_beams_beyond_the_catalogue_equal_brute_force(fixture):
    result = searched(fixture, BeamConfig(num_beams=210, num_results=210))
    brute_BI = fixture[2]["brute_scores"]
    order_BI = np.argsort(-brute_BI, axis=1)
    assert np.array_equal(np.asarray(result.items_BR)[:, :200], order_BI)
    assert np.all(np.asarray(result.items_BR)[:, 200:] == -1)
    wanted = np.take_along_axis(brute_BI, order_BI, axis=1)
    np.testing.assert_allclose(np.asarray(result.scores_BR)[:, :200], wanted, atol=5e-5)


def test_logits_kept_or_not_and_batch_by_batch_give_one_list(one_model, monkeypatch):
    graphdef, params, stored = one_model
    config = BeamConfig(num_beams=10, num_results=10)
    whole = searched(one_model, config)
    monkeypatch.setattr(network, "MAX_LOGITS_BYTES", 0)
    monkeypatch.setattr(network, "VOCABULARY_CHUNK", 500)
    chunked = make_recommend_step(graphdef, config)(params, prompts(stored), trie_of(stored))
    assert np.array_equal(whole.items_BR, chunked.items_BR)
    np.testing.assert_allclose(whole.scores_BR, chunked.scores_BR, atol=3e-5)
    step = make_recommend_step(graphdef, config)
    for row in range(2):
        alone = step(params, prompts(stored, slice(row, row + 1)), trie_of(stored))
        assert np.array_equal(alone.items_BR[0], whole.items_BR[row])


def test_common_prefix_is_scored(one_model):
    """Ids that all begin alike: the prefix is fed in one pass, and its probability still counts."""
    graphdef, params, stored = one_model
    tokens, lengths = stored["item_tokens"], stored["item_lengths"]
    first = np.bincount(tokens[:, 0]).argmax()
    items = np.flatnonzero((tokens[:, 0] == first) & (lengths > 1))
    trie = trie_of(stored, items)
    assert len(items) > 3 and trie.prefix_Q[0] == first
    result = make_recommend_step(graphdef, BeamConfig(200, 200))(params, prompts(stored), trie)
    brute = np.sort(stored["brute_scores"][:, items], axis=1)[:, ::-1]
    np.testing.assert_allclose(np.asarray(result.scores_BR)[:, : len(items)], brute, atol=5e-5)


def test_padding_rows_get_empty_lists(one_model):
    graphdef, params, stored = one_model
    batch = prompts(stored)
    batch.encoder_input_tokens_BL[1] = 0
    result = make_recommend_step(graphdef, BeamConfig(5, 5))(params, batch, trie_of(stored))
    assert np.all(np.asarray(result.items_BR[1]) == -1)
    assert np.all(np.asarray(result.items_BR)[[0, 2, 3, 4]] >= 0)


@pytest.fixture(scope="module")
def lists_of_one_device(one_model):
    graphdef, params, stored = one_model
    config = BeamConfig(num_beams=10, num_results=10)
    batch = prompts(stored, np.arange(8) % 5)
    return make_recommend_step(graphdef, config)(params, batch, trie_of(stored))


@pytest.mark.parametrize(
    ("sizes", "kept_logits", "masked"),
    [
        *itertools.product([(8, 1, 1), (1, 4, 2), (2, 1, 4), (2, 2, 2)], [True, False], [True]),
        ((2, 2, 2), True, False),
    ],
)
def test_every_mesh_gives_one_devices_lists(
    one_model, lists_of_one_device, sizes, kept_logits, masked, monkeypatch
):
    """Rows over `data` and `fsdp`, parameters over `fsdp`, heads and vocabulary over `tensor`."""
    if not masked:
        monkeypatch.setattr(incremental, "MOST_MASKED", 9)
    if not kept_logits:
        monkeypatch.setattr(network, "MAX_LOGITS_BYTES", 0)
        monkeypatch.setattr(network, "VOCABULARY_CHUNK", 100)
    graphdef, params, stored = one_model
    mesh = mesh_lib.make_mesh(*sizes)
    step = make_recommend_step(graphdef, BeamConfig(num_beams=10, num_results=10), mesh)
    arguments = (
        jax.device_put(params, rules.tree_shardings(params, mesh)),
        jax.device_put(prompts(stored, np.arange(8) % 5), rules.batch_sharding(mesh)),
        jax.device_put(trie_of(stored), rules.replicated(mesh)),
    )
    compiled = step.lower(*arguments).compile()  # pyright: ignore[reportFunctionMemberAccess]
    split = compiled(*arguments)
    # Of the search itself only the asked-for logits are added up, from whoever has them.
    expected = {"all-reduce"} if sizes[2] > 1 else set()
    if not kept_logits and sizes[1] > 1:
        expected = expected | {"all-gather"}  # of the head, a parameter
    assert crossing.of_search(compiled.as_text()) == expected
    assert split.items_BR.sharding.is_equivalent_to(rules.batch_sharding(mesh), 2)
    assert np.array_equal(lists_of_one_device.items_BR, split.items_BR)
    np.testing.assert_allclose(lists_of_one_device.scores_BR, split.scores_BR, atol=3e-5)


def test_one_compilation_per_shape(one_model, monkeypatch):
    graphdef, params, stored = one_model
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(n=1)(search.beam_search)
    monkeypatch.setattr(search, "beam_search", traced)
    step = make_recommend_step(graphdef, BeamConfig(4, 4))
    for items in (range(200), range(5, 200), range(199, -1, -1)):
        result = step(params, prompts(stored), trie_of(stored, np.asarray(items)))
        jax.block_until_ready(result)
    assert step._cache_size() == 1
