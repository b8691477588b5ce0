"""All random draws of numbers, orders and the pipeline: a counter-based hash and a keyed order.

There is no generator with a state. A draw depends on its numbers alone, so any example of any
epoch can be made first, last, twice, or on another host. Golden values in the tests pin both
functions: a change of either changes every run's data.
"""

import math

import numpy as np
from jaxtyping import Int64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 6
_LAST = np.uint64(0xFFFFFFFFFFFFFFFF)
NO_PLACE = 1 << 16

Numbers = int | Int64[np.ndarray, "..."]


def hash_numbers(*numbers: Numbers) -> UInt64[np.ndarray, "..."]:
    """A 64-bit hash of a tuple of numbers, elementwise, with broadcasting.

    Each number is folded in and mixed with the finaliser of SplitMix64 (Steele, Lea and Flood 2014).

    Args:
        *numbers: 64-bit integers, at least one of them an array if an array is wanted.

    Returns:
        uint64, of the broadcast shape (at least one dimension).
    """
    state = np.zeros(1, np.uint64)
    for number in numbers:
        bits = np.atleast_1d(np.asarray(number, np.int64)).view(np.uint64)
        state = _mix((state + bits + np.uint64(1)) * _GOLDEN)
    return state


def draw_order(count: int, *numbers: Numbers) -> Int64[np.ndarray, "... count"]:
    """A random order of 0..count-1 for each tuple of numbers: draws without replacement.

    Args:
        count: how many there are to draw from.
        *numbers: as for `hash_numbers`; their broadcast shape leads the result's.
    """
    columns = [
        np.asarray(number, np.int64)[..., None] if isinstance(number, np.ndarray) else number
        for number in numbers
    ]
    hashes = hash_numbers(*columns, np.arange(count))
    return np.argsort(hashes, axis=-1, kind="stable")


def draw_places(
    counts: Int64[np.ndarray, " E"], sizes: Int64[np.ndarray, " E"], *numbers: Numbers
) -> Int64[np.ndarray, "E J"]:
    """Random subsets: in each row e `counts[e]` different places of 0..sizes[e]-1, all subsets alike.

    Args:
        counts: how many places; at most `sizes`, which is below 2^16.
        sizes: how many places there are.
        *numbers: as for `hash_numbers`, of the rows' shape.

    Returns:
        The places in ascending order, as many columns as the largest count; `NO_PLACE` beyond a
        row's count.
    """
    width = int(sizes.max(initial=0))
    columns = [
        np.asarray(number, np.int64)[:, None] if isinstance(number, np.ndarray) else number
        for number in numbers
    ]
    place_J = np.arange(width)
    hashes_EJ = hash_numbers(*columns, place_J) & ~np.uint64(0xFFFF)
    keys_EJ = np.where(place_J < sizes[:, None], hashes_EJ | place_J.astype(np.uint64), _LAST)
    keys_EJ.sort(axis=1)
    chosen_EJ = (keys_EJ & np.uint64(0xFFFF)).astype(np.int64)[:, : int(counts.max(initial=0))]
    chosen_EJ[np.arange(chosen_EJ.shape[1]) >= counts[:, None]] = NO_PLACE
    chosen_EJ.sort(axis=1)
    return chosen_EJ


def permute(
    numbers: Int64[np.ndarray, " E"], size: int, key: UInt64[np.ndarray, " #E"]
) -> Int64[np.ndarray, " E"]:
    """A keyed permutation of 0..size-1, evaluated only where asked.

    A Feistel network on pairs of digits of base ceil(sqrt(size)); what falls outside is sent
    through again until it falls inside (cycle walking; Black and Rogaway 2002). Memory is O(1) in
    `size`.

    Args:
        numbers: positions in the order, each in 0..size-1.
        size: how many numbers are permuted.
        key: the permutation's key, or one for each number.

    Returns:
        What stands at those positions.
    """
    base = np.uint64(math.isqrt(size - 1) + 1)
    keys = np.broadcast_to(key, numbers.shape)
    result = _feistel(numbers.astype(np.uint64), base, keys)
    while (outside := np.flatnonzero(result >= size)).size:
        result[outside] = _feistel(result[outside], base, keys[outside])
    return result.astype(np.int64)


def _feistel(numbers: np.ndarray, base: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(numbers, base)
    for round_number in range(_ROUNDS):
        drawn = _mix((keys + right + np.uint64(round_number << 56)) * _GOLDEN)
        left, right = right, (left + drawn % base) % base
    return left * base + right


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * _FACTOR_1
    bits = (bits ^ (bits >> np.uint64(27))) * _FACTOR_2
    return bits ^ (bits >> np.uint64(31))
