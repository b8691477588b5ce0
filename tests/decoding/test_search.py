import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding import search
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import build_trie
from genrec_jax.errors import UserError
from tests.decoding import oracles

VOCAB = 12
STATES = 97

catalogues = st.lists(
    st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=40,
    unique=True,
)


@functools.partial(jax.jit, static_argnames="config")
def searched(table_BKV, trie, config):
    return oracles.run_tables(table_BKV, trie, config)


def tables(seed, batch=2, vocab=VOCAB):
    return np.random.default_rng(seed).normal(0, 2, (batch, STATES, vocab)).astype(np.float32)


def trie_of(ids, vocab=VOCAB):
    return build_trie(*oracles.ragged(ids), vocab_size=vocab)


def found(result, row):
    """Items and scores of a row, after checking that empty places are at the end, and look empty."""
    items, scores = np.asarray(result.items_BR[row]), np.asarray(result.scores_BR[row])
    filled = items >= 0
    assert np.array_equal(filled, np.isfinite(scores))
    assert np.all(scores[~filled] == -np.inf)
    count = int(filled.sum())
    assert filled[:count].all()
    assert len(set(items[:count].tolist())) == count
    return items[:count].tolist(), scores[:count]


def test_markov_chain_solved_by_hand():
    # After the start: a (2) .6, b (3) .4. After a: a .5, b .3, end .2. After b: a .1, b .1, end .8.
    # Ids: aa, ab, b, a -> aa+end .6*.5*.2 = .06, ab .6*.3*.8 = .144, b .4*.8 = .32, a .6*.2 = .12.
    chain = np.full((4, 4), 1e-30, np.float32)
    chain[0, [2, 3]] = 0.6, 0.4
    chain[2, [1, 2, 3]] = 0.2, 0.5, 0.3
    chain[3, [1, 2, 3]] = 0.8, 0.1, 0.1

    def advance(tokens_BMQ, slot, cache):
        logits_BMQV = jnp.log(jnp.asarray(chain))[tokens_BMQ]
        return logits_BMQV, jax.nn.logsumexp(logits_BMQV, axis=3), cache

    def asked_logits(logits_BMV, tokens_BMC):
        return jnp.take_along_axis(logits_BMV, tokens_BMC, axis=2)

    network = search.Network(advance, asked_logits, lambda cache, parents_BM: cache)
    trie = jax.device_put(trie_of([(2, 2), (2, 3), (3,), (2,)], vocab=4))
    result = search.beam_search(network, None, trie, BeamConfig(2, 4), jnp.ones(1, bool))
    assert np.asarray(result.items_BR)[0].tolist() == [2, 1, 3, 0]
    np.testing.assert_allclose(np.exp(result.scores_BR[0]), [0.32, 0.144, 0.12, 0.06], rtol=1e-5)
    # One beam keeps only a, and so never sees b; but a's end takes no beam.
    result = search.beam_search(network, None, trie, BeamConfig(1, 4), jnp.ones(1, bool))
    assert np.asarray(result.items_BR)[0].tolist() == [3, 0, -1, -1]


CONFIGS = [
    BeamConfig(8, 8),
    BeamConfig(1, 3, chunk_width=2),
    BeamConfig(3, 3, renormalise=True, chunk_width=2),
    BeamConfig(3, 8, length_penalty=1.0),
    BeamConfig(3, 3, finish_within_beams=True),
    BeamConfig(8, 8, finish_within_beams=True, length_penalty=1.0, chunk_width=16),
]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    ids=catalogues,
    prefix=st.sampled_from([(), (5, 9)]),
    seed=st.integers(0, 2**31),
    config=st.sampled_from(CONFIGS),
)
def test_equals_plain_python(ids, prefix, seed, config):
    ids = [(*prefix, *tokens) for tokens in ids]
    trie = fixed_shapes(trie_of(ids))
    table_BKV = tables(seed)
    result = searched(table_BKV, trie, config)
    for row in range(2):
        items, scores = found(result, row)
        wanted_items, wanted_scores = oracles.plain_search(table_BKV[row], ids, config)
        np.testing.assert_allclose(scores, wanted_scores, atol=3e-5)
        # Scores of float32 may swap where those of float64 nearly tie.
        if oracles.smallest_gap(oracles.brute_force(table_BKV[row], ids)) > 1e-4:
            assert items == wanted_items


@settings(max_examples=50, deadline=None, derandomize=True)
@given(ids=catalogues, seed=st.integers(0, 2**31))
def test_beams_beyond_the_catalogue_find_it_all(ids, seed):
    table_BKV = tables(seed)
    result = searched(table_BKV, fixed_shapes(trie_of(ids)), BeamConfig(40, 45))
    for row in range(2):
        items, scores = found(result, row)
        assert set(items) == set(range(len(ids)))
        np.testing.assert_allclose(
            scores, oracles.brute_force(table_BKV[row], ids)[items], atol=3e-5
        )
        assert np.all(np.diff(scores) <= 0)


