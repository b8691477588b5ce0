"""Shared by the baselines: the ranked targets, their histories, and the removal of seen items."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Int32, Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.distinct import distinct
from genrec_jax.data.splits import SplitName, Splits

STRUCK = 0
USERS_AT_A_TIME = 32_768
"""Histories are spread out for this many users at a time, which bounds their memory."""

Ranking = Callable[[Int[np.ndarray, " E"], Int[np.ndarray, " E"]], Int64[np.ndarray, " E"]]
"""An item of a history (-1: none) and an item -> the item's 1-based rank, a strict order."""


@dataclasses.dataclass(frozen=True)
class Targets:
    """The users who have a target in one split, in user order.

    Attributes:
        users_E: whose target it is.
        positions_E: the target's flat position; the history is all of the user's before it.
        items_E: the target.
        last_E: the item `lag` before it, -1 where the history is shorter.
    """

    users_E: Int64[np.ndarray, " E"]
    positions_E: Int64[np.ndarray, " E"]
    items_E: Int32[np.ndarray, " E"]
    last_E: Int32[np.ndarray, " E"]

    def of_users(self, some: slice) -> "Targets":
        """Those of some of the users."""
        columns = (self.users_E, self.positions_E, self.items_E, self.last_E)
        return Targets(*(column_E[some] for column_E in columns))


def targets(dataset: Dataset, splits: Splits, split: SplitName, *, lag: int = 1) -> Targets:
    """Finds the targets of a split, and the item that stands `lag` before each."""
    positions_U = splits.targets_U(split)
    users_E = np.flatnonzero(positions_U >= 0)
    positions_E = positions_U[users_E]
    has_history_E = positions_E >= dataset.offsets_U1[users_E] + lag
    last_E = np.where(has_history_E, dataset.items_X[positions_E - lag], np.int32(-1))
    return Targets(users_E, positions_E, dataset.items_X[positions_E], last_E)


def rank(
    dataset: Dataset, of: Targets, ranking: Ranking, *, exclude_seen: bool
) -> Int64[np.ndarray, " E"]:
    """1-based ranks of the targets; without the seen items if asked, 0 where the target is one."""
    ranks_E = ranking(of.last_E, of.items_E)
    if not exclude_seen:
        return ranks_E
    for start in range(0, len(ranks_E), USERS_AT_A_TIME):
        some = slice(start, start + USERS_AT_A_TIME)
        ranks_E[some] = _without_seen(dataset, of.of_users(some), ranks_E[some], ranking)
    return ranks_E


def _without_seen(
    dataset: Dataset, of: Targets, ranks_E: Int64[np.ndarray, " E"], ranking: Ranking
) -> Int64[np.ndarray, " E"]:
    """The ranks once the items of the histories are struck out."""
    rows_P, items_P = _distinct_seen(dataset, of)
    seen_ranks_P = ranking(of.last_E[rows_P], items_P)
    above_E = np.bincount(rows_P[seen_ranks_P < ranks_E[rows_P]], minlength=len(ranks_E))
    struck_E = np.zeros(len(ranks_E), bool)
    struck_E[rows_P[items_P == of.items_E[rows_P]]] = True
    return np.where(struck_E, STRUCK, ranks_E - above_E)


def _distinct_seen(
    dataset: Dataset, of: Targets
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """The distinct items of every history, with the row of the target they belong to."""
    starts_E = dataset.offsets_U1[of.users_E]
    lengths_E = of.positions_E - starts_E
    rows_P = np.repeat(np.arange(len(lengths_E)), lengths_E)
    within_P = np.arange(len(rows_P)) - np.repeat(np.cumsum(lengths_E) - lengths_E, lengths_E)
    items_P = dataset.items_X[starts_E[rows_P] + within_P]
    keys_P = distinct(rows_P.astype(np.int64) * dataset.num_items + items_P)
    return keys_P // dataset.num_items, keys_P % dataset.num_items
