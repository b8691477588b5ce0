"""The generated shop: fixed, legal, and second-order, against its own rules worked out by hand."""

import collections
import hashlib
import itertools
import json

import numpy as np
import pytest

from genrec_jax.data import toystore
from genrec_jax.errors import UserError


@pytest.fixture(scope="module")
def log() -> toystore.ToyLog:
    return toystore.simulate()


def test_the_default_shop_never_changes(log):
    content = json.dumps(
        [log.shop.source_ids, log.shop.titles, log.sequences, log.timestamps, log.ratings]
    )
    digest = hashlib.sha256(content.encode()).hexdigest()
    assert digest == "2d3a5ad950d750f438fcde0bd0f2d750760ee0041d40021f077aafb8caeb0e17"


def test_another_seed_gives_another_shop(log):
    assert toystore.simulate(seed=1, num_users=5).sequences != log.sequences[:5]


def test_five_core_drops_nothing(log):
    counts = collections.Counter(itertools.chain.from_iterable(log.sequences))
    assert len(counts) == toystore.NUM_ITEMS
    assert min(counts.values()) >= 5
    assert min(map(len, log.sequences)) >= 5


def test_titles_and_codes_name_one_item_each(log):
    assert len(set(log.shop.titles)) == len(set(log.shop.source_ids)) == toystore.NUM_ITEMS


def test_nobody_takes_an_item_twice_and_time_moves_on(log):
    for items, times in zip(log.sequences, log.timestamps, strict=True):
        assert len(set(items)) == len(items) == len(times)
        assert all(earlier < later for earlier, later in itertools.pairwise(times))


def test_a_series_leads_through_its_ten_items_and_back(log):
    shop = log.shop
    for first in range(toystore.NUM_ITEMS):
        items = [first]
        while (following := int(shop.next_I[items[-1]])) != first:
            items.append(following)
        assert len(items) == len(toystore.KINDS) == len({int(shop.kinds_I[i]) for i in items})
        assert len({int(shop.themes_I[i]) for i in items}) == 1


def test_the_third_item_follows_the_first_in_its_series(log):
    shop = log.shop
    first = 0
    second = int(np.flatnonzero(shop.themes_I != shop.themes_I[first])[0])
    weights_I = shop.next_weights_I([first, second])
    following = int(shop.next_I[first])
    outside_I = shop.popularity_I / (
        shop.popularity_I.sum() - shop.popularity_I[[first, second]].sum()
    )
    for item, rule in (
        (following, 0.7),
        (int(shop.next_I[following]), 0.24),
        (int(shop.next_I[second]), 0.06),
    ):
        expected = 0.9 * rule + 0.1 * outside_I[item]
        assert weights_I[item] / weights_I.sum() == pytest.approx(expected)
    assert weights_I[first] == weights_I[second] == 0


def test_the_last_item_alone_says_little(log):
    """A table of what followed what in training stays far behind the best possible."""
    best = toystore.best_possible_metrics(log)["hr@10"]
    followers = collections.defaultdict(collections.Counter)
    for items in log.sequences:
        for last, following in itertools.pairwise(items[:-2]):
            followers[last][following] += 1
    hits = [items[-1] in dict(followers[items[-2]].most_common(10)) for items in log.sequences]
    assert np.mean(hits) < best - 0.4


def test_best_possible_equals_what_a_knowing_ranker_gets_on_many_draws():
    log = toystore.simulate(num_users=40)
    best = toystore.best_possible_metrics(log)
    random = np.random.default_rng(0)
    gains = {name: [] for name in ("hr@1", "hr@10", "ndcg@10", "mrr@20")}
    for items in log.sequences:
        weights_I = log.shop.next_weights_I(items[:-1])
        rank_I = np.empty(len(weights_I), int)
        rank_I[np.argsort(-weights_I, kind="stable")] = np.arange(1, len(weights_I) + 1)
        drawn = rank_I[random.choice(len(weights_I), 4000, p=weights_I / weights_I.sum())]
        gains["hr@1"].append((drawn <= 1).mean())
        gains["hr@10"].append((drawn <= 10).mean())
        gains["ndcg@10"].append(np.where(drawn <= 10, 1 / np.log2(drawn + 1), 0).mean())
        gains["mrr@20"].append(np.where(drawn <= 20, 1 / drawn, 0).mean())
    for name, values in gains.items():
        assert np.mean(values) == pytest.approx(best[name], abs=0.005)


def test_validation_targets_have_an_optimum_of_their_own(log):
    test = toystore.best_possible_metrics(log)
    validation = toystore.best_possible_metrics(log, held_back=1)
    assert test != validation
    assert test["hr@10"] == pytest.approx(validation["hr@10"], abs=0.01)


def test_generate_is_a_raw_log_in_the_order_of_time(log):
    raw = toystore.generate(num_users=50)
    frame = raw.interactions.lazy().collect()
    assert frame["timestamp"].is_sorted()
    assert frame["user"].n_unique() == 50
    assert raw.rows_read == frame.height
    assert raw.items is not None
    titles = dict(zip(raw.items["item"], raw.items["title"], strict=True))
    taken = frame.filter(frame["user"] == "shopper_07").sort("timestamp")["item"]
    assert [titles[item] for item in taken] == [log.shop.titles[item] for item in log.sequences[6]]
    assert raw.manifest["oracle"] == toystore.best_possible_metrics(toystore.simulate(num_users=50))


def test_no_users_is_an_error_of_the_user():
    with pytest.raises(UserError, match="num_users=0"):
        toystore.simulate(num_users=0)
