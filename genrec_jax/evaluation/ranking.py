"""From recommended lists to ranks: batch after batch, seen items kept and struck out.

The recommender is seen through one function of a prompt batch, so this works alike for beam search
and for the fake recommenders of the tests.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.evaluation import metrics
from genrec_jax.evaluation.metrics import RankHistogram
from genrec_jax.pipeline.batch import PromptBatch

UNSCORED = -1

Recommend = Callable[[PromptBatch], tuple[Int32[np.ndarray, "B R"], Float32[np.ndarray, "B R"]]]
"""Lists of distinct items, best first, and their scores; item -1 and score -inf at empty places."""

OnLists = Callable[
    [
        Int32[np.ndarray, " E"],
        Int32[np.ndarray, " E"],
        Int64[np.ndarray, " E"],
        Int64[np.ndarray, " E"],
        Int32[np.ndarray, "E R"],
        Float32[np.ndarray, "E R"],
    ],
    None,
]
"""Told of each block: users, targets, ranks, ranks with seen items excluded, items, scores."""


@dataclasses.dataclass(frozen=True)
class UserRanks:
    """The rank of every user's target under one system; both footings.

    Attributes:
        kept_U: rank of the target in the list as it came, 0 where missed, -1 where not scored.
        excluded_U: rank without the items of the user's history: they are struck from the list,
            which is then shorter by those it held, or were left out of the search. A target that the
            user has taken before is itself left out, and so missed.
        targets_U: the item that was to be found, -1 where not scored.
        seen_share: share of the filled places that held an item of the user's history.
        empty_share: share of the places that were empty.
    """

    kept_U: Int64[np.ndarray, " U"]
    excluded_U: Int64[np.ndarray, " U"]
    targets_U: Int64[np.ndarray, " U"]
    seen_share: float
    empty_share: float

    @property
    def users_E(self) -> Int64[np.ndarray, " E"]:
        """The users that were scored, in ascending order."""
        return np.flatnonzero(self.kept_U != UNSCORED)

    def footings(self) -> dict[str, Int64[np.ndarray, " E"]]:
        """Ranks of the scored users under `seen_kept` and `seen_excluded`."""
        users_E = self.users_E
        return {"seen_kept": self.kept_U[users_E], "seen_excluded": self.excluded_U[users_E]}

    def histogram(self, max_rank: int) -> RankHistogram:
        """Of the ranks with seen items kept."""
        return RankHistogram.of(self.footings()["seen_kept"], max_rank)


def rank_users(
    batches: Iterable[PromptBatch],
    recommend: Recommend,
    dataset: Dataset,
    splits: Splits,
    split: SplitName,
    on_lists: OnLists | None = None,
    recommend_unseen: Recommend | None = None,
) -> UserRanks:
    """Recommends for every user of `batches` and finds where their targets stand.

    Args:
        batches: prompts of distinct users; rows with user -1 are padding.
        recommend: the recommender.
        dataset: the histories.
        splits: where histories end.
        split: which target is to be found.
        on_lists: called with each block of lists, to write or show them.
        recommend_unseen: lists without the items of the users' histories, in place of striking them
            from what `recommend` gave.

    Raises:
        ValueError: a user comes twice, or a list names an item twice.
    """
    kept_U = np.full(dataset.num_users, UNSCORED, np.int64)
    excluded_U, targets_U = kept_U.copy(), kept_U.copy()
    seen, filled, places = 0, 0, 0
    for batch in batches:
        items_BR, scores_BR = recommend(batch)
        real_B = np.asarray(batch.users_B) >= 0
        users_E = np.asarray(batch.users_B)[real_B].astype(np.int32)
        targets_E = np.asarray(batch.targets_B)[real_B].astype(np.int32)
        items_ER, scores_ER = items_BR[real_B], scores_BR[real_B]
        if (kept_U[users_E] != UNSCORED).any() or len(np.unique(users_E)) != len(users_E):
            raise ValueError("a user was scored twice; prompts must name distinct users")
        _check_distinct(items_ER)
        seen_ER = seen_items(dataset, splits.targets_U(split), users_E, items_ER)
        ranks_E = metrics.ranks_in_lists(items_ER, targets_E)
        if recommend_unseen is None:
            excluded_E = ranks_after_striking(items_ER, seen_ER, targets_E)
        else:
            excluded_E = metrics.ranks_in_lists(recommend_unseen(batch)[0][real_B], targets_E)
        kept_U[users_E], excluded_U[users_E] = ranks_E, excluded_E
        targets_U[users_E] = targets_E
        seen, filled = seen + int(seen_ER.sum()), filled + int((items_ER >= 0).sum())
        places += items_ER.size
        if on_lists is not None:
            on_lists(users_E, targets_E, ranks_E, excluded_E, items_ER, scores_ER)
    return UserRanks(
        kept_U,
        excluded_U,
        targets_U,
        seen_share=seen / filled if filled else 0.0,
        empty_share=1 - filled / places if places else 0.0,
    )


def seen_items(
    dataset: Dataset,
    targets_U: Int64[np.ndarray, " U"],
    users_E: Int32[np.ndarray, " E"],
    items_ER: Int32[np.ndarray, "E R"],
) -> Bool[np.ndarray, "E R"]:
    """Which recommended items stand in the user's history, all of it, before the target's position."""
    starts_E = dataset.offsets_U1[users_E]
    lengths_E = targets_U[users_E] - starts_E
    rows_P = np.repeat(np.arange(len(users_E)), lengths_E)
    within_P = np.arange(len(rows_P)) - np.repeat(np.cumsum(lengths_E) - lengths_E, lengths_E)
    history_P = dataset.items_X[starts_E[rows_P] + within_P]
    keys_P = rows_P * np.int64(dataset.num_items) + history_P
    keys_ER = np.arange(len(users_E))[:, None] * np.int64(dataset.num_items) + items_ER
    return np.isin(keys_ER, keys_P) & (items_ER >= 0)


def ranks_after_striking(
    items_ER: Int32[np.ndarray, "E R"],
    struck_ER: Bool[np.ndarray, "E R"],
    targets_E: Int32[np.ndarray, " E"],
) -> Int64[np.ndarray, " E"]:
    """Ranks of the targets in the lists without the struck items; 0 where missing or struck."""
    found_ER = (items_ER == targets_E[:, None]) & (items_ER >= 0) & ~struck_ER
    places_ER = np.cumsum(~struck_ER, axis=1)
    return np.where(found_ER.any(axis=1), (found_ER * places_ER).max(axis=1), metrics.MISSED)


def choose_users(
    dataset: Dataset, splits: Splits, split: SplitName, max_users: int | None, seed: int
) -> Int32[np.ndarray, " E"]:
    """The users with a target and a history before it, or a seeded sample of them, ascending."""
    with_history_U = splits.targets_U(split) > dataset.offsets_U1[:-1]
    users = np.flatnonzero(with_history_U).astype(np.int32)
    if max_users is not None and max_users < len(users):
        users = np.sort(np.random.default_rng(seed).choice(users, max_users, replace=False))
    return users


def _check_distinct(items_ER: Int[np.ndarray, "E R"]) -> None:
    in_order_ER = np.sort(items_ER, axis=1)
    if ((in_order_ER[:, 1:] == in_order_ER[:, :-1]) & (in_order_ER[:, 1:] >= 0)).any():
        raise ValueError("a recommended list names an item twice")
