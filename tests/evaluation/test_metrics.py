"""Metrics on cases solved by hand, and histograms against direct sums."""

import math

import numpy as np
import pytest

from genrec_jax.evaluation import metrics
from genrec_jax.evaluation.metrics import RankHistogram


def test_hand_solved_users():
    # Four users: found first, found third, found eleventh, missed.
    histogram = RankHistogram.of(np.array([1, 3, 11, 0]))
    assert histogram.count == 4
    assert histogram.mean("hr@1") == 1 / 4
    assert histogram.mean("hr@5") == 2 / 4
    assert histogram.mean("hr@10") == 2 / 4
    assert histogram.mean("hr@20") == 3 / 4
    assert histogram.mean("mrr@5") == pytest.approx((1 + 1 / 3) / 4)
    assert histogram.mean("mrr@20") == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)
    assert histogram.mean("ndcg@10") == pytest.approx((1 + 1 / 2) / 4)  # log2(3 + 1) = 2
    assert histogram.mean("ndcg@20") == pytest.approx((1 + 1 / 2 + 1 / math.log2(12)) / 4)


def test_all_metrics_agree_at_one():
    histogram = RankHistogram.of(np.array([1, 1, 2, 0, 7]))
    assert histogram.mean("hr@1") == histogram.mean("ndcg@1") == histogram.mean("mrr@1") == 2 / 5


def test_ranks_beyond_the_list_are_misses():
    deep = RankHistogram.of(np.array([1, 11, 4000]), max_rank=10)
    assert deep.counts_R.tolist() == [2, 1] + [0] * 9
    assert "hr@20" not in deep.means()
    assert deep.means()["hr@10"] == 1 / 3
    with pytest.raises(ValueError, match="hr@20"):
        deep.mean("hr@20")


def test_a_mean_over_the_histogram_is_the_mean_over_users():
    ranks = np.random.default_rng(0).integers(0, 30, 1000)
    direct = np.mean([1 / math.log2(r + 1) if 1 <= r <= 10 else 0 for r in ranks])
    assert RankHistogram.of(ranks).mean("ndcg@10") == pytest.approx(direct)


def test_nobody_counted_is_not_a_zero():
    assert math.isnan(RankHistogram.of(np.array([], np.int64)).mean("hr@10"))


@pytest.mark.parametrize("name", ["hr", "hr@0", "recall@10", "hr@-1"])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(ValueError, match="unknown metric"):
        metrics.gains_R(name, 20)


def test_negative_ranks_are_refused():
    with pytest.raises(ValueError, match="got -1"):
        RankHistogram.of(np.array([3, -1]))


def test_ranks_in_lists():
    items = np.array([[5, 3, 9], [5, 3, -1], [-1, -1, -1], [7, 2, 1]], np.int32)
    targets = np.array([9, 9, -1, 7], np.int32)
    assert metrics.ranks_in_lists(items, targets).tolist() == [3, 0, 0, 1]
