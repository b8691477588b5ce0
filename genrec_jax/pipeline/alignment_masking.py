"""Masked item modelling and masked language modelling on windows of a user's training items."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from genrec_jax.data import hashing
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError
from genrec_jax.indexing import vocabulary
from genrec_jax.pipeline import examples, list_prompts, span_corruption, windows
from genrec_jax.pipeline.alignment import MASK, SPANS, WINDOW, AlignmentSettings, AlignmentTask
from genrec_jax.pipeline.examples import ExamplePlan
from genrec_jax.pipeline.list_prompts import ItemLists
from genrec_jax.pipeline.prompt_tables import BoundPrompts
from genrec_jax.pipeline.token_runs import RunPlan
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.prompts.rendering import UNKNOWN_USER


class WindowTask(AlignmentTask):
    """A task whose examples are made of windows; an epoch has as many as there are windows.

    Attributes:
        begin_N: first position of each window.
        end_N: position after its last.
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
        """Describes the examples; see `AlignmentTask`.

        Raises:
            UserError: no window of two items, or a limit under which none fits.
        """
        super().__init__(prompts, dataset, splits, task, settings, template_ids)
        self.begin_N, self.end_N = windows.item_windows(dataset, splits, settings.window)
        self.num_examples = len(self.begin_N)
        examples.check_not_empty(self.name, self.num_examples)
        self._set_bounds()

    def window(
        self, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """First position and position after the last of the items that examples are made of."""
        del epoch_E
        return self.begin_N[index_E], self.end_N[index_E]

    def positions_read(
        self, epoch: int, index_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """See `ExampleTask.positions_read`."""
        return self.window(np.full(len(index_E), epoch), index_E)

    @abc.abstractmethod
    def _set_bounds(self) -> None:
        """Sets the longest prompt and target; refuses a limit under which none fits."""

    def _window_bound(self) -> int:
        return int(self.prompts.history_tokens(self.begin_N, self.end_N).max())


class MaskedItemsTask(WindowTask):
    """MIM: a share of a window's items is masked, at least one and never all (section 3.1.1).

    How many is round(share x items), as in BERT4Rec (Sun et al. 2019); which ones is drawn anew in each
    epoch. A window that is too long has lost its oldest items before.
    """

    def num_masked(self, counts_E: Int64[np.ndarray, " E"]) -> Int64[np.ndarray, " E"]:
        """How many items of windows of so many are masked."""
        masked_E = np.rint(counts_E * self.settings.mask_share).astype(np.int64)
        return np.clip(masked_E, 1, counts_E - 1)

    def _plan_rows(
        self, number: int, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> ExamplePlan:
        begin_E, end_E = self.window(epoch_E, index_E)
        fitting_E = self._fit(number, {}, begin_E, end_E, spare=self._spare, least=2)
        counts_E = end_E - fitting_E
        masked_E = self.num_masked(counts_E)
        places_EJ = hashing.draw_places(
            masked_E, counts_E, self.seed, MASK, self.stream, epoch_E, index_E
        )
        rows, columns = np.nonzero(places_EJ != hashing.NO_PLACE)
        hidden_EJ = np.zeros((len(index_E), self.settings.window), bool)
        hidden_EJ[rows, places_EJ[rows, columns]] = True
        last = self.dataset.num_interactions - 1
        shown_EJ = fitting_E[:, None] + np.arange(self.settings.window)
        items_EJ = self.dataset.items_X[np.minimum(shown_EJ, last)]
        answer_EJ = self.dataset.items_X[np.minimum(fitting_E[:, None] + places_EJ, last)]
        shown: dict[str, Any] = {"window": ItemLists(items_EJ, counts_E, hidden_EJ)}
        answer: dict[str, Any] = {"masked": ItemLists(answer_EJ, masked_E)}
        tables, count = self.prompts.tables, len(index_E)
        return ExamplePlan(
            list_prompts.plan(self.prompts, tables.list_inputs[number], count, shown),
            list_prompts.plan(self.prompts, tables.list_targets[number], count, answer),
            self.dataset.users_X[begin_E],
            np.full(count, UNKNOWN_USER, np.int32),
            np.full(count, number),
            fitting_E > begin_E,
        )

    def _set_bounds(self) -> None:
        # In the place of a masked item a prompt may be longer than with the item itself.
        window = self.settings.window
        most = int(self.num_masked(np.array([window]))[0])
        lengths_I = self.prompts.tables.item_runs.lengths_E
        part = next(
            part
            for part in self.prompts.tables.list_inputs[int(self.numbers_T[0])]
            if part.kind == "list"
        )
        mask = int(self.prompts.run_lengths[part.masked : part.masked + 2].max())
        self._spare = most * max(0, mask - int(lengths_I.min(initial=mask)))
        fixed = self._longest() + self._spare
        self._check_room(fixed, self.end_N - 2, self.end_N)
        self.max_input_length = min(fixed + self._window_bound(), self.limit)
        items_NJ = self.begin_N[:, None] + np.arange(window)
        lengths_X = lengths_I[self.dataset.items_X]
        there_NJ = items_NJ < self.end_N[:, None]
        tokens_NJ = np.where(there_NJ, lengths_X[np.where(there_NJ, items_NJ, 0)], 0)
        tokens_NJ = -np.sort(-tokens_NJ, axis=1)
        masked_N = self.num_masked(self.end_N - self.begin_N)
        tokens_NJ[np.arange(window) >= masked_N[:, None]] = 0
        fixed = max(
            list_prompts.longest(
                self.prompts.run_lengths,
                self.prompts.tables.list_targets[number],
                self.dataset.num_items,
                {},
            )
            for number in self.numbers_T.tolist()
        )
        self.max_target_length = fixed + int(tokens_NJ.sum(axis=1).max())


class MaskedSpansTask(WindowTask):
    """MLM: T5's span corruption of 2 to w consecutive items of a user's training part (section 3.1.2).

    The length is drawn evenly from 2 to the smaller of w and the items there are, then the start evenly;
    both anew in each epoch, as the spans. The paper does not say how many samples a user gets: here one
    for each of MIM's windows.
    """

    epochs_differ = True

    def __init__(self, *arguments: Any, **keywords: Any):
        """See `WindowTask`.

        Raises:
            UserError: the vocabulary has no sentinels.
        """
        self._sentinel_starts_S = np.zeros(0, np.int64)
        super().__init__(*arguments, **keywords)

    def window(
        self, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """See `WindowTask.window`."""
        users_E = self.dataset.users_X[self.begin_N[index_E]]
        first_E = self.dataset.offsets_U1[users_E]
        there_E = self.splits.train_end_U[users_E] - first_E
        longest_E = np.minimum(there_E, self.settings.window)
        length_E = 2 + self._draw(0, epoch_E, index_E, longest_E - 1)
        start_E = self._draw(1, epoch_E, index_E, there_E - length_E + 1)
        return first_E + start_E, first_E + start_E + length_E

    def _draw(
        self, which: int, epoch_E: np.ndarray, index_E: np.ndarray, sizes_E: np.ndarray
    ) -> Any:
        """One of 0..size-1 for each row."""
        hashes_E = self._hash(WINDOW, which, epoch_E, index_E)
        return (hashes_E % sizes_E.astype(np.uint64)).astype(np.int64)

    def _plan_rows(
        self, number: int, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> ExamplePlan:
        begin_E, end_E = self.window(epoch_E, index_E)
        fitting_E = self._fit(number, {}, begin_E, end_E)
        text = self.prompts.history(fitting_E, end_E)
        inputs, targets = span_corruption.corrupt(
            text.starts_EJ[:, 0],
            text.lengths_EJ[:, 0],
            self._sentinel_starts_S,
            self.settings.corruption,
            *(self.seed, SPANS, self.stream, epoch_E, index_E),
        )
        tables, count = self.prompts.tables, len(index_E)
        return ExamplePlan(
            self._planned(tables.list_inputs[number], {"window": inputs}, count),
            self._planned(tables.list_targets[number], {"spans": targets}, count),
            self.dataset.users_X[begin_E],
            np.full(count, UNKNOWN_USER, np.int32),
            np.full(count, number),
            fitting_E > begin_E,
        )

    def _planned(self, text: Any, values: dict[str, RunPlan], count: int) -> RunPlan:
        return list_prompts.plan(self.prompts, text, count, values)

    def _set_bounds(self) -> None:
        self._sentinel_starts_S = _sentinel_starts(self.prompts)
        fixed = self._longest()
        lengths_X = self.prompts.tables.item_runs.lengths_E[self.dataset.items_X]
        longest = int(lengths_X.argmax())
        self._check_room(fixed, np.array([longest]), np.array([longest + 1]))
        # Any run of w items of a user may be drawn, so windows bound the tokens that are corrupted.
        tokens = min(self._window_bound(), self.limit - fixed)
        self.max_input_length = min(fixed + self._window_bound(), self.limit)
        lengths = np.arange(2, max(3, tokens + 1))
        masked, spans = span_corruption.spans_of(lengths, self.settings.corruption)
        ends = 1  # end-of-sequence
        self.max_target_length = int((masked + spans).max()) + ends


def _sentinel_starts(prompts: BoundPrompts) -> Int64[np.ndarray, " S"]:
    """Where the pool has `<extra_id_0>`, `<extra_id_1>`, ...

    Raises:
        UserError: the vocabulary has none.
    """
    runs = prompts.tables.sentinel_runs
    if runs is None:
        raise UserError(
            f"the vocabulary has no {vocabulary.SENTINELS[-1]}, which masked language modelling writes;"
            " wanted one that `genrec index` made (with --vocabulary it adds the sentinels to T5's)"
        )
    return prompts.columns(np.arange(runs, runs + len(vocabulary.SENTINELS))[None]).starts_EJ[0]
