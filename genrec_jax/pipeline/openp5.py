"""OpenP5's examples (Xu et al. 2023) as a pure function of seed, epoch and number.

Between the dataset with its item ids and the mixtures. One example per training position but the
first of each user (positions 1..n-3 of a sequence of n items), for both tasks, as the OpenP5
repository has it; an epoch draws `templates_per_example` of the seen templates for each, without
replacement, in an order of its own.
"""

from collections.abc import Sequence
from typing import get_args

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax import checks
from genrec_jax.data import hashing
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.distinct import distinct
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import examples
from genrec_jax.pipeline.examples import Epochs, ExamplePlan, SingleTask
from genrec_jax.pipeline.prompt_tables import BoundPrompts, Cut, PromptTables
from genrec_jax.prompts import rendering
from genrec_jax.prompts.templates import Task

MAX_INPUT_LENGTH = 512


def bind_dataset(
    tables: PromptTables, dataset: Dataset, splits: Splits | None = None
) -> BoundPrompts:
    """The tables with the dataset's users and sequences; both tasks share it.

    With `splits`, users that training does not see have the number of new ones.

    It takes 4 bytes for each token of each interaction: about 25 bytes an interaction with T5's
    vocabulary.
    """
    users_U = np.arange(dataset.num_users)
    if splits is not None:
        users_U = np.where(splits.trained_U(dataset), users_U, rendering.UNKNOWN_USER)
    user_ids = [rendering.user_id_text(user) for user in users_U.tolist()]
    return tables.bind(user_ids, dataset.items_X)


def training_positions(dataset: Dataset, splits: Splits) -> Int64[np.ndarray, " E"]:
    """Flat positions of the training targets: all training items but each user's first."""
    trained_X = splits.in_training_X(dataset)
    trained_X[dataset.offsets_U1[:-1]] = False
    return np.flatnonzero(trained_X)


