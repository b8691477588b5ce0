"""The fixed batches of the validation loss: every held-out target once, in one template."""

from collections.abc import Iterator, Sequence

import numpy as np

from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import batches, packing
from genrec_jax.pipeline.batch import Batch
from genrec_jax.pipeline.mixtures import Mixture
from genrec_jax.pipeline.packing import Placement, Shape


class ValidationBatches:
    """`batch(i)` for i below `num_batches`: the same examples whenever it is asked.

    Each task of the mixture gives its users' held-out targets (by leave-one-out s[n-2] with history
    s[:n-2]), in its first seen template (A1, B1); tasks that only train give none.
    A batch holds one task; its last batch is filled up with padding rows, whose loss weights are 0.

    Attributes:
        sources: the held-out examples of each task.
        num_batches: batches of all sources.
        num_examples: examples of all sources.
        shapes: of the sources' batches.
    """

    def __init__(
        self,
        mixture: Mixture,
        splits: Sequence[Splits],
        batch_size: int,
        *,
        max_examples: int | None = None,
        host: int = 0,
        num_hosts: int = 1,
        rows_multiple: int = 1,
    ):
        """Describes the batches.

        Args:
            mixture: what training reads; its tables are shared.
            splits: for each dataset of the mixture, in its order.
            batch_size: rows of a batch over all hosts; rounded up to `rows_multiple`.
            max_examples: a seeded sample of each source's users; None: all of them.
            host: which host this is.
            num_hosts: how many there are.
            rows_multiple: devices along the batch, over all hosts.

        Raises:
            UserError: no user has a target.
        """
        if rows_multiple % num_hosts:
            rows_multiple *= num_hosts
        self._rows = packing.round_up(batch_size, rows_multiple)
        self._host, self._num_hosts = host, num_hosts
        datasets = list(dict.fromkeys(source.dataset.path for source in mixture.sources))
        self.sources = tuple(
            held
            for source in mixture.sources
            for held in source.held_out(
                splits[datasets.index(source.dataset.path)],
                "validation",
                max_examples=max_examples,
            )
        )
        if not self.sources:
            raise UserError(
                f"{mixture.name} has no task with held-out targets to read a loss on; set EVAL_PERIOD=None"
            )
        longest_target = max(source.max_target_length for source in self.sources)
        self.shapes = tuple(
            Shape(self._rows, packing.round_up(source.max_input_length, 8), longest_target)
            for source in self.sources
        )
        self._counts = [-(-source.num_examples // self._rows) for source in self.sources]
        self.num_batches = sum(self._counts)
        self.num_examples = sum(source.num_examples for source in self.sources)

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(index) for index in range(self.num_batches))

    def batch(self, index: int) -> Batch:
        """Makes this host's rows of one batch."""
        place, first = self._locate(index)
        source, shape = self.sources[place], self.shapes[place]
        rows = self._rows // self._num_hosts
        begin = first + self._host * rows
        end = min(begin + rows, source.num_examples)
        numbers_E = np.arange(begin, max(begin, end))
        plan = source.plan(0, numbers_E)
        placement: Placement = packing.one_per_row(len(numbers_E))
        own = Shape(rows, shape.input_length, shape.target_length)
        return batches.write_batch(source, plan, placement, own)

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.num_batches:
            raise IndexError(f"validation batch {index} of {self.num_batches}")
        for place, count in enumerate(self._counts):
            if index < count:
                return place, index * self._rows
            index -= count
        raise AssertionError("the counts sum to num_batches")
