"""The alignment system's examples (Cao et al. 2024): what its tasks share, and retrieval.

A history stands for the user; prompts show ids with titles. `alignment_choices` has ranking and BPR,
`alignment_rating` the rating, `alignment_masking` MIM and MLM, `item_questions` the questions about
items.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax import checks
from genrec_jax.data import hashing
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import examples, list_prompts, windows
from genrec_jax.pipeline.examples import Epochs, ExamplePlan, SingleTask
from genrec_jax.pipeline.prompt_tables import BoundPrompts
from genrec_jax.pipeline.span_corruption import CorruptionConfig
from genrec_jax.prompts import templates as templates_lib

NEGATIVES, PLACE, MASK, WINDOW, SPANS, CASE = 10, 11, 12, 13, 14, 15
"""What draws are for, beside those of `examples`."""


@dataclasses.dataclass(frozen=True)
class AlignmentSettings:
    """The protocol (Cao et al. 2024, section 4.1).

    Attributes:
        window: items of a history, or of a window, at most.
        num_candidates: candidates of a ranking prompt, the right one among them.
        like_above: a rating above it is a like.
        mask_share: share of a window's items that MIM masks.
        corruption: what MLM masks.
        max_input_length: tokens of a prompt at most; longer ones lose their oldest items.
        seed: of every draw.
        shuffle: whether the numbers of an epoch run through it in random order.
    """

    window: int = 20
    num_candidates: int = 100
    like_above: float = 3.0
    mask_share: float = 0.2
    corruption: CorruptionConfig = dataclasses.field(default_factory=CorruptionConfig)
    max_input_length: int = 1024
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self):
        checks.number_fields(self, "like_above")
        if self.window < 2 or self.num_candidates < 2 or self.max_input_length < 2:
            raise UserError(
                f"history is {self.window}, num_candidates {self.num_candidates}, max_input_length"
                f" {self.max_input_length}; wanted at least 2 of each"
            )


class AlignmentTask(SingleTask):
    """One of the alignment system's tasks; subclasses plan the examples that share a template.

    Attributes:
        settings: the protocol.
        splits: what of the dataset trains.
    """

    def __init__(
        self,
        prompts: BoundPrompts,
        dataset: Dataset,
        splits: Splits,
        task: templates_lib.Task,
        settings: AlignmentSettings,
        template_ids: Sequence[str] | None = None,
    ):
        """Finds the task's templates.

        Args:
            prompts: bound to the dataset's histories.
            dataset: the dataset.
            splits: its splits.
            task: which task.
            settings: the protocol.
            template_ids: templates to draw from; None: every seen one of the task.

        Raises:
            UserError: there is no such template.
        """
        super().__init__(
            prompts,
            dataset,
            task,
            seed=settings.seed,
            shuffle=settings.shuffle,
            limit=settings.max_input_length,
        )
        self.settings, self.splits = settings, splits
        known = prompts.tables.templates
        if template_ids is None:
            template_ids = [t.id for t in known if t.task == task and t.seen]
        self.numbers_T = np.array([prompts.tables.number_of(i) for i in template_ids], np.int64)
        wrong = [known[n].id for n in self.numbers_T.tolist() if known[n].task != task]
        if wrong or not template_ids:
            raise UserError(
                f"template {wrong[0]} is of the task {known[prompts.tables.number_of(wrong[0])].task};"
                f" wanted one of {task}"
                if wrong
                else f"the templates have no {task} template with seen = true. Name a file that has one"
                f" in DataConfig.templates_file; {templates_lib.ALIGNMENT_TEMPLATES} is the paper's"
            )

    def plan(self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]) -> ExamplePlan:
        """Plans examples; see `ExampleTask.plan`."""
        epoch_E, index_E = self._in_order(epochs, numbers_E)
        templates_E = self._templates(epoch_E, index_E)
        numbers = np.unique(templates_E) if len(templates_E) else self.numbers_T[:1]
        places = [np.flatnonzero(templates_E == number) for number in numbers]
        plans = [
            self._plan_rows(int(number), epoch_E[rows], index_E[rows])
            for number, rows in zip(numbers, places, strict=True)
        ]
        return plans[0] if len(plans) == 1 else ExamplePlan.scatter(plans, places)

    def held_out(
        self,
        splits: Splits,
        split: SplitName,
        *,
        template_id: str | None = None,
        max_examples: int | None = None,
    ) -> "tuple[AlignmentTask, ...]":
        """See `ExampleTask.held_out`; what this class gives is right for tasks that only train."""
        del splits, split, template_id, max_examples
        return ()

    @abc.abstractmethod
    def _plan_rows(
        self, number: int, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> ExamplePlan:
        """Plans examples of one template; `index_E` says which examples of the task they are."""

    def _templates(
        self, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> Int64[np.ndarray, " E"]:
        """The template of each example, drawn evenly."""
        if len(self.numbers_T) == 1:
            return np.broadcast_to(self.numbers_T, index_E.shape)
        draw_E = self._hash(examples.TEMPLATE, epoch_E, index_E) % np.uint64(len(self.numbers_T))
        return self.numbers_T[draw_E.astype(np.int64)]

    def _hash(self, *numbers: hashing.Numbers) -> Any:
        return hashing.hash_numbers(self.seed, numbers[0], self.stream, *numbers[1:])

    def _fit(
        self,
        number: int,
        values: Mapping[str, Any],
        begin_E: Int64[np.ndarray, " E"],
        end_E: Int64[np.ndarray, " E"],
        *,
        spare: int = 0,
        least: int = 1,
    ) -> Int64[np.ndarray, " E"]:
        """The position of the first item shown, so that the prompt keeps to the limit.

        Args:
            number: the template.
            values: of the slots that are always shown in full.
            begin_E: first position that would be shown.
            end_E: position after the last.
            spare: tokens to keep free.
            least: items that must be left.

        Raises:
            UserError: a prompt is too long with that many items.
        """
        text = self.prompts.tables.list_inputs[number]
        fixed_E = list_prompts.fixed_tokens(self.prompts, text, len(begin_E), values) + spare
        fitting_E = self.prompts.cut_oldest(begin_E, end_E, self.limit - fixed_E)
        if (stuck := np.flatnonzero(fitting_E > end_E - least)).size:
            e = stuck[0]
            needed = fixed_E[e] + self.prompts.history_tokens(
                end_E[e : e + 1] - least, end_E[e : e + 1]
            )
            template = self.prompts.tables.templates[number]
            raise UserError(
                f"{self.name}: a prompt of template {template.id} takes {int(needed[0])} tokens even when"
                f" it shows {least} of its items; the inputs' limit is {self.limit}. Raise"
                ' TASK_FEATURE_LENGTHS["inputs"]'
            )
        return fitting_E

    def _check_room(
        self, fixed: int, begin_N: Int64[np.ndarray, " N"], end_N: Int64[np.ndarray, " N"]
    ) -> None:
        """Checks, before training, that the question with its fewest items fits the limit.

        Args:
            fixed: tokens that a prompt may take without those items.
            begin_N: first position of the least that is shown of each example.
            end_N: position after the last.
        """
        needed = fixed + int(self.prompts.history_tokens(begin_N, end_N).max())
        if needed > self.limit:
            raise UserError(
                f"{self.name}: a prompt may have {self.limit} tokens, but even with the fewest items of"
                f' its history one may take {needed}. Set TASK_FEATURE_LENGTHS["inputs"] to {needed} or'
                " more"
            )

    def _longest(self, **counts: int) -> int:
        """A bound on the tokens of the task's prompts, without their histories or windows."""
        text = self.prompts.tables.list_inputs
        return max(
            list_prompts.longest(
                self.prompts.run_lengths, text[number], self.dataset.num_items, counts
            )
            for number in self.numbers_T.tolist()
        )


