"""The catalogue as a trie of flat arrays: tokenised item ids go in, constrained search reads it.

Layout. A *node* is a prefix shared by two ids or more (or the root); an *arc* is one token out of a
node. Arcs of one node are neighbours, nodes are numbered breadth first, and there are no pointers to
siblings and no rows as wide as the vocabulary. An arc under which only one item is left leads to
that item, and the rest of its id is a run of *tail* tokens, not nodes. End-of-sequence is an arc
(the first of its node), so one id may be a prefix of another; at the end of a tail it is implied.
"""

import dataclasses
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int, UInt

from genrec_jax.data import artefacts
from genrec_jax.decoding import id_order
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
        num_items: item numbers are below this, scalar int32.
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
    arc_tokens, arc_nexts, node_arcs, node_items, node_starts, node_counts = ([] for _ in range(6))
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
        node_starts.append(ranks_X[node_heads])
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
    _check_counts(num_arcs, int(tail_starts_I[-1]))
    is_tail_P = id_order.runs(len(values_P), offsets_I[:-1] + tail_depths_I, tail_lengths_I)
    token_type = np.uint16 if vocab_size <= SMALL_VOCABULARY else np.int32
    max_steps = -(-max_steps // STEPS_MULTIPLE) * STEPS_MULTIPLE
    arrays = {
        "arc_tokens_A": (arc_tokens, eos_id, token_type),
        "arc_nexts_A": (arc_nexts, 0, np.int32),
        "node_arcs_J": ([*node_arcs, [num_arcs]], num_arcs, np.int32),
        "node_items_J": ([*node_items, [0]], 0, np.int32),
        "node_starts_J": ([*node_starts, [num_items]], num_items, np.int32),
        "node_counts_J": ([*node_counts, [0]], 0, np.int32),
        "tail_starts_I": ([tail_starts_I], int(tail_starts_I[-1]), np.int32),
        "tail_tokens_Y": ([values_P[is_tail_P]], eos_id, token_type),
    }
    return Trie(
        prefix_Q=prefix_Q,
        num_items=np.asarray(num_items, np.int32),
        max_steps=max_steps if room is None else max(max_steps, room.max_steps),
        eos_id=eos_id,
        **{
            name: _padded(*array, least=0 if room is None else len(getattr(room, name)))
            for name, array in arrays.items()
        },
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


def _padded(parts: list, fill: int, dtype: type, least: int = 0) -> np.ndarray:
    """The parts, one after the other, at the capacity that holds them, `least` at least."""
    size = sum(map(len, parts))
    padded = np.full(max(padded_size(size), least), fill, dtype)
    np.concatenate(parts, out=padded[:size], casting="unsafe")
    return padded


def _check_counts(num_arcs: int, num_tail_tokens: int) -> None:
    limit = np.iinfo(np.int32).max
    if max(num_arcs, num_tail_tokens) >= limit:
        raise UserError(
            f"the trie needs {num_arcs} arcs and {num_tail_tokens} tail tokens; wanted fewer than"
            f" {limit} of each. Use shorter ids"
        )
