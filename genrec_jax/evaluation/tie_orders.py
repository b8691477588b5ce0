"""How much figures change when ties in time are broken differently: on some data ties decide the targets.

If interactions of a user share their time, the source's file order decides (docs/protocols.md, "Ties in
time"). Reference systems are cheap to rank again under random orders, and their spread shows how much
that matters. A model would have to be trained again on each order.
"""

import dataclasses
from typing import Any

import numpy as np

from genrec_jax.data import audit
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.evaluation.metrics import RankHistogram
from genrec_jax.evaluation.results import RankTargets

ORDERS = 5


def shuffle_ties(dataset: Dataset, seed: int) -> Dataset:
    """The same log with each user's interactions of one time in a random order."""
    assert dataset.timestamps_X is not None
    draws_X = np.random.default_rng(seed).random(dataset.num_interactions)
    runs_X = np.cumsum(~dataset.tied_X)  # interactions of one user and one time
    order_X = np.lexsort((draws_X, runs_X))
    ratings_X = dataset.ratings_X
    return dataclasses.replace(
        dataset,
        items_X=dataset.items_X[order_X],
        ratings_X=None if ratings_X is None else ratings_X[order_X],
    )


def reference_spread(
    dataset: Dataset,
    splits: Splits,
    split: SplitName,
    rank_targets: RankTargets,
    *,
    max_rank: int,
) -> dict[str, Any] | None:
    """The `tie_orders` entry of metrics.json, or None where ties decide few targets.

    Returns:
        `{"tied_share": .44, "orders": 5, "systems": {"transition": {"seen_kept": {"hr@10": {"low": ...,
        "high": ...}}}}}`: the least and the greatest figure over random orders of the ties, of all
        users who have a target.
    """
    share = audit.tied_share(dataset, splits, split)
    if share <= audit.TIED_SHARE:
        return None
    runs = []
    for order in range(ORDERS):
        # Lengths stay as they are, so the split's positions hold for the shuffled log too.
        found = rank_targets(shuffle_ties(dataset, seed=order), splits, split)
        runs.append(
            {
                system: {
                    footing: RankHistogram.of(ranks_E, max_rank).means()
                    for footing, ranks_E in footings.items()
                }
                for system, footings in found.items()
            }
        )
    return {
        "tied_share": share,
        "orders": ORDERS,
        "systems": {
            system: {
                footing: {
                    metric: {
                        "low": min(run[system][footing][metric] for run in runs),
                        "high": max(run[system][footing][metric] for run in runs),
                    }
                    for metric in metrics
                }
                for footing, metrics in footings.items()
            }
            for system, footings in runs[0].items()
        },
    }
