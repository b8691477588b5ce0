"""The History baseline of rating prediction: a user likes what comes as often as what came before.

Cao et al. (2024), Table 3: "predicts based on how likely a user likes the training items they
purchased".
"""

import numpy as np
from jaxtyping import Float64, Int

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError


def liked_shares(
    dataset: Dataset, splits: Splits, users_E: Int[np.ndarray, " E"], *, like_above: float = 3.0
) -> Float64[np.ndarray, " E"]:
    """The share of each user's training items that the user liked.

    Args:
        dataset: the log, with ratings.
        splits: what trains.
        users_E: whose shares.
        like_above: a rating above it is a like.

    Returns:
        shares from 0 to 1; that of all users together where a user has no training item.

    Raises:
        UserError: the dataset has no ratings.
    """
    if dataset.ratings_X is None:
        raise UserError(
            "has no ratings, so nothing says what users liked; wanted a dataset with ratings",
            file=str(dataset.path),
        )
    trains_X = splits.in_training_X(dataset)
    liked_X = (dataset.ratings_X > like_above) & trains_X
    counts_U = np.bincount(dataset.users_X[trains_X], minlength=dataset.num_users)
    liked_U = np.bincount(dataset.users_X[liked_X], minlength=dataset.num_users)
    overall = liked_U.sum() / max(counts_U.sum(), 1)
    shares_U = np.where(counts_U > 0, liked_U / np.maximum(counts_U, 1), overall)
    return shares_U[users_E]
