"""Thousands of small catalogues on a handful of compiled searches: nothing invalid, nothing missing.

Ids are short and over few tokens, so that among them are prefixes of others, single items, branches
that end at once, and more beams than items or tokens.
"""

import functools

import jax
import numpy as np
import pytest

from genrec_jax.decoding import constraints
from genrec_jax.decoding.live import with_room
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import build_trie, item_ranks
from tests.decoding import oracles

STATES, VOCAB = 97, 9
ALL = BeamConfig(num_beams=48, num_results=48)  # more beams than items, and than tokens
FEW = BeamConfig(num_beams=3, num_results=3, chunk_width=4)
NUMBERS = [300, pytest.param(10_000, marks=pytest.mark.long)]


@functools.partial(jax.jit, static_argnames="config")
def searched(table_BKV, trie, config, allowed=None):
    return oracles.run_tables(table_BKV, trie, config, allowed)


def catalogue_of(rng):
    """Distinct ids of 1 to 5 tokens, some extending others."""
    count, tokens = int(rng.integers(1, 41)), int(rng.integers(3, VOCAB + 1))
    found = {}
    for _ in range(count):
        stem = list(found)[int(rng.integers(len(found)))] if found and rng.random() < 0.5 else ()
        more = tuple(rng.integers(2, tokens, int(rng.integers(1, 6))).tolist())
        found.setdefault((*stem, *more)[:5])
    return list(found)


def scores_of(table_KV, ids):
    """Log-probability of every id and its end, in float64."""
    shifted_KV = table_KV.astype(np.float64) - table_KV.max(axis=1, keepdims=True)
    log_probs_KV = shifted_KV - np.log(np.exp(shifted_KV).sum(axis=1, keepdims=True))
    scores = []
    for tokens in ids:
        state = oracles.next_state(0, 0, STATES)
        score = 0.0
        for token in (*tokens, oracles.EOS):
            score += log_probs_KV[state, token]
            state = oracles.next_state(state, token, STATES)
        scores.append(score)
    return np.asarray(scores)


@pytest.mark.parametrize("number", NUMBERS)
def test_nothing_invalid_and_nothing_missing(number):
    rng = np.random.default_rng(number)
    room = with_room(build_trie(*oracles.ragged([(2,), (3, 3, 3, 3, 3)]), vocab_size=VOCAB), 64)
    for _ in range(number):
        ids = catalogue_of(rng)
        table_BKV = rng.normal(0, 2, (1, STATES, VOCAB)).astype(np.float32)
        trie = build_trie(*oracles.ragged(ids), vocab_size=VOCAB, room=room)
        scores = scores_of(table_BKV[0], ids)
        every = jax.device_get(searched(table_BKV, trie, ALL))
        items = every.items_BR[0][: len(ids)].tolist()
        assert sorted(items) == list(range(len(ids)))
        assert np.all(every.items_BR[0][len(ids) :] == -1)
        np.testing.assert_allclose(every.scores_BR[0][: len(ids)], scores[items], atol=1e-4)
        assert np.all(np.diff(every.scores_BR[0][: len(ids)]) <= 0)
        few = jax.device_get(searched(table_BKV, trie, FEW))
        items = few.items_BR[0][few.items_BR[0] >= 0].tolist()
        assert len(set(items)) == len(items) == min(3, len(ids))
        np.testing.assert_allclose(few.scores_BR[0][: len(items)], scores[items], atol=1e-4)
    assert searched._cache_size() <= 2


@pytest.mark.parametrize("flat", [False, True])
def test_wide_nodes_of_a_vocabulary_of_32_thousand(flat):
    """A root and a node with thousands of children, read in chunks, and ties across all of them."""
    vocab = 32_100
    rng = np.random.default_rng(0)
    ids = [(int(a),) for a in rng.choice(np.arange(3, vocab), 5_000, replace=False)]
    ids += [(2, int(a)) for a in rng.choice(np.arange(2, vocab), 3_000, replace=False)]
    ids = [ids[i] for i in rng.permutation(len(ids))]
    table_BKV = np.zeros((1, 5, vocab), np.float32)
    if not flat:
        table_BKV += rng.normal(0, 2, table_BKV.shape).astype(np.float32)
        table_BKV[:, :, 2] += 6
    trie = build_trie(*oracles.ragged(ids), vocab_size=vocab)
    config = BeamConfig(num_beams=40, num_results=40)
    result = jax.device_get(searched(table_BKV, trie, config))
    wanted, _ = oracles.plain_search(table_BKV[0], ids, config)
    assert result.items_BR[0].tolist() == wanted
    left = [item for item in range(len(ids)) if item not in wanted[:10]]
    wanted_left, _ = oracles.plain_search(table_BKV[0], [ids[item] for item in left], config)
    without = constraints.constraints_of(item_ranks(trie), [wanted[:10]])
    again = jax.device_get(searched(table_BKV, trie, config, without))
    assert again.items_BR[0].tolist() == [left[item] for item in wanted_left]