def fixed_shapes(trie):
    """One number of steps for all small catalogues, to compile less."""
    return dataclasses.replace(trie, max_steps=8)


@pytest.mark.parametrize("chunk_width", [1, 7])
def test_equal_scores_are_listed_by_item_whatever_the_chunks(chunk_width):
    # Every token is as likely as every other, so that ids of one length tie.
    rng = np.random.default_rng(3)
    ids = [(2 + a, 2 + b) for a in range(9) for b in range(9)]
    ids = [ids[i] for i in rng.permutation(len(ids))]
    flat_BKV = np.zeros((1, STATES, VOCAB), np.float32)
    result = searched(flat_BKV, trie_of(ids), BeamConfig(81, 81, chunk_width=chunk_width))
    assert found(result, 0)[0] == list(range(81))
    # With fewer beams, prefixes tie too: each counts as the smallest item under it.
    result = searched(flat_BKV, trie_of(ids), BeamConfig(2, 4, chunk_width=chunk_width))
    assert found(result, 0)[0] == oracles.plain_search(flat_BKV[0], ids, BeamConfig(2, 4))[0]


def long_run(seed, length):
    """More tokens than are read ahead."""
    return tuple(np.random.default_rng(seed).integers(2, VOCAB, length).tolist())


@pytest.mark.parametrize(
    "ids",
    [
        [(7,)],
        [(7, 3, 3, 2, 9, 4, 8, 5, 6)],
        [(7,), (7, 3), (7, 3, 2), (7, 3, 2, 9, 9, 9)],
        [(token,) for token in range(2, VOCAB)],
        [(2, token) for token in range(2, VOCAB)] + [(3,)],
        [(token, *long_run(token, 5 * (token - 2))) for token in range(2, VOCAB)],
        [(2, *long_run(2, 22), token, *long_run(token, 14)) for token in (5, 6)] + [(3,), (4, 4)],
    ],
    ids=[
        "one item",
        "one long item",
        "prefixes of one another",
        "flat",
        "wide and narrow",
        "tails of all lengths",
        "a fork after other tails end",
    ],
)
def test_edges_where_other_searches_fail(ids):
    """Beams beyond the catalogue and the vocabulary, tails, and ids inside ids."""
    table_BKV = tables(5)
    result = searched(table_BKV, trie_of(ids), BeamConfig(30, 30))
    for row in range(2):
        items, scores = found(result, row)
        brute = oracles.brute_force(table_BKV[row], ids)
        assert items == np.argsort(-brute, kind="stable").tolist()
        np.testing.assert_allclose(scores, brute[items], atol=3e-5)


def test_dead_branch_gives_nothing_else():
    """A token the network calls impossible: what is under it stays out, and nothing stands in."""
    ids = [(2, 3), (2, 4), (5, 3)]
    table_BKV = tables(6)
    table_BKV[:, :, 2] = -np.inf
    items, scores = found(searched(table_BKV, trie_of(ids), BeamConfig(4, 4)), 0)
    assert items == [2]
    assert scores[0] == pytest.approx(oracles.brute_force(table_BKV[0], ids)[2], abs=3e-5)


def test_one_compilation_for_catalogues_of_one_padded_size():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(table_BKV, trie):
        return oracles.run_tables(table_BKV, trie, BeamConfig(4, 4))

    narrow = [(2, 3 + i, 4) for i in range(8)] + [(9, 9, 9)]
    wide = [(2 + i % 10, 2 + i // 10) for i in range(60)]
    for seed, ids in enumerate((narrow, wide, narrow[1:])):
        table_BKV = tables(seed)
        items, _ = found(once(table_BKV, trie_of(ids)), 0)
        assert items == oracles.plain_search(table_BKV[0], ids, BeamConfig(4, 4))[0]


def test_default_list_is_as_good_or_better_than_with_the_finishing_rule():
    rng = np.random.default_rng(8)
    ids = list({tuple(rng.integers(2, VOCAB, rng.integers(1, 6)).tolist()) for _ in range(200)})
    table_BKV = tables(9, batch=8)
    trie = trie_of(ids)
    ours = searched(table_BKV, trie, BeamConfig(5, 5)).scores_BR
    theirs = searched(table_BKV, trie, BeamConfig(5, 5, finish_within_beams=True)).scores_BR
    assert np.all(ours >= theirs)
    assert np.any(ours > theirs)


@pytest.mark.parametrize(
    "options", [{"num_beams": 0}, {"num_results": 0}, {"length_penalty": -1.0}]
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        BeamConfig(**options)
