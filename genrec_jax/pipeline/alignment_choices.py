"""Ranking and BPR: the next item among items that the user did not take."""

import zlib
from typing import Any

import numpy as np
from jaxtyping import Int64

from genrec_jax.data import hashing
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.pipeline import list_prompts
from genrec_jax.pipeline.alignment import NEGATIVES, PLACE, AlignmentTask, NextItemTask
from genrec_jax.pipeline.examples import ExamplePlan
from genrec_jax.pipeline.list_prompts import ItemLists, Positions
from genrec_jax.pipeline.negatives import NegativeSampler

CANDIDATE_SEED = 0
"""Of all held-out examples: runs of any training seed are asked about the same candidates."""


class ChoiceTask(NextItemTask):
    """Ranking and BPR: the target stands among items that the user did not take, anywhere in the list.

    Ranking's negatives belong to the example, as in the paper's fixed data samples; BPR draws anew in
    each epoch (section C.2, "dynamic sampling").
    """

    @property
    def slot(self) -> str:
        """The slot that shows the choice."""
        return "candidates" if self.task == "ranking" else "choices"

    def held_out(
        self, splits: Splits, split: SplitName, **options: Any
    ) -> tuple[AlignmentTask, ...]:
        """See `ExampleTask.held_out`; BPR only trains (Table 10: no validation samples)."""
        return super().held_out(splits, split, **options) if self.task == "ranking" else ()

    def choices(
        self, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, "E J"], Int64[np.ndarray, " E"]]:
        """The items shown, in order, and the target's place among them.

        Held-out examples draw by user, so that a user has the same candidates whoever else is asked for,
        and from a seed of their own, so that every run has them.
        """
        end_E = self.positions_N[index_E]
        users_E = self.dataset.users_X[end_E]
        if self.held_out_split is None:
            seed, key_E = self.seed, index_E
            salt = 0
        else:
            seed, key_E = CANDIDATE_SEED, users_E.astype(np.int64)
            salt = zlib.crc32(self.held_out_split.encode())
        when_E = epoch_E if self.task == "bpr" else np.zeros_like(epoch_E)
        negatives_EJ = self._sampler.draw(
            users_E, seed, NEGATIVES, self.stream, salt, when_E, key_E
        )
        count = negatives_EJ.shape[1] + 1
        draw_E = hashing.hash_numbers(seed, PLACE, self.stream, salt, when_E, key_E)
        place_E = (draw_E % np.uint64(count)).astype(np.int64)
        items_EJ = np.empty((len(index_E), count), np.int64)
        here_EJ = np.arange(count) == place_E[:, None]
        items_EJ[here_EJ] = self.dataset.items_X[end_E]
        items_EJ[~here_EJ] = negatives_EJ.ravel()
        return items_EJ, place_E

    def _choose_positions(self) -> None:
        count = self.settings.num_candidates - 1 if self.task == "ranking" else 1
        avoid = "training" if self.held_out_split is None else "all"
        self._sampler = NegativeSampler(self.dataset, self.splits, count, avoid)

    def _plan_rows(
        self, number: int, epoch_E: Int64[np.ndarray, " E"], index_E: Int64[np.ndarray, " E"]
    ) -> ExamplePlan:
        users_E, begin_E, end_E = self._history(index_E, self._shows(number))
        items_E = self.dataset.items_X[end_E]
        items_EJ, _ = self.choices(epoch_E, index_E)
        count = len(index_E)
        values: dict[str, Any] = {self.slot: ItemLists(items_EJ, np.full(count, items_EJ.shape[1]))}
        fitting_E = self._fit(number, values, begin_E, end_E)
        values["history"] = Positions(fitting_E, end_E)
        tables = self.prompts.tables
        inputs = list_prompts.plan(self.prompts, tables.list_inputs[number], count, values)
        templates_E = np.full(count, number)
        if self.task == "ranking":
            targets = self.prompts.plan_targets(templates_E, items_E)
        else:
            chosen = {"chosen": ItemLists(items_E[:, None], np.ones(count, np.int64))}
            targets = list_prompts.plan(self.prompts, tables.list_targets[number], count, chosen)
        return ExamplePlan(inputs, targets, users_E, items_E, templates_E, fitting_E > begin_E)

    def _set_bounds(self) -> None:
        fixed = self._longest(**{self.slot: self._sampler.count + 1})
        self._check_newest(fixed)
        self.max_input_length = min(fixed + self._history_bound(), self.limit)
        if self.task == "ranking":
            self.max_target_length = self._longest_item_target()
            return
        self.max_target_length = max(
            list_prompts.longest(
                self.prompts.run_lengths,
                self.prompts.tables.list_targets[number],
                self.dataset.num_items,
                {"chosen": 1},
            )
            for number in self.numbers_T.tolist()
        )
