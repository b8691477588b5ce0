"""Item embedding (IE): questions about an item's title, brand, price, ... (Cao et al. 2024, appendix D)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import list_prompts
from genrec_jax.pipeline.alignment import AlignmentSettings, AlignmentTask
from genrec_jax.pipeline.examples import ExamplePlan
from genrec_jax.pipeline.prompt_tables import BoundPrompts
from genrec_jax.prompts.rendering import UNKNOWN_USER
from genrec_jax.prompts.templates import Template


def questions(dataset: Dataset, templates: Sequence[Template]) -> list[tuple[int, int, str]]:
    """(template's place, item, answer) for every item and template whose field the item has."""
    found = []
    for place, template in enumerate(templates):
        if template.task != "ie" or not template.seen:
            continue
        assert template.field is not None  # templates.py has checked
        for item, value in enumerate(dataset.item_column(template.field)):
            words = field_text(value).split()[: template.words]
            if words:
                found.append((place, item, " ".join(words)))
    return found


def field_text(value: Any) -> str:
    """A field as an answer: categories joined by commas, a price with its dollar sign."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, float):
        return f"${round(value, 2):g}" if value < 1e5 else f"${value:.0f}"
    return value


class ItemQuestionsTask(AlignmentTask):
    """One example for every item and question; nothing here depends on an interaction."""

    def __init__(
        self,
        prompts: BoundPrompts,
        dataset: Dataset,
        splits: Splits,
        settings: AlignmentSettings,
        asked: Sequence[tuple[int, int, str]],
    ):
        """Describes the examples.

        Args:
            prompts: bound with the answers as its values, in order.
            dataset: the dataset.
            splits: its splits.
            settings: the protocol.
            asked: from `questions`.

        Raises:
            UserError: no item has any of the fields.
        """
        super().__init__(prompts, dataset, splits, "ie", settings)
        if not asked:
            raise UserError(
                "has no titles, brands, prices, categories or descriptions to ask for. Prepare it with a"
                " table of items (--items), or train a mixture without item questions",
                file=str(dataset.path),
            )
        self._places_N = np.array([place for place, _, _ in asked], np.int64)
        self._items_N = np.array([item for _, item, _ in asked], np.int64)
        self.num_examples = len(asked)
        plan = self.prompts.values(np.arange(len(asked)))
        self.max_input_length = self._longest()
        self.max_target_length = int(plan.lengths_E.max()) + self._around_answer()

    def positions_read(
        self, epoch: int, index_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """See `ExampleTask.positions_read`: none."""
        del epoch
        nothing_E = np.zeros(len(index_E), np.int64)
        return nothing_E, nothing_E

    def _templates(
        self, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> Int64[np.ndarray, " E"]:
        return self._places_N[index_E]

    def _plan_rows(
        self, number: int, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> ExamplePlan:
        items_E, count = self._items_N[index_E], len(index_E)
        tables = self.prompts.tables
        asked, answer = {"item_id": items_E}, {"value": self.prompts.values(index_E)}
        return ExamplePlan(
            list_prompts.plan(self.prompts, tables.list_inputs[number], count, asked),
            list_prompts.plan(self.prompts, tables.list_targets[number], count, answer),
            np.full(count, UNKNOWN_USER, np.int32),
            items_E.astype(np.int32),
            np.full(count, number),
            np.zeros(count, bool),
        )

    def _around_answer(self) -> int:
        targets = self.prompts.tables.list_targets
        return max(
            list_prompts.longest(
                self.prompts.run_lengths, targets[number], self.dataset.num_items, {}
            )
            for number in self.numbers_T.tolist()
        )
