"""The evaluator of a run on a user's own SeqIO mixture: every task's own prompts and targets.

A task whose examples carry `user`, one example a user, with the very items that its split holds out,
is scored like a prompt template: with baselines, and with seen items excluded. For any other task only
the target is known, so it has neither, and the results say why.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.evaluation import ranking
from genrec_jax.evaluation.evaluator import Evaluator, Params, Scored
from genrec_jax.evaluation.ranking import OnLists, UserRanks
from genrec_jax.pipeline.seqio_examples import TaskExamples

TASK = "seqio"
PROTOCOL = "seqio_tasks"


class ScoredTask:
    """A task of a mixture, and which of its examples are scored under which row numbers.

    Attributes:
        examples: the task's.
        misfit: why it does not ask for the users' held-out items, or None where it does.
        rows_E: users, or else examples, in ascending order.
        chosen_E: for each of them the example.
    """

    task, seen = TASK, None

    def __init__(
        self,
        examples: TaskExamples,
        dataset: Dataset,
        splits: Splits,
        split: SplitName,
        at_most: int | None,
        seed: int,
    ):
        """Chooses all examples, or a seeded sample; the same users of every task that has them."""
        self.examples = examples
        self.misfit = misfit(examples, dataset, splits, split)
        if self.misfit is None and examples.users_N is not None:
            self.rows_E = ranking.choose(examples.users_N, at_most, seed)
            order = np.argsort(examples.users_N)
            places_E = np.searchsorted(examples.users_N, self.rows_E, sorter=order)
            self.chosen_E = order[places_E]
        else:
            every = np.arange(len(examples), dtype=np.int32)
            self.rows_E = self.chosen_E = ranking.choose(every, at_most, seed)

    @property
    def id(self) -> str:
        """The task's name."""
        return self.examples.name

    def examples_of(self, rows_E: Int32[np.ndarray, " E"]) -> Int32[np.ndarray, " E"]:
        """The examples' numbers, given what they are called in results."""
        return self.chosen_E[np.searchsorted(self.rows_E, rows_E)].astype(np.int32)


def misfit(
    examples: TaskExamples, dataset: Dataset, splits: Splits, split: SplitName
) -> str | None:
    """Why a task's examples are not the held-out items of the dataset's users; None if they are."""
    users_N = examples.users_N
    if users_N is None:
        return "its examples carry no `user`"
    if users_N.min() < 0 or users_N.max() >= dataset.num_users:
        return f"its `user` is no number from 0 to {dataset.num_users - 1}, the dataset's users"
    if len(np.unique(users_N)) < len(users_N):
        return "some users have several examples"
    positions_N = splits.targets_U(split)[users_N]
    same_N = (positions_N >= 0) & (dataset.items_X[positions_N] == examples.targets_N)
    if not same_N.all():
        number = int((~same_N).sum())
        return f"{number} of its targets are not the {split} item of the example's `user`"
    return None


class TaskEvaluator(Evaluator):
    """Scores parameters on the tasks of a mixture; `templates` are its tasks."""

    unit = "examples"

    def __init__(self, tasks: Sequence[ScoredTask], remarks: Sequence[str], **bound: Any):
        """Binds everything but the parameters.

        Args:
            tasks: what is scored.
            remarks: what could not be read of the mixture.
            **bound: the rest of what `Evaluator` takes.
        """
        self._tasks = {task.id: task for task in tasks}
        super().__init__(users_E=np.zeros(0, np.int32), templates=tasks, **bound)
        self.protocol = PROTOCOL
        self.remarks = (
            *remarks,
            *(
                f"{task.id} has no baselines and no figures without seen items: {task.misfit}."
                for task in tasks
                if task.misfit is not None
            ),
        )

    @property
    def num_users(self) -> int:
        """Examples of all tasks."""
        return sum(map(self.num_rows, self.templates))

    def num_rows(self, template: Scored) -> int:
        """Examples of one task."""
        return len(self._tasks[template.id].rows_E)

    def users_of(self, template: Scored) -> Int32[np.ndarray, " E"] | None:
        """The users of a task that asks for their held-out items, else None."""
        task = self._tasks[template.id]
        return task.rows_E if task.misfit is None else None

    def rank(self, params: Params, template: Scored, on_lists: OnLists | None = None) -> UserRanks:
        """Searches for every example of a task and ranks the targets; see `Evaluator.rank`."""
        task = self._tasks[template.id]
        if task.misfit is None:
            return super().rank(params, template, _with_examples(on_lists, task))
        recommend = self._recommend(params, known=False)
        return ranking.rank_rows(
            self._batches(template, recommend),
            recommend,
            len(task.examples),
            on_lists=_with_examples(on_lists, task),
        )


def _with_examples(on_lists: OnLists | None, task: ScoredTask) -> OnLists | None:
    """Tells of rows by the numbers of their examples, and by their users where these are known."""
    if on_lists is None:
        return None

    def tell(rows_E: Int32[np.ndarray, " E"], *columns: np.ndarray | None) -> None:
        users_E = rows_E if task.misfit is None else None
        on_lists(users_E, *columns, examples_E=task.examples_of(rows_E))

    return tell
