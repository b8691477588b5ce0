"""Ragged arrays of tokens, and the gather that every prompt is made by."""

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


def offsets_of(lengths_E: Int[np.ndarray, " E"]) -> Int64[np.ndarray, " E1"]:
    """Where runs of these lengths begin, and where the last one ends."""
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
