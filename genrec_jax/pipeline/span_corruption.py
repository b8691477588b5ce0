"""T5's span corruption (Raffel et al. 2020, section 3.1.4), as slices of tokens that lie in a pool.

    tokens   a b c d e f g h i j
    input    a b <extra_id_0> e f g h i <extra_id_1>
    target   <extra_id_0> c d <extra_id_1> j

As in T5's code a text begins with kept tokens and ends with a masked span, and the lengths of the kept
and of the masked spans are each a random division, all divisions alike likely.
"""

import dataclasses

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax.data import hashing
from genrec_jax.pipeline.token_runs import RunPlan

MAX_SPANS = 100  # T5 has so many sentinels
_KEPT, _MASKED = 1, 2


@dataclasses.dataclass(frozen=True)
class CorruptionConfig:
    """How much is masked.

    Attributes:
        density: share of the tokens that are masked.
        mean_span_length: tokens of a masked span, on average.
    """

    density: float = 0.2
    mean_span_length: float = 3.0


def spans_of(
    lengths_E: Int[np.ndarray, " E"], config: CorruptionConfig
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """How many tokens of texts of those lengths (at least 2) are masked, and in how many spans."""
    masked_E = np.rint(lengths_E * config.density).astype(np.int64)
    masked_E = np.clip(masked_E, 1, lengths_E - 1)
    spans_E = np.rint(masked_E / config.mean_span_length).astype(np.int64)
    limit_E = np.minimum(np.minimum(masked_E, lengths_E - masked_E), MAX_SPANS)
    return masked_E, np.clip(spans_E, 1, limit_E)


def corrupt(
    starts_E: Int64[np.ndarray, " E"],
    lengths_E: Int64[np.ndarray, " E"],
    sentinel_starts_S: Int64[np.ndarray, " S"],
    config: CorruptionConfig,
    *numbers: hashing.Numbers,
) -> tuple[RunPlan, RunPlan]:
    """Plans input and target, without end-of-sequence.

    Args:
        starts_E: where each text begins in the pool.
        lengths_E: its tokens, at least 2.
        sentinel_starts_S: where the pool has each sentinel, in order.
        config: how much is masked.
        *numbers: decide the draw, as for `hashing.hash_numbers`; of the rows' shape.
    """
    masked_E, spans_E = spans_of(lengths_E, config)
    masked_ES = _divide(masked_E, spans_E, *numbers, _MASKED)
    kept_ES = _divide(lengths_E - masked_E, spans_E, *numbers, _KEPT)
    pairs_ES = kept_ES + masked_ES
    kept_starts_ES = starts_E[:, None] + np.cumsum(pairs_ES, axis=1) - pairs_ES
    there_ES = (np.arange(kept_ES.shape[1]) < spans_E[:, None]).astype(np.int64)
    sentinels_ES = np.broadcast_to(sentinel_starts_S[: kept_ES.shape[1]], kept_ES.shape)
    inputs = _interleave(kept_starts_ES, kept_ES, sentinels_ES, there_ES)
    targets = _interleave(sentinels_ES, there_ES, kept_starts_ES + kept_ES, masked_ES)
    return inputs, targets


def _divide(
    totals_E: Int64[np.ndarray, " E"], parts_E: Int64[np.ndarray, " E"], *numbers: hashing.Numbers
) -> Int64[np.ndarray, "E S"]:
    """Divides totals into parts of at least 1, all divisions alike likely; 0 beyond a row's parts."""
    cuts_ES = hashing.draw_places(parts_E - 1, totals_E - 1, *numbers) + 1
    width = int(parts_E.max(initial=1))
    ends_ES = np.full((len(totals_E), width), np.iinfo(np.int64).max)
    ends_ES[:, : cuts_ES.shape[1]] = cuts_ES
    ends_ES = np.minimum(ends_ES, totals_E[:, None])
    return np.diff(ends_ES, axis=1, prepend=0)


def _interleave(starts_1, lengths_1, starts_2, lengths_2) -> RunPlan:
    """Slices in turns: the first of the one, the first of the other, and so on."""
    shape = (starts_1.shape[0], -1)
    return RunPlan(
        np.stack([starts_1, starts_2], axis=2).reshape(shape),
        np.stack([lengths_1, lengths_2], axis=2).reshape(shape),
    )
