"""Ragged arrays of tokens, and the gather that makes every prompt."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int, Int32, Int64


@dataclasses.dataclass(frozen=True)
class TokenRuns:
    """Runs of tokens end to end: run `e` is `values_P[offsets_E1[e]:offsets_E1[e + 1]]`.

    Attributes:
        values_P: the tokens of all runs.
        offsets_E1: where each run begins; one more entry than runs.
    """

    values_P: Int32[np.ndarray, " P"]
    offsets_E1: Int64[np.ndarray, " E1"]

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> "TokenRuns":
        """Runs from lists of token ids."""
        rows = [np.asarray(row, np.int32) for row in lists]
        offsets_E1 = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets_E1[1:])
        return cls(np.concatenate([np.zeros(0, np.int32), *rows]), offsets_E1)

    @classmethod
    def concatenate(cls, parts: Sequence["TokenRuns"]) -> "TokenRuns":
        """All the runs of the first part, then of the second, and so on."""
        lengths_E = np.concatenate([part.lengths_E for part in parts])
        values_P = np.concatenate([part.values_P for part in parts])
        return cls(values_P, offsets_of(lengths_E))

    def __len__(self) -> int:
        return len(self.offsets_E1) - 1

    @functools.cached_property
    def lengths_E(self) -> Int64[np.ndarray, " E"]:
        """Tokens of each run."""
        return np.diff(self.offsets_E1)

    def row(self, index: int) -> Int32[np.ndarray, " length"]:
        """One run (a view)."""
        return self.values_P[self.offsets_E1[index] : self.offsets_E1[index + 1]]

    def to_lists(self) -> list[list[int]]:
        """Runs as lists of token ids."""
        return [self.row(index).tolist() for index in range(len(self))]

    def take(self, indices_E: Int[np.ndarray, " E"]) -> "TokenRuns":
        """The runs of those numbers, in that order."""
        lengths_E = self.lengths_E[indices_E]
        values_P = gather(self.values_P, self.offsets_E1[indices_E], lengths_E)
        return TokenRuns(values_P, offsets_of(lengths_E))

    def padded(self, length: int) -> Int32[np.ndarray, "E length"]:
        """Rows of `length` tokens, padded with 0; no run may be longer."""
        rows = np.zeros((len(self), length), np.int32)
        rows[np.arange(length) < self.lengths_E[:, None]] = self.values_P
        return rows


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Which slices of a pool make up each example; the last one ends in end-of-sequence.

    Attributes:
        starts_EJ: where each slice begins in the pool (J slices an example, some of them empty).
        lengths_EJ: tokens of each slice.
    """

    starts_EJ: Int64[np.ndarray, "E J"]
    lengths_EJ: Int64[np.ndarray, "E J"]

    @classmethod
    def join(cls, plans: Sequence["RunPlan"]) -> "RunPlan":
        """The slices of the first plan, then of the second, and so on, example by example."""
        return cls(
            np.concatenate([plan.starts_EJ for plan in plans], axis=1),
            np.concatenate([plan.lengths_EJ for plan in plans], axis=1),
        )

    @classmethod
    def scatter(
        cls, plans: Sequence["RunPlan"], places: Sequence[Int[np.ndarray, " _"]]
    ) -> "RunPlan":
        """One plan of the examples of several; example e of plan i becomes example `places[i][e]`."""
        shape = (
            sum(len(place) for place in places),
            max((plan.starts_EJ.shape[1] for plan in plans), default=0),
        )
        starts_EJ, lengths_EJ = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for plan, place in zip(plans, places, strict=True):
            width = plan.starts_EJ.shape[1]
            starts_EJ[place, :width] = plan.starts_EJ
            lengths_EJ[place, :width] = plan.lengths_EJ
        return cls(starts_EJ, lengths_EJ)

    @property
    def lengths_E(self) -> Int64[np.ndarray, " E"]:
        """Tokens of each example, end-of-sequence included."""
        return self.lengths_EJ.sum(axis=1)

    def take(self, indices_E: Int[np.ndarray, " E2"]) -> "RunPlan":
        """The plan of some of the examples."""
        return RunPlan(self.starts_EJ[indices_E], self.lengths_EJ[indices_E])


def offsets_of(lengths_E: Int[np.ndarray, " E"]) -> Int64[np.ndarray, " E1"]:
    """The starts of runs of these lengths, and the end of the last one."""
    offsets_E1 = np.zeros(len(lengths_E) + 1, np.int64)
    np.cumsum(lengths_E, out=offsets_E1[1:])
    return offsets_E1


def gather(
    pool_P: Int32[np.ndarray, " P"],
    starts_E: Int64[np.ndarray, " E"],
    lengths_E: Int64[np.ndarray, " E"],
) -> Int32[np.ndarray, " total"]:
    """The slices `pool[start : start + length]`, end to end, in a few passes over the result."""
    ends_E = np.cumsum(lengths_E)
    total = int(ends_E[-1]) if len(ends_E) else 0
    indices = np.repeat(starts_E - ends_E + lengths_E, lengths_E)
    indices += np.arange(total)
    return pool_P[indices]
