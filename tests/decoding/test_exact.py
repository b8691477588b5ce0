"""Exact scores against Hugging Face's teacher-forced brute force."""

import chex
import jax
import numpy as np
import pytest

from genrec_jax.decoding import exact, network
from genrec_jax.decoding.trie import build_trie, item_ranks
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.parallel import rules
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.pipeline.token_runs import TokenRuns
from tests.model import fixture_params

EOS = 1


@pytest.fixture(scope="module", params=["hf_t511", "hf_t50"])
def fixture(request, shared):
    return load(shared / "fixtures" / request.param)


@pytest.fixture(scope="module")
def one_model(shared):
    return load(shared / "fixtures" / "hf_t511")


def load(folder):
    _, graphdef, params = fixture_params.load(folder)
    return graphdef, params, dict(np.load(folder / "beams.npz"))


def prompts(stored, rows=None):
    tokens_BL = stored["input_ids"] if rows is None else stored["input_ids"][rows]
    none_B = np.full(len(tokens_BL), -1, np.int32)
    return PromptBatch(tokens_BL, np.zeros_like(tokens_BL), none_B, none_B)


def ids_of(stored):
    tokens, lengths = stored["item_tokens"], stored["item_lengths"]
    runs = TokenRuns.from_lists(
        [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    )
    return runs, item_ranks(build_trie(runs.values_P, runs.offsets_E1, vocab_size=1152))


def assert_equal(scores, wanted):
    """To 1e-5, relative; in nats the oracle itself, in float32, is off by up to 2.2e-5."""
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=0)
    assert np.abs(np.asarray(scores) - wanted).mean() < 1e-5


@pytest.mark.parametrize("block_size", [512, 40])
def test_equals_teacher_forced_brute_force(fixture, block_size):
    graphdef, params, stored = fixture
    runs, ranks_I = ids_of(stored)
    scorer = exact.CatalogueScorer(graphdef, runs, ranks_I, eos_id=EOS, block_size=block_size)
    assert (scorer.num_blocks > 4) == (block_size == 40)
    scores_BI = scorer(params, prompts(stored))
    assert_equal(scores_BI, stored["brute_scores"])


def test_candidates_equal_brute_force(fixture):
    graphdef, params, stored = fixture
    runs, _ = ids_of(stored)
    scorer = exact.CandidateScorer(graphdef, runs, eos_id=EOS, num_candidates=30)
    rows = len(stored["input_ids"])
    items_BC = np.stack([np.random.default_rng(row).permutation(200)[:30] for row in range(rows)])
    scores_BC = scorer(params, prompts(stored), items_BC)
    wanted_BC = np.take_along_axis(stored["brute_scores"], items_BC, axis=1)
    assert_equal(scores_BC, wanted_BC)


def test_on_a_mesh_and_with_the_head_in_chunks(one_model, monkeypatch):
    graphdef, params, stored = one_model
    monkeypatch.setattr(network, "VOCABULARY_CHUNK", 500)
    runs, ranks_I = ids_of(stored)
    mesh = mesh_lib.make_mesh(data=4, fsdp=2)
    rows = np.arange(8) % len(stored["input_ids"])
    scorer = exact.CatalogueScorer(graphdef, runs, ranks_I, eos_id=EOS, block_size=64, mesh=mesh)
    scores_BI = scorer(
        jax.device_put(params, rules.replicated(mesh)),
        jax.device_put(prompts(stored, rows), rules.batch_sharding(mesh)),
    )
    assert len(scores_BI.sharding.device_set) == 8
    assert_equal(scores_BI, stored["brute_scores"][rows])


def test_one_compilation_for_all_blocks(one_model, monkeypatch):
    graphdef, params, stored = one_model
    chex.clear_trace_counter()
    monkeypatch.setattr(exact, "score_tree", chex.assert_max_traces(n=1)(exact.score_tree))
    runs, ranks_I = ids_of(stored)
    scorer = exact.CatalogueScorer(graphdef, runs, ranks_I, eos_id=EOS, block_size=64)
    told = []
    for _ in range(2):
        jax.block_until_ready(scorer(params, prompts(stored), lambda: told.append(1)))
    assert len(told) == 2 * scorer.num_blocks
