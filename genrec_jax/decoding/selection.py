"""Exact selection of the best candidates, by score and then by smallest item.

`jax.lax.top_k` breaks ties by position, and a sort by both keys is slow on every backend. So the usual
case, in which no equal scores straddle the cut, is a top-k that reports what it may have lost (`top`);
only where that matters is the selection made again by both keys (`top_of_ties`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SMALLEST_GROUPED = 1024
"""Rows shorter than this are selected from at once, without groups."""


class Top(NamedTuple):
    """The highest scores of each row, highest first, and where they stand.

    Attributes:
        scores_BR: the scores, -inf for none.
        indices_BR: their places in the row; of -inf, any place.
        lost_B: the highest score that was left out although an equal one was kept; -inf for none.
    """

    scores_BR: Float[Array, "B R"]
    indices_BR: Int[Array, "B R"]
    lost_B: Float[Array, " B"]


def top(scores_BC: Float[Array, "B C"], keep: int) -> Top:
    """The `keep` highest scores of each row; of equal ones at the cut, any.

    Long rows are dealt out to groups first. The groups with the k highest maxima hold k scores as high
    as the row's k highest, and of their members alone the second top-k is taken. One score more than is
    kept says whether an equal one was left out.
    """
    wanted = keep + 1
    scores_BC = _filled(scores_BC, wanted)
    batch, count = scores_BC.shape
    size = _group_size(count, wanted)
    if size == 1:
        top_BR, indices_BR = _top_k(scores_BC, wanted)
    else:
        groups = -(-count // size)
        scores_BC = _filled(scores_BC, groups * size)
        # Member s of group g stands at s * groups + g, so that the maxima are taken of whole rows.
        highest_BG = jnp.max(scores_BC.reshape(batch, size, groups), axis=1)
        _, chosen_BR = _top_k(highest_BG, wanted)
        members_BSR = jnp.arange(size, dtype=jnp.int32)[None, :, None] * groups + chosen_BR[:, None]
        members_BC = members_BSR.reshape(batch, -1)
        top_BR, places_BR = _top_k(jnp.take_along_axis(scores_BC, members_BC, axis=1), wanted)
        indices_BR = jnp.take_along_axis(members_BC, places_BR, axis=1)
    last_B, next_B = top_BR[:, keep - 1], top_BR[:, keep]
    lost_B = jnp.where(next_B == last_B, last_B, -jnp.inf)
    return Top(top_BR[:, :keep], indices_BR[:, :keep], lost_B)


def top_of_ties(
    scores_BC: Float[Array, "B C"], items_BC: Int[Array, "B C"], keep: int
) -> tuple[Float[Array, "B R"], Int[Array, "B R"]]:
    """The `keep` best of each row by score, then by smallest item, in no order; scores and indices."""
    scores_BC, items_BC = _filled(scores_BC, keep), _filled(items_BC, keep)
    cut_B1 = _top_k(scores_BC, keep)[0][:, -1:]
    order_BC = jnp.where(scores_BC == cut_B1, _descending(items_BC), -jnp.inf)
    order_BC = jnp.where(scores_BC > cut_B1, jnp.inf, order_BC)
    _, indices_BR = _top_k(order_BC, keep)
    return jnp.take_along_axis(scores_BC, indices_BR, axis=1), indices_BR


def best_pairs(
    scores_BC: Float[Array, "B C"], items_BC: Int[Array, "B C"], keep: int
) -> tuple[Float[Array, "B R"], Int[Array, "B R"]]:
    """The `keep` best pairs by score, then by smallest item, best first."""
    scores_BC, items_BC = jax.lax.sort((-scores_BC, items_BC), dimension=1, num_keys=2)
    return -scores_BC[:, :keep], items_BC[:, :keep]


def _top_k(scores_BC: Array, keep: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` behind a barrier.

    On a CPU XLA knows a top-k as a sort of which the first are taken, and calls its own routine for it;
    a slice of the result merges with that one, and the whole row is sorted, at 5 to 20 times the cost.
    """
    top_BR, indices_BR = jax.lax.top_k(scores_BC, keep)
    # Apart, because XLA's partitioner fails on a barrier of both.
    return jax.lax.optimization_barrier(top_BR), jax.lax.optimization_barrier(indices_BR)


def _filled(column_BC: Array, keep: int) -> Array:
    """The column with -inf (of integers, zeros) after it, at least as long as `keep`."""
    missing = max(keep - column_BC.shape[1], 0)
    fill = -jnp.inf if jnp.issubdtype(column_BC.dtype, jnp.floating) else 0
    return (
        jnp.pad(column_BC, ((0, 0), (0, missing)), constant_values=fill) if missing else column_BC
    )


def _group_size(count: int, wanted: int) -> int:
    """Members of a group: near the size at which both stages read least."""
    if count < SMALLEST_GROUPED:
        return 1
    size = 1 << max(int((count / wanted) ** 0.5).bit_length() - 1, 0)
    while -(-count // size) < wanted:
        size //= 2
    return size


def _descending(items: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """Positive floats that fall as items rise: the bits of a positive float are ordered as integers.

    (A top-k of integers is a whole sort on a CPU. Items from 0 to 2**31 - 2**24 get normal numbers.)
    """
    highest = np.float32(np.finfo(np.float32).max).view(np.int32)
    lowest = np.float32(np.finfo(np.float32).tiny).view(np.int32)
    bits = jnp.maximum(jnp.int32(highest) - items, jnp.int32(lowest))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
