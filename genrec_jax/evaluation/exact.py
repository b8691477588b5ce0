"""True ranks over the whole catalogue beside the beam's lists: what `genrec evaluate --exact` adds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Int64

from genrec_jax.evaluation import metrics
from genrec_jax.evaluation.ranking import Recommend
from genrec_jax.pipeline.batch import PromptBatch

Score = Callable[[Any, PromptBatch], Float[Array, "B I"]]
"""(params, batch) -> the score of every item for every prompt (`decoding.exact.CatalogueScorer`)."""

HistoriesOf = Callable[[Int[np.ndarray, " B"]], Int32[np.ndarray, "B W"]]
"""Users -> the distinct items of their histories, padded with -1."""


@dataclasses.dataclass(frozen=True)
class ExactRanks:
    """The exact ranks of targets, and the losses of beam search; one entry per user, in user order.

    Attributes:
        users_E: the users.
        kept_E: rank of the target among all items, from 1.
        excluded_E: the same without the items of the user's history, 0 where the target is itself one
            of them; None where histories are unknown.
        cutoffs: the lengths k of lists that beam search is judged at.
        shared_EK: how many of the k truly best items stand in the beam's first k.
        beam_E: rank of the target in the beam's list, 0 where missing.
        num_items: of the catalogue.
    """

    users_E: Int64[np.ndarray, " E"]
    kept_E: Int64[np.ndarray, " E"]
    excluded_E: Int64[np.ndarray, " E"] | None
    cutoffs: tuple[int, ...]
    shared_EK: Int64[np.ndarray, "E K"]
    beam_E: Int64[np.ndarray, " E"]
    num_items: int

    def footings(self) -> dict[str, Int64[np.ndarray, " E"]]:
        """Ranks as a system's, beside the model's and the baselines'."""
        kept = {"seen_kept": self.kept_E}
        return kept if self.excluded_E is None else kept | {"seen_excluded": self.excluded_E}

    def summary(self) -> dict[str, Any]:
        """The `exact` entry of metrics.json: see `results`."""
        ranks = {}
        for footing, ranks_E in self.footings().items():
            found_E = ranks_E[ranks_E != metrics.MISSED]
            ranks[footing] = {
                "mrr": float((1 / found_E).sum() / max(len(ranks_E), 1)),
                "mean_rank": float(found_E.mean()) if found_E.size else None,
                "median_rank": float(np.median(found_E)) if found_E.size else None,
                "count": len(ranks_E),
            }
        beam = {}
        for place, cutoff in enumerate(self.cutoffs):
            wanted = min(cutoff, self.num_items)
            truly_E = self.kept_E <= cutoff
            lost_E = truly_E & ((self.beam_E == metrics.MISSED) | (self.beam_E > cutoff))
            beam[str(cutoff)] = {
                "miss_rate": float(1 - (self.shared_EK[:, place] / wanted).mean()),
                "target_miss_rate": float(lost_E.sum() / truly_E.sum()) if truly_E.any() else None,
                "targets": int(truly_E.sum()),
            }
        return {"items": self.num_items, "ranks": ranks, "beam": beam}


