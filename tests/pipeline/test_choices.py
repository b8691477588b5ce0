"""Where the right item stands among the choices, on real Toys: every place alike likely."""

import numpy as np
import pytest
from scipy import stats

from genrec_jax.data import splits as splits_lib
from tests.pipeline import alignment_data
from tests.pipeline.pipeline_data import read_sequences

LEVEL = 1e-3
CANDIDATES = 100


@pytest.fixture(scope="module")
def toys(shared, make_dataset):
    file = shared / "data" / "amazon_toys" / "user_sequence.txt"
    return make_dataset("Toys", read_sequences(file))


@pytest.fixture(scope="module")
def tasks(toys, shared):
    tables = alignment_data.make_tables(toys, alignment_data.t5_with_sentinels(shared))
    return alignment_data.make_tasks(
        tables, toys, ("ranking", "bpr"), num_candidates=CANDIDATES, seed=6
    )


def places_of(task, epoch=0):
    """The target's place in every example; that it stands there is checked too."""
    numbers = np.arange(task.num_examples)
    items, places = task.choices(np.full(len(numbers), epoch), numbers)
    assert (items[numbers, places] == task.dataset.items_X[task.positions_N]).all()
    return places


def assert_even(values, size):
    assert values.min() >= 0
    assert stats.chisquare(np.bincount(values, minlength=size)).pvalue > LEVEL


def test_every_place_among_a_hundred_is_alike_likely_in_training(tasks):
    places = places_of(tasks["ranking"])
    assert len(places) == 30_761
    assert_even(places, CANDIDATES)
    assert_even(np.diff(places) % CANDIDATES, CANDIDATES)  # also beside its neighbour's


def test_bpr_has_both_places_alike_in_every_row_of_three_epochs(tasks):
    places = np.stack([places_of(tasks["bpr"], epoch) for epoch in range(3)])
    assert_even(np.array([1, 2, 4]) @ places, 8)


def test_held_out_candidates_are_the_same_whatever_the_training_seed(toys, shared):
    tables = alignment_data.make_tables(toys, alignment_data.t5_with_sentinels(shared))
    splits, numbers, shown = splits_lib.leave_one_out(toys), np.arange(200), []
    for seed in (6, 7):
        (task,) = alignment_data.make_tasks(
            tables, toys, ("ranking",), num_candidates=CANDIDATES, seed=seed
        ).values()
        (held,) = task.held_out(splits, "test")
        shown.append([one.choices(0 * numbers, numbers)[0] for one in (held, task)])
    (held_6, trained_6), (held_7, trained_7) = shown
    assert (held_6 == held_7).all()
    assert (trained_6 != trained_7).any(axis=1).mean() > 0.99


def test_every_place_is_alike_likely_for_held_out_items(tasks, toys):
    """Whatever the user's place was in validation says nothing about the place in the test."""
    splits = splits_lib.leave_one_out(toys)
    found = []
    for split in ("validation", "test"):
        (held,) = tasks["ranking"].held_out(splits, split)
        found.append(places_of(held))
        assert len(found[-1]) == 19_412
        assert_even(found[-1], CANDIDATES)
    assert_even((found[1] - found[0]) % CANDIDATES, CANDIDATES)
