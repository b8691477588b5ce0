"""Ragged arrays against Python lists."""

import numpy as np

from genrec_jax.pipeline import token_runs
from genrec_jax.pipeline.token_runs import TokenRuns

LISTS = [[5, 6], [], [7], [8, 9, 10]]


def test_from_lists_and_back():
    runs = TokenRuns.from_lists(LISTS)
    assert runs.values_P.tolist() == [5, 6, 7, 8, 9, 10]
    assert runs.offsets_E1.tolist() == [0, 2, 2, 3, 6]
    assert runs.to_lists() == LISTS
    assert len(TokenRuns.from_lists([])) == 0


def test_take_concatenate_and_padded():
    runs = TokenRuns.from_lists(LISTS)
    assert runs.take(np.array([3, 1, 3])).to_lists() == [[8, 9, 10], [], [8, 9, 10]]
    assert TokenRuns.concatenate([runs, runs.take(np.array([2]))]).to_lists() == [*LISTS, [7]]
    assert runs.padded(4).tolist() == [[5, 6, 0, 0], [0] * 4, [7, 0, 0, 0], [8, 9, 10, 0]]


def test_gather_slices():
    pool = np.arange(100, 120, dtype=np.int32)
    starts, lengths = np.array([3, 0, 19, 4]), np.array([2, 0, 1, 3])
    assert token_runs.gather(pool, starts, lengths).tolist() == [103, 104, 119, 104, 105, 106]
    assert not len(token_runs.gather(pool, starts[:0], lengths[:0]))
