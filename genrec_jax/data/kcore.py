"""The k-core filter of `prepare`: drop rare users and items until nothing changes (docs/prepare.md)."""

import dataclasses

import numpy as np
from jaxtyping import Int, Int64


@dataclasses.dataclass(frozen=True)
class KCore:
    """The interactions that remain after the filter.

    Attributes:
        kept_X: positions of the surviving interactions, ascending.
        rounds: passes over users and items, the last of which changed nothing.
    """

    kept_X: Int64[np.ndarray, " X"]
    rounds: int


def k_core(
    users_X: Int[np.ndarray, " all"],
    items_X: Int[np.ndarray, " all"],
    *,
    min_user: int,
    min_item: int,
) -> KCore:
    """Keeps the largest set in which every user and every item has enough interactions.

    The result does not depend on the order in which users and items are dropped. An interaction
    counts as often as it occurs, so that a user who took one item five times has five.

    Args:
        users_X: user code of each interaction, from 0.
        items_X: item code of each interaction, from 0.
        min_user: interactions a user needs; 0 or 1 keeps all.
        min_item: interactions an item needs.
    """
    kept_X = np.arange(len(users_X), dtype=np.int64)
    rounds = 0
    while True:
        rounds += 1
        before = len(kept_X)
        for codes_X, minimum in ((users_X, min_user), (items_X, min_item)):
            if minimum > 1 and len(kept_X):
                codes = codes_X[kept_X]
                enough = np.bincount(codes) >= minimum
                kept_X = kept_X[enough[codes]]
        if len(kept_X) == before:
            return KCore(kept_X, rounds)
