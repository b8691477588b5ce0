"""Item ids in token order: checking them, sorting them, and what all of them begin with.

Ids of any length stand one after the other in one array; no padded matrix is made of them.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from genrec_jax.errors import UserError

REMEDY = "Index the dataset anew, with `genrec index`"
"""What a caller is to do about ids that cannot be, unless it is told otherwise."""


def check_tokens(
    values_P: np.ndarray,
    offsets_I: np.ndarray,
    lengths_I: np.ndarray,
    vocab_size: int,
    eos_id: int,
    name_of: Callable[[int], str],
    remedy: str = REMEDY,
) -> None:
    """Refuses an empty catalogue, an empty id, and tokens that no id may contain (`UserError`)."""
    if len(lengths_I) == 0:
        raise UserError("the catalogue is empty; wanted one item or more to build a trie of")
    empty = np.flatnonzero(lengths_I == 0)
    if empty.size:
        raise UserError(
            f"{name_of(int(empty[0]))} has an id of no tokens; wanted one or more. {remedy}"
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


def sorted_rows(
    values_P: np.ndarray,
    offsets_I: np.ndarray,
    lengths_I: np.ndarray,
    name_of: Callable[[int], str],
    order_I: np.ndarray | None = None,
    remedy: str = REMEDY,
) -> np.ndarray:
    """Rows sorted by their ids, a prefix first. Two rows with one id are refused (`UserError`).

    As many tokens as fit are packed into one 64-bit key; only rows that tie on it read further. Rows
    that stand nearly sorted, because `order_I` is an earlier order with some added, sort much faster.
    """
    bits = (int(values_P.max()) + 1).bit_length()
    width = 64 // bits
    order_I = np.arange(len(lengths_I)) if order_I is None else order_I.copy()
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
            found = values_P[offsets_I[items_X[more_X]] + step]
            tokens_X[more_X] = found.astype(np.uint64) + np.uint64(1)
            keys_X = (keys_X << np.uint64(bits)) | tokens_X
        by_key = np.lexsort((keys_X, groups_X)) if depth else np.argsort(keys_X, kind="stable")
        items_X, keys_X = items_X[by_key], keys_X[by_key]
        order_I[places_X] = items_X  # groups lie in place order, so each stays in its own places
        same = (keys_X[1:] == keys_X[:-1]) & (groups_X[1:] == groups_X[:-1])
        depth += width
        # Where only one has ended, the other goes on: the next tokens tell them apart.
        longer_X = np.maximum(lengths_I[items_X[1:]], lengths_I[items_X[:-1]])
        ended = np.flatnonzero(same & (longer_X <= depth))
        if ended.size:
            first, second = sorted(int(i) for i in items_X[ended[0] : ended[0] + 2])
            raise UserError(
                f"{name_of(first)} and {name_of(second)} have the same id; wanted one id per item."
                f" {remedy}"
            )
        tied_X = np.zeros(len(items_X), bool)
        tied_X[1:] |= same
        tied_X[:-1] |= same
        starts_X = np.ones(len(items_X), bool)
        starts_X[1:] = ~same
        groups_X = np.cumsum(starts_X)[tied_X]
        places_X = places_X[tied_X]
    return order_I


def common_prefix(
    values_P: np.ndarray, offsets_I: np.ndarray, lengths_I: np.ndarray, order_I: np.ndarray
) -> Int[np.ndarray, " Q"]:
    """The tokens that the first and the last id in sorted order share, and so all ids."""
    first, last = (values_P[offsets_I[i] :][: lengths_I[i]] for i in (order_I[0], order_I[-1]))
    shared = min(len(first), len(last))
    differs = np.flatnonzero(first[:shared] != last[:shared])
    return first[: int(differs[0]) if differs.size else shared].astype(np.int32)


def runs(size: int, starts_I: np.ndarray, lengths_I: np.ndarray) -> np.ndarray:
    """Marks runs in an array of `size`; runs ascend, do not overlap, and may be empty."""
    steps = np.zeros(size + 1, np.int8)
    filled_I = lengths_I > 0
    # A run may begin where the one before it ends.
    np.add.at(steps, starts_I[filled_I], 1)
    np.subtract.at(steps, (starts_I + lengths_I)[filled_I], 1)
    return np.cumsum(steps[:-1], dtype=np.int8).view(bool)
