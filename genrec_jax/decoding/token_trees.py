"""Ids as trees of tokens that fit one pass of the decoder: the plan by which they are scored exactly.

A tree's nodes lie depth first, so a node's descendants are the nodes up to its `end`, and what a node
may see (its ancestors and itself) follows from these numbers alone.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from genrec_jax.decoding.search import DECODER_START
from genrec_jax.errors import UserError
from genrec_jax.pytree import pytree_dataclass

Array = jax.Array | np.ndarray


@pytree_dataclass
class TokenTree:
    """The form of a tree of tokens; node 0 is its root, the start token.

    Attributes:
        depths_Q: tokens before each node on its path: its position in the decoder.
        parents_Q: the node before it; the root and padding have the root.
        ends_Q: the nodes of its subtree are itself to `ends - 1`.
    """

    depths_Q: Int[Array, " Q"]
    parents_Q: Int[Array, " Q"]
    ends_Q: Int[Array, " Q"]


@pytree_dataclass
class CatalogueBlock:
    """Some items of a catalogue, as one tree.

    Attributes:
        tree: its form.
        tokens_Q: its tokens.
        lasts_C: the node of the last token of each item.
        items_C: the items' numbers; padding is the number of items in the catalogue.
    """

    tree: TokenTree
    tokens_Q: Int[Array, " Q"]
    lasts_C: Int[Array, " C"]
    items_C: Int[Array, " C"]


def tree_of_depths(depths_Q: Sequence[int] | Int[np.ndarray, " q"], size: int) -> TokenTree:
    """The tree whose nodes, depth first, have these depths; padded to `size` nodes.

    Args:
        depths_Q: 0 first and nowhere else; each at most one more than the one before.
        size: nodes with padding, which sees itself alone.
    """
    depths_Q = np.asarray(depths_Q, np.int32)
    count = len(depths_Q)
    parents_Q = np.zeros(size, np.int32)
    ends_Q = np.arange(1, size + 1, dtype=np.int32)
    for depth in range(int(depths_Q.max()) + 1):
        here = np.flatnonzero(depths_Q == depth)
        not_below = np.append(np.flatnonzero(depths_Q <= depth), count)
        ends_Q[here] = not_below[np.searchsorted(not_below, here, side="right")]
        if depth:
            above = np.flatnonzero(depths_Q == depth - 1)
            parents_Q[here] = above[np.searchsorted(above, here) - 1]
    return TokenTree(np.pad(depths_Q, (0, size - count)), parents_Q, ends_Q)


def catalogue_blocks(
    values_P: Int[np.ndarray, " P"],
    offsets_I: Int[np.ndarray, " I1"],
    order_I: Int[np.ndarray, " I"],
    *,
    eos_id: int,
    block_size: int,
) -> list[CatalogueBlock]:
    """A catalogue cut into trees of one size.

    Each block holds neighbours in the order of the trie, and of the prefixes shared with earlier
    blocks only the path to its first item; so nearly every prefix of the catalogue is fed once.

    Args:
        values_P: the tokens of all ids, as `trie.build_trie` takes them.
        offsets_I: where each begins; one entry more than items.
        order_I: the items sorted by their ids, a prefix first (the order of `trie.item_ranks`).
        eos_id: end-of-sequence; at the end of an id it may be there or not.
        block_size: nodes of a block, padding included (Q).

    Raises:
        UserError: an id that is longer than a block.
    """
    tokens_IT, lengths_I = _padded_ids(values_P, offsets_I, eos_id)
    tokens_IT, lengths_I = tokens_IT[order_I], lengths_I[order_I]
    num_items, width = tokens_IT.shape
    if 1 + width > block_size:
        raise UserError(
            f"a block of {block_size} tokens does not hold the longest id; wanted at least"
            f" {1 + width}"
        )
    shared_I = np.zeros(num_items, np.int64)
    same = (tokens_IT[1:] == tokens_IT[:-1]) & (tokens_IT[1:] >= 0)
    shared_I[1:] = np.cumprod(same, axis=1).sum(axis=1)
    ends_I = np.cumsum(lengths_I - shared_I)
    blocks, first = [], 0
    cuts = []
    while first < num_items:
        # The first item brings its whole path; each later one what its predecessor has not.
        room = block_size - 1 - int(lengths_I[first])
        last = int(np.searchsorted(ends_I, ends_I[first] + room, side="right"))
        cuts.append((first, last))
        first = last
    capacity = max(last - first for first, last in cuts)
    for first, last in cuts:
        begins = shared_I[first:last].copy()
        begins[0] = 0
        counts = lengths_I[first:last] - begins
        rows_P = np.repeat(np.arange(first, last), counts)
        within_P = np.arange(len(rows_P)) - np.repeat(np.cumsum(counts) - counts, counts)
        depths_P = within_P + np.repeat(begins, counts)
        tokens_Q = np.zeros(block_size, np.int32)
        tokens_Q[0] = DECODER_START
        tokens_Q[1 : 1 + len(rows_P)] = tokens_IT[rows_P, depths_P]
        lasts_C = np.zeros(capacity, np.int32)
        lasts_C[: last - first] = np.cumsum(counts)
        items_C = np.full(capacity, num_items, np.int32)
        items_C[: last - first] = order_I[first:last]
        tree = tree_of_depths(np.concatenate([[0], depths_P + 1]), block_size)
        blocks.append(CatalogueBlock(tree, tokens_Q, lasts_C, items_C))
    return blocks


@dataclasses.dataclass(frozen=True)
class CandidateTrees:
    """Trees of one form for C candidate ids of each example: the common prefix, then a chain for each.

    Attributes:
        form: of all these trees.
        tokens_IT: every id's tokens after the common prefix, end-of-sequence left out; 0 after its end.
        lengths_I: how many they are.
        prefix_Q: start token and common prefix.
        num_candidates: C.
    """

    form: TokenTree
    tokens_IT: Int[np.ndarray, "I T"]
    lengths_I: Int[np.ndarray, " I"]
    prefix_Q: Int[np.ndarray, " Q"]
    num_candidates: int

    @classmethod
    def of(
        cls,
        values_P: Int[np.ndarray, " P"],
        offsets_I: Int[np.ndarray, " I1"],
        *,
        eos_id: int,
        num_candidates: int,
    ) -> "CandidateTrees":
        """The form for a catalogue's ids; see `catalogue_blocks` for the arguments."""
        tokens_IT, lengths_I = _padded_ids(values_P, offsets_I, eos_id)
        # The last token of an id is fed in a chain of its own, so that every chain has one.
        same = (tokens_IT == tokens_IT[:1]).all(axis=0)[: int(lengths_I.min()) - 1]
        shared = int(np.cumprod(same).sum())
        prefix_Q = np.concatenate([[DECODER_START], tokens_IT[0, :shared]]).astype(np.int32)
        chain = np.arange(shared + 1, tokens_IT.shape[1] + 1)
        depths_Q = np.concatenate([np.arange(shared + 1), np.tile(chain, num_candidates)])
        form = tree_of_depths(depths_Q, len(depths_Q))
        chains_IT = np.maximum(tokens_IT[:, shared:], 0).astype(np.int32)
        return cls(form, chains_IT, lengths_I - shared, prefix_Q, num_candidates)

    def fill(
        self, items_BC: Int[np.ndarray, "B C"]
    ) -> tuple[Int[np.ndarray, "B Q"], Int[np.ndarray, "B C"]]:
        """The tokens of each example's tree, and the node of each candidate's last token.

        Args:
            items_BC: candidates; negative ones (of padding rows) are taken for item 0.
        """
        items_BC = np.maximum(items_BC, 0)
        prefix_BQ = np.broadcast_to(self.prefix_Q, (len(items_BC), len(self.prefix_Q)))
        chains_BQ = self.tokens_IT[items_BC].reshape(len(items_BC), -1)
        starts_C = len(self.prefix_Q) + self.tokens_IT.shape[1] * np.arange(self.num_candidates)
        lasts_BC = starts_C[None, :] + self.lengths_I[items_BC] - 1
        return np.concatenate([prefix_BQ, chains_BQ], axis=1), lasts_BC.astype(np.int32)


def _padded_ids(
    values_P: Int[np.ndarray, " P"], offsets_I: Int[np.ndarray, " I1"], eos_id: int
) -> tuple[Int[np.ndarray, "I T"], Int[np.ndarray, " I"]]:
    """Ids without end-of-sequence as rows padded with -1, and their lengths."""
    values_P, offsets_I = np.asarray(values_P), np.asarray(offsets_I, np.int64)
    lengths_I = np.diff(offsets_I)
    lengths_I = lengths_I - (values_P[offsets_I[1:] - 1] == eos_id)
    within_T = np.arange(int(lengths_I.max()))
    places_IT = offsets_I[:-1, None] + within_T[None, :]
    tokens_IT = values_P[np.minimum(places_IT, len(values_P) - 1)].astype(np.int32)
    return np.where(within_T[None, :] < lengths_I[:, None], tokens_IT, -1), lengths_I
