"""Which children of an example's beams score highest, without reading more of them than must be.

Three ways to read. Where all beams have few children, all of them at once. Where some have many, and the
network keeps its logits, by bounds: the highest logit of each group of neighbouring tokens says how well a
child among them can score at best, so the groups with the highest bounds are read first, until what was
found is as high as any bound that is left (Fagin, Lotem and Naor 2003, the threshold algorithm). Otherwise,
or where too few of the tokens are children for that to be quicker, all children, in chunks that a loop
merges, the wider the wider the widest node. So neither a wide node nor a changed catalogue changes a shape,
and a full node costs little more than a narrow one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding import children, constraints, selection
from genrec_jax.decoding.children import Beams, Spans
from genrec_jax.decoding.constraints import Constraints
from genrec_jax.decoding.trie import Trie

NARROW = (children.FEW, 32)
"""Children of a beam up to which all are read at once: by the smallest of these that holds them."""
BROAD = 512
"""Children of a beam read at a time where some have more than a chunk of them and logits are kept."""
GROUP = 16
"""Neighbouring tokens that share a bound."""
PROBES = 31
"""Neighbouring tokens that a search for a token among a node's children reads at once."""
SPARE_GROUPS = 4
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
    """Running children found: scores, beam, place among the beam's children, token; `lost` as in `Top`."""

    scores_BR: Float[Array, "B R"]
    parents_BR: Int[Array, "B R"]
    offsets_BR: Int[Array, "B R"]
    tokens_BR: Int[Array, "B R"]
    lost_B: Float[Array, " B"]


