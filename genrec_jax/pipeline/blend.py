"""Several tasks of one dataset mixed within each batch, at fixed rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline.examples import Epochs, ExamplePlan, ExampleTask, SingleTask


class Blend(ExampleTask):
    """Tasks that share a pool of tokens, an example of each in turns, as their rates say.

    With the rates 3 and 1 every four examples hold three of the first task and one of the second,
    spread as evenly as can be. An epoch ends when the slowest task has been through once; the others
    start again before. Which example of which task a number is, is a formula of the number alone.

    Attributes:
        sources: the tasks.
        rates: examples of each in one round.
    """

    def __init__(self, name: str, sources: Sequence[SingleTask], rates: Mapping[str, int]):
        """Blends.

        Args:
            name: the mixture's, for logs.
            sources: tasks on the same bound prompts.
            rates: for each task's name a whole number of at least 1.

        Raises:
            UserError: rates of other tasks, or below 1.
        """
        tasks = [source.task for source in sources]
        if set(rates) != set(tasks) or any(type(r) is not int or r < 1 for r in rates.values()):
            raise UserError(
                f"{name}: the rates are {dict(rates)}; wanted a whole number of at least 1 for each of"
                f" {', '.join(tasks)}, such as {dict.fromkeys(tasks, 1)}"
            )
        first = sources[0]
        assert all(source.prompts is first.prompts for source in sources)
        super().__init__(
            first.prompts,
            first.dataset,
            name,
            seed=first.seed,
            shuffle=first.shuffle,
            limit=max(source.limit for source in sources),
        )
        self.sources = tuple(sources)
        self.rates = tuple(rates[task] for task in tasks)
        self._turns_R = _turns(self.rates)
        # Of the examples before each of a round's, how many are of the same task.
        same_RR = self._turns_R[:, None] == self._turns_R
        self._before_R = np.tril(same_RR, -1).sum(axis=1)
        rounds = max(
            -(-source.num_examples // rate)
            for source, rate in zip(self.sources, self.rates, strict=True)
        )
        self.num_examples = rounds * len(self._turns_R)
        self.max_input_length = max(source.max_input_length for source in sources)
        self.max_target_length = max(source.max_target_length for source in sources)

    @property
    def parts(self) -> tuple[SingleTask, ...]:
        """The tasks it blends."""
        return self.sources

    def locate(
        self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """The place of each example's task, and the example's epoch and number in that task."""
        running_E = np.asarray(epochs, np.int64) * self.num_examples + np.asarray(numbers_E)
        round_E, turn_E = np.divmod(running_E, len(self._turns_R))
        sources_E = self._turns_R[turn_E]
        count_E = round_E * np.array(self.rates)[sources_E] + self._before_R[turn_E]
        sizes = np.array([source.num_examples for source in self.sources])
        epoch_E, number_E = np.divmod(count_E, sizes[sources_E])
        return sources_E, epoch_E, number_E

    def plan(self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]) -> ExamplePlan:
        """Plans examples; see `ExampleTask.plan`."""
        rows_of = list(self._rows_of(epochs, numbers_E))
        return ExamplePlan.scatter(
            [source.plan(epoch_E, number_E) for source, _, epoch_E, number_E in rows_of],
            [rows for _, rows, _, _ in rows_of],
        )

    def held_out(
        self,
        splits: Splits,
        split: SplitName,
        *,
        template_id: str | None = None,
        max_examples: int | None = None,
    ) -> tuple[SingleTask, ...]:
        """The held-out examples of each task that has any; see `ExampleTask.held_out`."""
        options: dict[str, Any] = {"template_id": template_id, "max_examples": max_examples}
        return tuple(
            held for source in self.sources for held in source.held_out(splits, split, **options)
        )

    def _rows_of(self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]):
        sources_E, epoch_E, number_E = self.locate(epochs, numbers_E)
        for place, source in enumerate(self.sources):
            rows = np.flatnonzero(sources_E == place)
            yield source, rows, epoch_E[rows], number_E[rows]


def _turns(rates: Sequence[int]) -> Int64[np.ndarray, " R"]:
    """The task of each example of a round: the k-th of r examples stands at (k + 1/2) / r of it."""
    places = [((k + 0.5) / rate, task) for task, rate in enumerate(rates) for k in range(rate)]
    return np.array([task for _, task in sorted(places)], np.int64)
