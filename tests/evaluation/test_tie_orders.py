"""Ties in time: what shuffling may move, and the spread it gives."""

import dataclasses

import numpy as np
import pytest

from genrec_jax.evaluation import tie_orders


@pytest.fixture
def tied(dataset):
    """The last three interactions of every third user share a second; all others have their own."""
    times_X = np.arange(dataset.num_interactions, dtype=np.int64)
    for user in range(0, dataset.num_users, 3):
        end = dataset.offsets_U1[user + 1]
        times_X[end - 3 : end] = times_X[end - 1]
    return dataclasses.replace(dataset, timestamps_X=times_X)


def test_shuffling_moves_ties_only(tied):
    shuffled = tie_orders.shuffle_ties(tied, seed=0)
    moved = np.flatnonzero(shuffled.items_X != tied.items_X)
    assert len(moved)
    assert set(tied.users_X[moved] % 3) == {0}
    assert (tied.offsets_U1[tied.users_X[moved] + 1] - moved <= 3).all()
    for user in range(tied.num_users):
        assert sorted(shuffled.sequence(user)) == sorted(tied.sequence(user))
    assert not np.array_equal(shuffled.items_X, tie_orders.shuffle_ties(tied, seed=1).items_X)


def test_fractions_of_a_second_stay_in_order(tied, splits):
    """Of the three within the second the first two tie: the last never moves, and no target is tied."""
    within_X = np.zeros(tied.num_interactions, np.int32)
    within_X[tied.offsets_U1[1:] - 1] = 1
    finer = dataclasses.replace(tied, within_second_X=within_X)
    shuffled = tie_orders.shuffle_ties(finer, seed=0)
    moved = np.flatnonzero(shuffled.items_X != tied.items_X)
    assert len(moved)
    ends = tied.offsets_U1[tied.users_X[moved] + 1]
    assert set(ends - moved) == {2, 3}
    assert tie_orders.reference_spread(finer, splits, "test", item_7_first, max_rank=10) is None


def test_every_order_of_a_tie_is_as_likely(tied):
    lasts = [tie_orders.shuffle_ties(tied, seed).sequence(0)[-1] for seed in range(300)]
    _, counts = np.unique(lasts, return_counts=True)
    assert len(counts) == 3
    assert counts.min() > 70


def item_7_first(dataset, splits, split):
    """A system that always recommends item 7 alone."""
    targets = dataset.items_X[splits.targets_U(split)]
    ranks = (targets == 7).astype(np.int64)
    return {"seven": {"seen_kept": ranks, "seen_excluded": ranks}}


def test_spread_is_the_range_over_orders(tied, splits):
    entry = tie_orders.reference_spread(tied, splits, "test", item_7_first, max_rank=10)
    values = [
        (tie_orders.shuffle_ties(tied, seed).items_X[splits.test_U] == 7).mean()
        for seed in range(tie_orders.ORDERS)
    ]
    assert entry["tied_share"] == pytest.approx(1 / 3)
    found = entry["systems"]["seven"]["seen_kept"]["hr@10"]
    assert (found["low"], found["high"]) == pytest.approx((min(values), max(values)))
    assert found["low"] < found["high"]


def test_no_ties_or_no_times_no_spread(dataset, splits, tied):
    def never(*_):
        raise AssertionError("nothing to rank again")

    assert dataset.timestamps_X is None
    assert tie_orders.reference_spread(dataset, splits, "test", never, max_rank=10) is None
    times_X = np.arange(dataset.num_interactions, dtype=np.int64)
    untied = dataclasses.replace(tied, timestamps_X=times_X)
    assert tie_orders.reference_spread(untied, splits, "test", never, max_rank=10) is None
