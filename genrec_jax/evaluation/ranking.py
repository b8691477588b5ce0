"""From recommended lists to ranks: batch after batch, seen items kept and struck out.

The recommender is seen through one function of a prompt batch, so this works alike for beam search
and for the fake recommenders of the tests.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Int, Int32, Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.decoding import recommendations
from genrec_jax.evaluation import metrics
from genrec_jax.evaluation.metrics import RankHistogram
from genrec_jax.pipeline.batch import PromptBatch

UNSCORED = -1

Recommend = Callable[[PromptBatch], tuple[ArrayLike, ArrayLike]]
"""Lists of distinct items (B, R) int32, best first, and their scores (B, R) float32; item -1 and score
-inf at empty places. They may still be being computed: arrays of devices, each host's the whole."""

OnLists = Callable[..., None]
"""Told of each block: users, targets, ranks, ranks with seen items excluded (None where histories are
unknown), items, scores, as `PredictionWriter.append` takes them."""

FindSeen = Callable[[Int32[np.ndarray, " E"], Int32[np.ndarray, "E R"]], Bool[np.ndarray, "E R"]]
"""Which items of the lists of some users stand in their histories."""


@dataclasses.dataclass(frozen=True)
class UserRanks:
    """The rank of every user's target under one system; both footings, where histories are known.

    Examples that belong to no user are numbered in the users' place.

    Attributes:
        kept_U: rank of the target in the list as it came, 0 where missed, -1 where not scored.
        excluded_U: rank without the items of the user's history: they are struck from the list,
            which is then shorter by those it held, or were left out of the search. A target that the
            user has taken before is itself left out, and so missed. None where histories are unknown.
        targets_U: the item that was to be found, -1 where not scored.
        seen_share: share of the filled places that held an item of the user's history, or None.
        empty_share: share of the places that were empty.
    """

    kept_U: Int64[np.ndarray, " U"]
    excluded_U: Int64[np.ndarray, " U"] | None
    targets_U: Int64[np.ndarray, " U"]
    seen_share: float | None
    empty_share: float

    @property
    def users_E(self) -> Int64[np.ndarray, " E"]:
        """The users that were scored, in ascending order."""
        return np.flatnonzero(self.kept_U != UNSCORED)

    def footings(self) -> dict[str, Int64[np.ndarray, " E"]]:
        """Ranks of the scored users under `seen_kept` and, where known, `seen_excluded`."""
        users_E = self.users_E
        kept = {"seen_kept": self.kept_U[users_E]}
        return (
            kept if self.excluded_U is None else kept | {"seen_excluded": self.excluded_U[users_E]}
        )

    def histogram(self, max_rank: int) -> RankHistogram:
        """The histogram of the ranks with seen items kept."""
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
        UserError: a list is empty: the model's scores are not finite.
        ValueError: a user comes twice, or a list names an item twice.
    """
    find_seen = functools.partial(seen_items, dataset, splits.targets_U(split))
    return rank_rows(batches, recommend, dataset.num_users, find_seen, on_lists, recommend_unseen)


def rank_rows(
    batches: Iterable[PromptBatch],
    recommend: Recommend,
    num_users: int,
    find_seen: FindSeen | None = None,
    on_lists: OnLists | None = None,
    recommend_unseen: Recommend | None = None,
) -> UserRanks:
    """`rank_users` for anybody's histories, or for examples that have none.

    Args:
        batches: prompts of distinct users, below `num_users`; rows with user -1 are padding.
        recommend: the recommender.
        num_users: how many there are.
        find_seen: what stands in histories; None where that is unknown: then there are no figures
            without seen items.
        on_lists: as for `rank_users`.
        recommend_unseen: as for `rank_users`; not asked without `find_seen`.

    Raises:
        UserError: a list is empty: the model's scores are not finite.
        ValueError: a user comes twice, or a list names an item twice.
    """
    kept_U = np.full(num_users, UNSCORED, np.int64)
    excluded_U, targets_U = kept_U.copy(), kept_U.copy()
    seen, filled, places = 0, 0, 0
    asked = None if find_seen is None else recommend_unseen
    for batch, lists, unseen in _one_ahead(batches, recommend, asked):
        items_BR, scores_BR = map(np.asarray, lists)
        real_B = np.asarray(batch.users_B) >= 0
        users_E = np.asarray(batch.users_B)[real_B].astype(np.int32)
        targets_E = np.asarray(batch.targets_B)[real_B].astype(np.int32)
        items_ER, scores_ER = items_BR[real_B], scores_BR[real_B]
        if (kept_U[users_E] != UNSCORED).any() or len(np.unique(users_E)) != len(users_E):
            raise ValueError("a user was scored twice; prompts must name distinct users")
        _check_distinct(items_ER)
        if (items_ER[:, 0] < 0).any():
            raise recommendations.not_finite("the checkpoint")
        ranks_E = metrics.ranks_in_lists(items_ER, targets_E)
        kept_U[users_E], targets_U[users_E] = ranks_E, targets_E
        filled, places = filled + int((items_ER >= 0).sum()), places + items_ER.size
        excluded_E = None
        if find_seen is not None:
            seen_ER = find_seen(users_E, items_ER)
            if unseen is None:
                excluded_E = ranks_after_striking(items_ER, seen_ER, targets_E)
            else:
                excluded_E = metrics.ranks_in_lists(np.asarray(unseen[0])[real_B], targets_E)
            excluded_U[users_E] = excluded_E
            seen += int(seen_ER.sum())
        if on_lists is not None:
            on_lists(users_E, targets_E, ranks_E, excluded_E, items_ER, scores_ER)
    share = seen / filled if filled else 0.0
    return UserRanks(
        kept_U,
        None if find_seen is None else excluded_U,
        targets_U,
        seen_share=None if find_seen is None else share,
        empty_share=1 - filled / places if places else 0.0,
    )


def _one_ahead(
    batches: Iterable[PromptBatch], recommend: Recommend, recommend_unseen: Recommend | None
) -> Iterator[tuple[PromptBatch, tuple[ArrayLike, ...], tuple[ArrayLike, ...] | None]]:
    """Each batch with its lists, of both searches; the next one is searched while it is worked on.

    Devices so wait neither for prompts nor for ranks. Only one search is on them at any time, so that
    memory is one search's, and hosts start theirs in the same order.
    """
    searched = None
    for batch in batches:
        jax.block_until_ready(searched)
        lists, unseen = recommend(batch), None
        if recommend_unseen is not None:
            jax.block_until_ready(lists)
            unseen = recommend_unseen(batch)
        if searched is not None:
            yield searched
        searched = batch, lists, unseen
    if searched is not None:
        yield searched


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
    return choose(np.flatnonzero(with_history_U).astype(np.int32), max_users, seed)


def choose(
    users_E: Int32[np.ndarray, " E"], at_most: int | None, seed: int
) -> Int32[np.ndarray, " S"]:
    """All of them, or a seeded sample, ascending."""
    if at_most is None or at_most >= len(users_E):
        return np.sort(users_E)
    return np.sort(np.random.default_rng(seed).choice(users_E, at_most, replace=False))


def _check_distinct(items_ER: Int[np.ndarray, "E R"]) -> None:
    in_order_ER = np.sort(items_ER, axis=1)
    if ((in_order_ER[:, 1:] == in_order_ER[:, :-1]) & (in_order_ER[:, 1:] >= 0)).any():
        raise ValueError("a recommended list names an item twice")
