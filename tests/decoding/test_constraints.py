"""The search under exclusions and allowed subsets against plain Python over what is left."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding import constraints as constraints_lib
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import build_trie, item_ranks
from tests.decoding import oracles

VOCAB = 12
STATES = 97

catalogues = st.lists(
    st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=40,
    unique=True,
)
items = st.sets(st.integers(0, 39))


@functools.partial(jax.jit, static_argnames="config")
def searched(table_BKV, trie, config, constraints):
    return oracles.run_tables(table_BKV, trie, config, constraints)


def tables(seed, batch=3):
    return np.random.default_rng(seed).normal(0, 2, (batch, STATES, VOCAB)).astype(np.float32)


def trie_of(ids):
    """One number of steps for all small catalogues, to compile less."""
    return dataclasses.replace(build_trie(*oracles.ragged(ids), vocab_size=VOCAB), max_steps=8)


def found(result, row):
    filled = np.asarray(result.items_BR[row]) >= 0
    assert np.array_equal(filled, np.isfinite(result.scores_BR[row]))
    return np.asarray(result.items_BR[row])[filled].tolist(), np.asarray(result.scores_BR[row])[
        filled
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    ids=catalogues,
    seed=st.integers(0, 2**31),
    excluded=items,
    allowed=items,
    beams=st.sampled_from(
        [BeamConfig(2, 4), BeamConfig(3, 3, renormalise=True), BeamConfig(40, 45)]
    ),
)
def test_equals_a_catalogue_of_what_is_left(ids, seed, excluded, allowed, beams):
    """One batch: the first excludes, the second allows, the third does both."""
    trie, table_BKV = trie_of(ids), tables(seed)
    everything = set(range(len(ids)))
    left = [everything - excluded, everything & allowed, (everything & allowed) - excluded]
    constraints = constraints_lib.constraints_of(
        item_ranks(trie),
        [sorted(excluded), [], sorted(excluded)],
        [None, sorted(allowed), sorted(allowed)],
        width=64,
    )
    result = searched(table_BKV, trie, beams, constraints)
    for row, kept in enumerate(map(sorted, left)):
        items, scores = found(result, row)
        if not kept:
            assert items == []
            continue
        left_ids = [ids[item] for item in kept]
        wanted, wanted_scores = oracles.plain_search(table_BKV[row], left_ids, beams)
        np.testing.assert_allclose(scores, wanted_scores, atol=3e-5)
        # Scores of float32 may swap where those of float64 nearly tie.
        if oracles.smallest_gap(oracles.brute_force(table_BKV[row], left_ids)) > 1e-4:
            assert items == [kept[place] for place in wanted]


def test_lists_of_all_lengths_below_a_width_share_one_compiled_search():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(table_BKV, trie, constraints):
        return oracles.run_tables(table_BKV, trie, BeamConfig(4, 4), constraints)

    ids = [(2 + i % 10, 2 + i // 10) for i in range(60)]
    trie = trie_of(ids)
    ranks_I = item_ranks(trie)
    asked = [
        ([[], [3]], [None, None]),
        ([[], []], [[5, 7, 9], None]),
        ([range(30), [2]], [range(32), range(32)]),
    ]
    for seed, (exclude, allow) in enumerate(asked):
        constraints = constraints_lib.constraints_of(ranks_I, exclude, allow)
        assert constraints.items_BX.shape == (2, constraints_lib.SMALLEST_WIDTH)
        result = once(tables(seed, batch=2), trie, constraints)
        for row in range(2):
            kept = set(allow[row] if allow[row] is not None else range(60)) - set(exclude[row])
            items, _ = found(result, row)
            assert set(items) <= kept and len(items) == min(4, len(kept))


def test_allowed_in_bulk_is_allowed_one_by_one():
    ids = [(2 + i % 10, 2 + i // 10) for i in range(60)]
    ranks_I = item_ranks(trie_of(ids))
    rng = np.random.default_rng(0)
    items_BC = np.stack([rng.permutation(60)[:32] for _ in range(5)])
    items_BC[3, 20:] = -1
    bulk = constraints_lib.allowing_only(ranks_I, items_BC)
    rows = [row[row >= 0] for row in items_BC]
    wanted = constraints_lib.constraints_of(ranks_I, [[]] * 5, rows)
    for built, expected in zip(jax.tree.leaves(bulk), jax.tree.leaves(wanted), strict=True):
        assert np.array_equal(built, expected)


def test_shared_lists_are_those_of_each_example():
    ids = [(2 + i % 10, 2 + i // 10) for i in range(60)]
    ranks_I = item_ranks(trie_of(ids))
    shared, other, none = np.arange(50, 5, -1), [1, 9, 9, 20], []
    exclude = [shared, other, none, shared, other, none]
    allow = [None, shared, shared, other, shared, None]
    together = constraints_lib.constraints_of(ranks_I, exclude, allow, width=64)
    copies = [
        [None if one is None else [*map(int, one)] for one in rows] for rows in (exclude, allow)
    ]
    apart = constraints_lib.constraints_of(ranks_I, *copies, width=64)
    for built, wanted in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        assert np.array_equal(built, wanted)
    assert together.items_BX[3, :2].tolist() == [1, constraints_lib.LAST_ITEM]


def test_what_leaves_any_item():
    ids = [(2, 3), (2, 4), (5, 3)]
    ranks_I = item_ranks(trie_of(ids))
    made = constraints_lib.constraints_of(
        ranks_I,
        [[], [0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 3], [3], []],
        [None, None, None, None, [1], [3, 2], [3]],
    )
    wanted = [True, True, False, False, False, True, False]
    assert constraints_lib.leaves_any(made, ranks_I).tolist() == wanted


def test_numbers_beyond_the_catalogue_mean_nothing_and_repeats_count_once():
    ids = [(2, 3), (2, 4), (5, 3)]
    trie = trie_of(ids)
    constraints = constraints_lib.constraints_of(
        item_ranks(trie), [[-1, 0, 0, 0, 3, 99], [0, 1, 2], []], [None, None, []]
    )
    result = searched(tables(7), trie, BeamConfig(4, 4), constraints)
    assert sorted(found(result, 0)[0]) == [1, 2]
    assert found(result, 1)[0] == found(result, 2)[0] == []


@pytest.mark.parametrize("length, width", [(0, 32), (32, 32), (33, 64), (64, 64), (1000, 1024)])
def test_widths(length, width):
    assert constraints_lib.width_for(length) == width
