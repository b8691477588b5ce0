"""How sure a metric is: bootstrap intervals over users, and paired tests between two systems.

Users are the sampling unit. All metrics are sums of a gain that depends on a user's rank alone, so
resampling users with replacement is the same as drawing a multinomial over the histogram of ranks:
exact, and its cost depends on the number of ranks, not on the number of users (Efron 1979). Two
systems on the same users are resampled together, through the joint histogram of their ranks.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int, Int64

from genrec_jax.errors import UserError
from genrec_jax.evaluation import metrics
from genrec_jax.evaluation.metrics import RankHistogram


@dataclasses.dataclass(frozen=True)
class BootstrapConfig:
    """How intervals and tests are made; written beside them.

    Attributes:
        resamples: bootstrap resamples, and random sign flips of the paired test.
        level: coverage of an interval.
        seed: of the resampling; equal input and seed give equal intervals.
    """

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if self.resamples < 1:
            raise UserError(f"resamples is {self.resamples}; wanted at least 1")
        if not 0 < self.level < 1:
            raise UserError(f"level is {self.level}; wanted a share between 0 and 1, such as 0.95")
        if self.seed < 0:
            raise UserError(f"the intervals' seed is {self.seed}; wanted 0 or more")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric with its interval.

    Attributes:
        value: sum over count.
        low: lower end of the percentile bootstrap interval.
        high: its upper end. Where no user (or every user) is a hit, resampling sees no spread and
            the interval has no width: `count` then says how much that is worth.
        count: users behind the value.
    """

    value: float
    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True)
class PairedComparison:
    """System a against system b on the same users.

    Attributes:
        metric: such as `ndcg@10`.
        difference: mean of a minus mean of b.
        low: lower end of the bootstrap interval of the difference.
        high: its upper end.
        p_value: two-sided sign-flip permutation test of "a and b are exchangeable on every user";
            at least 1 / (resamples + 1).
        count: users compared.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    count: int


def bootstrap(
    histogram: RankHistogram,
    config: BootstrapConfig = BootstrapConfig(),
    names: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Every metric of a histogram with its percentile bootstrap interval.

    Args:
        histogram: ranks of the users.
        config: resamples, level, seed.
        names: the metrics; all that the histogram can answer by default.

    Raises:
        ValueError: the histogram counts nobody.
    """
    if not histogram.count:
        raise ValueError("nobody was ranked; there is nothing to resample")
    names = metrics.metric_names(histogram.max_rank) if names is None else names
    filled = np.flatnonzero(histogram.counts_R)
    resamples = _resample(histogram.counts_R[filled], config)
    estimates = {}
    for name in names:
        gains = metrics.gains_R(name, histogram.max_rank)[filled]
        low, high = _percentiles(resamples @ gains / histogram.count, config.level)
        estimates[name] = Estimate(histogram.mean(name), low, high, histogram.count)
    return estimates


def paired(
    ranks_a_E: Int[np.ndarray, " E"],
    ranks_b_E: Int[np.ndarray, " E"],
    names: Sequence[str],
    config: BootstrapConfig = BootstrapConfig(),
    max_rank: int = max(metrics.CUTOFFS),
) -> list[PairedComparison]:
    """Compares two systems on the same users, in the same order.

    The p-value is the sign-flip permutation test (Fisher 1935): under exchangeability the sign of
    each user's difference is a fair coin. Users with the same absolute difference are flipped
    together by one binomial draw, which is the same distribution.

    Args:
        ranks_a_E: ranks of system a, one a user; 0 is a miss.
        ranks_b_E: ranks of system b for the same users.
        names: the metrics to compare.
        config: resamples, level, seed.
        max_rank: ranks beyond it are misses.

    Raises:
        ValueError: no users.
    """
    width = max_rank + 1
    cells_E = metrics.clip_ranks(ranks_a_E, max_rank) * width
    cells_E += metrics.clip_ranks(ranks_b_E, max_rank)
    if not len(cells_E):
        raise ValueError("nobody was ranked; there is nothing to compare")
    joint = np.bincount(cells_E, minlength=width * width)
    filled = np.flatnonzero(joint)
    counts = joint[filled]
    resamples = _resample(counts, config)
    comparisons = []
    for name in names:
        gains_R = metrics.gains_R(name, max_rank)
        gaps = gains_R[filled // width] - gains_R[filled % width]
        low, high = _percentiles(resamples @ gaps / len(cells_E), config.level)
        comparisons.append(
            PairedComparison(
                metric=name,
                difference=float(counts @ gaps) / len(cells_E),
                low=low,
                high=high,
                p_value=_sign_flip_p_value(counts, gaps, config),
                count=len(cells_E),
            )
        )
    return comparisons


def _resample(counts: Int64[np.ndarray, " cells"], config: BootstrapConfig) -> np.ndarray:
    """(resamples, cells) float64: how often each cell is drawn in each resample of the users."""
    generator = np.random.default_rng(config.seed)
    total = int(counts.sum())
    return generator.multinomial(total, counts / total, size=config.resamples).astype(np.float64)


def _percentiles(values_Z: Float64[np.ndarray, " Z"], level: float) -> tuple[float, float]:
    low, high = np.quantile(values_Z, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _sign_flip_p_value(
    counts: Int64[np.ndarray, " cells"],
    gaps: Float64[np.ndarray, " cells"],
    config: BootstrapConfig,
) -> float:
    # Equal gaps reached through different ranks may differ in their last bit; rounding merges them.
    sizes, cell_of = np.unique(np.abs(gaps).round(12), return_inverse=True)
    users = np.bincount(cell_of, weights=counts).astype(np.int64)
    users, sizes = users[sizes > 0], sizes[sizes > 0]
    if not len(sizes):
        return 1.0
    generator = np.random.default_rng([config.seed, 1])
    plus = generator.binomial(users, 0.5, size=(config.resamples, len(users)))
    flipped_Z = np.abs((2 * plus - users) @ sizes)
    observed = abs(float(counts @ gaps))
    as_far = int((flipped_Z >= observed - 1e-9 * max(1.0, observed)).sum())
    return (as_far + 1) / (config.resamples + 1)
