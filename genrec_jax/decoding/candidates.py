"""One step of the search over the trie: read the beams' children and keep the best.

A node may have any number of children, so they are read in chunks, of a width that the step chooses
from a short ladder: one child a beam inside tails, a handful deep in the trie. Where even the widest
rung is too narrow, a loop merges a running top-k. So neither a wide node nor a changed catalogue
changes a shape, and narrow steps do not pay for wide ones. Every child gets a score; its token and
where it leads are read for those that are kept.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding import constraints as constraints_lib
from genrec_jax.decoding import selection
from genrec_jax.decoding.constraints import LAST_ITEM, Constraints
from genrec_jax.decoding.trie import Trie

WIDTHS = (1, 8, 64)
SMALLEST_READ = 64
"""Rungs at which all beams of an example together read fewer children save no time."""


class Beams(NamedTuple):
    """Where the running beams stand; fields as in `search.SearchState`."""

    places_BM: Int[Array, "B M"]
    tails_BM: Int[Array, "B M"]
    scores_BM: Float[Array, "B M"]


class Children(NamedTuple):
    """The best unfinished children of an example's beams, and its finished ones.

    The first six fields describe the k best unfinished children, best first, -inf for none; `items`
    is the smallest item that a child may become. Of finished children each beam has one at most.
    """

    scores_BM: Float[Array, "B M"]
    items_BM: Int[Array, "B M"]
    parents_BM: Int[Array, "B M"]
    tokens_BM: Int[Array, "B M"]
    places_BM: Int[Array, "B M"]
    tails_BM: Int[Array, "B M"]
    finished_BM: Float[Array, "B M"]
    finished_items_BM: Int[Array, "B M"]


class _Spans(NamedTuple):
    """The children of each beam: arcs that are neighbours, or the one next token of a tail.

    Attributes:
        firsts_BM: the first arc.
        counts_BM: how many there are; none for an empty beam.
        in_tail_BM: whether the beam is inside a tail.
        tail_tokens_BM: its next token there, end-of-sequence after the last.
    """

    firsts_BM: Int[Array, "B M"]
    counts_BM: Int[Array, "B M"]
    in_tail_BM: Bool[Array, "B M"]
    tail_tokens_BM: Int[Array, "B M"]


class _Kept(NamedTuple):
    """Children kept: scores, beam, place among the beam's children; `lost` as in `selection.Top`."""

    scores_BR: Float[Array, "B R"]
    parents_BR: Int[Array, "B R"]
    offsets_BR: Int[Array, "B R"]
    lost_B: Float[Array, " B"]


LogitsOf = Callable[[Int[Array, "B M C"]], Float[Array, "B M C"]]
ScoresOf = Callable[[Int[Array, ""], int], Float[Array, "B C"]]
"""From the number and the width of a chunk to the scores of its running children, beam by beam."""


