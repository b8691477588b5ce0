"""One step of the search over the trie: the best children of an example's beams, and finished ids.

Every child that is read gets a score (`reading`); its token and where it leads are read for those that
are kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.decoding import children, reading
from genrec_jax.decoding.constraints import LAST_ITEM
from genrec_jax.decoding.reading import Frontier
from genrec_jax.parallel import rules


class Children(NamedTuple):
    """The best unfinished children of an example's beams, and its finished ones.

    The first six fields describe the k best unfinished children, best first, -inf for none; `items`
    is the smallest item that a child may become. Of finished children each beam has one at most;
    `finished_items` says which.
    """

    scores_BM: Float[Array, "B M"]
    items_BM: Int[Array, "B M"]
    parents_BM: Int[Array, "B M"]
    tokens_BM: Int[Array, "B M"]
    places_BM: Int[Array, "B M"]
    spans_BM2: Int[Array, "B M 2"]
    ahead_BMC: Int[Array, "B M C"]
    finished_BM: Float[Array, "B M"]


def best_children(front: Frontier, keep: int, width: int) -> Children:
    """The `keep` best unfinished children of all beams of an example, and every finished child.

    Args:
        front: the beams, the trie and the network's answers.
        keep: how many unfinished children to keep.
        width: children of a beam read at a time at most.
    """
    beams, spans, trie = front.beams, front.spans, front.trie
    finished_BM = _finished(front)
    if rules.ways_of("vocab") > 1:
        # All devices must communicate in one order, and only a data dependence fixes it: the ends first.
        failed_BM = jnp.isnan(finished_BM)
        after_BM = jnp.where(failed_BM, finished_BM, front.normaliser_BM)
        front = front._replace(normaliser_BM=after_BM)
    found = reading.highest(front, keep, width)
    # Equal scores on both sides of the cut: by smallest item, which takes a reading of its own.
    straddles = jnp.any((found.lost_B >= found.scores_BR[:, -1]) & (found.lost_B > -jnp.inf))
    found = jax.lax.cond(
        straddles, lambda: reading.highest_by_item(front, keep, width), lambda: found
    )
    found = reading.in_order(found, front)
    parents_BR = found.parents_BR
    places_BM, spans_BM2, ahead_BMC = children.below(
        parents_BR, found.offsets_BR, beams, spans, trie
    )
    return Children(
        scores_BM=found.scores_BR,
        items_BM=children.smallest_items(places_BM, trie),
        parents_BM=parents_BR,
        tokens_BM=found.tokens_BR,
        places_BM=places_BM,
        spans_BM2=spans_BM2,
        ahead_BMC=ahead_BMC,
        finished_BM=finished_BM,
    )


def normaliser_of_children(front: Frontier, width: int) -> Float[Array, "B M"]:
    """Logsumexp of the logits of each beam's children, read in chunks; 0 where there are none."""
    beams, spans, trie = front.beams, front.spans, front.trie

    def add_chunk(chunk: Array, total_BM: Array) -> Array:
        offsets_C = chunk * width + jnp.arange(width, dtype=jnp.int32)
        tokens_BMC = children.child_tokens(spans, offsets_C, trie)
        valid_BMC = children.are_there(spans, offsets_C)
        if front.constraints is not None:
            valid_BMC &= children.may_get(beams, spans, trie, offsets_C, front.constraints)
        logits_BMC = jnp.where(valid_BMC, front.logits_of(tokens_BMC), -jnp.inf)
        return jnp.logaddexp(total_BM, jax.nn.logsumexp(logits_BMC, axis=2))

    nothing_BM = jnp.full(beams.scores_BM.shape, -jnp.inf, jnp.float32)
    rounds = reading.num_chunks(spans, width)
    total_BM = jax.lax.fori_loop(0, rounds, add_chunk, nothing_BM)
    return jnp.where(total_BM > -jnp.inf, total_BM, 0.0)


def finished_items(front: Frontier, finished_BM: Float[Array, "B M"]) -> Int[Array, "B M"]:
    """The items of finished children, by their scores; `LAST_ITEM` for none."""
    spans = front.spans
    nexts_BM = front.trie.arc_nexts_A.at[spans.firsts_BM].get(mode="clip")
    places_BM = jnp.where(spans.in_tail_BM, front.beams.places_BM, nexts_BM)
    return jnp.where(finished_BM > -jnp.inf, -1 - places_BM, LAST_ITEM)


def _finished(front: Frontier) -> Float[Array, "B M"]:
    """Scores of the children that end an id, always the first child of a beam; -inf for none."""
    beams, spans, trie = front.beams, front.spans, front.trie
    may_end_BM = spans.has_eos_BM
    if front.constraints is not None:
        first = jnp.zeros(1, jnp.int32)
        may_end_BM &= children.may_get(beams, spans, trie, first, front.constraints)[:, :, 0]
    eos_BM1 = jnp.full((*may_end_BM.shape, 1), trie.eos_id, jnp.int32)
    scores_BM = beams.scores_BM + (front.logits_of(eos_BM1)[:, :, 0] - front.normaliser_BM)
    return jnp.where(may_end_BM, scores_BM, -jnp.inf)
