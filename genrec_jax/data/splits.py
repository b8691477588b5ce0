"""Which interactions train, validate and test: positions into a dataset's flat arrays.

Leave-one-out (Kang and McAuley 2018; every paper this project implements): a user's last item is
the test target, the one before it the validation target, and training sees what is left. The test
history contains the validation item. A global temporal split is the other protocol.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.errors import UserError

SplitName = Literal["validation", "test"]
NO_TARGET = -1


@dataclasses.dataclass(frozen=True)
class Splits:
    """Where each user's training part ends and which interactions are held out.

    Attributes:
        protocol: `leave_one_out` or `temporal`.
        train_end_U: user u trains on the flat positions `offsets_U1[u]` to `train_end_U[u]`, exclusive.
        validation_U: flat position of the validation target, or -1 where the user has none.
        test_U: flat position of the test target, or -1. A target's history is everything of the
            same user before its position.
    """

    protocol: str
    train_end_U: Int64[np.ndarray, " U"]
    validation_U: Int64[np.ndarray, " U"]
    test_U: Int64[np.ndarray, " U"]

    def targets_U(self, split: SplitName) -> Int64[np.ndarray, " U"]:
        """The flat target positions of one split, -1 where a user has none."""
        return self.validation_U if split == "validation" else self.test_U

    def in_training_X(self, dataset: Dataset) -> Bool[np.ndarray, " X"]:
        """Which interactions training may see."""
        positions_X = np.arange(dataset.num_interactions)
        return positions_X < np.repeat(self.train_end_U, dataset.lengths_U)


def leave_one_out(dataset: Dataset) -> Splits:
    """Last item tests, the one before validates (DESIGN, "Leave-one-out").

    Raises:
        UserError: a user has fewer than 3 interactions.
    """
    short_U = np.flatnonzero(dataset.lengths_U < 3)
    if len(short_U):
        user = int(short_U[0])
        raise UserError(
            f"{len(short_U)} users have fewer than 3 interactions, the first of them user {user} with"
            f" {dataset.lengths_U[user]}; leave-one-out needs 3 (training, validation, test). Prepare"
            " the dataset with --min-user-interactions 3 or more",
            file=str(dataset.path),
        )
    end_U = dataset.offsets_U1[1:]
    return Splits("leave_one_out", train_end_U=end_U - 2, validation_U=end_U - 2, test_U=end_U - 1)


def temporal(dataset: Dataset, *, validation_from: int, test_from: int) -> Splits:
    """One date for everybody: training ends before `validation_from` for all users.

    A user's validation target is the first interaction in `[validation_from, test_from)`, the test
    target the first at or after `test_from`; users without one are not scored on that split.

    Args:
        dataset: a dataset with a timestamp on every interaction.
        validation_from: seconds since 1970.
        test_from: seconds since 1970, later than `validation_from`.

    Raises:
        UserError: the dataset has no times, or the dates leave nothing to train or test on.
    """
    if dataset.timestamps_X is None:
        raise UserError(
            "has no timestamps; a temporal split needs them. Use leave-one-out",
            file=str(dataset.path),
        )
    if test_from <= validation_from:
        raise UserError(
            f"test_from ({test_from}) must be later than validation_from ({validation_from})"
        )
    starts_U, ends_U = dataset.offsets_U1[:-1], dataset.offsets_U1[1:]
    before_validation_U = _count_before(dataset, validation_from)
    before_test_U = _count_before(dataset, test_from)
    train_end_U = starts_U + before_validation_U
    first_test_U = starts_U + before_test_U
    validation_U = np.where(
        (before_test_U > before_validation_U) & (before_validation_U > 0), train_end_U, NO_TARGET
    )
    test_U = np.where((first_test_U < ends_U) & (before_test_U > 0), first_test_U, NO_TARGET)
    if not before_validation_U.any() or not (test_U >= 0).any():
        times = dataset.timestamps_X
        raise UserError(
            f"the dates {validation_from} and {test_from} leave nothing to train or to test on; the"
            f" interactions run from {times.min()} to {times.max()}",
            file=str(dataset.path),
        )
    return Splits("temporal", train_end_U=train_end_U, validation_U=validation_U, test_U=test_U)


def training_counts_I(dataset: Dataset, splits: Splits) -> Int64[np.ndarray, " I"]:
    """How often each item is interacted with in training: the popularity that nothing leaks into."""
    items = dataset.items_X[splits.in_training_X(dataset)]
    return np.bincount(items, minlength=dataset.num_items).astype(np.int64)


def _count_before(dataset: Dataset, time: int) -> Int64[np.ndarray, " U"]:
    assert dataset.timestamps_X is not None  # `temporal` has checked
    earlier_X = np.concatenate([[0], np.cumsum(dataset.timestamps_X < time)])
    return (earlier_X[dataset.offsets_U1[1:]] - earlier_X[dataset.offsets_U1[:-1]]).astype(np.int64)