def best_children(
    beams: Beams,
    trie: Trie,
    logits_of: LogitsOf,
    normaliser_BM: Float[Array, "B M"],
    keep: int,
    width: int,
    constraints: Constraints | None,
) -> Children:
    """The `keep` best unfinished children of all beams of an example, and every finished child.

    Args:
        beams: the running beams.
        trie: the catalogue.
        logits_of: the network's logits of asked-for tokens.
        normaliser_BM: what to subtract from logits to get log-probabilities.
        keep: how many unfinished children to keep.
        width: children of a beam read at a time at most.
        constraints: which items an example may get.
    """
    spans = _spans(beams, trie)
    finished_BM, finished_items_BM = _finished(
        beams, spans, trie, logits_of, normaliser_BM, constraints
    )
    # End-of-sequence is a node's first arc; finished children do not run on.
    starts_BM = (_tokens(spans, spans.firsts_BM[:, :, None], trie) == trie.eos_id)[:, :, 0]

    def scores_of(chunk: Array, width: int) -> Float[Array, "B C"]:
        offsets_C = chunk * width + jnp.arange(width, dtype=jnp.int32)
        arcs_BMC = spans.firsts_BM[:, :, None] + offsets_C[None, None, :]
        scores_BMC = logits_of(_tokens(spans, arcs_BMC, trie)) - normaliser_BM[:, :, None]
        scores_BMC = beams.scores_BM[:, :, None] + scores_BMC
        running_BMC = (offsets_C[None, None, :] >= starts_BM[:, :, None]) & _valid(
            beams, spans, trie, offsets_C, constraints
        )
        scores_BMC = jnp.where(running_BMC, scores_BMC, -jnp.inf)
        return scores_BMC.reshape(scores_BMC.shape[0], -1)

    kept = _highest(spans, scores_of, keep, width)
    # Equal scores on both sides of the cut: by smallest item, which takes a second reading.
    straddles = jnp.any((kept.lost_B >= kept.scores_BR[:, -1]) & (kept.lost_B > -jnp.inf))
    kept = jax.lax.cond(
        straddles,
        lambda: _highest_by_item(beams, spans, trie, scores_of, keep, width),
        lambda: kept,
    )
    kept = _in_order(kept, beams, spans, trie)
    places_BM = _places(kept, beams, spans, trie)
    items_BM = smallest_items(places_BM, trie)
    chosen = lambda column_BM: jnp.take_along_axis(column_BM, kept.parents_BR, axis=1)  # noqa: E731
    arcs_BM = chosen(spans.firsts_BM) + kept.offsets_BR
    tokens_BM = trie.arc_tokens_A.at[arcs_BM].get(mode="clip").astype(jnp.int32)
    was_in_tail_BM = chosen(spans.in_tail_BM)
    return Children(
        scores_BM=kept.scores_BR,
        items_BM=items_BM,
        parents_BM=kept.parents_BR,
        tokens_BM=jnp.where(was_in_tail_BM, chosen(spans.tail_tokens_BM), tokens_BM),
        places_BM=places_BM,
        tails_BM=jnp.where(
            was_in_tail_BM,
            chosen(beams.tails_BM) + 1,
            trie.tail_starts_I[jnp.where(places_BM < 0, items_BM, 0)],
        ),
        finished_BM=finished_BM,
        finished_items_BM=finished_items_BM,
    )


def normaliser_of_children(
    beams: Beams,
    trie: Trie,
    logits_of: LogitsOf,
    width: int,
    constraints: Constraints | None,
) -> Float[Array, "B M"]:
    """Logsumexp of the logits of each beam's children, read in chunks; 0 where there are none."""
    spans = _spans(beams, trie)

    def add_chunk(chunk: Array, total_BM: Array) -> Array:
        offsets_C = chunk * width + jnp.arange(width, dtype=jnp.int32)
        arcs_BMC = spans.firsts_BM[:, :, None] + offsets_C[None, None, :]
        valid_BMC = _valid(beams, spans, trie, offsets_C, constraints)
        logits_BMC = jnp.where(valid_BMC, logits_of(_tokens(spans, arcs_BMC, trie)), -jnp.inf)
        return jnp.logaddexp(total_BM, jax.nn.logsumexp(logits_BMC, axis=2))

    nothing_BM = jnp.full(beams.scores_BM.shape, -jnp.inf, jnp.float32)
    total_BM = jax.lax.fori_loop(0, _num_chunks(spans, width), add_chunk, nothing_BM)
    return jnp.where(total_BM > -jnp.inf, total_BM, 0.0)


def smallest_items(places: Int[Array, "*N"], trie: Trie) -> Int[Array, "*N"]:
    """The smallest item number under each place of the trie: the order of equal scores."""
    return jnp.where(places < 0, -1 - places, trie.node_items_J[jnp.maximum(places, 0)])


