"""Training batches by step: any step, on any host, at any time gives the same rows.

A step consumes exactly `batch_size` consecutive numbers of its source, packed or not. Their lengths
alone decide the batch's shape, one of a small ladder fixed when the object is made, and where each
example goes; so every host finds the same shape and makes only its own rows.
"""

import dataclasses

import numpy as np
from jaxtyping import Int

from genrec_jax.errors import UserError
from genrec_jax.pipeline import packing
from genrec_jax.pipeline.batch import Batch
from genrec_jax.pipeline.examples import ExamplePlan, ExampleTask
from genrec_jax.pipeline.mixtures import Mixture
from genrec_jax.pipeline.packing import Placement, Shape
from genrec_jax.pipeline.token_runs import TokenRuns

_LENGTH_MULTIPLE = 8
_SAMPLED_STEPS = 64

_Lengths = tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]  # of inputs and targets


@dataclasses.dataclass(frozen=True)
class _Ladder:
    """The shapes of one source: fixed lengths and a ladder of rows when packed, the reverse when not."""

    rows: tuple[int, ...]
    input_lengths: tuple[int, ...]
    target_length: int


class TrainBatches:
    """`batch(step)`: this host's rows of a training step.

    Attributes:
        mixture: where examples come from.
        examples_per_step: how many examples a step consumes over all hosts.
        steps_per_epoch: steps until the largest source has been through once.
        packing: whether rows hold several examples.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        *,
        packing: bool = False,
        row_length: int = 512,
        max_target_length: int | None = None,
        host: int = 0,
        num_hosts: int = 1,
        rows_multiple: int = 1,
        max_shapes: int = 4,
    ):
        """Chooses the ladder of shapes from the lengths of a sample of steps.

        Args:
            mixture: the examples; its sources hold the seed and the inputs' limit.
            batch_size: examples per step over all hosts.
            packing: put several examples in a row, kept apart by segment ids.
            row_length: tokens of a packed input row at most; a source whose prompts are short gets
                shorter rows if that wastes less.
            max_target_length: an error if a target is longer; None: no limit.
            host: which host this is.
            num_hosts: how many there are.
            rows_multiple: the number of rows is a multiple of it: devices along the batch, over all
                hosts.
            max_shapes: steps of each source's ladder at most; every shape that occurs is a compilation.
                A ladder of packed rows has 2 at least: its last, a row for each example, is for the worst
                case alone, since it would undo the packing.

        Raises:
            UserError: sizes that do not divide, or a limit that an example exceeds.
        """
        if batch_size < 1 or not 0 <= host < num_hosts:
            raise UserError(
                f"batch_size is {batch_size}, host {host} of {num_hosts}; wanted a batch of at least 1 and"
                " a host below the number of hosts"
            )
        if rows_multiple % num_hosts:
            rows_multiple *= num_hosts
        if not packing:
            check_batch_size(batch_size, rows_multiple)
        if max_target_length is not None and mixture.max_target_length > max_target_length:
            raise UserError(
                f"a target has {mixture.max_target_length} tokens; the limit is {max_target_length}."
                " Targets are never cut: raise max_target_length"
            )
        if packing and mixture.max_input_length > row_length:
            raise UserError(
                f"a prompt may have {mixture.max_input_length} tokens; a packed row holds {row_length}."
                " Raise row_length, or lower max_input_length"
            )
        self.mixture = mixture
        self.packing = packing
        self.examples_per_step = batch_size
        self.steps_per_epoch = mixture.steps_per_epoch(batch_size)
        self._host, self._num_hosts, self._rows_multiple = host, num_hosts, rows_multiple
        self._ladders = {
            id(source): self._fit(place, source, row_length, max_shapes)
            for place, source in enumerate(mixture.sources)
        }

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape a batch may have, over all hosts; each is one compilation of the step."""
        return tuple(
            sorted(
                {
                    Shape(rows, length, ladder.target_length)
                    for ladder in self._ladders.values()
                    for rows in ladder.rows
                    for length in ladder.input_lengths
                },
                key=dataclasses.astuple,
            )
        )

    def batch(self, step: int) -> Batch:
        """Makes this host's rows of a step, counted from 0."""
        source, plan, shape, placement = self._plan(step)
        rows = shape.rows // self._num_hosts
        first = self._host * rows
        mine = np.flatnonzero((placement.rows_E >= first) & (placement.rows_E < first + rows))
        local = Placement(
            placement.rows_E[mine] - first,
            placement.segments_E[mine],
            placement.input_starts_E[mine],
            placement.target_starts_E[mine],
            rows,
        )
        own = dataclasses.replace(shape, rows=rows)
        return write_batch(source, plan.take(mine), local, own)

    def shape(self, step: int) -> Shape:
        """The shape of a step's batch over all hosts."""
        return self._plan(step)[2]

    def _plan(self, step: int) -> tuple[ExampleTask, ExamplePlan, Shape, Placement]:
        source, epochs_E, numbers_E = self.mixture.at(step, self.examples_per_step)
        plan = source.plan(epochs_E, numbers_E)
        ladder = self._ladders[id(source)]
        lengths_E = plan.inputs.lengths_E
        if self.packing:
            length = ladder.input_lengths[0]
            placement = packing.pack(
                lengths_E,
                plan.targets.lengths_E,
                input_length=length,
                target_length=ladder.target_length,
            )
            rows = packing.rung(ladder.rows, placement.num_rows)
        else:
            placement = packing.one_per_row(len(lengths_E))
            rows = ladder.rows[0]
            length = packing.rung(ladder.input_lengths, int(lengths_E.max()))
        return source, plan, Shape(rows, length, ladder.target_length), placement

    def _fit(self, place: int, source: ExampleTask, row_length: int, max_shapes: int) -> _Ladder:
        """Fits a source's ladder to the lengths of its first steps; it covers the worst case too."""
        size = self.examples_per_step
        steps = range(
            place, place + _SAMPLED_STEPS * len(self.mixture.sources), len(self.mixture.sources)
        )
        lengths = [source.lengths(*self.mixture.at(step, size)[1:]) for step in steps]
        longest = packing.round_up(source.max_input_length, _LENGTH_MULTIPLE)
        if not self.packing:
            maxima = np.array([inputs_E.max() for inputs_E, _ in lengths])
            maxima = packing.round_up(maxima, _LENGTH_MULTIPLE)
            ladder = packing.fit_ladder(maxima, longest, steps=max_shapes)
            return _Ladder((size,), ladder, self.mixture.max_target_length)
        sample = lengths[: _SAMPLED_STEPS // 2]
        candidates = [
            self._fit_rows(sample, length, room, max_shapes)
            for length in _row_lengths(longest, row_length)
            for room in _target_rooms(sample, length, source.max_target_length)
        ]
        return min(candidates, key=lambda candidate: candidate[0])[1]

    def _fit_rows(
        self, sample: list[_Lengths], input_length: int, target_length: int, max_shapes: int
    ) -> tuple[int, _Ladder]:
        """The ladder of row counts for rows of that size, with the cells that the sample takes."""
        needed = np.array(
            [
                packing.pack(*pair, input_length=input_length, target_length=target_length).num_rows
                for pair in sample
            ]
        )
        multiple, size = self._rows_multiple, self.examples_per_step
        worst = packing.round_up(size, multiple)
        margin = min(worst, packing.round_up(int(needed.max() * 1.05) + 1, multiple))
        rows = packing.fit_ladder(
            packing.round_up(needed, multiple), margin, steps=max(1, max_shapes - 1)
        )
        rows = rows if worst in rows else (*rows, worst)
        # Counted before rounding up, so that examples lie in the same rows whatever the mesh.
        used = int(needed.sum())
        return used * (input_length + target_length), _Ladder(rows, (input_length,), target_length)


def check_batch_size(batch_size: int, rows_multiple: int) -> None:
    """Checks that rows of one example each can be shared out.

    Raises:
        UserError: they cannot; it says the nearest batch size that can.
    """
    if batch_size % rows_multiple:
        raise UserError(
            f"batch_size is {batch_size}; without packing it must be a multiple of {rows_multiple}"
            " (devices along the batch, hosts, microbatches). The nearest that fits is"
            f" {max(1, round(batch_size / rows_multiple)) * rows_multiple}: change BATCH_SIZE, or"
            " turn packing on"
        )


def write_batch(
    source: ExampleTask, plan: ExamplePlan, placement: Placement, shape: Shape
) -> Batch:
    """Gathers planned examples into padded rows.

    Args:
        source: whose examples they are.
        plan: the examples.
        placement: where each goes; rows beyond stay padding.
        shape: of the batch.
    """
    block = source.gather(plan)
    inputs = _Cells(
        placement.rows_E, placement.input_starts_E, block.inputs, shape.rows, shape.input_length
    )
    targets = _Cells(
        placement.rows_E, placement.target_starts_E, block.targets, shape.rows, shape.target_length
    )
    target_tokens_P = block.targets.values_P
    shifted_P = np.zeros_like(target_tokens_P)
    shifted_P[1:] = target_tokens_P[:-1]
    shifted_P[block.targets.offsets_E1[:-1]] = 0
    return Batch(
        encoder_input_tokens_BL=inputs.write(block.inputs.values_P),
        decoder_target_tokens_BT=targets.write(target_tokens_P),
        decoder_input_tokens_BT=targets.write(shifted_P),
        decoder_loss_weights_BT=targets.write(np.ones(len(target_tokens_P), np.float32)),
        encoder_segment_ids_BL=inputs.write(inputs.repeat(placement.segments_E)),
        decoder_segment_ids_BT=targets.write(targets.repeat(placement.segments_E)),
        encoder_positions_BL=inputs.write(inputs.positions_P),
        decoder_positions_BT=targets.write(targets.positions_P),
        encoder_whole_word_ids_BL=inputs.write(block.whole_words.values_P),
    )


class _Cells:
    """The cells of a padded array that the tokens of some examples go to."""

    def __init__(self, rows_E, starts_E, runs: TokenRuns, rows: int, length: int):
        self._shape = (rows, length)
        self._lengths_E = runs.lengths_E
        counter_P = np.arange(len(runs.values_P))
        self.positions_P = counter_P - np.repeat(runs.offsets_E1[:-1], self._lengths_E)
        self._cells_P = self.positions_P + np.repeat(rows_E * length + starts_E, self._lengths_E)

    def write(self, values_P: np.ndarray) -> np.ndarray:
        dtype = np.float32 if values_P.dtype == np.float32 else np.int32
        flat = np.zeros(self._shape[0] * self._shape[1], dtype)
        flat[self._cells_P] = values_P
        return flat.reshape(self._shape)

    def repeat(self, values_E: Int[np.ndarray, " E"]) -> np.ndarray:
        return np.repeat(values_E, self._lengths_E)


def _row_lengths(longest: int, row_length: int) -> list[int]:
    """Row lengths worth trying: `row_length` and its halves that hold the longest prompt."""
    lengths = [row_length]
    while lengths[-1] // 2 >= longest and lengths[-1] % 2 == 0:
        lengths.append(lengths[-1] // 2)
    return lengths


def _target_rooms(sample: list[_Lengths], input_length: int, longest_target: int) -> list[int]:
    """Rooms worth trying for the targets of an input row: their share of the tokens, and up to 30% more."""
    input_tokens = sum(int(inputs_E.sum()) for inputs_E, _ in sample)
    target_tokens = sum(int(targets_E.sum()) for _, targets_E in sample)
    share = input_length * target_tokens / input_tokens
    rooms = [max(int(share * factor) + 1, longest_target) for factor in (1.0, 1.1, 1.2, 1.3)]
    return sorted({packing.round_up(room, _LENGTH_MULTIPLE) for room in rooms})
