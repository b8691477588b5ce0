"""Popularity and transition: against a brute-force ranking of small logs, and the published floors."""

import collections
import itertools

import numpy as np
import pyarrow as pa
import pytest

from genrec_jax.baselines import histories, history, popularity, transition
from genrec_jax.data import dataset, prepare_run, splits
from genrec_jax.errors import UserError

BASELINES = {"popularity": popularity, "transition": transition}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> dataset.Dataset:
    """30 users, 25 items, items taken again now and then, ties in every count."""
    random = np.random.default_rng(0)
    rows = [random.integers(0, 25, random.integers(3, 12)) for _ in range(30)]
    return dataset.write(
        tmp_path_factory.mktemp("log") / "d",
        name="Log",
        interactions=pa.table(
            {
                "user": [user for user, row in enumerate(rows) for _ in row],
                "item": [int(item) for row in rows for item in row],
            }
        ),
        items=pa.table({"item": range(25), "source_id": [f"i{n:02d}" for n in range(25)]}),
        users=pa.table({"user": range(30), "source_id": [str(n) for n in range(30)]}),
    )


def brute_force(log: dataset.Dataset, name: str, split: str, exclude_seen: bool) -> list[list[int]]:
    """The whole catalogue in order, for each user, from nothing but lists and counters."""
    all_rows = [log.sequence(user).tolist() for user in range(log.num_users)]
    counts = collections.Counter(item for row in all_rows for item in row[:-2])
    pairs = collections.Counter((a, b) for row in all_rows for a, b in itertools.pairwise(row[:-2]))
    lists = []
    for row in all_rows:
        history = row[:-1] if split == "test" else row[:-2]
        followed = {
            item: pairs[history[-1], item] if name == "transition" else 0 for item in range(25)
        }
        order = sorted(range(25), key=lambda item: (-followed[item], -counts[item], item))
        lists.append([item for item in order if not (exclude_seen and item in history)])
    return lists


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_ranks_equal_brute_force(log, name, split, exclude_seen, monkeypatch):
    monkeypatch.setattr(histories, "USERS_AT_A_TIME", 7)
    part = splits.leave_one_out(log)
    expected = brute_force(log, name, split, exclude_seen)
    ranks_E = BASELINES[name].rank_targets(log, part, split, exclude_seen=exclude_seen)
    targets = log.items_X[part.targets_U(split)]
    assert ranks_E.tolist() == [
        order.index(target) + 1 if target in order else 0
        for order, target in zip(expected, targets, strict=True)
    ]
    assert (ranks_E == 0).any() == exclude_seen


def test_whole_rankings_equal_brute_force(log):
    part = splits.leave_one_out(log)
    assert brute_force(log, "popularity", "test", False)[0] == (
        popularity.item_order_I(log, part).tolist()
    )
    table, items = transition.count(log, part), np.arange(25)
    for user, expected in enumerate(brute_force(log, "transition", "test", False)):
        ranks_I = table.ranks(np.full(25, log.sequence(user)[-2]), items)
        assert items[np.argsort(ranks_I)].tolist() == expected
        assert sorted(ranks_I) == [*range(1, 26)]


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_transitions_from_further_back_equal_brute_force(log, split, exclude_seen, lag):
    part = splits.leave_one_out(log)
    rows = [log.sequence(user).tolist() for user in range(log.num_users)]
    counts = collections.Counter(item for row in rows for item in row[:-2])
    pairs = collections.Counter(
        pair for row in rows for pair in zip(row[:-2], row[:-2][lag:], strict=False)
    )
    expected = []
    for row in rows:
        history = row[:-1] if split == "test" else row[:-2]
        asked = history[-lag] if len(history) >= lag else None
        order = sorted(range(25), key=lambda item: (-pairs[asked, item], -counts[item], item))
        order = [item for item in order if not (exclude_seen and item in history)]
        target = row[-1] if split == "test" else row[-2]
        expected.append(order.index(target) + 1 if target in order else 0)
    ranks_E = transition.rank_targets(log, part, split, exclude_seen=exclude_seen, lag=lag)
    assert ranks_E.tolist() == expected


@pytest.mark.parametrize("name", BASELINES)
def test_users_without_a_target_have_no_rank(log, name):
    part = splits.leave_one_out(log)
    some_U = np.where(np.arange(log.num_users) % 3 == 0, part.test_U, -1)
    fewer = splits.Splits("leave_one_out", part.train_end_U, part.validation_U, some_U)
    ranks_E = BASELINES[name].rank_targets(log, fewer, "test", exclude_seen=False)
    all_E = BASELINES[name].rank_targets(log, part, "test", exclude_seen=False)
    assert ranks_E.tolist() == all_E[::3].tolist()


