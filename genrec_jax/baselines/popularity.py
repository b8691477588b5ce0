"""The popularity baseline: everybody gets the items with the most training interactions.

Items rank by their number of training interactions, ties by item number (the order of source
ids, which tells nothing). Every report shows this beside the model.
"""

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax.baselines import histories
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits, training_counts_I


def item_order_I(dataset: Dataset, splits: Splits) -> Int64[np.ndarray, " I"]:
    """Item numbers, most popular in training first, ties by item number."""
    return np.argsort(-training_counts_I(dataset, splits), kind="stable")


def item_ranks_I(dataset: Dataset, splits: Splits) -> Int64[np.ndarray, " I"]:
    """Each item's 1-based place in `item_order_I`: a strict order of the whole catalogue."""
    order_I = item_order_I(dataset, splits)
    ranks_I = np.empty_like(order_I)
    ranks_I[order_I] = np.arange(1, len(order_I) + 1)
    return ranks_I


def rank_targets(
    dataset: Dataset, splits: Splits, split: SplitName, *, exclude_seen: bool
) -> Int64[np.ndarray, " E"]:
    """The rank of every user's target in the whole catalogue.

    Args:
        dataset: the log.
        splits: what trains and what is held out.
        split: whose targets.
        exclude_seen: strike the items of the user's history from the ranking first.

    Returns:
        One 1-based rank for each user who has a target, in user order; 0 where the target itself is
        struck, because the user has taken it before.
    """
    ranks_I = item_ranks_I(dataset, splits)
    targets = histories.targets(dataset, splits, split)
    return histories.rank(
        dataset, targets, lambda last_E, items_E: ranks_I[items_E], exclude_seen=exclude_seen
    )


def rank_among(
    dataset: Dataset,
    splits: Splits,
    targets_E: Int[np.ndarray, " E"],
    candidates_EC: Int[np.ndarray, "E C"],
) -> Int64[np.ndarray, " E"]:
    """The rank of each target, from 1, among its example's own candidates, of which it is one."""
    ranks_I = item_ranks_I(dataset, splits)
    above_EC = ranks_I[candidates_EC] < ranks_I[targets_E][:, None]
    return 1 + above_EC.sum(axis=1)
