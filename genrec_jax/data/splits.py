"""Which interactions train, validate and test: positions into a dataset's flat arrays.

Leave-one-out (Kang and McAuley 2018; every paper this project implements): a user's last item is
the test target, the one before it the validation target, and training sees what is left. The test
history contains the validation item. A global temporal split is the other protocol: one date for
everybody, before which training ends. `genrec prepare` decides which it is, `dataset.json` says so
(`split`), and `of` reads it there.
"""

import dataclasses
import datetime
import typing
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from genrec_jax.data.dataset import MANIFEST, Dataset
from genrec_jax.errors import UserError

SplitName = Literal["validation", "test"]
Protocol = Literal["leave_one_out", "temporal"]
PROTOCOLS: tuple[Protocol, ...] = ("leave_one_out", "temporal")
NO_TARGET = -1
SHARE_TO_TRAIN, SHARE_BEFORE_TEST = 0.8, 0.9
"""Of the interactions, those before the two dates where none are given."""


@dataclasses.dataclass(frozen=True)
class Splits:
    """Where each user's training part ends and which interactions are held out.

    Attributes:
        protocol: one of `PROTOCOLS`.
        train_end_U: user u trains on the flat positions `offsets_U1[u]` to `train_end_U[u]`, exclusive.
        validation_U: flat position of the validation target, or -1 where the user has none.
        test_U: flat position of the test target, or -1. A target's history is everything of the
            same user before its position.
    """

    protocol: Protocol
    train_end_U: Int64[np.ndarray, " U"]
    validation_U: Int64[np.ndarray, " U"]
    test_U: Int64[np.ndarray, " U"]

    def targets_U(self, split: SplitName) -> Int64[np.ndarray, " U"]:
        """The flat target positions of one split, -1 where a user has none."""
        return self.validation_U if split == "validation" else self.test_U

    def trained_U(self, dataset: Dataset) -> Bool[np.ndarray, " U"]:
        """Which users training sees at all: those with an interaction in it."""
        return self.train_end_U > dataset.offsets_U1[:-1]

    def in_training_X(self, dataset: Dataset) -> Bool[np.ndarray, " X"]:
        """Which interactions training may see."""
        positions_X = np.arange(dataset.num_interactions)
        return positions_X < np.repeat(self.train_end_U, dataset.lengths_U)


def of(dataset: Dataset) -> Splits:
    """The splits that the dataset was prepared for; leave-one-out if its manifest names none.

    Raises:
        UserError: as `leave_one_out` and `temporal`, or a protocol that is not known.
    """
    entry = dataset.manifest.get("split", {})
    protocol = entry.get("protocol", "leave_one_out")
    if protocol == "leave_one_out":
        return leave_one_out(dataset)
    if protocol == "temporal":
        return temporal(dataset, **{name: entry[name] for name in ("validation_from", "test_from")})
    raise UserError(
        f"names the protocol {protocol!r}; wanted one of {', '.join(PROTOCOLS)}. Run `genrec prepare`"
        " again",
        file=str(dataset.path / MANIFEST),
    )


def manifest_entry(
    protocol: Protocol,
    timestamps_X: Int64[np.ndarray, " X"] | None,
    validation_from: int | None = None,
    test_from: int | None = None,
) -> dict[str, Any]:
    """The entry `split` of `dataset.json`.

    Args:
        protocol: which.
        timestamps_X: seconds since 1970 of all interactions, in any order; None where there are none.
        validation_from: temporal only; without dates 80% of the interactions come before the first and
            90% before the second.
        test_from: see `validation_from`.

    Raises:
        UserError: as `check_protocol`; no timestamps, or more than a tenth of the interactions at one
            moment, so that no two dates part them.
    """
    check_protocol(protocol, validation_from, test_from)
    if protocol == "leave_one_out":
        return {"protocol": protocol}
    if timestamps_X is None:
        raise UserError(
            "this source gives no times, and a temporal split needs them. Leave --protocol out, for"
            " leave-one-out"
        )
    if validation_from is None:
        times = np.sort(timestamps_X)
        shares = (SHARE_TO_TRAIN, SHARE_BEFORE_TEST)
        validation_from, test_from = (int(times[int(share * len(times))]) for share in shares)
        if not int(times[0]) < validation_from < test_from:
            raise UserError(
                f"{SHARE_TO_TRAIN:.0%} and {SHARE_BEFORE_TEST:.0%} of the interactions end at"
                f" {moment(validation_from)} and {moment(test_from)}; wanted two moments after the first"
                " interaction, to part them. Pass --validation-from and --test-from"
            )
    assert (
        validation_from is not None and test_from is not None
    )  # `check_protocol`: both or neither
    return {
        "protocol": protocol,
        "validation_from": int(validation_from),
        "test_from": int(test_from),
    }