def test_the_held_out_part_changes_no_ranking(log):
    """Ranks of the validation targets stay when only test items change."""
    part = splits.leave_one_out(log)
    items_X = log.items_X.copy()
    items_X[part.test_U] = (items_X[part.test_U] + 7) % log.num_items
    other = dataset.Dataset(log.path, log.manifest, log.offsets_U1, items_X, None, None)
    for module in BASELINES.values():
        assert np.array_equal(
            module.rank_targets(log, part, "validation", exclude_seen=True),
            module.rank_targets(other, part, "validation", exclude_seen=True),
        )


def test_without_any_pair_of_neighbours_transition_is_popularity(tmp_path):
    made = dataset.write(
        tmp_path / "d",
        name="Short",
        interactions=pa.table({"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 2, 0, 1]}),
        items=pa.table({"item": [0, 1, 2], "source_id": ["a", "b", "c"]}),
        users=pa.table({"user": [0, 1], "source_id": ["u", "v"]}),
    )
    part = splits.leave_one_out(made)
    for exclude_seen in (False, True):
        assert np.array_equal(
            transition.rank_targets(made, part, "test", exclude_seen=exclude_seen),
            popularity.rank_targets(made, part, "test", exclude_seen=exclude_seen),
        )


FLOORS = {
    "lastfm": (0.0376, 0.0422),
    "ml_100k": (0.0498, 0.1113),
    "amazon_beauty": (0.0112, 0.0659),
    "amazon_toys": (0.0089, 0.0704),
    "movietweetings_100k": (0.1304, 0.1627),
    "amazon_musical_instruments": (0.0714, 0.0966),
}


READERS = {
    "ml_100k": ("movielens", "."),
    "movietweetings_100k": ("movietweetings", "."),
    "amazon_musical_instruments": ("amazon", "Musical_Instruments.zip"),
}


@pytest.mark.parametrize("name", FLOORS)
def test_published_floors(shared, tmp_path, name):
    """shared/README "Floors", made with independent code; ties can move the last digits."""
    reader, file = READERS.get(name, ("sequences", "user_sequence.txt"))
    source = shared / "data" / name / file
    made = prepare_run.prepare_from(reader, source, tmp_path / "d", name="Floor")
    part = splits.leave_one_out(made)
    for module, floor in zip(BASELINES.values(), FLOORS[name], strict=True):
        ranks_E = module.rank_targets(made, part, "test", exclude_seen=False)
        assert (ranks_E <= 10).mean() == pytest.approx(floor, abs=0.002)


def test_popularity_among_candidates_is_its_order_of_the_catalogue(log):
    part = splits.leave_one_out(log)
    order = popularity.item_order_I(log, part).tolist()
    random = np.random.default_rng(1)
    candidates_EC = np.stack([random.permutation(25)[:7] for _ in range(9)])
    targets_E = candidates_EC[np.arange(9), random.integers(0, 7, 9)]
    ranks_E = popularity.rank_among(log, part, targets_E, candidates_EC)
    for row in range(9):
        mine = sorted(candidates_EC[row].tolist(), key=order.index)
        assert ranks_E[row] == mine.index(targets_E[row]) + 1


def test_history_is_the_liked_share_of_training_items(tmp_path):
    """User 0 trains on ratings 5, 3, 4 and user 1 on 1; the last two of each are held out."""
    ratings = [5.0, 3.0, 4.0, 1.0, 1.0, 1.0, 5.0, 5.0]
    rated = dataset.write(
        tmp_path / "d",
        name="Rated",
        interactions=pa.table(
            {
                "user": [0] * 5 + [1] * 3,
                "item": [0, 1, 2, 3, 4, 0, 1, 2],
                "rating": pa.array(ratings, pa.float32()),
            }
        ),
        items=pa.table({"item": range(5), "source_id": [f"i{n}" for n in range(5)]}),
        users=pa.table({"user": range(2), "source_id": ["a", "b"]}),
    )
    part = splits.leave_one_out(rated)
    shares = history.liked_shares(rated, part, np.asarray([1, 0]))
    assert shares.tolist() == [0.0, pytest.approx(2 / 3)]
    assert history.liked_shares(rated, part, np.asarray([0]), like_above=2.0)[0] == 1.0


def test_history_without_ratings_is_refused(log):
    with pytest.raises(UserError, match="no ratings"):
        history.liked_shares(log, splits.leave_one_out(log), np.asarray([0]))
