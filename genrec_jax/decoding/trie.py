"""The catalogue as a trie of flat arrays: tokenised item ids go in, constrained search reads it.

Layout. A *node* is a prefix shared by two ids or more (or the root); an *arc* is one token out of a
node. Arcs of one node are neighbours, nodes are numbered breadth first, and there are no pointers to
siblings and no rows as wide as the vocabulary. An arc under which only one item is left leads to
that item, and the rest of its id is a run of *tail* tokens, not nodes. End-of-sequence is an arc
(the first of its node), so one id may be a prefix of another; at the end of a tail it is implied.

A *place* is where a beam may stand: a node, by its number, or a tail, by `-1 - item`. Tokens of arcs and of
tails lie in one array and so do the starts of both, so that a step of the search reads each place and each
token in one gather, whatever it is.
"""

import dataclasses
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt

from genrec_jax.data import artefacts
from genrec_jax.decoding import id_order
from genrec_jax.errors import UserError
from genrec_jax.pytree import pytree_dataclass, static_field

FORMAT_VERSION = 2
REMEDY = (
    "The `genrec train` command that made the run dir builds it anew, and keeps the checkpoints"
)
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
        tokens_Y: the token of each arc (A of them), then the tails, end-of-sequence left out, in item
            order; uint16 where the vocabulary allows, else int32.
        arc_nexts_A: the place to which each arc leads.
        starts_N: the first arc of each node (J of them), then the first token of each item's tail, both
            as places in `tokens`; the next entry is the end. Node 0 is the root. Each part has one
            entry more than there are, and its padding repeats the last.
        node_items_J: the smallest item number under each node: the order of equal scores.
        node_ranks_J: the items under a node are neighbours when ids are sorted by tokens; this is
            the rank of the first in that order (`item_ranks`), for excluding items.
        node_counts_J: how many items are under the node.
        num_items: item numbers are below this, scalar int32.
        max_steps: tokens after the prefix of the longest id, end-of-sequence included, rounded up to
            a multiple of 4: the slots that a search needs.
        eos_id: the end-of-sequence token.
    """

    prefix_Q: Int[Array, " Q"]
    tokens_Y: Int[Array, " Y"] | UInt[Array, " Y"]
    arc_nexts_A: Int[Array, " A"]
    starts_N: Int[Array, " N"]
    node_items_J: Int[Array, " J"]
    node_ranks_J: Int[Array, " J"]
    node_counts_J: Int[Array, " J"]
    num_items: Int[Array, ""]
    max_steps: int = static_field()
    eos_id: int = static_field()

    @property
    def capacities(self) -> "Sizes":
        """The entries that the arrays have, padding included."""
        arcs, nodes = len(self.arc_nexts_A), len(self.node_items_J)
        return Sizes(arcs, nodes, len(self.starts_N) - nodes, len(self.tokens_Y) - arcs)

    @property
    def node_arcs_J(self) -> Int[Array, " J"]:
        """The first part of `starts`: the first arc of each node."""
        return self.starts_N[: self.capacities.nodes]

    @property
    def tail_starts_I(self) -> Int[Array, " I"]:
        """The second part of `starts`: the first token of each item's tail."""
        return self.starts_N[self.capacities.nodes :]


class Sizes(NamedTuple):
    """Entries of a trie's parts.

    Attributes:
        arcs: arcs, that is tokens of the first part.
        nodes: starts of nodes, one more than there are nodes.
        items: starts of tails, one more than there are items.
        tail_tokens: tokens of the second part.
    """

    arcs: int
    nodes: int
    items: int
    tail_tokens: int