def check_protocol(protocol: str, validation_from: int | None, test_from: int | None) -> None:
    """Checks the settings that need no data.

    Raises:
        UserError: no such protocol, dates that do not go with it, or one date without the other.
    """
    dates = (validation_from, test_from)
    if protocol not in PROTOCOLS:
        raise UserError(f"the protocol is {protocol!r}; wanted one of {', '.join(PROTOCOLS)}")
    if protocol == "leave_one_out" and dates != (None, None):
        raise UserError(
            "--validation-from and --test-from are dates of a temporal split; pass --protocol"
            " temporal with them, or leave them out"
        )
    if (validation_from is None) != (test_from is None):
        raise UserError("a temporal split has two dates; pass --validation-from and --test-from")
    if validation_from is not None and test_from is not None and test_from <= validation_from:
        raise UserError(
            f"the test's date is {moment(test_from)} and validation's {moment(validation_from)}; wanted a"
            " later one for the test"
        )


def describe(entry: dict[str, Any]) -> str:
    """The `split` entry of a manifest in words, its dates in UTC."""
    if entry.get("protocol", "leave_one_out") == "leave_one_out":
        return "leave one out"
    validation_from, test_from = moment(entry["validation_from"]), moment(entry["test_from"])
    return f"temporal, validation from {validation_from}, test from {test_from}"


def moment(time: int) -> str:
    """Seconds since 1970 as `2014-07-23` or `2014-07-23T12:30:00`, in UTC."""
    epoch = datetime.datetime(1970, 1, 1)  # a `timedelta` also reaches before it
    text = (epoch + datetime.timedelta(seconds=time)).isoformat()
    return text.removesuffix("T00:00:00")


def leave_one_out(dataset: Dataset) -> Splits:
    """The last item is the test target, the one before validation's (docs/protocols.md, "Leave-one-out").

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
    target the first at or after `test_from`, each with all before it as history; users without a target
    or without a history are not scored on that split.

    Args:
        dataset: a dataset with a timestamp on every interaction.
        validation_from: seconds since 1970.
        test_from: seconds since 1970, later than `validation_from`.

    Raises:
        UserError: the dataset has no times, or the dates leave nothing to train, validate or test on.
    """
    if dataset.timestamps_X is None:
        raise UserError(
            "has no timestamps; a temporal split needs them. Use leave-one-out",
            file=str(dataset.path),
        )
    check_protocol("temporal", validation_from, test_from)
    starts_U, ends_U = dataset.offsets_U1[:-1], dataset.offsets_U1[1:]
    before_validation_U = _count_before(dataset, validation_from)
    before_test_U = _count_before(dataset, test_from)
    train_end_U = starts_U + before_validation_U
    first_test_U = starts_U + before_test_U
    validation_U = np.where(
        (before_test_U > before_validation_U) & (before_validation_U > 0), train_end_U, NO_TARGET
    )
    test_U = np.where((first_test_U < ends_U) & (before_test_U > 0), first_test_U, NO_TARGET)
    if not (before_validation_U.any() and (validation_U >= 0).any() and (test_U >= 0).any()):
        times = dataset.timestamps_X
        raise UserError(
            f"{dataset.name}: the dates {moment(validation_from)} and {moment(test_from)} leave nothing to"
            " train on, or nobody to validate or test on; the interactions run from"
            f" {moment(int(times.min()))} to {moment(int(times.max()))}"
        )
    return Splits("temporal", train_end_U=train_end_U, validation_U=validation_U, test_U=test_U)


@dataclasses.dataclass(frozen=True)
class TargetCount:
    """The number of targets of a split.

    Attributes:
        users: who have a target.
        new_users: how many of them training never saw.
        cold: how many of their targets no training sequence has.
    """

    users: int
    new_users: int
    cold: int


def count_targets(dataset: Dataset, splits: Splits) -> dict[SplitName, TargetCount]:
    """Counts the targets of each split."""
    trained_I = training_counts_I(dataset, splits) > 0
    found: dict[SplitName, TargetCount] = {}
    for split in typing.get_args(SplitName):
        targets_U = splits.targets_U(split)
        has_U = targets_U != NO_TARGET
        found[split] = TargetCount(
            users=int(has_U.sum()),
            new_users=int((has_U & ~splits.trained_U(dataset)).sum()),
            cold=int((~trained_I[dataset.items_X[targets_U[has_U]]]).sum()),
        )
    return found


def training_counts_I(dataset: Dataset, splits: Splits) -> Int64[np.ndarray, " I"]:
    """How often each item is interacted with in training: the popularity that nothing leaks into."""
    items = dataset.items_X[splits.in_training_X(dataset)]
    return np.bincount(items, minlength=dataset.num_items).astype(np.int64)


def _count_before(dataset: Dataset, time: int) -> Int64[np.ndarray, " U"]:
    assert dataset.timestamps_X is not None  # `temporal` has checked
    earlier_X = np.concatenate([[0], np.cumsum(dataset.timestamps_X < time)])
    return (earlier_X[dataset.offsets_U1[1:]] - earlier_X[dataset.offsets_U1[:-1]]).astype(np.int64)
