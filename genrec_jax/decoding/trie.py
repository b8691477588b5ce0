"""The catalogue as a trie of flat arrays: tokenised item ids go in, constrained search reads it.

Layout. A *node* is a prefix shared by two ids or more (or the root); an *arc* is one token out of a
node. Arcs of one node are neighbours, nodes are numbered breadth first, and there are no pointers to
siblings and no rows as wide as the vocabulary. An arc under which only one item is left leads to
that item, and the rest of its id is a run of *tail* tokens, not nodes. End-of-sequence is an arc
(the first of its node), so one id may be a prefix of another; at the end of a tail it is implied.
"""

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int, UInt

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.pytree import pytree_dataclass, static_field

FORMAT_VERSION = 1
REMEDY = "Build the run dir's trie anew, with `genrec train`"
STEPS_MULTIPLE = 4
SMALL_VOCABULARY = 1 << 16

Array = jax.Array | np.ndarray
Tokens = Int[Array, "..."] | UInt[Array, "..."]


@pytree_dataclass
class Trie:
    """A catalogue of item ids. Arrays are padded to a ladder of capacities (`padded_size`).

    Two catalogues with the same padded sizes have the same shapes, and so share one compiled search.

    Attributes:
        prefix_Q: the tokens that every id starts with; they are fed to the decoder in one pass.
        arc_tokens_A: the token of each arc, uint16 where the vocabulary allows, else int32.
        arc_nexts_A: where the arc leads: a node's number, or `-1 - item` when one item is left.
        node_arcs_J: first arc of each node; the arcs of node j are node_arcs[j] .. node_arcs[j + 1].
            Node 0 is the root. One entry more than nodes; padding repeats the last.
        node_items_J: the smallest item number under each node: the order of equal scores.
        node_starts_J: the items under a node are neighbours when ids are sorted by tokens; this is
            the place of the first in that order (`item_ranks`), for excluding items.
        node_counts_J: how many items are under the node.
        tail_starts_I: where the tail tokens of each item start; one entry more than items.
        tail_tokens_Y: the tails, end-of-sequence left out, in item order.
        num_items: items in the catalogue, scalar int32.
        max_steps: tokens after the prefix of the longest id, end-of-sequence included, rounded up to
            a multiple of 4: the slots that a search needs.
        eos_id: the end-of-sequence token.
    """

    prefix_Q: Int[Array, " Q"]
    arc_tokens_A: Int[Array, " A"] | UInt[Array, " A"]
    arc_nexts_A: Int[Array, " A"]
    node_arcs_J: Int[Array, " J"]
    node_items_J: Int[Array, " J"]
    node_starts_J: Int[Array, " J"]
    node_counts_J: Int[Array, " J"]
    tail_starts_I: Int[Array, " I"]
    tail_tokens_Y: Int[Array, " Y"] | UInt[Array, " Y"]
    num_items: Int[Array, ""]
    max_steps: int = static_field()
    eos_id: int = static_field()