def padded_size(size: int) -> int:
    """The capacity for `size` entries: a multiple of 128, beyond 4,096 at most 1/16 more than asked."""
    step = max(128, 1 << max(size.bit_length() - 5, 0))
    return max(-(-size // step), 1) * step


def build_trie(
    values_P: Int[np.ndarray, " P"] | UInt[np.ndarray, " P"],
    offsets_I: Int[np.ndarray, " I1"],
    *,
    vocab_size: int,
    eos_id: int = 1,
    name_of: Callable[[int], str] = "item number {}".format,
    remedy: str = id_order.REMEDY,
    order_I: Int[np.ndarray, " I"] | None = None,
    room: Trie | None = None,
) -> Trie:
    """Builds the trie of a catalogue, vectorised over items.

    Args:
        values_P: the tokens of all ids, one after the other; an end-of-sequence at the end of an id is
            implied, and may be there or not.
        offsets_I: item i's tokens are `values[offsets[i]:offsets[i + 1]]`; one entry more than items.
        vocab_size: tokens are below it (at most 2**31); it chooses the width they are stored in.
        eos_id: end-of-sequence, which no id may contain.
        name_of: what to call an item in an error.
        remedy: what to do about two items with one id, or an empty one.
        order_I: items in about the order of their ids, which sorts faster.
        room: a trie whose shapes and static fields the new one gets wherever it fits into them, so
            that both share one compiled search.

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
    id_order.check_tokens(values_P, offsets_I, lengths_I, vocab_size, eos_id, name_of, remedy)
    order_I = id_order.sorted_rows(values_P, offsets_I, lengths_I, name_of, order_I, remedy)
    prefix_Q = id_order.common_prefix(values_P, offsets_I, lengths_I, order_I)
    if room is not None:
        prefix_Q = prefix_Q[: len(room.prefix_Q)]
    depth = len(prefix_Q)
    max_steps = int(lengths_I.max()) - depth + 1
    tail_depths_I = np.zeros(num_items, np.int64)
    arc_tokens, arc_nexts, node_arcs, node_items, node_ranks, node_counts = ([] for _ in range(6))
    num_arcs, num_nodes = 0, 1
    # `ranks` are the sorted places of the items still under a node of this level; `fresh` says which
    # of them is the first of its node.
    ranks_X = np.arange(num_items)
    fresh_X = ranks_X == 0
    while ranks_X.size:
        rows_X = order_I[ranks_X]
        more_X = lengths_I[rows_X] > depth
        tokens_X = np.full(len(rows_X), -1, np.int64)
        tokens_X[more_X] = values_P[offsets_I[rows_X[more_X]] + depth]
        is_arc_X = fresh_X.copy()
        is_arc_X[1:] |= tokens_X[1:] != tokens_X[:-1]
        arc_heads = np.flatnonzero(is_arc_X)
        arc_sizes = np.diff(arc_heads, append=len(ranks_X))
        node_heads = np.flatnonzero(fresh_X)
        node_arcs.append(num_arcs + np.cumsum(is_arc_X)[node_heads] - 1)
        node_items.append(np.minimum.reduceat(rows_X, node_heads))
        node_ranks.append(ranks_X[node_heads])
        node_counts.append(np.diff(node_heads, append=len(ranks_X)))
        lone = arc_sizes == 1
        lone_rows = rows_X[arc_heads]
        nexts = np.where(lone, -1 - lone_rows, num_nodes + np.cumsum(~lone) - 1)
        tokens = tokens_X[arc_heads]
        arc_tokens.append(np.where(tokens < 0, eos_id, tokens))
        arc_nexts.append(nexts)
        num_arcs += len(arc_heads)
        num_nodes += int(np.count_nonzero(~lone))
        tail_depths_I[lone_rows[lone]] = depth + 1
        stays_X = np.repeat(~lone, arc_sizes)
        fresh_X, ranks_X = is_arc_X[stays_X], ranks_X[stays_X]
        depth += 1
    tail_lengths_I = np.maximum(lengths_I - tail_depths_I, 0)
    tail_starts_I = np.concatenate([[0], np.cumsum(tail_lengths_I)])
    is_tail_P = id_order.runs(len(values_P), offsets_I[:-1] + tail_depths_I, tail_lengths_I)
    token_type = np.uint16 if vocab_size <= SMALL_VOCABULARY else np.int32
    max_steps = -(-max_steps // STEPS_MULTIPLE) * STEPS_MULTIPLE
    used = Sizes(num_arcs, num_nodes + 1, num_items + 1, int(tail_starts_I[-1]))
    sizes = _room_for(used, room)
    tokens_Y = np.full(sizes.arcs + sizes.tail_tokens, eos_id, token_type)
    np.concatenate(arc_tokens, out=tokens_Y[:num_arcs], casting="unsafe")
    tokens_Y[sizes.arcs : sizes.arcs + used.tail_tokens] = values_P[is_tail_P]
    node_arcs_J = _padded([*node_arcs, [num_arcs]], num_arcs, sizes.nodes)
    tail_starts_I = _padded(
        [sizes.arcs + tail_starts_I], sizes.arcs + used.tail_tokens, sizes.items
    )
    return Trie(
        prefix_Q=prefix_Q,
        tokens_Y=tokens_Y,
        arc_nexts_A=_padded(arc_nexts, 0, sizes.arcs),
        starts_N=np.concatenate([node_arcs_J, tail_starts_I]),
        node_items_J=_padded(node_items, 0, sizes.nodes),
        node_ranks_J=_padded(node_ranks, num_items, sizes.nodes),
        node_counts_J=_padded(node_counts, 0, sizes.nodes),
        num_items=np.asarray(num_items, np.int32),
        max_steps=max_steps if room is None else max(max_steps, room.max_steps),
        eos_id=eos_id,
    )


def resized(trie: Trie, sizes: Sizes) -> Trie:
    """The trie in arrays of these sizes, none below its own."""
    own = trie.capacities
    grown = sizes.arcs - own.arcs
    tokens_Y = np.asarray(trie.tokens_Y)
    return dataclasses.replace(
        trie,
        tokens_Y=np.concatenate(
            [
                _longer(tokens_Y[: own.arcs], sizes.arcs),
                _longer(tokens_Y[own.arcs :], sizes.tail_tokens),
            ]
        ),
        starts_N=np.concatenate(
            [
                _longer(trie.node_arcs_J, sizes.nodes),
                _longer(trie.tail_starts_I, sizes.items) + np.int32(grown),
            ]
        ),
        arc_nexts_A=_longer(trie.arc_nexts_A, sizes.arcs),
        node_items_J=_longer(trie.node_items_J, sizes.nodes),
        node_ranks_J=_longer(trie.node_ranks_J, sizes.nodes),
        node_counts_J=_longer(trie.node_counts_J, sizes.nodes),
    )


def sizes_used(trie: Trie) -> Sizes:
    """The entries that are not padding."""
    node_arcs_J, tail_starts_I = np.asarray(trie.node_arcs_J), np.asarray(trie.tail_starts_I)
    num_arcs = int(node_arcs_J[-1])
    return Sizes(
        arcs=num_arcs,
        # One entry ends the nodes; behind it the starts repeat themselves.
        nodes=int(np.searchsorted(node_arcs_J, num_arcs)) + 1,
        items=int(trie.num_items) + 1,
        tail_tokens=int(tail_starts_I[-1]) - trie.capacities.arcs,
    )


def item_ranks(trie: Trie) -> Int[np.ndarray, " I"]:
    """The place of each item when ids are sorted by tokens, a prefix first; from the arrays alone."""
    num_items = int(trie.num_items)
    nexts_A, ranks_J = np.asarray(trie.arc_nexts_A), np.asarray(trie.node_ranks_J)
    node_arcs_J = np.asarray(trie.node_arcs_J).astype(np.int64)
    num_arcs = int(node_arcs_J[-1])
    nexts_A = nexts_A[:num_arcs]
    sizes_A = np.where(nexts_A < 0, 1, np.asarray(trie.node_counts_J)[np.maximum(nexts_A, 0)])
    before_A = np.cumsum(sizes_A) - sizes_A
    widths_J = np.diff(node_arcs_J)
    firsts_A = np.repeat(node_arcs_J[:-1], widths_J)
    ranks_A = np.repeat(ranks_J[:-1], widths_J) + before_A - before_A[firsts_A]
    ranks_I = np.empty(num_items, np.int32)
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


def load(path: artefacts.PathLike, *, mapped: bool = False) -> Trie:
    """Reads a trie that `save` wrote, into NumPy arrays.

    Args:
        path: the file.
        mapped: leave the arrays in the file, mapped into memory and read-only, so that processes on
            one machine share them and a large catalogue opens at once. The checksum, which would
            read them all, is then not looked at.

    Raises:
        UserError: the file is missing, damaged or of another format version.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files if not mapped else ["header", "checksum"]
            arrays = {name: archive[name] for name in names}
        if mapped:
            arrays = _mapped(path) | arrays
        header, checksum = arrays.pop("header"), arrays.pop("checksum")
    except FileNotFoundError as error:
        raise UserError(f"not found; wanted a trie. {REMEDY}", file=str(path)) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"cannot be read ({error}); wanted a trie. {REMEDY}", file=str(path)
        ) from error
    artefacts.check_version(int(header[0]), FORMAT_VERSION, path=path, remedy=REMEDY)
    if not mapped and not np.array_equal(checksum, _checksum(header, arrays)):
        raise UserError(
            f"is damaged: its checksum is not that of its contents. {REMEDY}", file=str(path)
        )
    return Trie(**arrays, max_steps=int(header[1]), eos_id=int(header[2]))


def _mapped(path: artefacts.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed `.npz`, mapped: each member is a whole `.npy` file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed, and cannot be mapped")
            # A member's own header ends with its name and extra field, whose lengths stand in it.
            file.seek(member.header_offset)
            name_length, extra_length = struct.unpack_from("<HH", file.read(30), 26)
            file.seek(name_length + extra_length, 1)
            version = np.lib.format.read_magic(file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, _, dtype = read_header(file)
            name = member.filename.removesuffix(".npy")
            if shape and shape[0]:
                arrays[name] = np.memmap(path, dtype, "r", file.tell(), shape)
            else:
                arrays[name] = np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape)
    return arrays


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


def _room_for(used: Sizes, room: Trie | None) -> Sizes:
    """Capacities that hold so much, those of `room` at least."""
    sizes = Sizes(*map(padded_size, used))
    if room is not None:
        sizes = Sizes(*map(max, sizes, room.capacities))
    limit = np.iinfo(np.int32).max
    if sizes.arcs + sizes.tail_tokens >= limit:
        raise UserError(
            f"the trie needs {used.arcs} arcs and {used.tail_tokens} tail tokens; wanted fewer than"
            f" {limit} together. Use shorter ids"
        )
    return sizes


def _padded(parts: list, fill: int, size: int) -> Int[np.ndarray, " _"]:
    """The parts, one after the other, in an array of `size`."""
    padded = np.full(size, fill, np.int32)
    np.concatenate(parts, out=padded[: sum(map(len, parts))], casting="unsafe")
    return padded


def _longer(array: Array, size: int) -> np.ndarray:
    """The array with its last entry repeated: padding, and right for starts."""
    return np.pad(np.asarray(array), (0, size - len(array)), mode="edge")
