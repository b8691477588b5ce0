"""Which children of an example's beams score highest, without reading more of them than must be.

Three ways to read. Where all beams have few children, all of them at once. Where some have many, which
are most of the tokens between their first and their last, and the network keeps its logits, by bounds: the
highest logit of each group of neighbouring tokens says how well a child among them can score at best, so
the groups with the highest bounds are read first, until what was found is as high as any bound that is
left (Fagin, Lotem and Naor 2003, the threshold algorithm). Otherwise all children, in chunks that a loop
merges, the wider the wider the widest node. So neither a wide node nor a changed catalogue changes a
shape, and a full node costs little more than a narrow one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.decoding import children, constraints, selection
from genrec_jax.decoding.children import Beams, Spans
from genrec_jax.decoding.constraints import Constraints
from genrec_jax.decoding.trie import Trie

NARROW = (8, 32)
"""Children of a beam up to which all are read at once: by the smallest of these that holds them."""
BROAD = 512
"""Children of a beam read at a time where some have more than a chunk of them and logits are kept."""
WIDE = 64
"""Children of a beam beyond which they may be read by bounds."""
DENSE = 2
"""Tokens a child, between the first and the last, up to which bounds are tight enough to save time."""
GROUP = 16
"""Neighbouring tokens that share a bound."""
SPARE_GROUPS = 2
"""Groups read in a round beyond the children to be kept, for bounds that no child reaches."""

LogitsOf = Callable[[Int[Array, "B M C"]], Float[Array, "B M C"]]


class KeptLogits(NamedTuple):
    """The logits of a step, where a network keeps them all.

    Attributes:
        logits_BMV: of every token.
        highest_BMG: the highest of each `GROUP` neighbouring tokens (`highest_of_groups`).
    """

    logits_BMV: Float[Array, "B M V"]
    highest_BMG: Float[Array, "B M G"]


class Frontier(NamedTuple):
    """What is read from: the beams, the trie and the network's answers.

    Attributes:
        beams: the running beams.
        spans: their children.
        trie: the catalogue.
        logits_of: the network's logits of asked-for tokens.
        kept: all of its logits, if it keeps them.
        normaliser_BM: what to subtract from logits to get log-probabilities.
        constraints: which items an example may get.
    """

    beams: Beams
    spans: Spans
    trie: Trie
    logits_of: LogitsOf
    kept: KeptLogits | None
    normaliser_BM: Float[Array, "B M"]
    constraints: Constraints | None


class Found(NamedTuple):
    """Running children found: scores, beam, place among the beam's children; `lost` as in `Top`."""

    scores_BR: Float[Array, "B R"]
    parents_BR: Int[Array, "B R"]
    offsets_BR: Int[Array, "B R"]
    lost_B: Float[Array, " B"]


class _Read(NamedTuple):
    """Children read at once.

    Attributes:
        scores_BC: of running children; -inf for none.
        whence: from places among the scores to beams, and to places among the beams' children.
    """

    scores_BC: Float[Array, "B C"]
    whence: Callable[[Int[Array, "B N"]], tuple[Int[Array, "B N"], Int[Array, "B N"]]]


def highest_of_groups(logits: Float[Array, "*rows V"]) -> Float[Array, "*rows G"]:
    """The highest logit of each `GROUP` neighbouring tokens; the last group may be shorter."""
    whole = logits.shape[-1] // GROUP * GROUP
    grouped = logits[..., :whole].reshape(*logits.shape[:-1], -1, GROUP)
    highest = jnp.max(grouped, axis=-1)
    if whole == logits.shape[-1]:
        return highest
    return jnp.concatenate([highest, jnp.max(logits[..., whole:], axis=-1, keepdims=True)], axis=-1)


def frontier_of(
    beams: Beams,
    trie: Trie,
    logits_of: LogitsOf,
    kept: KeptLogits | None,
    normaliser_BM: Float[Array, "B M"],
    constraints: Constraints | None,
) -> Frontier:
    """What a step reads from; see `Frontier`."""
    spans = children.spans_of(beams, trie)
    return Frontier(beams, spans, trie, logits_of, kept, normaliser_BM, constraints)