def padded_size(size: int) -> int:
    """The capacity for `size` entries: a multiple of 128, beyond 4,096 at most 1/16 more than asked."""
    step = max(128, 1 << max(size.bit_length() - 5, 0))
    return max(-(-size // step), 1) * step


def build_trie(
    values_P: Int[np.ndarray, " P"],
    offsets_I: Int[np.ndarray, " I1"],
    *,
    vocab_size: int,
    eos_id: int = 1,
    name_of: Callable[[int], str] = "item number {}".format,
) -> Trie:
    """Builds the trie of a catalogue, vectorised over items.

    Args:
        values_P: the tokens of all ids, one after the other; an end-of-sequence at the end of an id is
            implied, and may be there or not.
        offsets_I: item i's tokens are `values[offsets[i]:offsets[i + 1]]`; one entry more than items.
        vocab_size: tokens are below it (at most 2**31); it chooses the width they are stored in.
        eos_id: end-of-sequence, which no id may contain.
        name_of: what to call an item in an error.

    Raises:
        UserError: two items with one id (both are named), an empty id or catalogue, a token outside
            the vocabulary, or end-of-sequence inside an id.
    """
    values_P = np.asarray(values_P)
    offsets_I = np.asarray(offsets_I, np.int64)
    lengths_I = np.diff(offsets_I)
    ended = lengths_I > 0
    ended[ended] = values_P[offsets_I[1:][ended] - 1] == eos_id
    lengths_I -= ended
    num_items = len(lengths_I)
    _check_tokens(values_P, offsets_I, lengths_I, vocab_size, eos_id, name_of)
    order_I = _sorted_items(values_P, offsets_I, lengths_I, name_of)
    prefix_Q = _common_prefix(values_P, offsets_I, lengths_I, order_I)
    depth = len(prefix_Q)
    max_steps = int(lengths_I.max()) - depth + 1
    tail_depths_I = np.zeros(num_items, np.int64)
    arc_tokens, arc_nexts, node_arcs, node_items, node_starts, node_counts = ([] for _ in range(6))
    num_arcs, num_nodes = 0, 1
    # `ranks` are the sorted places of the items still under a node of this level; `fresh` says which
    # of them is the first of its node.
    ranks_X = np.arange(num_items)
    fresh_X = ranks_X == 0
    while ranks_X.size:
        items_X = order_I[ranks_X]
        more_X = lengths_I[items_X] > depth
        tokens_X = np.full(len(items_X), -1, np.int64)
        tokens_X[more_X] = values_P[offsets_I[items_X[more_X]] + depth]
        is_arc_X = fresh_X.copy()
        is_arc_X[1:] |= tokens_X[1:] != tokens_X[:-1]
        arc_heads = np.flatnonzero(is_arc_X)
        arc_sizes = np.diff(arc_heads, append=len(ranks_X))
        node_heads = np.flatnonzero(fresh_X)
        node_arcs.append(num_arcs + np.cumsum(is_arc_X)[node_heads] - 1)
        node_items.append(np.minimum.reduceat(items_X, node_heads))
        node_starts.append(ranks_X[node_heads])
        node_counts.append(np.diff(node_heads, append=len(ranks_X)))
        lone = arc_sizes == 1
        nexts = np.where(lone, -1 - items_X[arc_heads], num_nodes + np.cumsum(~lone) - 1)
        tokens = tokens_X[arc_heads]
        arc_tokens.append(np.where(tokens < 0, eos_id, tokens))
        arc_nexts.append(nexts)
        num_arcs += len(arc_heads)
        num_nodes += int(np.count_nonzero(~lone))
        tail_depths_I[items_X[arc_heads[lone]]] = depth + 1
        stays_X = np.repeat(~lone, arc_sizes)
        fresh_X, ranks_X = is_arc_X[stays_X], ranks_X[stays_X]
        depth += 1
    tail_lengths_I = np.maximum(lengths_I - tail_depths_I, 0)
    tail_starts_I = np.concatenate([[0], np.cumsum(tail_lengths_I)])
    tail_sources_Y = np.repeat(offsets_I[:-1] + tail_depths_I - tail_starts_I[:-1], tail_lengths_I)
    tail_sources_Y += np.arange(tail_starts_I[-1])
    _check_counts(num_arcs, int(tail_starts_I[-1]))
    token_type = np.uint16 if vocab_size <= SMALL_VOCABULARY else np.int32
    return Trie(
        prefix_Q=prefix_Q,
        arc_tokens_A=_padded(arc_tokens, eos_id, token_type),
        arc_nexts_A=_padded(arc_nexts, 0),
        node_arcs_J=_padded([*node_arcs, [num_arcs]], num_arcs),
        node_items_J=_padded([*node_items, [0]], 0),
        node_starts_J=_padded([*node_starts, [num_items]], num_items),
        node_counts_J=_padded([*node_counts, [0]], 0),
        tail_starts_I=_padded([tail_starts_I], int(tail_starts_I[-1])),
        tail_tokens_Y=_padded([values_P[tail_sources_Y]], eos_id, token_type),
        num_items=np.asarray(num_items, np.int32),
        max_steps=-(-max_steps // STEPS_MULTIPLE) * STEPS_MULTIPLE,
        eos_id=eos_id,
    )


def item_ranks(trie: Trie) -> Int[np.ndarray, " I"]:
    """The place of each item when ids are sorted by tokens, a prefix first; from the arrays alone."""
    num_items = int(trie.num_items)
    nexts_A, starts_J = np.asarray(trie.arc_nexts_A), np.asarray(trie.node_starts_J)
    node_arcs_J = np.asarray(trie.node_arcs_J).astype(np.int64)
    num_arcs = int(node_arcs_J[-1])
    nexts_A = nexts_A[:num_arcs]
    sizes_A = np.where(nexts_A < 0, 1, np.asarray(trie.node_counts_J)[np.maximum(nexts_A, 0)])
    before_A = np.cumsum(sizes_A) - sizes_A
    widths_J = np.diff(node_arcs_J)
    firsts_A = np.repeat(node_arcs_J[:-1], widths_J)
    ranks_A = np.repeat(starts_J[:-1], widths_J) + before_A - before_A[firsts_A]
    ranks_I = np.zeros(num_items, np.int32)
    lone_A = nexts_A < 0
    ranks_I[-1 - nexts_A[lone_A]] = ranks_A[lone_A]
    return ranks_I


def bytes_per_item(trie: Trie) -> float:
    """Size of the arrays, padding included, over the number of items."""
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trie)) / int(trie.num_items)


def save(trie: Trie, path: artefacts.PathLike) -> None:
    """Writes the trie as one `.npz`, atomically, with its format version and a checksum."""
    arrays = _named_arrays(trie)
    header = np.asarray([FORMAT_VERSION, trie.max_steps, trie.eos_id], np.int64)
    with artefacts.atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, header=header, checksum=_checksum(header, arrays), **arrays)  # type: ignore[arg-type]


