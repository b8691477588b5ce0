"""Packing and ladders against brute force and hand examples."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.errors import UserError
from genrec_jax.pipeline import packing


def test_packing_by_hand():
    inputs, targets = np.array([3, 7, 5, 2, 8]), np.array([1, 1, 1, 1, 1])
    placement = packing.pack(inputs, targets, input_length=10, target_length=2)
    # Longest first: 8 opens row 0, 7 row 1, 5 row 2; 3 fills row 1 exactly, 2 row 0.
    assert placement.rows_E.tolist() == [1, 1, 2, 0, 0]
    assert placement.input_starts_E.tolist() == [7, 0, 0, 8, 0]
    assert placement.target_starts_E.tolist() == [1, 0, 0, 1, 0]
    assert placement.segments_E.tolist() == [2, 1, 1, 2, 1]
    assert placement.num_rows == 3


def test_room_for_targets_counts():
    ones = np.ones(5, int)
    placement = packing.pack(ones, ones * 2, input_length=10, target_length=4)
    assert np.bincount(placement.rows_E).tolist() == [2, 2, 1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=60))
def test_no_two_examples_share_a_cell(pairs):
    inputs, targets = (np.array(column) for column in zip(*pairs, strict=True))
    placement = packing.pack(inputs, targets, input_length=20, target_length=12)
    for lengths, starts, width in (
        (inputs, placement.input_starts_E, 20),
        (targets, placement.target_starts_E, 12),
    ):
        cells = [
            (row, column)
            for row, start, length in zip(placement.rows_E, starts, lengths, strict=True)
            for column in range(start, start + length)
        ]
        assert len(set(cells)) == len(cells)
        assert max(column for _, column in cells) < width
    for row in range(placement.num_rows):
        segments = sorted(placement.segments_E[placement.rows_E == row].tolist())
        assert segments == list(range(1, len(segments) + 1))
    lower = max(-(-inputs.sum() // 20), -(-targets.sum() // 12))
    assert lower <= placement.num_rows <= len(pairs)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 4), st.integers(9, 12))
def test_the_ladder_is_the_best_there_is(samples, steps, largest):
    ladder = packing.fit_ladder(np.array(samples), largest, steps=steps)
    assert ladder[-1] == largest
    assert len(ladder) <= steps

    def cost(candidate):
        return sum(packing.rung(candidate, size) for size in samples)

    below = sorted({*samples} - {largest})
    best = min(
        cost((*chosen, largest))
        for count in range(steps)
        for chosen in itertools.combinations(below, min(count, len(below)))
    )
    assert cost(ladder) == best


def test_rung():
    assert [packing.rung((8, 16), size) for size in (1, 8, 9, 16)] == [8, 8, 16, 16]
    with pytest.raises(UserError, match="the largest of the ladder is 16"):
        packing.rung((8, 16), 17)
    assert packing.round_up(17, 8) == 24
