"""Where beams stand in the trie, and what their children are: the search's reads of its arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding import constraints as constraints_lib
from genrec_jax.decoding.constraints import Constraints
from genrec_jax.decoding.trie import Trie

FEW = 8
"""Children of each beam whose tokens are read before it is known how many there are."""
UNREAD = -1


class Beams(NamedTuple):
    """Where the running beams stand; fields as in `search.SearchState`."""

    places_BM: Int[Array, "B M"]
    spans_BM2: Int[Array, "B M 2"]
    ahead_BMC: Int[Array, "B M C"]
    scores_BM: Float[Array, "B M"]


class Spans(NamedTuple):
    """The children of each beam: arcs that are neighbours, or the one next token of a tail.

    Attributes:
        firsts_BM: the first of them, as a place in the trie's tokens.
        counts_BM: how many there are; none for an empty beam.
        in_tail_BM: whether the beam is inside a tail.
        few_BMC: the tokens of the first `FEW` children; of fewer, others after them.
        largest_BM: the last child's token.
        has_eos_BM: whether the first child is end-of-sequence, which ends an id and does not run on.
    """

    firsts_BM: Int[Array, "B M"]
    counts_BM: Int[Array, "B M"]
    in_tail_BM: Bool[Array, "B M"]
    few_BMC: Int[Array, "B M C"]
    largest_BM: Int[Array, "B M"]
    has_eos_BM: Bool[Array, "B M"]


def spans_of(beams: Beams, trie: Trie) -> Spans:
    """The children of each beam."""
    in_tail_BM = beams.places_BM < 0
    firsts_BM, lasts_BM = beams.spans_BM2[:, :, 0], beams.spans_BM2[:, :, 1]
    counts_BM = jnp.where(in_tail_BM, 1, lasts_BM - firsts_BM)
    counts_BM = jnp.where(beams.scores_BM > -jnp.inf, counts_BM, 0)
    few_BMC = beams.ahead_BMC[:, :, :FEW]
    largest_BM = jnp.where(in_tail_BM, beams.ahead_BMC[:, :, 0], beams.ahead_BMC[:, :, FEW])
    has_eos_BM = (few_BMC[:, :, 0] == trie.eos_id) & (counts_BM > 0)
    return Spans(firsts_BM, counts_BM, in_tail_BM, few_BMC, largest_BM, has_eos_BM)


def read_ahead(
    places_BN: Int[Array, "B N"], spans_BN2: Int[Array, "B N 2"], trie: Trie
) -> Int[Array, "B N C"]:
    """The tokens of `FEW` children of each place and of the last one; of a tail, the next tokens.

    Args:
        places_BN: where beams stand.
        spans_BN2: the first token below each, and the end of them.
        trie: the catalogue.

    Returns:
        `FEW` + 1 tokens of each. A child that is not there has the last one's token, which costs no new
        cache line; after a tail is end-of-sequence.
    """
    in_tail_BN1 = (places_BN < 0)[:, :, None]
    offsets_11C = jnp.arange(FEW + 1, dtype=jnp.int32)[None, None]
    counts_BN1 = spans_BN2[:, :, 1:] - spans_BN2[:, :, :1]
    wanted_BNC = jnp.where(in_tail_BN1 | (offsets_11C < FEW), offsets_11C, counts_BN1)
    read_BNC = jnp.minimum(wanted_BNC, jnp.maximum(counts_BN1 - 1, 0))
    tokens_BNC = tokens_at(spans_BN2[:, :, :1] + read_BNC, trie)
    return jnp.where(in_tail_BN1 & (offsets_11C >= counts_BN1), trie.eos_id, tokens_BNC)


def tokens_at(places: Int[Array, "*N"], trie: Trie) -> Int[Array, "*N"]:
    """The trie's tokens at some places."""
    return trie.tokens_Y.at[places].get(mode="clip").astype(jnp.int32)


def are_there(spans: Spans, offsets_C: Int[Array, " C"]) -> Bool[Array, "B M C"]:
    """Whether each beam has a child at some offsets."""
    return offsets_C[None, None] < spans.counts_BM[:, :, None]


