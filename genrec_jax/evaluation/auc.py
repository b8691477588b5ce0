"""AUC-ROC with its interval, and the difference of two on the same examples: for rating prediction.

The area under the ROC curve is the chance that a positive example scores above a negative one, ties
counting half. It is no sum over users, so its spread comes from DeLong's structural components
(DeLong, DeLong and Clarke-Pearson 1988), computed by midranks (Sun and Xu 2014) in O(n log n).
"""

import dataclasses
import statistics

import numpy as np
from jaxtyping import Bool, Float, Float64

from genrec_jax.evaluation.intervals import Estimate


@dataclasses.dataclass(frozen=True)
class AucDifference:
    """The AUC of system a less that of system b, on the same examples.

    Attributes:
        difference: of the two areas.
        low: lower end of the normal interval of the difference.
        high: its upper end.
        p_value: of the two-sided test that there is none.
    """

    difference: float
    low: float
    high: float
    p_value: float


def auc_roc(scores_E: Float[np.ndarray, " E"], labels_E: Bool[np.ndarray, " E"]) -> float:
    """The area under the ROC curve; NaN where all labels are alike.

    Example: scores .9, .8, .3 of a positive, a negative and a positive: of the two pairs of a positive
    and a negative one is in order, so the area is 1/2.
    """
    positive_P, _ = _components(scores_E, labels_E)
    return float(positive_P.mean()) if _has_both(labels_E) else float("nan")


def estimate(
    scores_E: Float[np.ndarray, " E"], labels_E: Bool[np.ndarray, " E"], level: float = 0.95
) -> Estimate:
    """The area with its normal interval, cut at 0 and 1.

    All of it is NaN where all labels are alike, the interval where one example is of a kind.
    """
    value = auc_roc(scores_E, labels_E)
    spread = _quantile(level) * _deviation(*_components(scores_E, labels_E))
    low, high = max(value - spread, 0.0), min(value + spread, 1.0)
    if not _has_both(labels_E):
        low = high = value
    return Estimate(value, low, high, len(labels_E))


def compare(
    scores_E: Float[np.ndarray, " E"],
    other_E: Float[np.ndarray, " E"],
    labels_E: Bool[np.ndarray, " E"],
    level: float = 0.95,
) -> AucDifference:
    """The first system's area less the other's; both scored the same examples."""
    difference = auc_roc(scores_E, labels_E) - auc_roc(other_E, labels_E)
    one, other = _components(scores_E, labels_E), _components(other_E, labels_E)
    deviation = _deviation(one[0] - other[0], one[1] - other[1])
    spread = _quantile(level) * deviation
    if deviation == 0:
        p_value = 1.0 if difference == 0 else 0.0
    else:
        p_value = 2 * statistics.NormalDist().cdf(-abs(difference) / deviation)
    return AucDifference(difference, difference - spread, difference + spread, p_value)


def _has_both(labels_E: Bool[np.ndarray, " E"]) -> bool:
    return bool(labels_E.any() and not labels_E.all())


def _components(
    scores_E: Float[np.ndarray, " E"], labels_E: Bool[np.ndarray, " E"]
) -> tuple[Float64[np.ndarray, " P"], Float64[np.ndarray, " N"]]:
    """For each positive the share of negatives below it, for each negative of positives above it."""
    if not _has_both(labels_E):
        return np.full(int(labels_E.sum()), np.nan), np.full(int((~labels_E).sum()), np.nan)
    positives_P, negatives_N = np.sort(scores_E[labels_E]), np.sort(scores_E[~labels_E])

    def share_below(sorted_S: np.ndarray, scores: np.ndarray) -> np.ndarray:
        below = np.searchsorted(sorted_S, scores, side="left")
        not_above = np.searchsorted(sorted_S, scores, side="right")
        return (below + not_above) / (2 * len(sorted_S))

    return (
        share_below(negatives_N, scores_E[labels_E]),
        1 - share_below(positives_P, scores_E[~labels_E]),
    )


def _deviation(
    positive_P: Float64[np.ndarray, " P"], negative_N: Float64[np.ndarray, " N"]
) -> float:
    """Standard deviation of the area whose components these are; NaN for one example of a kind."""
    if len(positive_P) < 2 or len(negative_N) < 2:
        return float("nan")
    variance = positive_P.var(ddof=1) / len(positive_P) + negative_N.var(ddof=1) / len(negative_N)
    return float(np.sqrt(variance))


def _quantile(level: float) -> float:
    return statistics.NormalDist().inv_cdf((1 + level) / 2)