def highest(front: Frontier, keep: int, width: int) -> Found:
    """The `keep` highest running children of all beams of an example, highest first.

    Of equal ones at the cut any are kept, and `lost_B` is at least their score.

    Args:
        front: what is read from.
        keep: how many are wanted.
        width: children of a beam read at a time, at most.
    """
    batch, num_beams = front.spans.counts_BM.shape

    def at_once(width: int) -> Found:
        return _with_read(_nothing(batch, 0), _chunk(front, jnp.int32(0), width), keep)

    def in_chunks(width: int) -> Found:
        add = lambda chunk, found: _with_read(found, _chunk(front, chunk, width), keep)  # noqa: E731
        rounds = num_chunks(front.spans, width)
        return jax.lax.fori_loop(0, rounds, add, _nothing(batch, keep))

    if num_beams == 1:
        return in_chunks(width)  # the root, as a rule: one reading
    limits = [limit for limit in NARROW if limit < width]
    ways: list[Callable[[], Found]] = [functools.partial(at_once, limit) for limit in limits]
    widest = jnp.max(front.spans.counts_BM)

    def by_bounds_or_in_chunks(kept: KeptLogits) -> Found:
        edges = _edges(front)
        wide_BM = edges.ends_BM - edges.firsts_BM > WIDE
        span_BM = edges.largest_BM - edges.lowest_BM + 1
        is_dense = jnp.all(~wide_BM | (span_BM <= DENSE * (edges.ends_BM - edges.firsts_BM)))
        way = (widest > width).astype(jnp.int32)
        return jax.lax.switch(
            jnp.where(is_dense & jnp.any(wide_BM), 2, way),
            (
                functools.partial(in_chunks, width),
                functools.partial(in_chunks, max(width, BROAD)),
                lambda: _by_bounds(front, kept, edges, keep),
            ),
        )

    if front.kept is None:
        ways.append(functools.partial(in_chunks, width))
    else:
        ways.append(functools.partial(by_bounds_or_in_chunks, front.kept))
    return jax.lax.switch(jnp.sum(widest > jnp.asarray(limits, jnp.int32), dtype=jnp.int32), ways)


def highest_by_item(front: Frontier, keep: int, width: int) -> Found:
    """As `highest`, but of equal scores at the cut those with the smallest items; in no order."""
    batch, num_beams = front.spans.counts_BM.shape
    everywhere_BC = jnp.broadcast_to(
        jnp.arange(num_beams * width, dtype=jnp.int32)[None, :], (batch, num_beams * width)
    )

    def add(chunk: Array, found: Found) -> Found:
        read = _chunk(front, chunk, width)
        scores_BC = jnp.concatenate([found.scores_BR, read.scores_BC], axis=1)
        old_BR = _items(found.parents_BR, found.offsets_BR, front)
        items_BC = jnp.concatenate([old_BR, _items(*read.whence(everywhere_BC), front)], axis=1)
        scores_BR, best_BR = selection.top_of_ties(scores_BC, items_BC, keep)
        return _chosen(found, read, scores_BR, best_BR, found.lost_B)

    return jax.lax.fori_loop(0, num_chunks(front.spans, width), add, _nothing(batch, keep))


def in_order(found: Found, front: Frontier) -> Found:
    """By score, then by smallest item; a top-k leaves them so unless some are equal."""
    ascends_BR = found.scores_BR[:, 1:] >= found.scores_BR[:, :-1]
    unordered = jnp.any(ascends_BR & (found.scores_BR[:, 1:] > -jnp.inf))

    def ordered() -> Found:
        items_BR = _items(found.parents_BR, found.offsets_BR, front)
        columns = (-found.scores_BR, items_BR, found.parents_BR, found.offsets_BR)
        scores_BR, _, parents_BR, offsets_BR = jax.lax.sort(columns, dimension=1, num_keys=2)
        return Found(-scores_BR, parents_BR, offsets_BR, found.lost_B)

    return jax.lax.cond(unordered, ordered, lambda: found)


