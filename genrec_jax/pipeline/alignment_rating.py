"""Rating prediction: would the user like this item, given what was liked and disliked before."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64

from genrec_jax.errors import UserError
from genrec_jax.pipeline import list_prompts
from genrec_jax.pipeline.alignment import CASE, NextItemTask
from genrec_jax.pipeline.examples import Epochs, ExamplePlan
from genrec_jax.pipeline.list_prompts import ItemLists
from genrec_jax.pipeline.prompt_tables import BoundPrompts
from genrec_jax.prompts import templates

_SLOTS = ("dislikes", "likes")


class RatingTask(NextItemTask):
    """The next item is given, and asked for is whether its rating is a like.

    A template that has both lists is for a history of both; one that has a single list, for a history
    without the other.
    """

    def labels(self, index_E: Int64[np.ndarray, " E"]) -> Bool[np.ndarray, " E"]:
        """Whether the target's rating is a like."""
        return self._liked_X[self.positions_N[index_E]]

    def plan(self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]) -> ExamplePlan:
        """Plans examples; see `ExampleTask.plan`. The lists are cut first: they decide the template."""
        epoch_E, index_E = self._in_order(epochs, numbers_E)
        users_E, begin_E, end_E = self._history(index_E, self._shown)
        items_E = self.dataset.items_X[end_E].astype(np.int64)
        fitting_E = begin_E
        for number in self.numbers_T.tolist():
            fitting_E = self._fit(number, {"item": items_E}, fitting_E, end_E)
        places_EJ = fitting_E[:, None] + np.arange(self._shown)
        there_EJ = places_EJ < end_E[:, None]
        places_EJ = np.where(there_EJ, places_EJ, 0)
        shown_EJ, liked_EJ = self.dataset.items_X[places_EJ], self._liked_X[places_EJ]
        lists = [_listed(shown_EJ, there_EJ & (liked_EJ == like)) for like in (False, True)]
        kinds_E = (lists[0].counts_E > 0) + 2 * (lists[1].counts_E > 0)
        templates_E = self._of_kind(kinds_E, epoch_E, index_E)
        plans, places = [], []
        for number in np.unique(templates_E) if len(index_E) else self.numbers_T[:1]:
            rows = np.flatnonzero(templates_E == number)
            values: dict[str, Any] = {
                slot: ItemLists(one.items_EJ[rows], one.counts_E[rows])
                for slot, one in zip(_SLOTS, lists, strict=True)
            }
            values["item"] = items_E[rows]
            tables, count = self.prompts.tables, len(rows)
            answers = {"answer": self._liked_X[end_E[rows]]}
            plans.append(
                ExamplePlan(
                    list_prompts.plan(self.prompts, tables.list_inputs[number], count, values),
                    list_prompts.plan(self.prompts, tables.list_targets[number], count, answers),
                    users_E[rows],
                    self.dataset.items_X[end_E[rows]],
                    np.full(count, number),
                    (fitting_E > begin_E)[rows],
                )
            )
            places.append(rows)
        return ExamplePlan.scatter(plans, places)

    def _first_wording(self) -> list[str]:
        drawn = [self.prompts.tables.templates[number] for number in self.numbers_T.tolist()]
        return [template.id for template in templates.rating_wordings(drawn)[0]]

    def _choose_positions(self) -> None:
        ratings_X = self.dataset.ratings_X
        if ratings_X is None or np.isnan(ratings_X).any():
            without = "no ratings"
            if ratings_X is not None:
                missing = int(np.isnan(ratings_X).sum())
                without = f"no rating for {missing:,} of its {len(ratings_X):,} interactions"
            raise UserError(
                f"has {without}; rating prediction needs one for every interaction. Prepare it from a"
                " source that carries them (amazon, movielens, movietweetings, or table with a rating"
                " column, without the rows that lack one), or train a mixture without rating prediction",
                file=str(self.dataset.path),
            )
        self._liked_X = ratings_X > self.settings.like_above
        known = self.prompts.tables.templates
        self._by_kind: list[np.ndarray] = [np.zeros(0, np.int64)] * 4
        for number in self.numbers_T.tolist():
            kind = sum(
                1 << n for n, slot in enumerate(_SLOTS) if f"{{{slot}}}" in known[number].input
            )
            self._by_kind[kind] = np.append(self._by_kind[kind], number)
        for kind, missing in (
            (3, "{likes} and {dislikes}"),
            (2, "{likes} alone"),
            (1, "{dislikes} alone"),
        ):
            if not len(self._by_kind[kind]):
                raise UserError(
                    f"no rating template with seen = true has {missing}; histories of all three kinds occur"
                )
        shows = {known[number].shows for number in self.numbers_T.tolist()}
        if len(shows) > 1:
            raise UserError(
                f"the rating templates show {shows} items; wanted the same in all of them"
            )
        self._shown = min(shows.pop() or self.settings.window, self.settings.window)

    def _of_kind(
        self, kinds_E: Int64[np.ndarray, " E"], epoch_E: np.ndarray, index_E: np.ndarray
    ) -> Int64[np.ndarray, " E"]:
        """A template of each example's kind, drawn evenly."""
        templates_E = np.zeros(len(kinds_E), np.int64)
        for kind in (1, 2, 3):
            rows = np.flatnonzero(kinds_E == kind)
            choices = self._by_kind[kind]
            draw_E = self._hash(CASE, epoch_E[rows], index_E[rows]) % np.uint64(len(choices))
            templates_E[rows] = choices[draw_E.astype(np.int64)]
        return templates_E

    def _set_bounds(self) -> None:
        fixed = self._longest()
        self._check_newest(fixed)
        self.max_input_length = min(fixed + self._history_bound(), self.limit)
        both = [answers(self.prompts, number) for number in self.numbers_T.tolist()]
        self.max_target_length = max(len(answer) for pair in both for answer in pair)


def answers(prompts: BoundPrompts, number: int) -> tuple[list[int], list[int]]:
    """The tokens of the two answers to a rating template, like and dislike, end-of-sequence included.

    Raises:
        UserError: they begin with the same token.
    """
    tables = prompts.tables
    both = {"answer": np.array([True, False])}
    plan = list_prompts.plan(prompts, tables.list_targets[number], 2, both)
    like, dislike = prompts.tokens(plan).to_lists()
    if like[0] == dislike[0]:
        texts = tables.templates[number].texts
        raise UserError(
            f"the answers {texts.like!r} and {texts.dislike!r} begin with the same token, so a model's"
            " first token does not tell them apart; choose others in [texts], words that the vocabulary has"
        )
    return like, dislike


def _listed(items_EJ: np.ndarray, chosen_EJ: Bool[np.ndarray, "E J"]) -> ItemLists:
    """The chosen items of each row, in their order."""
    order_EJ = np.argsort(~chosen_EJ, axis=1, kind="stable")
    return ItemLists(np.take_along_axis(items_EJ, order_EJ, axis=1), chosen_EJ.sum(axis=1))