class NextItemTask(AlignmentTask):
    """Retrieval: the item that comes after a history.

    Attributes:
        positions_N: flat position of each target.
    """

    def __init__(
        self,
        prompts: BoundPrompts,
        dataset: Dataset,
        splits: Splits,
        task: templates_lib.Task,
        settings: AlignmentSettings,
        template_ids: Sequence[str] | None = None,
        *,
        held_out: SplitName | None = None,
        users: Int[np.ndarray, " U"] | None = None,
        max_examples: int | None = None,
    ):
        """Describes the examples; nothing is made yet.

        Args:
            prompts: bound to the dataset's histories.
            dataset: the dataset.
            splits: its splits.
            task: which task.
            settings: the protocol.
            template_ids: templates to draw from; None: every seen one of the task.
            held_out: the targets of this split; None: those of training.
            users: only these users' targets.
            max_examples: a seeded sample of the held-out targets; None: all.

        Raises:
            UserError: no example, or a limit under which nothing fits.
        """
        super().__init__(prompts, dataset, splits, task, settings, template_ids)
        self.held_out_split = held_out
        if held_out is None:
            positions_N = windows.target_positions(dataset, splits, settings.window)
        else:
            positions_N = examples.held_out_positions(
                dataset, splits, held_out, seed=settings.seed, max_examples=max_examples
            )
        if users is not None:
            positions_N = positions_N[np.isin(dataset.users_X[positions_N], users)]
        self.positions_N = positions_N
        self._choose_positions()
        self.num_examples = len(self.positions_N)
        examples.check_not_empty(self.name, self.num_examples)
        self._set_bounds()

    def held_out(
        self,
        splits: Splits,
        split: SplitName,
        *,
        template_id: str | None = None,
        max_examples: int | None = None,
    ) -> "tuple[AlignmentTask, ...]":
        """See `ExampleTask.held_out`."""
        held = type(self)(
            self.prompts,
            self.dataset,
            splits,
            self.task,  # type: ignore[arg-type]  # it was checked when this was made
            dataclasses.replace(self.settings, shuffle=False),
            self._first_wording() if template_id is None else [template_id],
            held_out=split,
            max_examples=max_examples,
        )
        return (held,)

    def positions_read(
        self, epoch: int, index_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """See `ExampleTask.positions_read`."""
        del epoch
        _, begin_E, end_E = self._history(index_E)
        return begin_E, end_E + 1

    def _first_wording(self) -> list[str]:
        """The templates of the first prompt of those that are drawn from."""
        return [self.prompts.tables.templates[self.numbers_T[0]].id]

    def _choose_positions(self) -> None:
        """Leaves out targets that the task cannot have, and prepares what it draws from."""

    def _history(self, index_E: Int64[np.ndarray, " E"], shows: int | None = None):
        """Users, first position of the history, and the target's position."""
        end_E = self.positions_N[index_E]
        users_E = self.dataset.users_X[end_E]
        shown = min(shows or self.settings.window, self.settings.window)
        return users_E, np.maximum(end_E - shown, self.dataset.offsets_U1[users_E]), end_E

    def _shows(self, number: int) -> int | None:
        return self.prompts.tables.templates[number].shows

    def _plan_rows(
        self, number: int, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> ExamplePlan:
        del epoch_E
        users_E, begin_E, end_E = self._history(index_E, self._shows(number))
        items_E = self.dataset.items_X[end_E]
        templates_E = np.full(len(index_E), number)
        inputs, cut_E = self.prompts.plan_inputs(
            templates_E, users_E, begin_E, end_E, max_length=self.limit
        )
        targets = self.prompts.plan_targets(templates_E, items_E)
        return ExamplePlan(inputs, targets, users_E, items_E, templates_E, cut_E)

    def _check_newest(self, fixed: int) -> None:
        """`_check_room` with one item of each history."""
        self._check_room(fixed, self.positions_N - 1, self.positions_N)

    def _history_bound(self) -> int:
        _, begin_N, end_N = self._history(np.arange(self.num_examples))
        return int(self.prompts.history_tokens(begin_N, end_N).max())

    def _set_bounds(self) -> None:
        fixed = self.prompts.longest_fixed(self.numbers_T)
        self._check_newest(fixed)
        self.max_input_length = min(fixed + self._history_bound(), self.limit)
        self.max_target_length = self._longest_item_target()

    def _longest_item_target(self) -> int:
        items_I = np.arange(self.dataset.num_items)
        numbers_I = np.full(len(items_I), self.numbers_T[0])
        return int(self.prompts.plan_targets(numbers_I, items_I).lengths_E.max())