class OpenP5Task(SingleTask):
    """One of OpenP5's two tasks on one dataset.

    Attributes:
        positions_N: flat position of each target in the dataset; an epoch has as many examples, times
            the templates drawn.
        history: items a prompt shows at most.
        cut: what a longer prompt than the limit loses.
    """

    def __init__(
        self,
        prompts: BoundPrompts,
        dataset: Dataset,
        positions_N: Int64[np.ndarray, " N"],
        task: Task,
        template_ids: Sequence[str],
        *,
        templates_per_example: int | None = None,
        history: int = 20,
        seed: int = 0,
        shuffle: bool = True,
        max_input_length: int = MAX_INPUT_LENGTH,
        cut: Cut = "items",
    ):
        """Describes the examples; nothing is made yet.

        Args:
            prompts: from `bind_dataset`.
            dataset: the same dataset.
            positions_N: flat positions of the targets (`training_positions`, or a split's targets).
            task: which task; all of `template_ids` must be of it.
            template_ids: templates to draw from.
            templates_per_example: how many are drawn for a position and epoch; None: all of them.
            history: how many items a prompt shows at most, the newest.
            seed: of every draw.
            shuffle: whether the numbers of an epoch run through it in random order.
            max_input_length: tokens of a prompt at most; see `cut`.
            cut: what a longer one loses; see `BoundPrompts.plan_inputs`.

        Raises:
            UserError: no example, templates of another task, or more draws than templates.
        """
        super().__init__(prompts, dataset, task, seed=seed, shuffle=shuffle, limit=max_input_length)
        tables = prompts.tables
        self._openp5_task: Task = task
        self.positions_N = positions_N
        self.history = history
        self._numbers_T = np.array([tables.number_of(i) for i in template_ids], np.int64)
        self._draws = len(template_ids) if templates_per_example is None else templates_per_example
        self._shown = history if task == "sequential" else 0
        checks.check_choice("cut", cut, get_args(Cut))
        self.cut: Cut = cut
        if wrong := [i for i in template_ids if tables.templates[tables.number_of(i)].task != task]:
            raise UserError(f"template {wrong[0]} is not a {task} template")
        if not 1 <= self._draws <= len(template_ids):
            raise UserError(
                f"templates_per_example is {templates_per_example}; wanted 1 to {len(template_ids)}, the"
                f" number of {task} templates to draw from, or None for all"
            )
        if history < 1 or max_input_length < 1:
            raise UserError(
                f"history is {history} and max_input_length {max_input_length}; wanted at least 1 of each"
            )
        examples.check_not_empty(self.name, len(positions_N))
        self.num_examples = len(positions_N) * self._draws
        self.max_input_length, self.max_target_length = self._bounds()

    def plan(self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]) -> ExamplePlan:
        """Plans examples; see `ExampleTask.plan`."""
        epoch_E, index_E = self._in_order(epochs, numbers_E)
        example_E, draw_E = np.divmod(index_E, self._draws)
        templates_E = self._templates(epoch_E, example_E, draw_E)
        end_E = self.positions_N[example_E]
        users_E = self.dataset.users_X[end_E]
        begin_E = np.maximum(end_E - self._shown, self.dataset.offsets_U1[users_E])
        items_E = self.dataset.items_X[end_E]
        inputs, cut_E = self.prompts.plan_inputs(
            templates_E, users_E, begin_E, end_E, max_length=self.limit, cut=self.cut
        )
        targets = self.prompts.plan_targets(templates_E, items_E)
        return ExamplePlan(inputs, targets, users_E, items_E, templates_E, cut_E)

    def held_out(
        self,
        splits: Splits,
        split: SplitName,
        *,
        template_id: str | None = None,
        max_examples: int | None = None,
    ) -> "tuple[OpenP5Task, ...]":
        """See `ExampleTask.held_out`."""
        if template_id is None:
            known = self.prompts.tables.templates
            template_id = next(t.id for t in known if t.task == self.task and t.seen)
        positions_N = examples.held_out_positions(
            self.dataset, splits, split, seed=self.seed, max_examples=max_examples
        )
        if not len(positions_N):
            raise UserError(f"{self.name}: no user has a held-out target with a history before it")
        return (
            OpenP5Task(
                self.prompts,
                self.dataset,
                positions_N,
                self._openp5_task,
                [template_id],
                history=self.history,
                seed=self.seed,
                shuffle=False,
                max_input_length=self.limit,
                cut=self.cut,
            ),
        )

    def positions_read(
        self, epoch: int, index_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """See `ExampleTask.positions_read`."""
        del epoch
        end_E = self.positions_N[index_E // self._draws]
        begin_E = np.maximum(
            end_E - self._shown, self.dataset.offsets_U1[self.dataset.users_X[end_E]]
        )
        return begin_E, end_E + 1

    def _templates(self, epoch_E, example_E, draw_E) -> Int64[np.ndarray, " E"]:
        count = len(self._numbers_T)
        if count == 1:
            return np.broadcast_to(self._numbers_T, draw_E.shape)
        order_ET = hashing.draw_order(
            count, self.seed, examples.TEMPLATE, self.stream, np.asarray(epoch_E), example_E
        )
        return self._numbers_T[order_ET[np.arange(len(draw_E)), draw_E]]

    def _bounds(self) -> tuple[int, int]:
        end_N = self.positions_N
        begin_N = np.maximum(
            end_N - self._shown, self.dataset.offsets_U1[self.dataset.users_X[end_N]]
        )
        longest = self.prompts.longest_fixed(self._numbers_T)
        longest += int(self.prompts.history_tokens(begin_N, end_N).max())
        if longest > self.limit and self.cut == "items":
            self._check_room(end_N)
        items_E = distinct(self.dataset.items_X[end_N])
        templates_E = np.broadcast_to(self._numbers_T[:1], items_E.shape)
        targets = self.prompts.plan_targets(templates_E, items_E)
        return min(longest, self.limit), int(targets.lengths_E.max())

    def _check_room(self, end_N: Int64[np.ndarray, " N"]) -> None:
        """Checks, before training, that the question with one item fits the limit."""
        longest_item = int(self.prompts.history_tokens(end_N - min(1, self._shown), end_N).max())
        needed = self.prompts.longest_fixed(self._numbers_T) + longest_item
        if needed > self.limit:
            raise UserError(
                f"{self.name}: max_input_length is {self.limit}, but a prompt with one item of history"
                f" may take {needed} tokens. Raise max_input_length to {needed} or more"
            )
