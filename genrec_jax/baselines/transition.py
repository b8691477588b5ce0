"""The transition baselines: the items that followed the user's last item in training, without learning.

Items that followed come first, most frequent first, ties by popularity in training and then by item
number; the rest of the catalogue follows by popularity. Level with published neural systems on
Beauty and Toys, so every report shows it beside the model. The last item of a test history is the
validation item; the table uses training interactions alone. With `lag` 2 it has the items two steps
after the second-last item: the baseline for users who alternate between two threads.
"""

import dataclasses

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax.baselines import histories, popularity
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits


@dataclasses.dataclass(frozen=True)
class TransitionTable:
    """What followed what, as flat arrays; P counts the distinct pairs of neighbours.

    Attributes:
        lag: how far before what follows the last item stands.
        num_items: size of the catalogue.
        popularity_I: 1-based popularity rank of each item.
        pairs_P: `last * num_items + following`, ascending.
        places_P: 1-based place of each pair's follower among the followers of its last item.
        popular_P: `last * num_items + popularity rank - 1`, ascending.
        starts_I1: where the followers of each item begin in `pairs_P` and `popular_P`; the last
            entry but one, of an item that does not exist, has no followers.
    """

    lag: int
    num_items: int
    popularity_I: Int64[np.ndarray, " I"]
    pairs_P: Int64[np.ndarray, " P"]
    places_P: Int64[np.ndarray, " P"]
    popular_P: Int64[np.ndarray, " P"]
    starts_I1: Int64[np.ndarray, " I+2"]

    def ranks(
        self, last_E: Int[np.ndarray, " E"], items_E: Int[np.ndarray, " E"]
    ) -> Int64[np.ndarray, " E"]:
        """1-based rank of each item in the whole catalogue, after each last item (-1: none)."""
        last_E = np.where(last_E < 0, self.num_items, last_E).astype(np.int64)
        starts_E, ends_E = self.starts_I1[last_E], self.starts_I1[last_E + 1]
        wanted_E = last_E * self.num_items + items_E
        found_E = np.searchsorted(self.pairs_P, wanted_E)
        popular_E = self.popularity_I[items_E]
        # Where it never followed: after all followers, among the others by popularity.
        more_popular = np.searchsorted(self.popular_P, last_E * self.num_items + popular_E - 1)
        unfollowed_E = (ends_E - starts_E) + popular_E - (more_popular - starts_E)
        if not len(self.pairs_P):
            return unfollowed_E
        found_E = np.minimum(found_E, len(self.pairs_P) - 1)
        return np.where(self.pairs_P[found_E] == wanted_E, self.places_P[found_E], unfollowed_E)


def count(dataset: Dataset, splits: Splits, *, lag: int = 1) -> TransitionTable:
    """Counts the pairs of items that stand `lag` apart in training sequences."""
    items = dataset.num_items
    ranks_I = popularity.item_ranks_I(dataset, splits)
    training_X = splits.in_training_X(dataset)
    of_one_user = dataset.users_X[lag:] == dataset.users_X[:-lag]
    paired = training_X[lag:] & training_X[:-lag] & of_one_user
    last = dataset.items_X[:-lag][paired].astype(np.int64)
    pairs_P, counts_P = np.unique(last * items + dataset.items_X[lag:][paired], return_counts=True)
    last_P = pairs_P // items
    popular_P = ranks_I[pairs_P % items]
    starts_I1 = np.searchsorted(last_P, np.arange(items + 2)).astype(np.int64)
    best_first_P = np.lexsort((popular_P, -counts_P, last_P))
    places_P = np.empty(len(pairs_P), np.int64)
    places_P[best_first_P] = np.arange(len(pairs_P)) - starts_I1[last_P] + 1
    return TransitionTable(
        lag=lag,
        num_items=items,
        popularity_I=ranks_I,
        pairs_P=pairs_P,
        places_P=places_P,
        popular_P=np.sort(last_P * items + popular_P - 1),
        starts_I1=starts_I1,
    )


def rank_targets(
    dataset: Dataset, splits: Splits, split: SplitName, *, exclude_seen: bool, lag: int = 1
) -> Int64[np.ndarray, " E"]:
    """The rank of every user's target in the whole catalogue, given the user's last item.

    Args:
        dataset: the log.
        splits: what trains and what is held out.
        split: whose targets.
        exclude_seen: strike the items of the user's history from the ranking first.
        lag: how far before the target the item stands that is asked; by popularity where there is none.

    Returns:
        One 1-based rank for each user who has a target, in user order; 0 where the target itself is
        struck, because the user has taken it before.
    """
    table = count(dataset, splits, lag=lag)
    return rank_targets_by(table, dataset, splits, split, exclude_seen=exclude_seen)


def rank_targets_by(
    table: TransitionTable,
    dataset: Dataset,
    splits: Splits,
    split: SplitName,
    *,
    exclude_seen: bool,
) -> Int64[np.ndarray, " E"]:
    """As `rank_targets`, by a table that `count` has made of these splits."""
    targets = histories.targets(dataset, splits, split, lag=table.lag)
    return histories.rank(dataset, targets, table.ranks, exclude_seen=exclude_seen)