def _highest(spans: _Spans, scores_of: ScoresOf, keep: int, width: int) -> _Kept:
    """The highest scores, read at the narrowest width that serves; of equal ones at the cut, any."""
    first = jnp.zeros((), jnp.int32)

    def read(chunk: Array, width: int) -> _Kept:
        scores_BC = scores_of(chunk, width)
        best = selection.top(scores_BC, keep)
        indices_BR = jnp.minimum(best.indices_BR, scores_BC.shape[1] - 1)
        offsets_BR = chunk * width + indices_BR % width
        return _Kept(best.scores_BR, indices_BR // width, offsets_BR, best.lost_B)

    def merge(chunk: Array, kept: _Kept) -> _Kept:
        new = read(chunk, width)
        best = selection.top(jnp.concatenate([kept.scores_BR, new.scores_BR], axis=1), keep)
        lost_B = jnp.maximum(jnp.maximum(kept.lost_B, new.lost_B), best.lost_B)
        return _joined(kept, new, best.scores_BR, best.indices_BR)._replace(lost_B=lost_B)

    def read_all() -> _Kept:
        return jax.lax.fori_loop(1, _num_chunks(spans, width), merge, read(first, width))

    num_beams = spans.counts_BM.shape[1]
    rungs = [rung for rung in WIDTHS if rung < width and rung * num_beams >= SMALLEST_READ]
    once = [functools.partial(read, first, rung) for rung in rungs]
    above = jnp.max(spans.counts_BM) > jnp.asarray(rungs, jnp.int32)
    return jax.lax.switch(jnp.sum(above, dtype=jnp.int32), [*once, read_all])


def _highest_by_item(
    beams: Beams, spans: _Spans, trie: Trie, scores_of: ScoresOf, keep: int, width: int
) -> _Kept:
    """The highest scores, and of equal ones at the cut those with the smallest items."""
    batch, num_beams = spans.counts_BM.shape
    nothing_BR = jnp.full((batch, keep), -jnp.inf, jnp.float32)
    zeros_BR = jnp.zeros((batch, keep), jnp.int32)
    offsets_C = jnp.arange(width, dtype=jnp.int32)
    parents_BC, offsets_BC = (
        jnp.broadcast_to(column.reshape(-1), (batch, num_beams * width))
        for column in jnp.meshgrid(jnp.arange(num_beams, dtype=jnp.int32), offsets_C, indexing="ij")
    )

    def merge(chunk: Array, kept: _Kept) -> _Kept:
        new = _Kept(
            scores_of(chunk, width), parents_BC, chunk * width + offsets_BC, nothing_BR[:, 0]
        )
        both = _Kept(*map(_side_by_side, kept, new))
        items_BC = smallest_items(_places(both, beams, spans, trie), trie)
        scores_BR, best_BR = selection.top_of_ties(both.scores_BR, items_BC, keep)
        return _joined(kept, new, scores_BR, best_BR)

    nothing = _Kept(nothing_BR, zeros_BR, zeros_BR, nothing_BR[:, 0])
    return jax.lax.fori_loop(0, _num_chunks(spans, width), merge, nothing)


def _in_order(kept: _Kept, beams: Beams, spans: _Spans, trie: Trie) -> _Kept:
    """By score, then by smallest item; top-k leaves them so unless some are equal."""
    ascends = kept.scores_BR[:, 1:] >= kept.scores_BR[:, :-1]
    unordered = jnp.any(ascends & (kept.scores_BR[:, 1:] > -jnp.inf))

    def ordered() -> _Kept:
        items_BR = smallest_items(_places(kept, beams, spans, trie), trie)
        columns = (-kept.scores_BR, items_BR, kept.parents_BR, kept.offsets_BR)
        scores_BR, _, parents_BR, offsets_BR = jax.lax.sort(columns, dimension=1, num_keys=2)
        return _Kept(-scores_BR, parents_BR, offsets_BR, kept.lost_B)

    return jax.lax.cond(unordered, ordered, lambda: kept)


def _side_by_side(left: Array, right: Array) -> Array:
    return jnp.concatenate([left, right], axis=1) if left.ndim == 2 else left


def _joined(left: _Kept, right: _Kept, scores_BR: Array, indices_BR: Array) -> _Kept:
    """Those of two side by side that the indices choose."""
    parents_BR, offsets_BR = (
        jnp.take_along_axis(_side_by_side(*columns), indices_BR, axis=1)
        for columns in (
            (left.parents_BR, right.parents_BR),
            (left.offsets_BR, right.offsets_BR),
        )
    )
    return _Kept(scores_BR, parents_BR, offsets_BR, left.lost_B)


def _num_chunks(spans: _Spans, width: int) -> Int[Array, ""]:
    return -(-jnp.max(spans.counts_BM) // width)


def _places(kept: _Kept, beams: Beams, spans: _Spans, trie: Trie) -> Int[Array, "B R"]:
    """Where the children kept stand in the trie."""
    arcs_BR = jnp.take_along_axis(spans.firsts_BM, kept.parents_BR, axis=1) + kept.offsets_BR
    places_BR = jnp.take_along_axis(beams.places_BM, kept.parents_BR, axis=1)
    return jnp.where(places_BR < 0, places_BR, trie.arc_nexts_A.at[arcs_BR].get(mode="clip"))


def _spans(beams: Beams, trie: Trie) -> _Spans:
    in_tail_BM = beams.places_BM < 0
    nodes_BM = jnp.maximum(beams.places_BM, 0)
    firsts_BM = trie.node_arcs_J[nodes_BM]
    counts_BM = jnp.where(in_tail_BM, 1, trie.node_arcs_J[nodes_BM + 1] - firsts_BM)
    items_BM = jnp.maximum(-1 - beams.places_BM, 0)
    ended_BM = beams.tails_BM >= trie.tail_starts_I[items_BM + 1]
    tokens_BM = trie.tail_tokens_Y.at[beams.tails_BM].get(mode="clip").astype(jnp.int32)
    return _Spans(
        firsts_BM=firsts_BM,
        counts_BM=jnp.where(beams.scores_BM > -jnp.inf, counts_BM, 0),
        in_tail_BM=in_tail_BM,
        tail_tokens_BM=jnp.where(ended_BM, trie.eos_id, tokens_BM),
    )


def _tokens(spans: _Spans, arcs_BMC: Int[Array, "B M C"], trie: Trie) -> Int[Array, "B M C"]:
    """The tokens of arcs, or of the tail where the beam is in one."""
    tokens_BMC = trie.arc_tokens_A.at[arcs_BMC].get(mode="clip").astype(jnp.int32)
    return jnp.where(spans.in_tail_BM[:, :, None], spans.tail_tokens_BM[:, :, None], tokens_BMC)


def _valid(
    beams: Beams,
    spans: _Spans,
    trie: Trie,
    offsets_C: Int[Array, " C"],
    constraints: Constraints | None,
) -> Bool[Array, "B M C"]:
    """Whether a beam has a child at each offset, and the example may get an item under it."""
    valid_BMC = offsets_C[None, None, :] < spans.counts_BM[:, :, None]
    if constraints is None:
        return valid_BMC
    nexts_BMC = trie.arc_nexts_A.at[spans.firsts_BM[:, :, None] + offsets_C[None, None, :]].get(
        mode="clip"
    )
    places_BMC = jnp.where(spans.in_tail_BM[:, :, None], beams.places_BM[:, :, None], nexts_BMC)
    return valid_BMC & constraints_lib.alive(places_BMC, trie, constraints)


def _finished(
    beams: Beams,
    spans: _Spans,
    trie: Trie,
    logits_of: LogitsOf,
    normaliser_BM: Float[Array, "B M"],
    constraints: Constraints | None,
) -> tuple[Float[Array, "B M"], Int[Array, "B M"]]:
    """Scores and items of the children that end an id: always the first child of a beam."""
    tokens_BMC = _tokens(spans, spans.firsts_BM[:, :, None], trie)
    valid_BMC = _valid(beams, spans, trie, jnp.zeros(1, jnp.int32), constraints)
    ends_BM = (valid_BMC & (tokens_BMC == trie.eos_id))[:, :, 0]
    scores_BM = beams.scores_BM + (logits_of(tokens_BMC)[:, :, 0] - normaliser_BM)
    nexts_BM = trie.arc_nexts_A.at[spans.firsts_BM].get(mode="clip")
    places_BM = jnp.where(spans.in_tail_BM, beams.places_BM, nexts_BM)
    items_BM = jnp.where(ends_BM, -1 - places_BM, LAST_ITEM)
    return jnp.where(ends_BM, scores_BM, -jnp.inf), items_BM