class ExactComparison:
    """Ranks every item for each batch that is searched, and keeps what it says of the beam's lists."""

    def __init__(
        self,
        score: Score,
        histories_of: HistoriesOf,
        cutoffs: Sequence[int],
        place: Callable[[Any], Any] = lambda tree: tree,
        fetch: Callable[[Array], np.ndarray] = np.asarray,
    ):
        """Binds everything but the parameters.

        Args:
            score: scores the catalogue.
            histories_of: for the figures without seen items.
            cutoffs: lengths of lists to judge the beam at, none above the beam's own.
            place: puts rows on the devices, as `score` leaves its own.
            fetch: brings rows back.
        """
        self.cutoffs = tuple(cutoffs)
        self._score, self._histories_of = score, histories_of
        self._place, self._fetch = place, fetch
        self._rank = jax.jit(rank_all, static_argnames="size")
        self._blocks: list[tuple[np.ndarray, ...]] = []
        self._num_items = 0

    def add(
        self, params: Any, batch: PromptBatch, items_BR: Int32[np.ndarray, "B R"], known: bool
    ) -> None:
        """Scores one batch.

        Args:
            params: the model's parameters.
            batch: prompts on the host; rows with user -1 are padding.
            items_BR: the beam's lists.
            known: whether the users have histories.
        """
        users_B, targets_B = np.asarray(batch.users_B), np.asarray(batch.targets_B)
        nobody_B = np.full_like(users_B, -1)
        histories_BW = self._histories_of(users_B if known else nobody_B)
        scores_BI = self._score(params, self._place(batch))
        self._num_items = scores_BI.shape[1]
        ranked = self._rank(
            scores_BI,
            self._place(np.maximum(targets_B, 0).astype(np.int32)),
            self._place(histories_BW),
            size=min(max(self.cutoffs), self._num_items),
        )
        ranks_B, excluded_B, best_BR = map(self._fetch, ranked)
        same_BRR = (items_BR[:, :, None] == best_BR[:, None, :]) & (items_BR[:, :, None] >= 0)
        shared_BK = np.stack([same_BRR[:, :k, :k].sum(axis=(1, 2)) for k in self.cutoffs], axis=1)
        beam_B = metrics.ranks_in_lists(items_BR, targets_B)
        real_B = users_B >= 0
        columns = (users_B, ranks_B, excluded_B, shared_BK, beam_B)
        self._blocks.append(tuple(column[real_B].astype(np.int64) for column in columns))

    def beside(self, recommend: Recommend, params: Any, known: bool) -> Recommend:
        """`recommend`, after each of whose lists the same batch is scored exactly; see `add`."""

        def both(batch: PromptBatch) -> tuple[np.ndarray, np.ndarray]:
            items_BR, scores_BR = map(np.asarray, recommend(batch))
            self.add(params, batch, items_BR, known)
            return items_BR, scores_BR

        return both

    def take(self, known: bool) -> ExactRanks:
        """The results since the last call, in user order."""
        users_E, kept_E, excluded_E, shared_EK, beam_E = (
            np.concatenate(parts) for parts in zip(*self._blocks, strict=True)
        )
        self._blocks = []
        order_E = np.argsort(users_E, kind="stable")
        return ExactRanks(
            users_E[order_E],
            kept_E[order_E],
            excluded_E[order_E] if known else None,
            self.cutoffs,
            shared_EK[order_E],
            beam_E[order_E],
            self._num_items,
        )


def rank_all(
    scores_BI: Float[Array, "B I"],
    targets_B: Int[Array, " B"],
    histories_BW: Int[Array, "B W"],
    size: int,
) -> tuple[Int[Array, " B"], Int[Array, " B"], Int[Array, "B R"]]:
    """Ranks of the targets, with the history's items and without them, and the best items.

    Equal scores rank by item number, as in the search.

    Args:
        scores_BI: of every item.
        targets_B: items to be found.
        histories_BW: distinct items, padded with -1.
        size: how many of the best items are wanted (R).

    Returns:
        ranks from 1; the second 0 where the target is in the history.
    """
    own_B1 = jnp.take_along_axis(scores_BI, targets_B[:, None], axis=1)

    def above(scores: Array, items: Array) -> Bool[Array, "B N"]:
        return (scores > own_B1) | ((scores == own_B1) & (items < targets_B[:, None]))

    everything_1I = jnp.arange(scores_BI.shape[1], dtype=jnp.int32)[None]
    ranks_B = 1 + jnp.sum(above(scores_BI, everything_1I), axis=1, dtype=jnp.int32)
    seen_BW = jnp.take_along_axis(scores_BI, jnp.maximum(histories_BW, 0), axis=1)
    seen_above_BW = above(seen_BW, histories_BW) & (histories_BW >= 0)
    excluded_B = ranks_B - jnp.sum(seen_above_BW, axis=1, dtype=jnp.int32)
    is_seen_B = jnp.any(histories_BW == targets_B[:, None], axis=1)
    # Of equal scores the smaller index, that is the smaller item, comes first.
    best_BR = jax.lax.top_k(scores_BI, size)[1].astype(jnp.int32)
    return ranks_B, jnp.where(is_seen_B, metrics.MISSED, excluded_B), best_BR
