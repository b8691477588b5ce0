"""Examples of a dataset with a temporal split: nothing after the date trains, or chooses candidates."""

import numpy as np
import pytest

from genrec_jax.data import prepare, splits, toystore
from genrec_jax.pipeline import windows
from genrec_jax.pipeline.negatives import NegativeSampler


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("dated") / "dated"
    log = toystore.generate(num_users=200)
    return prepare.prepare(log, path, name="Dated", split=prepare.SplitBy("temporal"))


def test_masked_items_end_before_the_date(shop):
    begin_N, end_N = windows.item_windows(shop, splits.of(shop), 20)
    read = np.concatenate([np.arange(*pair) for pair in zip(begin_N, end_N, strict=True)])
    assert shop.timestamps_X is not None
    assert (shop.timestamps_X[read] < shop.manifest["split"]["validation_from"]).all()


def test_what_a_user_takes_after_the_targets_may_be_a_candidate(shop):
    """Nobody knows it at the time; what comes before, and the targets themselves, never are."""
    part = splits.of(shop)
    later = 0
    for user in np.flatnonzero(part.test_U >= 0):
        end = int(part.test_U[user]) + 1
        known = set(shop.items_X[shop.offsets_U1[user] : end].tolist())
        future = set(shop.items_X[end : shop.offsets_U1[user + 1]].tolist()) - known
        users = np.full(40, user)
        drawn = set(NegativeSampler(shop, part, 60, "all").draw(users, 1, np.arange(40)).flat)
        assert not known & drawn
        later += len(future & drawn)
    assert later