def child_tokens(spans: Spans, offsets_C: Int[Array, " C"], trie: Trie) -> Int[Array, "B M C"]:
    """The tokens of each beam's children at some offsets."""
    lasts_BM = jnp.maximum(spans.counts_BM - 1, 0)
    # A place without a child reads the last child's token, as above.
    read_BMC = jnp.minimum(offsets_C[None, None], lasts_BM[:, :, None])
    read_BMC += spans.firsts_BM[:, :, None]
    return jnp.where(
        spans.in_tail_BM[:, :, None], spans.few_BMC[:, :, :1], tokens_at(read_BMC, trie)
    )


def child_places(
    parents_BN: Int[Array, "B N"],
    offsets_BN: Int[Array, "B N"],
    beams: Beams,
    spans: Spans,
    trie: Trie,
) -> Int[Array, "B N"]:
    """Where children stand in the trie, given their beams and their offsets among its children."""
    arcs_BN = jnp.take_along_axis(spans.firsts_BM, parents_BN, axis=1) + offsets_BN
    places_BN = jnp.take_along_axis(beams.places_BM, parents_BN, axis=1)
    return jnp.where(places_BN < 0, places_BN, trie.arc_nexts_A.at[arcs_BN].get(mode="clip"))


def below(
    parents_BN: Int[Array, "B N"],
    offsets_BN: Int[Array, "B N"],
    beams: Beams,
    spans: Spans,
    trie: Trie,
) -> tuple[Int[Array, "B N"], Int[Array, "B N 2"], Int[Array, "B N C"]]:
    """What `Beams` has of children: their places, their spans and the tokens ahead of them.

    Once all beams are inside tails, which is soon, their tokens were read already, some steps ahead.
    """
    both_112 = jnp.arange(2, dtype=jnp.int32)[None, None]
    own_BN2 = jnp.take_along_axis(beams.spans_BM2, parents_BN[:, :, None], axis=1) + (1 - both_112)

    def along_tails() -> tuple[Array, Array, Array]:
        ahead_BNC = jnp.take_along_axis(beams.ahead_BMC[:, :, 1:], parents_BN[:, :, None], axis=1)
        ahead_BNC = jnp.pad(ahead_BNC, ((0, 0), (0, 0), (0, 1)), constant_values=UNREAD)
        return jnp.take_along_axis(beams.places_BM, parents_BN, axis=1), own_BN2, ahead_BNC

    def along_arcs() -> tuple[Array, Array, Array]:
        places_BN = child_places(parents_BN, offsets_BN, beams, spans, trie)
        starts_BN = jnp.where(places_BN < 0, trie.capacities.nodes - 1 - places_BN, places_BN)
        spans_BN2 = trie.starts_N.at[starts_BN[:, :, None] + both_112].get(mode="clip")
        was_in_tail_BN = jnp.take_along_axis(spans.in_tail_BM, parents_BN, axis=1)
        spans_BN2 = jnp.where(was_in_tail_BN[:, :, None], own_BN2, spans_BN2)
        return places_BN, spans_BN2, read_ahead(places_BN, spans_BN2, trie)

    is_read_BM = spans.in_tail_BM & (beams.ahead_BMC[:, :, 1] != UNREAD)
    is_read = jnp.all(is_read_BM | (spans.counts_BM == 0))
    return jax.lax.cond(is_read, along_tails, along_arcs)


def may_get(
    beams: Beams,
    spans: Spans,
    trie: Trie,
    offsets_C: Int[Array, " C"],
    constraints: Constraints,
) -> Bool[Array, "B M C"]:
    """Whether the example may get an item under each beam's child at an offset."""
    arcs_BMC = spans.firsts_BM[:, :, None] + offsets_C[None, None, :]
    nexts_BMC = trie.arc_nexts_A.at[arcs_BMC].get(mode="clip")
    places_BMC = jnp.where(spans.in_tail_BM[:, :, None], beams.places_BM[:, :, None], nexts_BMC)
    return constraints_lib.alive(places_BMC, trie, constraints)


def smallest_items(places: Int[Array, "*N"], trie: Trie) -> Int[Array, "*N"]:
    """The smallest item number under each place of the trie: the order of equal scores."""
    return jnp.where(places < 0, -1 - places, trie.node_items_J[jnp.maximum(places, 0)])
