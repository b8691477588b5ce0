import numpy as np
import pytest

from genrec_jax.data import kcore


def brute_force(users, items, min_user, min_item):
    """Drops one interaction of a poor user or item at a time, from the end."""
    kept = list(range(len(users)))
    while True:
        for position in reversed(kept):
            of_user = sum(users[other] == users[position] for other in kept)
            of_item = sum(items[other] == items[position] for other in kept)
            if of_user < min_user or of_item < min_item:
                kept.remove(position)
                break
        else:
            return kept


@pytest.mark.parametrize("seed", range(8))
def test_equals_brute_force(seed):
    draws = np.random.default_rng(seed)
    users_X = draws.integers(0, 12, 70).astype(np.int32)
    items_X = (9 * draws.random(70) ** 2).astype(np.int32)
    min_user, min_item = int(draws.integers(1, 6)), int(draws.integers(1, 6))
    core = kcore.k_core(users_X, items_X, min_user=min_user, min_item=min_item)
    assert core.kept_X.tolist() == brute_force(users_X, items_X, min_user, min_item)


def test_one_drop_may_pull_down_everything():
    # A chain: item 3 is rare, without it user 2 is short, then item 2, then user 1, ...
    users_X = np.array([0, 0, 1, 1, 2, 2])
    items_X = np.array([0, 1, 1, 2, 2, 3])
    core = kcore.k_core(users_X, items_X, min_user=2, min_item=2)
    assert core.kept_X.tolist() == []
    assert core.rounds > 2


def test_a_full_core_is_left_alone_in_one_round():
    users_X, items_X = np.repeat(np.arange(5), 5), np.tile(np.arange(5), 5)
    core = kcore.k_core(users_X, items_X, min_user=5, min_item=5)
    assert core.kept_X.tolist() == list(range(25))
    assert core.rounds == 1


def test_repeats_count_as_often_as_they_occur():
    users_X, items_X = np.zeros(5, np.int64), np.zeros(5, np.int64)
    assert len(kcore.k_core(users_X, items_X, min_user=5, min_item=5).kept_X) == 5


def test_minima_of_zero_and_one_keep_everything():
    users_X, items_X = np.arange(4), np.arange(4)
    for minimum in (0, 1):
        assert len(kcore.k_core(users_X, items_X, min_user=minimum, min_item=minimum).kept_X) == 4
