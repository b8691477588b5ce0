"""Which parts of a user's training items an example of the alignment system is made of (window w = 20).

A training split of L items gives max(1, L - w) targets, each with the w items before it, or with all
that there are; and max(1, L - w + 1) windows of w items, or one of all. This reproduces the published
counts (Cao et al. 2024, Table 10): Toys 30,761 and Beauty 36,582.
"""

import numpy as np
from jaxtyping import Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits


def target_positions(dataset: Dataset, splits: Splits, window: int) -> Int64[np.ndarray, " N"]:
    """Flat positions of the training targets; users with a single training item have none."""
    starts_U = dataset.offsets_U1[:-1]
    trained_U = splits.train_end_U - starts_U
    first_U = starts_U + np.minimum(window, trained_U - 1)
    counts_U = np.where(trained_U >= 2, splits.train_end_U - first_U, 0)
    return _ranges(first_U, counts_U)


def item_windows(
    dataset: Dataset, splits: Splits, window: int
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """First position and position after the last of each window; at least 2 items each."""
    starts_U = dataset.offsets_U1[:-1]
    trained_U = splits.train_end_U - starts_U
    counts_U = np.where(trained_U >= 2, np.maximum(1, trained_U - window + 1), 0)
    begin_N = _ranges(starts_U, counts_U)
    end_N = np.minimum(begin_N + window, np.repeat(splits.train_end_U, counts_U))
    return begin_N, end_N


def _ranges(
    first_U: Int64[np.ndarray, " U"], counts_U: Int64[np.ndarray, " U"]
) -> Int64[np.ndarray, " N"]:
    """`first`, `first + 1`, ... of each user, so many as its count."""
    before_U = np.cumsum(counts_U) - counts_U
    return np.arange(counts_U.sum()) + np.repeat(first_U - before_U, counts_U)