class _Read(NamedTuple):
    """Children read at once.

    Attributes:
        scores_BC: of running children; -inf for none.
        tokens_BC: their tokens.
        whence: from places among the scores to beams, and to places among the beams' children.
    """

    scores_BC: Float[Array, "B C"]
    tokens_BC: Int[Array, "B C"]
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
        return _with_read(_nothing(batch, 0), _first(front, width), keep)

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
        counts_BM = jnp.maximum(edges.ends_BM - edges.firsts_BM, 0)
        spans_BM = jnp.where(counts_BM > 0, edges.largest_BM - edges.lowest_BM + 1, 0)
        # Where only every n-th token is a child, it takes about n rounds; each is as much as a broad chunk.
        tokens, own = (jnp.sum(one, dtype=jnp.float32) for one in (spans_BM, counts_BM))
        chunks = num_chunks(front.spans, BROAD)
        is_read, found = jax.lax.cond(
            tokens <= own * chunks,
            lambda: _by_bounds(front, kept, edges, keep, chunks + 1),
            lambda: (jnp.bool_(False), _nothing(batch, keep)),
        )
        return jax.lax.switch(
            jnp.where(is_read, 2, (widest > width).astype(jnp.int32)),
            (
                functools.partial(in_chunks, width),
                functools.partial(in_chunks, max(width, BROAD)),
                lambda: found,
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
        scores_BC = jnp.concatenate([read.scores_BC, found.scores_BR], axis=1)
        old_BR = _items(found.parents_BR, found.offsets_BR, front)
        items_BC = jnp.concatenate([_items(*read.whence(everywhere_BC), front), old_BR], axis=1)
        scores_BR, best_BR = selection.top_of_ties(scores_BC, items_BC, keep)
        return _chosen(found, read, scores_BR, best_BR, found.lost_B)

    return jax.lax.fori_loop(0, num_chunks(front.spans, width), add, _nothing(batch, keep))


def in_order(found: Found, front: Frontier) -> Found:
    """By score, then by smallest item; a top-k leaves them so unless some are equal."""
    ascends_BR = found.scores_BR[:, 1:] >= found.scores_BR[:, :-1]
    unordered = jnp.any(ascends_BR & (found.scores_BR[:, 1:] > -jnp.inf))

    def ordered() -> Found:
        items_BR = _items(found.parents_BR, found.offsets_BR, front)
        columns = (-found.scores_BR, items_BR, found.parents_BR, found.offsets_BR, found.tokens_BR)
        scores_BR, _, parents_BR, offsets_BR, tokens_BR = jax.lax.sort(
            columns, dimension=1, num_keys=2
        )
        return Found(-scores_BR, parents_BR, offsets_BR, tokens_BR, found.lost_B)

    return jax.lax.cond(unordered, ordered, lambda: found)


def num_chunks(spans: Spans, width: int) -> Int[Array, ""]:
    """Chunks of `width` that the widest beam's children take."""
    return -(-jnp.max(spans.counts_BM) // width)


class _Edges(NamedTuple):
    """Each beam's running children: from place `firsts` to before `ends`; lowest and largest token."""

    firsts_BM: Int[Array, "B M"]
    ends_BM: Int[Array, "B M"]
    lowest_BM: Int[Array, "B M"]
    largest_BM: Int[Array, "B M"]


def _edges(front: Frontier) -> _Edges:
    spans = front.spans
    firsts_BM = spans.firsts_BM + spans.has_eos_BM.astype(jnp.int32)
    ends_BM = spans.firsts_BM + spans.counts_BM
    lowest_BM = jnp.where(spans.has_eos_BM, spans.few_BMC[:, :, 1], spans.few_BMC[:, :, 0])
    return _Edges(firsts_BM, ends_BM, lowest_BM, spans.largest_BM)


def _by_bounds(
    front: Frontier, kept: KeptLogits, edges: _Edges, keep: int, rounds: Int[Array, ""]
) -> tuple[Bool[Array, ""], Found]:
    """Reads the groups of tokens with the highest bounds, until no other can hold a child to keep.

    Returns:
        whether what was found is complete, and what was found. It is incomplete after as many `rounds`
        (tokens that are no children may have high logits), or where groups tied at a round's cut and one
        that was left out may hold a child above the lowest that was found. Then the caller reads chunks.
    """
    beams, spans, trie = front.beams, front.spans, front.trie
    batch, num_beams, groups = kept.highest_BMG.shape
    vocab = kept.logits_BMV.shape[2]
    logits_BV = kept.logits_BMV.reshape(batch, num_beams * vocab)
    firsts_BM, ends_BM, lowest_BM, largest_BM = edges
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

    def any_unread(cut_B: Array, found: Found) -> Array:
        return jnp.any(cut_B > found.scores_BR[:, -1])

    def read(left_BU: Array, found: Found) -> tuple[Array, Found]:
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
            trie,
        )
        arcs_BTW = arcs_BT[:, :, None] + slots_W
        reads_BTW = jnp.minimum(arcs_BTW, jnp.maximum(ends_BT - 1, 0)[:, :, None])
        tokens_BTW = children.tokens_at(reads_BTW, trie)
        real_BTW = (arcs_BTW < ends_BT[:, :, None]) & (tokens_BTW < tokens_BT[:, :, None] + GROUP)
        real_BTW &= (best.scores_BR > -jnp.inf)[:, :, None]
        if front.constraints is not None:
            places_BTW = jnp.where(
                of(spans.in_tail_BM, parents_BT)[:, :, None],
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
        new = _Read(scores_BTW.reshape(batch, -1), tokens_BTW.reshape(batch, -1), whence)
        return best.scores_BR[:, -1], _with_read(found, new, keep)

    def reads_on(state: tuple[Array, Array, Found]) -> Array:
        done, cut_B, found = state
        return any_unread(cut_B, found) & (done < rounds)

    def read_on(state: tuple[Array, Array, Found]) -> tuple[Array, Array, Found]:
        done, cut_B, found = state
        left_BU = jnp.where(bounds_BU < cut_B[:, None], bounds_BU, -jnp.inf)
        return done + 1, *read(left_BU, found)

    state = (jnp.int32(1), *read(bounds_BU, _nothing(batch, 0)))
    _, cut_B, found = jax.lax.while_loop(reads_on, read_on, state)
    missed = jnp.any(found.lost_B > found.scores_BR[:, -1])
    return ~(any_unread(cut_B, found) | missed), found


def _first_arcs(
    tokens_BT: Int[Array, "B T"],
    lowest_BT: Int[Array, "B T"],
    largest_BT: Int[Array, "B T"],
    firsts_BT: Int[Array, "B T"],
    ends_BT: Int[Array, "B T"],
    trie: Trie,
) -> Int[Array, "B T"]:
    """The first arc of a node whose token is at least that wanted, by search among `PROBES` at a time.

    Tokens ascend and are distinct, so the place is known up to the tokens that a node lacks.
    """
    low_BT = jnp.maximum(firsts_BT, ends_BT - (largest_BT + 1 - tokens_BT))
    high_BT = jnp.minimum(ends_BT, firsts_BT + jnp.maximum(tokens_BT - lowest_BT, 0))
    low_BT = jnp.minimum(low_BT, high_BT)
    probes_11N = jnp.arange(1, PROBES + 1, dtype=jnp.int32)[None, None]

    def narrow(_, edges: tuple[Array, Array]) -> tuple[Array, Array]:
        low_BT, high_BT = edges
        apart_BT = (high_BT - low_BT) // (PROBES + 1) + 1
        probes_BTN = low_BT[:, :, None] + probes_11N * apart_BT[:, :, None] - 1
        is_below_BTN = children.tokens_at(probes_BTN, trie) < tokens_BT[:, :, None]
        is_below_BTN &= probes_BTN < high_BT[:, :, None]
        low_BT += apart_BT * jnp.sum(is_below_BTN, axis=2, dtype=jnp.int32)
        return low_BT, jnp.minimum(high_BT, low_BT + apart_BT - 1)

    edges = narrow(0, (low_BT, high_BT))
    widest = jnp.max(edges[1] - edges[0])
    bits = 32 - jax.lax.clz(widest)
    return jax.lax.fori_loop(0, -(-bits // PROBES.bit_length()), narrow, edges)[0]


def _first(front: Frontier, width: int) -> _Read:
    """Every beam's running children, none of which has more than `width`."""
    offsets_C = jnp.arange(width, dtype=jnp.int32)
    if width > children.FEW:
        tokens_BMC = children.child_tokens(front.spans, offsets_C, front.trie)
    else:
        tokens_BMC = front.spans.few_BMC[:, :, :width]
    return _scored(front, offsets_C, tokens_BMC)


def _chunk(front: Frontier, chunk: Array, width: int) -> _Read:
    """Every beam's running children of one chunk."""
    offsets_C = chunk * width + jnp.arange(width, dtype=jnp.int32)
    return _scored(front, offsets_C, children.child_tokens(front.spans, offsets_C, front.trie))


def _scored(front: Frontier, offsets_C: Int[Array, " C"], tokens_BMC: Int[Array, "B M C"]) -> _Read:
    """Every beam's running children at some neighbouring offsets; -inf for those that are none."""
    spans, beams = front.spans, front.beams
    batch, _, width = tokens_BMC.shape
    running_BMC = offsets_C[None, None] >= spans.has_eos_BM[:, :, None]
    running_BMC &= children.are_there(spans, offsets_C)
    if front.constraints is not None:
        running_BMC &= children.may_get(beams, spans, front.trie, offsets_C, front.constraints)
    scores_BMC = front.logits_of(tokens_BMC) - front.normaliser_BM[:, :, None]
    scores_BMC = beams.scores_BM[:, :, None] + scores_BMC
    scores_BMC = jnp.where(running_BMC, scores_BMC, -jnp.inf)

    def whence(indices_BN: Array) -> tuple[Array, Array]:
        return indices_BN // width, offsets_C[0] + indices_BN % width

    return _Read(scores_BMC.reshape(batch, -1), tokens_BMC.reshape(batch, -1), whence)


def _with_read(found: Found, read: _Read, keep: int) -> Found:
    """The highest of what was read and of what was found."""
    # What was read is first: a top-k on a CPU takes the longer the later high scores come.
    best = selection.top(jnp.concatenate([read.scores_BC, found.scores_BR], axis=1), keep)
    lost_B = jnp.maximum(found.lost_B, best.lost_B)
    return _chosen(found, read, best.scores_BR, best.indices_BR, lost_B)


def _chosen(found: Found, read: _Read, scores_BR: Array, indices_BR: Array, lost_B: Array) -> Found:
    """Those of what was read and, after it, what was found, that the indices choose."""
    num_read, num_found = read.scores_BC.shape[1], found.scores_BR.shape[1]
    new_BR = jnp.minimum(indices_BR, num_read - 1)
    old_BR = jnp.clip(indices_BR - num_read, 0, max(num_found - 1, 0))

    def chosen(before_BR: Array, now_BR: Array) -> Array:
        if not num_found:
            return now_BR
        before_BR = jnp.take_along_axis(before_BR, old_BR, axis=1)
        return jnp.where(indices_BR < num_read, now_BR, before_BR)

    parents_BR, offsets_BR = read.whence(new_BR)
    tokens_BR = jnp.take_along_axis(read.tokens_BC, new_BR, axis=1)
    return Found(
        scores_BR,
        chosen(found.parents_BR, parents_BR),
        chosen(found.offsets_BR, offsets_BR),
        chosen(found.tokens_BR, tokens_BR),
        lost_B,
    )


def _nothing(batch: int, keep: int) -> Found:
    nowhere_BR = jnp.zeros((batch, keep), jnp.int32)
    scores_BR = jnp.full((batch, keep), -jnp.inf, jnp.float32)
    lost_B = jnp.full((batch,), -jnp.inf, jnp.float32)
    return Found(scores_BR, nowhere_BR, nowhere_BR, nowhere_BR, lost_B)


def _items(parents_BN: Array, offsets_BN: Array, front: Frontier) -> Int[Array, "B N"]:
    places_BN = children.child_places(parents_BN, offsets_BN, front.beams, front.spans, front.trie)
    return children.smallest_items(places_BN, front.trie)
