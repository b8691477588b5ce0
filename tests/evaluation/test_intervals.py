"""Intervals and tests: against resampling users one by one, and for their coverage."""

import itertools

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.evaluation import intervals, metrics
from genrec_jax.evaluation.intervals import BootstrapConfig
from genrec_jax.evaluation.metrics import RankHistogram


def test_equals_resampling_the_users_themselves():
    generator = np.random.default_rng(3)
    ranks = np.where(generator.random(300) < 0.3, generator.integers(1, 21, 300), 0)
    gains = metrics.gains_R("ndcg@10", 20)[ranks]
    means = gains[generator.integers(0, 300, (20_000, 300))].mean(axis=1)
    estimate = intervals.bootstrap(RankHistogram.of(ranks))["ndcg@10"]
    assert estimate.value == pytest.approx(gains.mean())
    assert (estimate.low, estimate.high) == pytest.approx(
        np.quantile(means, [0.025, 0.975]), rel=0.03
    )
    assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize("metric", ["hr@10", "ndcg@10"])
def test_coverage(metric):
    """Of 400 samples from a known law, 95% intervals hold the truth about 95 times in 100."""
    law = np.full(21, 0.3 / 20)
    law[0] = 0.7
    truth = law @ metrics.gains_R(metric, 20)
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        histogram = RankHistogram(generator.multinomial(500, law))
        estimate = intervals.bootstrap(histogram, BootstrapConfig(resamples=1000), [metric])[metric]
        held += estimate.low <= truth <= estimate.high
    # Two-sided 99.9% range of a binomial(400, 0.95) is about 0.91 to 0.98.
    assert 0.91 <= held / 400 <= 0.985


def test_seeded():
    histogram = RankHistogram.of(np.arange(40) % 25)
    assert intervals.bootstrap(histogram) == intervals.bootstrap(histogram)
    other = intervals.bootstrap(histogram, BootstrapConfig(seed=1, resamples=100))
    assert other != intervals.bootstrap(histogram, BootstrapConfig(seed=0, resamples=100))


def test_a_million_users_cost_no_more_memory_than_their_ranks():
    ranks = np.random.default_rng(0).integers(0, 400, 1_000_000)
    estimate = intervals.bootstrap(RankHistogram.of(ranks), BootstrapConfig(resamples=2000))[
        "hr@10"
    ]
    half_width = 1.96 * np.sqrt(estimate.value * (1 - estimate.value) / 1e6)
    assert estimate.high - estimate.low == pytest.approx(2 * half_width, rel=0.1)


def test_paired_intervals_are_narrower_than_unpaired_ones():
    """Two systems that differ on few users: the pairing is what makes the difference visible."""
    generator = np.random.default_rng(0)
    b = np.where(generator.random(2000) < 0.4, 1, 0)
    a = b.copy()
    a[np.flatnonzero(b == 0)[:20]] = 1
    (result,) = intervals.paired(a, b, ["hr@1"])
    assert result.difference == pytest.approx(20 / 2000)
    assert 0 < result.low < result.difference < result.high < 0.02
    assert result.p_value < 0.001
    alone = intervals.bootstrap(RankHistogram.of(a))["hr@1"]
    assert alone.high - alone.low > 2 * (result.high - result.low)


def test_p_value_equals_enumerating_all_sign_flips():
    a, b = np.array([1, 1, 2, 0, 3, 1]), np.array([0, 2, 2, 1, 0, 0])
    gains = metrics.gains_R("mrr@20", 20)
    gaps = gains[a] - gains[b]
    flips = np.array(list(itertools.product([-1, 1], repeat=6))) @ gaps
    exact = (np.abs(flips) >= abs(gaps.sum()) - 1e-12).mean()
    (result,) = intervals.paired(a, b, ["mrr@20"], BootstrapConfig(resamples=40_000))
    assert result.p_value == pytest.approx(exact, abs=0.01)


def test_p_values_are_uniform_when_nothing_differs():
    generator = np.random.default_rng(1)
    p_values = []
    for _ in range(300):
        a, b = generator.integers(0, 25, (2, 200))
        p_values.append(
            intervals.paired(a, b, ["ndcg@10"], BootstrapConfig(resamples=400))[0].p_value
        )
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert 0.4 <= np.mean(p_values) <= 0.6


def test_paired_intervals_cover_a_known_difference():
    """A finds 30% of users, b 20%, half of b's among a's."""
    joint = {(1, 1): 0.1, (1, 0): 0.2, (0, 1): 0.1, (0, 0): 0.6}
    pairs = np.array(list(joint))
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        drawn = pairs[generator.choice(4, 400, p=list(joint.values()))]
        (result,) = intervals.paired(
            drawn[:, 0], drawn[:, 1], ["hr@1"], BootstrapConfig(resamples=1000)
        )
        held += result.low <= 0.1 <= result.high
    assert 0.90 <= held / 300 <= 0.99


def test_a_system_does_not_differ_from_itself():
    ranks = np.array([1, 0, 5, 20])
    (result,) = intervals.paired(ranks, ranks, ["ndcg@20"])
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_nobody_is_refused():
    empty = np.array([], np.int64)
    with pytest.raises(ValueError, match="nobody"):
        intervals.bootstrap(RankHistogram.of(empty))
    with pytest.raises(ValueError, match="nobody"):
        intervals.paired(empty, empty, ["hr@1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resamples": 0}, "resamples is 0; wanted at least 1"),
        ({"level": 95.0}, "level is 95.0; wanted a share"),
        ({"seed": -1}, "seed is -1; wanted 0 or more"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(UserError, match=message):
        BootstrapConfig(**settings)
