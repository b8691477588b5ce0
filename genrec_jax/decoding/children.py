"""Where beams stand in the trie, and what their children are: the search's reads of its arrays."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding import constraints as constraints_lib
from genrec_jax.decoding.constraints import Constraints
from genrec_jax.decoding.trie import Trie


class Beams(NamedTuple):
    """Where the running beams stand; fields as in `search.SearchState`."""

    places_BM: Int[Array, "B M"]
    tails_BM: Int[Array, "B M"]
    scores_BM: Float[Array, "B M"]


class Spans(NamedTuple):
    """The children of each beam: arcs that are neighbours, or the one next token of a tail.

    Attributes:
        firsts_BM: the first arc.
        counts_BM: how many there are; none for an empty beam.
        in_tail_BM: whether the beam is inside a tail.
        tail_tokens_BM: its next token there, end-of-sequence after the last.
        ends_BM: whether the first child is end-of-sequence, which ends an id and does not run on.
    """

    firsts_BM: Int[Array, "B M"]
    counts_BM: Int[Array, "B M"]
    in_tail_BM: Bool[Array, "B M"]
    tail_tokens_BM: Int[Array, "B M"]
    ends_BM: Bool[Array, "B M"]


def spans_of(beams: Beams, trie: Trie) -> Spans:
    """The children of each beam."""
    in_tail_BM = beams.places_BM < 0
    nodes_BM = jnp.maximum(beams.places_BM, 0)
    firsts_BM = trie.node_arcs_J[nodes_BM]
    counts_BM = jnp.where(in_tail_BM, 1, trie.node_arcs_J[nodes_BM + 1] - firsts_BM)
    counts_BM = jnp.where(beams.scores_BM > -jnp.inf, counts_BM, 0)
    items_BM = jnp.maximum(-1 - beams.places_BM, 0)
    ended_BM = beams.tails_BM >= trie.tail_starts_I[items_BM + 1]
    tokens_BM = trie.tail_tokens_Y.at[beams.tails_BM].get(mode="clip").astype(jnp.int32)
    tail_tokens_BM = jnp.where(ended_BM, trie.eos_id, tokens_BM)
    first_tokens_BM = jnp.where(in_tail_BM, tail_tokens_BM, arc_tokens(firsts_BM, trie))
    ends_BM = (first_tokens_BM == trie.eos_id) & (counts_BM > 0)
    return Spans(firsts_BM, counts_BM, in_tail_BM, tail_tokens_BM, ends_BM)


def arc_tokens(arcs: Int[Array, "*N"], trie: Trie) -> Int[Array, "*N"]:
    """The tokens of arcs."""
    return trie.arc_tokens_A.at[arcs].get(mode="clip").astype(jnp.int32)


def child_tokens(
    spans: Spans, offsets_C: Int[Array, " C"], trie: Trie
) -> tuple[Int[Array, "B M C"], Bool[Array, "B M C"]]:
    """The tokens of each beam's children at some offsets, and whether it has a child there."""
    there_BMC = offsets_C[None, None, :] < spans.counts_BM[:, :, None]
    # A place without a child reads the last child's token, so that it costs no new cache line.
    lasts_BM = jnp.maximum(spans.counts_BM - 1, 0)
    arcs_BMC = spans.firsts_BM[:, :, None] + jnp.minimum(
        offsets_C[None, None, :], lasts_BM[:, :, None]
    )
    tokens_BMC = jnp.where(
        spans.in_tail_BM[:, :, None], spans.tail_tokens_BM[:, :, None], arc_tokens(arcs_BMC, trie)
    )
    return tokens_BMC, there_BMC


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
