"""The ratings that a run asks for: which share of them are likes, before anything is trained."""

from collections.abc import Sequence

import numpy as np

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError
from genrec_jax.evaluation import ranking
from genrec_jax.pipeline.alignment_rating import RatingTask
from genrec_jax.pipeline.mixtures import Mixture


def trained_shares(mixture: Mixture) -> dict[str, float]:
    """The share of likes among the ratings that each task trains on, by the task's name.

    Raises:
        UserError: all of them are likes, or none is.
    """
    shares = {}
    for source in mixture.sources:
        for task in source.parts:
            if isinstance(task, RatingTask):
                labels_E = task.labels(np.arange(task.num_examples))
                like_above = task.settings.like_above
                shares[task.name] = _share(labels_E, "train on", task.dataset, like_above)
    return shares


def check_asked(
    datasets: Sequence[Dataset],
    splits: Sequence[Splits],
    like_above: float,
    max_users: int | None,
    seed: int,
) -> None:
    """Checks that validation asks for likes and for dislikes, without which there is no AUC.

    Args:
        datasets: those of them that have ratings are asked about.
        splits: of each dataset.
        like_above: a rating above it is a like.
        max_users: users of each dataset that validation asks; None: all.
        seed: of their choice.

    Raises:
        UserError: all of a dataset's are likes, or none is.
    """
    for dataset, split in zip(datasets, splits, strict=True):
        users = ranking.choose_users(dataset, split, "validation", max_users, seed)
        if dataset.ratings_X is not None and len(users):
            ratings_E = dataset.ratings_X[split.validation_U[users]]
            more = ", or raise --gin.config.ValidationConfig.users"
            _share(ratings_E > like_above, "validate with", dataset, like_above, more)


def _share(
    labels_E: np.ndarray, use: str, dataset: Dataset, like_above: float, or_else: str = ""
) -> float:
    share = float(labels_E.mean())
    if share in (0.0, 1.0):
        ratings_X = dataset.ratings_X
        assert ratings_X is not None
        raise UserError(
            f"{share:.0%} of the {len(labels_E)} ratings to {use} are likes, so there is nothing to tell"
            f" apart: a rating above {like_above:g} is one, and the dataset's ratings go from"
            f" {ratings_X.min():g} to {ratings_X.max():g}. Set --gin.config.DataConfig.like_above to a"
            f" number between them{or_else}",
            file=str(dataset.path),
        )
    return share
