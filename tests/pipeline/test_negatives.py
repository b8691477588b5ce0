"""Negatives: never what is forbidden, by popularity, one after another without replacement."""

import collections
import itertools

import numpy as np
import pytest
from scipy import stats

from genrec_jax.data import splits as splits_lib
from genrec_jax.errors import UserError
from genrec_jax.pipeline.negatives import NegativeSampler
from tests.pipeline.pipeline_data import random_sequences, read_sequences

LEVEL = 1e-4  # a right sampler fails once in ten thousand seeds, and these are fixed


def sampler_of(dataset, count, avoid="training"):
    return NegativeSampler(dataset, splits_lib.leave_one_out(dataset), count, avoid)


def test_never_what_the_protocol_forbids(make_dataset):
    data = make_dataset("N", random_sequences(60, 90, seed=8, longest=30))
    splits = splits_lib.leave_one_out(data)
    counts = splits_lib.training_counts_I(data, splits)
    users = np.repeat(np.arange(60), 20)
    held_out_drawn = 0
    for avoid in ("training", "all"):
        drawn = NegativeSampler(data, splits, 40, avoid).draw(users, 1, np.arange(len(users)))
        for row, user in zip(drawn.tolist(), users.tolist(), strict=True):
            sequence = data.sequence(user).tolist()
            forbidden = set(sequence if avoid == "all" else sequence[:-2])
            assert len(set(row)) == 40
            assert not forbidden & set(row)
            assert counts[row].all()  # an item that training never saw has no popularity
            if avoid == "training":
                held_out_drawn += bool(set(sequence[-2:]) - forbidden & set(row))
    assert held_out_drawn  # training negatives know nothing of what is held out


def test_a_held_out_item_does_not_change_training_negatives(make_dataset):
    sequences = random_sequences(40, 60, seed=9, longest=20)
    moved = [[*row[:-2], (row[-2] + 7) % 60, (row[-1] + 11) % 60] for row in sequences]
    drawn = [
        sampler_of(make_dataset(name, rows), 10).draw(np.arange(40), 3, np.arange(40)).tolist()
        for name, rows in (("A", sequences), ("B", moved))
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("avoid", ["training", "all"])
def test_99_for_each_user_of_toys(shared, make_dataset, avoid):
    """Different ones, none that must be avoided; the own held-out items only where training may."""
    data = make_dataset(
        "Toys", read_sequences(shared / "data" / "amazon_toys" / "user_sequence.txt")
    )
    splits = splits_lib.leave_one_out(data)
    users = np.arange(data.num_users)
    drawn = NegativeSampler(data, splits, 99, avoid).draw(users, 4, users)
    assert drawn.shape == (19_412, 99)
    assert np.diff(np.sort(drawn, axis=1), axis=1).all()
    pairs = drawn + users[:, None] * data.num_items
    held_out = np.concatenate([splits.validation_U, splits.test_U])
    own = data.items_X + data.users_X.astype(np.int64) * data.num_items
    trained = np.delete(own, held_out)
    assert not np.isin(pairs, own if avoid == "all" else trained).any()
    targets = np.setdiff1d(own[held_out], trained)
    assert np.isin(pairs, targets).any() == (avoid == "training")


@pytest.mark.parametrize("avoid", ["training", "all"])
def test_the_first_negative_is_drawn_by_popularity(shared, make_dataset, avoid):
    """Chi-square over Beauty's items (rare ones pooled), for the user with the most popular targets."""
    data = make_dataset(
        "Beauty", read_sequences(shared / "data" / "amazon_beauty" / "user_sequence.txt")
    )
    splits = splits_lib.leave_one_out(data)
    counts = splits_lib.training_counts_I(data, splits)
    held_out = data.items_X[np.stack([splits.validation_U, splits.test_U])]
    user = int(counts[held_out].min(axis=0).argmax())
    draws = 60_000
    drawn = sampler_of(data, 1, avoid).draw(np.full(draws, user), 5, np.arange(draws))[:, 0]
    allowed = counts.astype(float)
    allowed[data.sequence(user)[: None if avoid == "all" else -2]] = 0
    expected = allowed / allowed.sum() * draws
    common = expected >= 10
    assert common[held_out[:, user]].all() == (avoid == "training")
    observed = np.bincount(drawn, minlength=data.num_items)
    assert not observed[allowed == 0].any()
    found = np.append(observed[common], observed[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert common.sum() > 1000
    assert stats.chisquare(found, wanted).pvalue > LEVEL
    even = stats.chisquare(found[:-1], np.full(common.sum(), found[:-1].mean()))
    assert even.pvalue < 1e-12  # the test would see it if items were drawn evenly


@pytest.mark.parametrize("narrow", [False, True])
def test_several_are_drawn_one_after_another(make_dataset, narrow, monkeypatch):
    """Every ordered pair comes as often as drawing by weight without replacement says; brute force."""
    sequences = [[0, 1, 2], [1] * 5 + [2, 3, 4], [1, 1, 2, 3, 4, 0], [5, 4, 3, 3, 1, 1]]
    data = make_dataset(f"Few{narrow}", sequences)
    splits = splits_lib.leave_one_out(data)
    weights = splits_lib.training_counts_I(data, splits).astype(float)
    if narrow:  # so few draws that most rows are completed by looking at the whole catalogue
        monkeypatch.setattr(NegativeSampler, "_passed", _narrow(NegativeSampler._passed))
    rows = 30_000
    drawn = sampler_of(data, 2).draw(np.zeros(rows, int), 2, np.arange(rows))
    weights[0] = 0  # user 0's only training item
    observed = collections.Counter(map(tuple, drawn.tolist()))
    expected = {
        (a, b): rows * weights[a] / weights.sum() * weights[b] / (weights.sum() - weights[a])
        for a, b in itertools.permutations(np.flatnonzero(weights).tolist(), 2)
    }
    assert set(observed) <= set(expected)
    result = stats.chisquare([observed[pair] for pair in expected], list(expected.values()))
    assert result.pvalue > LEVEL


def _narrow(passed):
    def with_fewer_draws(self, users_E, width, columns):
        del width
        return passed(self, users_E, 2, columns)

    return with_fewer_draws


def test_a_draw_depends_on_its_numbers_alone(make_dataset):
    data = make_dataset("Alone", random_sequences(50, 70, seed=11, longest=40))
    sampler = sampler_of(data, 25)
    users = np.arange(50)
    together = sampler.draw(users, 7, users * 3)
    for user in (0, 13, 49):
        alone = sampler.draw(np.array([user]), 7, np.array([user * 3]))
        assert alone[0].tolist() == together[user].tolist()


def test_too_few_items(make_dataset):
    data = make_dataset("Tiny", [[0, 1, 2, 3, 4], [1, 2, 0, 3, 4]])
    with pytest.raises(UserError, match=r"took all but 0 of them.*Set num_candidates to 1 or less"):
        sampler_of(data, 3)
