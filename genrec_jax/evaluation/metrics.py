"""Ranking metrics as sums and counts, divided once: what the evaluator turns ranks into.

A rank is 1-based; 0 means that the target was not found (beam search returned a list without it), so
the axis R of a histogram or of gains has one entry a rank 0, 1, ..., `max_rank`.
All metrics here are sums over users of a gain that depends on the user's rank alone, so a histogram
of ranks holds everything: histograms add up over batches and hosts, and bootstrapping one is exact.

| metric | gain of a target at rank r <= k (0 beyond k or when missed) |
|---|---|
| `hr@k` | 1 |
| `ndcg@k` | 1 / log2(r + 1): one relevant item, so the ideal gain is 1 |
| `mrr@k` | 1 / r |
"""

import dataclasses
import re

import numpy as np
from jaxtyping import Float64, Int, Int64

CUTOFFS = (1, 5, 10, 20)
KINDS = ("hr", "ndcg", "mrr")
MISSED = 0


def metric_names(max_rank: int = max(CUTOFFS)) -> tuple[str, ...]:
    """Names such as `ndcg@10`, for every cutoff that lists of `max_rank` items can answer.

    A list of 10 says nothing about HR@20, so that is left out rather than understated.
    """
    return tuple(f"{kind}@{k}" for kind in KINDS for k in CUTOFFS if k <= max_rank)


def gains_R(metric: str, max_rank: int) -> Float64[np.ndarray, " R"]:
    """Gain of each rank 0 (missed), 1, ..., `max_rank` under one metric.

    Raises:
        ValueError: an unknown metric, or a cutoff beyond `max_rank`.
    """
    match = re.fullmatch(r"(hr|ndcg|mrr)@([1-9]\d*)", metric)
    if match is None:
        raise ValueError(f"unknown metric {metric!r}; wanted one such as hr@10, ndcg@5, mrr@20")
    kind, cutoff = match[1], int(match[2])
    if cutoff > max_rank:
        raise ValueError(f"{metric} needs ranks up to {cutoff}; these go up to {max_rank}")
    ranks = np.arange(1, cutoff + 1, dtype=np.float64)
    gains = {"hr": np.ones_like(ranks), "ndcg": 1 / np.log2(ranks + 1), "mrr": 1 / ranks}[kind]
    return np.concatenate([[0.0], gains, np.zeros(max_rank - cutoff)])


@dataclasses.dataclass(frozen=True)
class RankHistogram:
    """How many users had their target at each rank: the sufficient statistic of every metric here.

    Attributes:
        counts_R: entry r is the number of users with rank r; entry 0 counts the misses, ranks
            beyond the last entry among them.
    """

    counts_R: Int64[np.ndarray, " R"]

    @classmethod
    def of(cls, ranks_E: Int[np.ndarray, " E"], max_rank: int = max(CUTOFFS)) -> "RankHistogram":
        """Counts ranks; those beyond `max_rank` count as missed.

        Raises:
            ValueError: a negative rank.
        """
        return cls(np.bincount(clip_ranks(ranks_E, max_rank), minlength=max_rank + 1))

    @property
    def max_rank(self) -> int:
        """The deepest rank that is told apart from a miss."""
        return len(self.counts_R) - 1

    @property
    def count(self) -> int:
        """Users counted."""
        return int(self.counts_R.sum())

    def sum(self, metric: str) -> float:
        """The metric's sum over users."""
        return float(self.counts_R @ gains_R(metric, self.max_rank))

    def mean(self, metric: str) -> float:
        """Sum over count; NaN where nobody was counted."""
        return self.sum(metric) / self.count if self.count else float("nan")

    def means(self) -> dict[str, float]:
        """Every metric these ranks can answer."""
        return {metric: self.mean(metric) for metric in metric_names(self.max_rank)}


def clip_ranks(ranks_E: Int[np.ndarray, " E"], max_rank: int) -> Int64[np.ndarray, " E"]:
    """Ranks with those beyond `max_rank` turned to 0, the mark of a miss.

    Raises:
        ValueError: a negative rank.
    """
    ranks_E = ranks_E.astype(np.int64)
    if ranks_E.size and ranks_E.min() < 0:
        raise ValueError(f"ranks start at 1, 0 is a miss; got {int(ranks_E.min())}")
    return np.where(ranks_E <= max_rank, ranks_E, MISSED)


def ranks_in_lists(
    items_ER: Int[np.ndarray, "E R"], targets_E: Int[np.ndarray, " E"]
) -> Int64[np.ndarray, " E"]:
    """The rank of each user's target in the user's list of distinct items.

    Args:
        items_ER: item numbers, best first; negative entries are empty places.
        targets_E: the items to be found; a negative target is never found.

    Returns:
        1-based ranks, 0 where the target is not in the list.
    """
    found_ER = (items_ER == targets_E[:, None]) & (items_ER >= 0)
    return np.where(found_ER.any(axis=1), found_ER.argmax(axis=1) + 1, MISSED)