def num_chunks(spans: Spans, width: int) -> Int[Array, ""]:
    """Chunks of `width` that the widest beam's children take."""
    return -(-jnp.max(spans.counts_BM) // width)


class _Edges(NamedTuple):
    """Each beam's running children: from arc `firsts` to before `ends`; their lowest and largest token."""

    firsts_BM: Int[Array, "B M"]
    ends_BM: Int[Array, "B M"]
    lowest_BM: Int[Array, "B M"]
    largest_BM: Int[Array, "B M"]


def _edges(front: Frontier) -> _Edges:
    spans = front.spans
    firsts_BM = spans.firsts_BM + spans.ends_BM
    ends_BM = spans.firsts_BM + spans.counts_BM
    lowest_BM, largest_BM = (
        jnp.where(spans.in_tail_BM, spans.tail_tokens_BM, children.arc_tokens(arcs_BM, front.trie))
        for arcs_BM in (firsts_BM, ends_BM - 1)
    )
    return _Edges(firsts_BM, ends_BM, lowest_BM, largest_BM)


def _by_bounds(front: Frontier, kept: KeptLogits, edges: _Edges, keep: int) -> Found:
    """Reads the groups of tokens with the highest bounds, until no other can hold a child to keep."""
    beams, spans, trie = front.beams, front.spans, front.trie
    batch, num_beams, groups = kept.highest_BMG.shape
    vocab = kept.logits_BMV.shape[2]
    logits_BV = kept.logits_BMV.reshape(batch, num_beams * vocab)
    firsts_BM, ends_BM, lowest_BM, largest_BM = edges
    is_tail_BM = spans.in_tail_BM
    groups_G = jnp.arange(groups, dtype=jnp.int32)[None, None, :]
    # Rounding keeps the order of logits, so that a bound is never below a score.
    bounds_BMG = beams.scores_BM[:, :, None] + (kept.highest_BMG - front.normaliser_BM[:, :, None])
    within_BMG = (groups_G >= (lowest_BM // GROUP)[:, :, None]) & (
        groups_G <= (largest_BM // GROUP)[:, :, None]
    )
    runs_on_BM = ends_BM > firsts_BM
    bounds_BU = jnp.where(within_BMG & runs_on_BM[:, :, None], bounds_BMG, -jnp.inf)
    bounds_BU = bounds_BU.reshape(batch, num_beams * groups)
    slots_W = jnp.arange(GROUP, dtype=jnp.int32)[None, None, :]

    def of(column_BM: Array, parents_BT: Array) -> Array:
        return jnp.take_along_axis(column_BM, parents_BT, axis=1)

    def unread(cut_B: Array, found: Found) -> Array:
        return cut_B > found.scores_BR[:, -1]

    def read(state: tuple[Array, Found]) -> tuple[Array, Found]:
        cut_B, found = state
        left_BU = jnp.where(bounds_BU < cut_B[:, None], bounds_BU, -jnp.inf)
        best = selection.top(left_BU, keep + SPARE_GROUPS)
        units_BT = jnp.minimum(best.indices_BR, num_beams * groups - 1)
        parents_BT = units_BT // groups
        tokens_BT = units_BT % groups * GROUP
        ends_BT = of(ends_BM, parents_BT)
        arcs_BT = _first_arcs(
            tokens_BT,
            of(lowest_BM, parents_BT),
            of(largest_BM, parents_BT),
            of(firsts_BM, parents_BT),
            ends_BT,
            of(is_tail_BM, parents_BT),
            trie,
        )
        arcs_BTW = arcs_BT[:, :, None] + slots_W
        reads_BTW = jnp.minimum(arcs_BTW, jnp.maximum(ends_BT - 1, 0)[:, :, None])
        tokens_BTW = jnp.where(
            of(is_tail_BM, parents_BT)[:, :, None],
            of(spans.tail_tokens_BM, parents_BT)[:, :, None],
            children.arc_tokens(reads_BTW, trie),
        )
        real_BTW = (arcs_BTW < ends_BT[:, :, None]) & (tokens_BTW < tokens_BT[:, :, None] + GROUP)
        real_BTW &= (best.scores_BR > -jnp.inf)[:, :, None]
        if front.constraints is not None:
            places_BTW = jnp.where(
                of(is_tail_BM, parents_BT)[:, :, None],
                of(beams.places_BM, parents_BT)[:, :, None],
                trie.arc_nexts_A.at[reads_BTW].get(mode="clip"),
            )
            real_BTW &= constraints.alive(places_BTW, trie, front.constraints)
        at_BTW = parents_BT[:, :, None] * vocab + tokens_BTW
        logits_BC = jnp.take_along_axis(logits_BV, at_BTW.reshape(batch, -1), axis=1)
        scores_BTW = (
            logits_BC.reshape(at_BTW.shape) - of(front.normaliser_BM, parents_BT)[:, :, None]
        )
        scores_BTW = of(beams.scores_BM, parents_BT)[:, :, None] + scores_BTW
        scores_BTW = jnp.where(real_BTW, scores_BTW, -jnp.inf)
        offsets_BT = arcs_BT - of(spans.firsts_BM, parents_BT)

        def whence(indices_BN: Array) -> tuple[Array, Array]:
            units_BN = indices_BN // GROUP
            return of(parents_BT, units_BN), of(offsets_BT, units_BN) + indices_BN % GROUP

        found = found._replace(lost_B=jnp.maximum(found.lost_B, best.lost_B))
        return best.scores_BR[:, -1], _with_read(
            found, _Read(scores_BTW.reshape(batch, -1), whence), keep
        )

    everything_B = jnp.full((batch,), jnp.inf, jnp.float32)
    state = (everything_B, _nothing(batch, keep))
    return jax.lax.while_loop(lambda state: jnp.any(unread(*state)), read, state)[1]


def _first_arcs(
    tokens_BT: Int[Array, "B T"],
    lowest_BT: Int[Array, "B T"],
    largest_BT: Int[Array, "B T"],
    firsts_BT: Int[Array, "B T"],
    ends_BT: Int[Array, "B T"],
    in_tail_BT: Array,
    trie: Trie,
) -> Int[Array, "B T"]:
    """The first arc of a node whose token is at least that wanted, by bisection.

    Tokens ascend and are distinct, so the place is known up to the tokens that a node lacks.
    """
    low_BT = jnp.maximum(firsts_BT, ends_BT - (largest_BT + 1 - tokens_BT))
    high_BT = jnp.minimum(ends_BT, firsts_BT + jnp.maximum(tokens_BT - lowest_BT, 0))
    low_BT, high_BT = (
        jnp.where(in_tail_BT, firsts_BT, edge_BT)
        for edge_BT in (jnp.minimum(low_BT, high_BT), high_BT)
    )

    def halve(_, edges):
        low_BT, high_BT = edges
        middle_BT = low_BT + (high_BT - low_BT) // 2
        is_below_BT = (children.arc_tokens(middle_BT, trie) < tokens_BT) & (low_BT < high_BT)
        return (
            jnp.where(is_below_BT, middle_BT + 1, low_BT),
            jnp.where(is_below_BT, high_BT, middle_BT),
        )

    widest = jnp.max(high_BT - low_BT)
    rounds = 32 - jax.lax.clz(widest)
    return jax.lax.fori_loop(0, rounds, halve, (low_BT, high_BT))[0]


def _chunk(front: Frontier, chunk: Array, width: int) -> _Read:
    """Every beam's running children of one chunk; -inf for those that are none."""
    spans, beams = front.spans, front.beams
    offsets_C = chunk * width + jnp.arange(width, dtype=jnp.int32)
    tokens_BMC, running_BMC = children.child_tokens(spans, offsets_C, front.trie)
    running_BMC &= offsets_C[None, None, :] >= spans.ends_BM[:, :, None]
    if front.constraints is not None:
        running_BMC &= children.may_get(beams, spans, front.trie, offsets_C, front.constraints)
    scores_BMC = front.logits_of(tokens_BMC) - front.normaliser_BM[:, :, None]
    scores_BMC = beams.scores_BM[:, :, None] + scores_BMC
    scores_BMC = jnp.where(running_BMC, scores_BMC, -jnp.inf)

    def whence(indices_BN: Array) -> tuple[Array, Array]:
        return indices_BN // width, chunk * width + indices_BN % width

    return _Read(scores_BMC.reshape(scores_BMC.shape[0], -1), whence)


def _with_read(found: Found, read: _Read, keep: int) -> Found:
    """The highest of what was found and of what was read."""
    best = selection.top(jnp.concatenate([found.scores_BR, read.scores_BC], axis=1), keep)
    lost_B = jnp.maximum(found.lost_B, best.lost_B)
    return _chosen(found, read, best.scores_BR, best.indices_BR, lost_B)


def _chosen(found: Found, read: _Read, scores_BR: Array, indices_BR: Array, lost_B: Array) -> Found:
    """Those of what was found and, after it, what was read, that the indices choose."""
    before = found.scores_BR.shape[1]
    newest = read.scores_BC.shape[1] - 1
    parents_BR, offsets_BR = read.whence(jnp.clip(indices_BR - before, 0, newest))
    if before:
        is_old_BR = indices_BR < before
        old_BR = jnp.minimum(indices_BR, before - 1)
        old_parents_BR = jnp.take_along_axis(found.parents_BR, old_BR, axis=1)
        old_offsets_BR = jnp.take_along_axis(found.offsets_BR, old_BR, axis=1)
        parents_BR = jnp.where(is_old_BR, old_parents_BR, parents_BR)
        offsets_BR = jnp.where(is_old_BR, old_offsets_BR, offsets_BR)
    return Found(scores_BR, parents_BR, offsets_BR, lost_B)


def _nothing(batch: int, keep: int) -> Found:
    nowhere_BR = jnp.zeros((batch, keep), jnp.int32)
    scores_BR = jnp.full((batch, keep), -jnp.inf, jnp.float32)
    return Found(scores_BR, nowhere_BR, nowhere_BR, jnp.full((batch,), -jnp.inf, jnp.float32))


def _items(parents_BN: Array, offsets_BN: Array, front: Frontier) -> Int[Array, "B N"]:
    places_BN = children.child_places(parents_BN, offsets_BN, front.beams, front.spans, front.trie)
    return children.smallest_items(places_BN, front.trie)
