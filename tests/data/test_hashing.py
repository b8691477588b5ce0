"""Draws: golden values, permutations, uniformity."""

import numpy as np
import pytest

from genrec_jax.data import hashing

MASK = (1 << 64) - 1
GOLDEN_HASHES = [9669442505924063346, 17281550289527850393, 12922162713514795594]
GOLDEN_ORDER = [164, 581, 360, 312, 587, 181, 517, 647, 816, 923]
GOLDEN_PLACES = [[5, 9, 18], [1, 9, hashing.NO_PLACE]]
GOLDEN_DRAWS = [[0, 5, 1, 8, 6, 2, 4, 7, 3, 9], [4, 3, 1, 7, 6, 5, 9, 0, 2, 8]]


def _mix(bits: int) -> int:
    """SplitMix64's finaliser on Python's integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def _hash(*numbers: int) -> int:
    state = 0
    for number in numbers:
        state = _mix(((state + number + 1) * 0x9E3779B97F4A7C15) & MASK)
    return state


def test_the_finaliser_is_splitmix64s():
    # The first outputs of SplitMix64 seeded with 0, as its authors' program prints them.
    assert int(hashing.hash_numbers(0)[0]) == 0xE220A8397B1DCDAF
    assert int(hashing.hash_numbers(1)[0]) == 0x6E789E6AA1B965F4


def test_golden_values():
    """These pin every run's data: if they change, all runs see other examples."""
    assert [
        int(hashing.hash_numbers(*n)[0]) for n in ((0, 0), (1, 2, 3), (2**40, 7))
    ] == GOLDEN_HASHES
    key = hashing.hash_numbers(0, 1, 2)
    assert hashing.permute(np.arange(10), 1000, key).tolist() == GOLDEN_ORDER
    assert hashing.draw_order(10, 0, 1, np.array([5, 6])).tolist() == GOLDEN_DRAWS


def test_equal_to_arithmetic_on_integers():
    numbers = np.array([0, 1, 12345, 2**62], np.int64)
    found = hashing.hash_numbers(7, numbers, 3)
    assert [int(x) for x in found] == [_hash(7, int(n), 3) for n in numbers]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 48, 49, 50, 1000, 10007])
def test_permute_is_a_permutation(size: int):
    for seed in range(3):
        order = hashing.permute(np.arange(size), size, hashing.hash_numbers(seed))
        assert np.array_equal(np.sort(order), np.arange(size))


def test_permute_takes_a_key_each():
    keys = hashing.hash_numbers(np.arange(50))
    numbers = np.arange(50)
    together = hashing.permute(numbers, 977, keys)
    single = [int(hashing.permute(numbers[i : i + 1], 977, keys[i : i + 1])[0]) for i in range(50)]
    assert together.tolist() == single
    assert together.tolist() != hashing.permute(numbers, 977, keys[:1]).tolist()


def test_permuted_places_are_uniform():
    """Chi-squared over 10,000 keys: where number 3 of 12 goes, and the pair it forms with number 4."""
    keys = hashing.hash_numbers(9, np.arange(10_000))
    first = hashing.permute(np.full(10_000, 3), 12, keys)
    second = hashing.permute(np.full(10_000, 4), 12, keys)
    counts = np.bincount(first, minlength=12)
    assert ((counts - 10_000 / 12) ** 2 / (10_000 / 12)).sum() < 31.3  # p = .001 at 11 degrees
    pairs = np.bincount(first * 12 + second, minlength=144).reshape(12, 12)
    pairs = pairs[~np.eye(12, dtype=bool)]
    expected = 10_000 / 132
    assert ((pairs - expected) ** 2 / expected).sum() < 188  # p = .001 at 131 degrees


def test_draw_order_is_uniform_and_without_replacement():
    orders = hashing.draw_order(10, 4, np.arange(5000))
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(10), (5000, 1)))
    counts = np.stack([np.bincount(column, minlength=10) for column in orders.T])
    assert ((counts - 500) ** 2 / 500).sum(axis=1).max() < 33  # p = .0001 at 9 degrees


def test_places_are_subsets_all_alike_likely():
    """2 of 4 places: the 6 subsets; rows of other counts and sizes keep to theirs."""
    rows = 12_000
    counts, sizes = np.full(rows, 2), np.full(rows, 4)
    counts[::3], sizes[::3] = 3, 9
    drawn = hashing.draw_places(counts, sizes, 5, np.arange(rows))
    assert drawn.shape == (rows, 3)
    assert (np.diff(drawn, axis=1) > 0).all()
    pairs = drawn[counts == 2]
    assert (pairs[:, 2] == hashing.NO_PLACE).all()
    assert pairs[:, :2].max() < 4
    _, found = np.unique(pairs[:, :2], axis=0, return_counts=True)
    assert len(found) == 6
    assert np.abs(found - len(pairs) / 6).max() < 4 * np.sqrt(len(pairs) / 6)
    assert drawn[counts == 3].max() == 8
    assert hashing.draw_places(np.array([0, 2]), np.array([5, 2]), 1).tolist() == [
        [hashing.NO_PLACE] * 2,
        [0, 1],
    ]


def test_golden_places():
    """They pin which items and spans every run masks."""
    drawn = hashing.draw_places(np.array([3, 2]), np.array([20, 10]), 1, np.array([4, 5]))
    assert drawn.tolist() == GOLDEN_PLACES


def test_an_order_of_no_other_number_is_that_of_splitmix64s_outputs():
    def output(number):  # of a generator seeded with 0, in plain integers
        mixed = number * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        return mixed ^ (mixed >> 31)

    assert output(1) == 0xE220A8397B1DCDAF  # as published
    for count in (0, 1, 8, 1000):
        expected = sorted(range(count), key=lambda user: output(user + 1))
        assert hashing.draw_order(count).tolist() == expected
