import math

import numpy as np
import pytest

from genrec_jax.evaluation import auc


@pytest.mark.parametrize(
    "scores, labels, area",
    [
        ([0.9, 0.8, 0.3], [1, 0, 1], 1 / 2),
        ([3.0, 2.0, 1.0, 0.0], [1, 1, 0, 0], 1.0),
        ([3.0, 2.0, 1.0, 0.0], [0, 0, 1, 1], 0.0),
        # Of 2 x 3 pairs: 5 is above all three, 2 is above one, ties with one and is below one.
        ([5.0, 2.0, 2.0, 1.0, 4.0], [1, 1, 0, 0, 0], (3 + 1.5) / 6),
        ([1.0] * 6, [1, 0, 1, 0, 0, 0], 1 / 2),
    ],
)
def test_areas_by_hand(scores, labels, area):
    assert auc.auc_roc(np.asarray(scores), np.asarray(labels, bool)) == pytest.approx(area)


def test_equals_counting_all_pairs():
    rng = np.random.default_rng(0)
    scores, labels = np.round(rng.normal(0, 1, 300), 1), rng.random(300) < 0.3
    above = scores[labels][:, None] - scores[~labels][None]
    assert auc.auc_roc(scores, labels) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_interval_by_hand():
    # Components: positives 1 and 1/2 (variance 1/8), negatives 1/2 and 1 (1/8); so 1/16 + 1/16.
    found = auc.estimate(np.asarray([4.0, 2.0, 3.0, 1.0]), np.asarray([1, 1, 0, 0], bool))
    assert found.value == 0.75 and found.count == 4 and found.high == 1.0
    assert found.low == pytest.approx(0.75 - 1.959964 * math.sqrt(1 / 8), abs=1e-5)


def test_intervals_cover_and_tests_keep_their_level():
    """Over 400 draws of scores with a known area, the 90% interval holds it about that often."""
    rng = np.random.default_rng(1)
    truth = 0.5 * math.erfc(-0.8 / 2)  # of normals a distance 0.8 apart: Phi(0.8 / sqrt 2)
    covered = rejected = 0
    for _ in range(400):
        labels = rng.random(150) < 0.4
        scores, other = (labels * 0.8 + rng.normal(0, 1, (2, 150))) * 1.0
        found = auc.estimate(scores, labels, level=0.9)
        covered += found.low <= truth <= found.high
        rejected += auc.compare(scores, other, labels).p_value < 0.1
    assert 0.86 < covered / 400 < 0.94
    assert 0.06 < rejected / 400 < 0.14


def test_a_system_does_not_differ_from_itself():
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(0, 1, 50), rng.random(50) < 0.5
    same = auc.compare(scores, 2 * scores + 1, labels)
    assert same.difference == same.low == same.high == 0 and same.p_value == 1.0
    better = auc.compare(scores + 5 * labels, scores, labels)
    assert better.low > 0 and better.p_value < 1e-6


def test_labels_all_alike_have_no_area():
    found = auc.estimate(np.arange(3.0), np.ones(3, bool))
    assert math.isnan(found.value) and math.isnan(found.low) and found.count == 3
