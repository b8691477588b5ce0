"""The shape of a batch, from a small ladder, and the place of each example by best-fit packing."""

import bisect
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of one step's global batch.

    Attributes:
        rows: rows over all hosts.
        input_length: tokens of an input row.
        target_length: tokens of a target row.
    """

    rows: int
    input_length: int
    target_length: int

    def __str__(self) -> str:
        return f"{self.rows} x ({self.input_length} + {self.target_length})"


@dataclasses.dataclass(frozen=True)
class Placement:
    """The place of each example of a step in the batch.

    Attributes:
        rows_E: row over all hosts.
        segments_E: number within the row, from 1.
        input_starts_E: column of the first input token.
        target_starts_E: column of the first target token.
        num_rows: rows in use.
    """

    rows_E: Int64[np.ndarray, " E"]
    segments_E: Int64[np.ndarray, " E"]
    input_starts_E: Int64[np.ndarray, " E"]
    target_starts_E: Int64[np.ndarray, " E"]
    num_rows: int


def one_per_row(count: int) -> Placement:
    """Unpacked: example e is row e."""
    zeros_E = np.zeros(count, np.int64)
    return Placement(np.arange(count), zeros_E + 1, zeros_E, zeros_E, count)


def pack(
    inputs_E: Int[np.ndarray, " E"],
    targets_E: Int[np.ndarray, " E"],
    *,
    input_length: int,
    target_length: int,
) -> Placement:
    """Packs examples into rows, longest first, each into the fullest row that has room (best fit).

    Equal lengths go in the order of their numbers, so the result depends on the lengths alone.

    Args:
        inputs_E: tokens of each input; none above `input_length`.
        targets_E: tokens of each target; none above `target_length`.
        input_length: room of a row for inputs.
        target_length: room of a row for targets.
    """
    lengths = inputs_E.tolist()
    target_lengths = targets_E.tolist()
    count = len(lengths)
    rows, segments = [0] * count, [0] * count
    input_starts, target_starts = [0] * count, [0] * count
    rooms: list[tuple[int, int]] = []  # (room left for inputs, row), sorted: the fullest first
    used_targets: list[int] = []
    filled: list[int] = []
    for example in np.argsort(-inputs_E, kind="stable").tolist():
        length, target = lengths[example], target_lengths[example]
        place = bisect.bisect_left(rooms, (length, -1))
        while place < len(rooms) and used_targets[rooms[place][1]] + target > target_length:
            place += 1
        if place == len(rooms):
            room, row = input_length, len(filled)
            filled.append(0)
            used_targets.append(0)
        else:
            room, row = rooms.pop(place)
        rows[example] = row
        filled[row] += 1
        segments[example] = filled[row]
        input_starts[example] = input_length - room
        target_starts[example] = used_targets[row]
        used_targets[row] += target
        bisect.insort(rooms, (room - length, row))
    return Placement(
        np.array(rows, np.int64),
        np.array(segments, np.int64),
        np.array(input_starts, np.int64),
        np.array(target_starts, np.int64),
        len(filled),
    )


def fit_ladder(samples: Int[np.ndarray, " S"], largest: int, *, steps: int) -> tuple[int, ...]:
    """At most `steps` sizes that cover every sample with the least sum of sizes used.

    Args:
        samples: sizes that occurred.
        largest: the size that must be covered whatever occurs; the ladder's last.
        steps: how many sizes there may be, at least 1.

    Returns:
        Increasing sizes, by dynamic programming over the sizes that occurred.
    """
    sizes, counts = np.unique(np.minimum(samples, largest), return_counts=True)
    if sizes[-1] != largest:
        sizes, counts = np.append(sizes, largest), np.append(counts, 0)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: the least sum for the samples up to sizes[j], with sizes[j] in the ladder.
    cost = below[1:] * sizes
    chosen = [[int(size)] for size in sizes]
    for _ in range(steps - 1):
        longer_cost, longer = cost.copy(), list(chosen)
        for j in range(1, len(sizes)):
            through = cost[:j] + (below[j + 1] - below[1 : j + 1]) * sizes[j]
            best = int(through.argmin())
            if through[best] < longer_cost[j]:
                longer_cost[j], longer[j] = through[best], [*chosen[best], int(sizes[j])]
        cost, chosen = longer_cost, longer
    return tuple(chosen[-1])


def rung(ladder: tuple[int, ...], size: int) -> int:
    """The smallest step of the ladder that covers `size`.

    Raises:
        UserError: none does, which is a mistake of the caller's settings.
    """
    place = bisect.bisect_left(ladder, size)
    if place == len(ladder):
        raise UserError(f"a batch needs size {size}; the largest of the ladder is {ladder[-1]}")
    return ladder[place]


def round_up(size: Any, multiple: int) -> Any:
    """`size`, an integer or an array of them, rounded up to a multiple."""
    return -(-size // multiple) * multiple