def load(path: artefacts.PathLike) -> Trie:
    """Reads a trie that `save` wrote, into NumPy arrays.

    Raises:
        UserError: the file is missing, damaged or of another format version.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header, checksum = arrays.pop("header"), arrays.pop("checksum")
    except FileNotFoundError as error:
        raise UserError(f"not found; wanted a trie. {REMEDY}", file=str(path)) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"cannot be read ({error}); wanted a trie. {REMEDY}", file=str(path)
        ) from error
    artefacts.check_version(int(header[0]), FORMAT_VERSION, path=path, remedy=REMEDY)
    if not np.array_equal(checksum, _checksum(header, arrays)):
        raise UserError(
            f"is damaged: its checksum is not that of its contents. {REMEDY}", file=str(path)
        )
    return Trie(**arrays, max_steps=int(header[1]), eos_id=int(header[2]))


def _named_arrays(trie: Trie) -> dict[str, np.ndarray]:
    fields = dataclasses.fields(trie)
    return {
        f.name: np.asarray(getattr(trie, f.name)) for f in fields if not f.metadata.get("static")
    }


def _checksum(header: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256(header.tobytes())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _padded(parts: list, fill: int, dtype: type = np.int32) -> np.ndarray:
    """The parts, one after the other, at the capacity that holds them."""
    array = np.concatenate(parts)
    padded = np.full(padded_size(len(array)), fill, dtype)
    padded[: len(array)] = array
    return padded


def _check_tokens(
    values_P: np.ndarray,
    offsets_I: np.ndarray,
    lengths_I: np.ndarray,
    vocab_size: int,
    eos_id: int,
    name_of: Callable[[int], str],
) -> None:
    if len(lengths_I) == 0:
        raise UserError("the catalogue is empty; wanted one item or more to build a trie of")
    empty = np.flatnonzero(lengths_I == 0)
    if empty.size:
        raise UserError(
            f"{name_of(int(empty[0]))} has an id of no tokens; wanted one or more. Index the"
            " dataset anew, with `genrec index`"
        )
    if not 0 < vocab_size <= 1 << 31:
        raise UserError(f"vocab_size is {vocab_size}; wanted 1 to 2**31")
    is_wrong_P = (values_P < 0) | (values_P >= vocab_size) | (values_P == eos_id)
    is_wrong_P[(offsets_I[:-1] + lengths_I)[offsets_I[:-1] + lengths_I < offsets_I[1:]]] = False
    wrong = np.flatnonzero(is_wrong_P)
    if wrong.size:
        item = int(np.searchsorted(offsets_I, wrong[0], side="right")) - 1
        raise UserError(
            f"the id of {name_of(item)} has the token {int(values_P[wrong[0]])}; wanted tokens from"
            f" 0 to {vocab_size - 1} and end-of-sequence ({eos_id}) at the end only. Index the dataset"
            " with the vocabulary of this run"
        )


def _sorted_items(
    values_P: np.ndarray,
    offsets_I: np.ndarray,
    lengths_I: np.ndarray,
    name_of: Callable[[int], str],
) -> np.ndarray:
    """Items sorted by their ids, a prefix first; ids of any length without a padded matrix.

    As many tokens as fit are packed into one 64-bit key; only items that tie on it read further.
    """
    bits = (int(values_P.max()) + 1).bit_length()
    width = 64 // bits
    order_I = np.arange(len(lengths_I))
    # `order[places]` are the items not told apart yet; those of one group have one `group`.
    places_X = np.arange(len(order_I))
    groups_X = np.zeros(len(order_I), np.int64)
    depth = 0
    while places_X.size:
        items_X = order_I[places_X]
        keys_X = np.zeros(len(items_X), np.uint64)
        for step in range(depth, depth + width):
            more_X = lengths_I[items_X] > step
            tokens_X = np.zeros(len(items_X), np.uint64)
            tokens_X[more_X] = values_P[offsets_I[items_X[more_X]] + step] + 1
            keys_X = (keys_X << np.uint64(bits)) | tokens_X
        by_key = np.lexsort((keys_X, groups_X)) if depth else np.argsort(keys_X, kind="stable")
        items_X, keys_X = items_X[by_key], keys_X[by_key]
        order_I[places_X] = items_X  # groups lie in place order, so each stays in its own places
        same = (keys_X[1:] == keys_X[:-1]) & (groups_X[1:] == groups_X[:-1])
        depth += width
        ended = np.flatnonzero(same & (lengths_I[items_X[1:]] <= depth))
        if ended.size:
            first, second = sorted(int(i) for i in items_X[ended[0] : ended[0] + 2])
            raise UserError(
                f"{name_of(first)} and {name_of(second)} have the same id; wanted one id per item."
                " Index the dataset anew, with `genrec index`"
            )
        tied_X = np.zeros(len(items_X), bool)
        tied_X[1:] |= same
        tied_X[:-1] |= same
        starts_X = np.ones(len(items_X), bool)
        starts_X[1:] = ~same
        groups_X = np.cumsum(starts_X)[tied_X]
        places_X = places_X[tied_X]
    return order_I


def _common_prefix(
    values_P: np.ndarray, offsets_I: np.ndarray, lengths_I: np.ndarray, order_I: np.ndarray
) -> Int[np.ndarray, " Q"]:
    """The tokens that the first and the last id in sorted order share, and so all ids."""
    first, last = (values_P[offsets_I[i] :][: lengths_I[i]] for i in (order_I[0], order_I[-1]))
    shared = min(len(first), len(last))
    differs = np.flatnonzero(first[:shared] != last[:shared])
    return first[: int(differs[0]) if differs.size else shared].astype(np.int32)


def _check_counts(num_arcs: int, num_tail_tokens: int) -> None:
    limit = np.iinfo(np.int32).max
    if max(num_arcs, num_tail_tokens) >= limit:
        raise UserError(
            f"the trie needs {num_arcs} arcs and {num_tail_tokens} tail tokens; wanted fewer than"
            f" {limit} of each. Use shorter ids"
        )
