"""All baselines together, in the forms in which an evaluation asks for systems beside the model."""

import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int, Int64

from genrec_jax.baselines import history, popularity, transition
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits

Ranks = Int64[np.ndarray, " E"]


def rank_targets(
    dataset: Dataset, splits: Splits, split: SplitName
) -> dict[str, Mapping[str, Ranks]]:
    """Popularity's and both transitions' ranks of every target in the whole catalogue.

    Returns:
        By system and footing, `seen_kept` and `seen_excluded`, one rank for each user who has a target, in
        user order; 0 where the target is struck.
    """
    tables = {"transition": transition.count(dataset, splits)}
    tables["transition_2"] = transition.count(dataset, splits, lag=2)
    rankings = {
        "popularity": popularity.rank_targets,
        **{name: functools.partial(transition.rank_targets_by, tables[name]) for name in tables},
    }
    return {
        name: {
            "seen_kept": rank(dataset, splits, split, exclude_seen=False),
            "seen_excluded": rank(dataset, splits, split, exclude_seen=True),
        }
        for name, rank in rankings.items()
    }


def rank_candidates(
    dataset: Dataset,
    splits: Splits,
    targets_E: Int[np.ndarray, " E"],
    candidates_EC: Int[np.ndarray, "E C"],
) -> dict[str, Ranks]:
    """Popularity's rank of each target among its example's candidates."""
    return {"popularity": popularity.rank_among(dataset, splits, targets_E, candidates_EC)}


def rate(
    dataset: Dataset, splits: Splits, users_E: Int[np.ndarray, " E"], like_above: float
) -> dict[str, Float64[np.ndarray, " E"]]:
    """The share of what each user liked in training, as a score that the user likes what comes next."""
    return {"history": history.liked_shares(dataset, splits, users_E, like_above=like_above)}
