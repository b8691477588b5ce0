"""One step of the search over the trie: read the beams' children in chunks and keep the best.

A node may have any number of children; they are read `width` at a time by a loop that merges a
running top-k, so that neither a wide node nor a changed catalogue changes a shape.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding import constraints as constraints_lib
from genrec_jax.decoding.constraints import LAST_ITEM, Constraints
from genrec_jax.decoding.trie import Trie


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


class _Read(NamedTuple):
    """A chunk of children: their tokens, where they lead, and which are real."""

    tokens_BMC: Int[Array, "B M C"]
    places_BMC: Int[Array, "B M C"]
    valid_BMC: Bool[Array, "B M C"]


LogitsOf = Callable[[Int[Array, "B M C"]], Float[Array, "B M C"]]


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
        width: children of a beam read at a time.
        constraints: which items an example may get.
    """
    batch, num_beams = beams.places_BM.shape
    num_chunks = _num_chunks(beams, trie, width)
    finished_BM, finished_items_BM = _finished(beams, trie, logits_of, normaliser_BM, constraints)

    def has_chunk(carry):
        chunk, _ = carry
        return chunk < num_chunks

    def merge_chunk(carry):
        chunk, kept = carry
        read = _read_chunk(beams, trie, chunk, width, constraints)
        scores_BMC = logits_of(read.tokens_BMC) - normaliser_BM[:, :, None]
        scores_BMC = beams.scores_BM[:, :, None] + scores_BMC
        running_BMC = read.valid_BMC & (read.tokens_BMC != trie.eos_id)
        scores_BMC = jnp.where(running_BMC, scores_BMC, -jnp.inf)
        parents_BMC = jnp.broadcast_to(
            jnp.arange(num_beams, dtype=jnp.int32)[None, :, None], scores_BMC.shape
        )
        fields = (scores_BMC, parents_BMC, read.tokens_BMC, read.places_BMC)
        merged = tuple(
            jnp.concatenate([old, new.reshape(batch, -1)], axis=1)
            for old, new in zip(kept, fields, strict=True)
        )
        best_BR = best_indices(merged[0], merged[3], trie, keep)
        return chunk + 1, tuple(jnp.take_along_axis(field, best_BR, axis=1) for field in merged)

    zeros_BM = jnp.zeros((batch, keep), jnp.int32)
    nothing = jnp.full((batch, keep), -jnp.inf, jnp.float32)
    start = (jnp.zeros((), jnp.int32), (nothing, zeros_BM, zeros_BM, zeros_BM))
    _, kept = jax.lax.while_loop(has_chunk, merge_chunk, start)
    scores_BM, parents_BM, tokens_BM, places_BM = kept
    items_BM = smallest_items(places_BM, trie)
    was_in_tail_BM = jnp.take_along_axis(beams.places_BM, parents_BM, axis=1) < 0
    tails_BM = jnp.where(
        was_in_tail_BM,
        jnp.take_along_axis(beams.tails_BM, parents_BM, axis=1) + 1,
        trie.tail_starts_I[jnp.where(places_BM < 0, items_BM, 0)],
    )
    return Children(
        scores_BM=scores_BM,
        items_BM=items_BM,
        parents_BM=parents_BM,
        tokens_BM=tokens_BM,
        places_BM=places_BM,
        tails_BM=tails_BM,
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
    num_chunks = _num_chunks(beams, trie, width)

    def has_chunk(carry):
        chunk, _ = carry
        return chunk < num_chunks

    def add_chunk(carry):
        chunk, total_BM = carry
        read = _read_chunk(beams, trie, chunk, width, constraints)
        logits_BMC = jnp.where(read.valid_BMC, logits_of(read.tokens_BMC), -jnp.inf)
        chunk_BM = jax.nn.logsumexp(logits_BMC, axis=2)
        return chunk + 1, jnp.logaddexp(total_BM, chunk_BM)

    nothing_BM = jnp.full(beams.scores_BM.shape, -jnp.inf, jnp.float32)
    start = (jnp.zeros((), jnp.int32), nothing_BM)
    _, total_BM = jax.lax.while_loop(has_chunk, add_chunk, start)
    return jnp.where(total_BM > -jnp.inf, total_BM, 0.0)


def smallest_items(places: Int[Array, "*N"], trie: Trie) -> Int[Array, "*N"]:
    """The smallest item number under each place of the trie: the order of equal scores."""
    return jnp.where(places < 0, -1 - places, trie.node_items_J[jnp.maximum(places, 0)])


def best_indices(
    scores_BC: Float[Array, "B C"], places_BC: Int[Array, "B C"], trie: Trie, keep: int
) -> Int[Array, "B R"]:
    """Indices of the `keep` best candidates, best first: by score, then by smallest item.

    A plain top-k breaks ties by index. So ties that straddle the cut send it to a sort by both keys;
    they are rare, and cost a comparison while absent.
    """
    count = scores_BC.shape[1]
    indices_BC = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), scores_BC.shape)

    def by_both(scores: Array, places: Array, indices: Array) -> Int[Array, "B R"]:
        columns = (-scores, smallest_items(places, trie), indices)
        return jax.lax.sort(columns, dimension=1, num_keys=2)[2][:, :keep]

    if keep >= count:
        return by_both(scores_BC, places_BC, indices_BC)
    top_BR, indices_BR = jax.lax.top_k(scores_BC, keep)
    cut_B1 = top_BR[:, -1:]
    straddles_B = (jnp.sum(scores_BC >= cut_B1, axis=1) > keep) & (cut_B1[:, 0] > -jnp.inf)
    return jax.lax.cond(
        jnp.any(straddles_B),
        lambda: by_both(scores_BC, places_BC, indices_BC),
        lambda: by_both(top_BR, jnp.take_along_axis(places_BC, indices_BR, axis=1), indices_BR),
    )


