"""Ranks from lists: on fake recommenders whose metrics are known, and on hand-made lists."""

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.evaluation import intervals, ranking
from genrec_jax.evaluation.metrics import RankHistogram
from genrec_jax.pipeline.batch import PromptBatch


def run(name, fakes, make_prompts, dataset, splits, split="test"):
    return ranking.rank_users(make_prompts(split), fakes[name], dataset, splits, split)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_perfect_recommender(split, fakes, make_prompts, dataset, splits):
    ranks = run("perfect", fakes, make_prompts, dataset, splits, split)
    for footing in ranks.footings().values():
        means = RankHistogram.of(footing, 20).means()
        assert len(footing) == dataset.num_users
        assert set(means.values()) == {1.0}


def test_random_recommender_scores_what_chance_gives(fakes, make_prompts, dataset, splits):
    ranks = run("random", fakes, make_prompts, dataset, splits)
    histogram = ranks.histogram(20)
    config = intervals.BootstrapConfig(level=0.9999)
    for k in (5, 10, 20):
        estimate = intervals.bootstrap(histogram, config)[f"hr@{k}"]
        assert estimate.low < k / dataset.num_items < estimate.high
    # Each of the catalogue's items is as likely to be listed, so the share of seen ones is known.
    histories = (dataset.lengths_U - 1).mean()
    assert ranks.seen_share == pytest.approx(histories / dataset.num_items, rel=0.05)
    assert ranks.empty_share == 0


def test_recommending_something_else_misses_everybody(fakes, make_prompts, dataset, splits):
    ranks = run("wrong", fakes, make_prompts, dataset, splits)
    assert not ranks.kept_U.any()
    assert not ranks.excluded_U.any()
    assert ranks.empty_share == pytest.approx(19 / 20)


def test_recommending_nothing_is_an_error(fakes, make_prompts, dataset, splits):
    """As a network whose logits are NaN does: no hit ratio of zero is reported for it."""
    with pytest.raises(UserError, match="scores are not finite"):
        run("nothing", fakes, make_prompts, dataset, splits)


def test_striking_seen_items_moves_the_target_up(fakes, make_prompts, dataset, splits):
    ranks = run("oblivious", fakes, make_prompts, dataset, splits)
    assert set(ranks.kept_U) == {4}
    assert set(ranks.excluded_U) == {1}
    assert ranks.seen_share == 0.75


def test_the_test_history_holds_the_validation_item_and_the_validation_history_does_not(
    dataset, splits
):
    user = np.array([5], np.int32)
    sequence = dataset.sequence(5)
    items = np.array([[sequence[-2], sequence[-1], sequence[0], -1]], np.int32)
    test = ranking.seen_items(dataset, splits.test_U, user, items)
    validation = ranking.seen_items(dataset, splits.validation_U, user, items)
    assert test.tolist() == [[True, False, True, False]]
    assert validation.tolist() == [[False, False, True, False]]


def test_seen_items_equal_a_set_a_user(dataset, splits):
    generator = np.random.default_rng(0)
    users = generator.permutation(dataset.num_users).astype(np.int32)
    items = generator.integers(-1, dataset.num_items, (len(users), 9)).astype(np.int32)
    seen = ranking.seen_items(dataset, splits.test_U, users, items)
    for row, user in enumerate(users):
        history = set(dataset.sequence(int(user))[:-1].tolist())
        assert seen[row].tolist() == [item in history for item in items[row].tolist()]


def test_a_target_taken_before_is_missed_once_seen_items_are_struck():
    items = np.array([[3, 8, 5]], np.int32)
    struck = np.array([[True, False, False]])
    assert ranking.ranks_after_striking(items, struck, np.array([3], np.int32)).tolist() == [0]
    assert ranking.ranks_after_striking(items, struck, np.array([5], np.int32)).tolist() == [2]
    assert ranking.ranks_after_striking(items, struck, np.array([9], np.int32)).tolist() == [0]


def test_only_the_users_asked_for_are_scored(fakes, make_prompts, dataset, splits):
    users = ranking.choose_users(dataset, splits, "test", 100, seed=3)
    assert len(users) == len(set(users.tolist())) == 100
    assert np.array_equal(users, ranking.choose_users(dataset, splits, "test", 100, seed=3))
    assert not np.array_equal(users, ranking.choose_users(dataset, splits, "test", 100, seed=4))
    prompts = make_prompts("test", users)
    ranks = ranking.rank_users(prompts, fakes["perfect"], dataset, splits, "test")
    assert np.array_equal(ranks.users_E, users)
    assert ranks.histogram(20).count == 100


def test_lists_with_duplicates_are_refused(make_prompts, dataset, splits):
    def stutters(batch):
        items = np.tile(np.array([4, 2, 4], np.int32), (len(batch.users_B), 1))
        return items, np.zeros(items.shape, np.float32)

    with pytest.raises(ValueError, match="twice"):
        ranking.rank_users(make_prompts("test"), stutters, dataset, splits, "test")


def test_a_user_scored_twice_is_refused(fakes, dataset, splits):
    tokens = np.zeros((2, 4), np.int32)
    batch = PromptBatch(tokens, tokens, np.array([3, 3], np.int32), np.array([1, 1], np.int32))
    with pytest.raises(ValueError, match="scored twice"):
        ranking.rank_users([batch], fakes["perfect"], dataset, splits, "test")


def test_the_next_batch_is_searched_while_one_is_worked_on(fakes, make_prompts, dataset, splits):
    """And never two at once: lists may be a device's, which computes them while the host goes on."""
    happened = []

    def prompts():
        for number, batch in enumerate(make_prompts("test", batch_size=200)):
            happened.append(f"prompts {number}")
            yield batch

    class Computing(np.ndarray):
        """An array that tells when it is waited for, as `jax.Array` is."""

        def block_until_ready(self):
            happened.append("wait")
            return self

    def search(batch):
        happened.append("search")
        return tuple(array.view(Computing) for array in fakes["perfect"](batch))

    def work(*columns):
        happened.append("work")

    ranking.rank_users(prompts(), search, dataset, splits, "test", on_lists=work)
    order = [event for i, event in enumerate(happened) if happened[i - 1 : i] != [event]]
    assert order == [
        *("prompts 0", "search", "prompts 1", "wait", "search", "work"),
        *("prompts 2", "wait", "search", "work"),
    ]
    assert happened.count("work") == happened.count("search") == 3
