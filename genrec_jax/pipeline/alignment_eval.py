"""The evaluation prompts of the alignment system: held-out targets, with candidates or labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import alignment_rating
from genrec_jax.pipeline.alignment import AlignmentSettings, NextItemTask
from genrec_jax.pipeline.alignment_choices import ChoiceTask
from genrec_jax.pipeline.alignment_rating import RatingTask
from genrec_jax.pipeline.prompt_batches import PromptAssembler, Prompts
from genrec_jax.pipeline.prompt_tables import BoundPrompts
from genrec_jax.prompts.templates import EVALUATED_TASKS, Task

_KINDS: dict[str, type[NextItemTask]] = {
    "retrieval": NextItemTask,
    "ranking": ChoiceTask,
    "rating": RatingTask,
}


@dataclasses.dataclass(frozen=True)
class EvaluationExamples:
    """Held-out examples of one task, by ascending user.

    Attributes:
        prompts: their tokens.
        users_E: user numbers.
        targets_E: the held-out items; in rating, the items to be rated.
        candidates_EC: ranking: the items shown, in the prompt's order, the target among them.
        labels_E: rating: whether the user liked the item.
    """

    prompts: Prompts
    users_E: Int32[np.ndarray, " E"]
    targets_E: Int32[np.ndarray, " E"]
    candidates_EC: Int32[np.ndarray, "E C"] | None
    labels_E: Bool[np.ndarray, " E"] | None

    def __len__(self) -> int:
        return len(self.users_E)


class EvaluationSource:
    """Makes the held-out examples of one task, in one wording, for any of a dataset's users.

    A ranking example's candidates depend on the split and the user alone.
    """

    def __init__(
        self,
        assembler: PromptAssembler,
        dataset: Dataset,
        splits: Splits,
        split: SplitName,
        task: Task,
        template_ids: Sequence[str],
        *,
        prompts: BoundPrompts | None = None,
        num_candidates: int = 100,
        like_above: float = 3.0,
    ):
        """Binds the run's prompts to the dataset's histories.

        Args:
            assembler: of the run: vocabulary, ids, titles, templates, history and limit.
            dataset: the dataset.
            splits: its splits.
            split: which targets.
            task: `retrieval`, `ranking` or `rating`.
            template_ids: the prompt to ask with; for rating those of one wording
                (`templates.rating_wordings`).
            prompts: the assembler's tables bound to the dataset's histories, where sources share them.
            num_candidates: of a ranking prompt.
            like_above: a rating above it is a like.

        Raises:
            UserError: another task, a dataset without ratings (rating) or with too few items (ranking).
        """
        if task not in EVALUATED_TASKS:
            raise UserError(f"the task is {task!r}; wanted one of {', '.join(EVALUATED_TASKS)}")
        settings = AlignmentSettings(
            window=assembler.history,
            num_candidates=num_candidates,
            like_above=like_above,
            max_input_length=assembler.max_input_length,
            shuffle=False,
        )
        if prompts is None:
            prompts = assembler.tables.bind([], dataset.items_X)
        self._task = _KINDS[task](
            prompts, dataset, splits, task, settings, template_ids, held_out=split
        )
        self._users_N = dataset.users_X[self._task.positions_N]

    @property
    def users_E(self) -> Int32[np.ndarray, " E"]:
        """Every user with an example, in ascending order."""
        return self._users_N

    def examples(self, users: Int[np.ndarray, " U"] | None = None) -> EvaluationExamples:
        """The examples of some users; None: of all."""
        task = self._task
        numbers_E = np.arange(task.num_examples, dtype=np.int64)
        if users is not None:
            numbers_E = np.flatnonzero(np.isin(self._users_N, users))
        block = task.gather(task.plan(0, numbers_E))
        candidates = labels = None
        if isinstance(task, ChoiceTask):
            items_EC, _ = task.choices(np.zeros(len(numbers_E), np.int64), numbers_E)
            candidates = items_EC.astype(np.int32)
        if isinstance(task, RatingTask):
            labels = task.labels(numbers_E)
        return EvaluationExamples(
            prompts=Prompts(block.inputs, block.whole_words),
            users_E=block.users_E,
            targets_E=block.items_E,
            candidates_EC=candidates,
            labels_E=labels,
        )


def answer_tokens(
    assembler: PromptAssembler,
) -> tuple[Int32[np.ndarray, " T"], Int32[np.ndarray, " T"]]:
    """The tokens of the two answers to a rating prompt, like and dislike, end-of-sequence included.

    Raises:
        UserError: the templates have no rating prompt, or the answers begin with the same token.
    """
    tables = assembler.tables
    number = next((n for n, t in enumerate(tables.templates) if t.task == "rating"), None)
    if number is None:
        raise UserError(
            "the templates have no rating template; wanted one to take the answers from"
        )
    like, dislike = alignment_rating.answers(tables.bind([], np.zeros(0, np.int32)), number)
    return np.array(like, np.int32), np.array(dislike, np.int32)