def best_pairs(
    scores_BC: Float[Array, "B C"], items_BC: Int[Array, "B C"], keep: int
) -> tuple[Float[Array, "B R"], Int[Array, "B R"]]:
    """The `keep` best pairs by score, then by smallest item, best first."""
    scores_BC, items_BC = jax.lax.sort((-scores_BC, items_BC), dimension=1, num_keys=2)
    return -scores_BC[:, :keep], items_BC[:, :keep]


def _num_children(beams: Beams, trie: Trie) -> Int[Array, "B M"]:
    """Children to read: the node's arcs, or the one next token of a tail; none for an empty beam."""
    nodes_BM = jnp.maximum(beams.places_BM, 0)
    arcs_BM = trie.node_arcs_J[nodes_BM + 1] - trie.node_arcs_J[nodes_BM]
    children_BM = jnp.where(beams.places_BM < 0, 1, arcs_BM)
    return jnp.where(beams.scores_BM > -jnp.inf, children_BM, 0)


def _num_chunks(beams: Beams, trie: Trie, width: int) -> Int[Array, ""]:
    return -(-jnp.max(_num_children(beams, trie)) // width)


def _read_chunk(
    beams: Beams,
    trie: Trie,
    chunk: Int[Array, ""],
    width: int,
    constraints: Constraints | None,
) -> _Read:
    """Children `chunk * width ...` of each beam; a beam in a tail has one, its next token."""
    offsets_C = chunk * width + jnp.arange(width, dtype=jnp.int32)
    valid_BMC = offsets_C[None, None, :] < _num_children(beams, trie)[:, :, None]
    in_tail_BM1 = (beams.places_BM < 0)[:, :, None]
    firsts_BM = trie.node_arcs_J[jnp.maximum(beams.places_BM, 0)]
    arcs_BMC = firsts_BM[:, :, None] + offsets_C[None, None, :]
    arc_nexts_BMC = trie.arc_nexts_A.at[arcs_BMC].get(mode="clip")
    arc_tokens_BMC = trie.arc_tokens_A.at[arcs_BMC].get(mode="clip").astype(jnp.int32)
    tail_tokens_BM1 = _tail_tokens(beams, trie)[:, :, None]
    tokens_BMC = jnp.where(in_tail_BM1, tail_tokens_BM1, arc_tokens_BMC)
    places_BMC = jnp.where(in_tail_BM1, beams.places_BM[:, :, None], arc_nexts_BMC)
    if constraints is not None:
        valid_BMC &= constraints_lib.alive(places_BMC, trie, constraints)
    return _Read(tokens_BMC, places_BMC, valid_BMC)


def _tail_tokens(beams: Beams, trie: Trie) -> Int[Array, "B M"]:
    """The next token of beams inside a tail: end-of-sequence after its last."""
    items_BM = jnp.maximum(-1 - beams.places_BM, 0)
    ended_BM = beams.tails_BM >= trie.tail_starts_I[items_BM + 1]
    tokens_BM = trie.tail_tokens_Y.at[beams.tails_BM].get(mode="clip").astype(jnp.int32)
    return jnp.where(ended_BM, trie.eos_id, tokens_BM)


def _finished(
    beams: Beams,
    trie: Trie,
    logits_of: LogitsOf,
    normaliser_BM: Float[Array, "B M"],
    constraints: Constraints | None,
) -> tuple[Float[Array, "B M"], Int[Array, "B M"]]:
    """Scores and items of the children that end an id: always the first child of a beam."""
    read = _read_chunk(beams, trie, jnp.zeros((), jnp.int32), 1, constraints)
    ends_BM = (read.valid_BMC & (read.tokens_BMC == trie.eos_id))[:, :, 0]
    logits_BM = logits_of(read.tokens_BMC)[:, :, 0]
    scores_BM = beams.scores_BM + (logits_BM - normaliser_BM)
    items_BM = jnp.where(ends_BM, -1 - read.places_BMC[:, :, 0], LAST_ITEM)
    return jnp.where(ends_BM, scores_BM, -jnp.inf), items_BM
