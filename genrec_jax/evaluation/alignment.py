"""The alignment system's three questions in one evaluator: retrieval, ranking and rating prediction.

Retrieval searches the whole catalogue as every evaluator does. Ranking searches each example's own
candidates, with beams and exactly, by scoring them all. Rating prediction compares the probabilities of the
two answers at the decoder's first step; its AUC-ROC stands apart from the lists' metrics.
(Cao et al. 2024, sections 3.1 and 4.1.)
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Int32

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.evaluation import auc, ranking, results
from genrec_jax.evaluation.evaluator import Evaluator, Params, Scored, system_name
from genrec_jax.evaluation.exact import ExactComparison
from genrec_jax.evaluation.ranking import OnLists, UserRanks
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.prompts.templates import Template

RankCandidates = Callable[
    [Dataset, Splits, Int[np.ndarray, " E"], Int[np.ndarray, "E C"]],
    Mapping[str, Int[np.ndarray, " E"]],
]
"""(dataset, splits, targets, candidates) -> by system, each target's rank among its candidates."""

Rate = Callable[
    [Dataset, Splits, Int[np.ndarray, " E"], float], Mapping[str, Float[np.ndarray, " E"]]
]
"""(dataset, splits, users, like_above) -> by system, a score that each user likes what comes next."""


class Choices:
    """Each ranking example's candidates, and how they are searched.

    Attributes:
        users_E: users with a ranking example, ascending.
        items_UC: the candidates by user in ascending order, filled as prompts are made; -1 before.
        comparison: beside the beams' lists, the scores of all candidates; None: these are not wanted.
    """

    def __init__(
        self,
        users_E: Int32[np.ndarray, " E"],
        num_users: int,
        num_candidates: int,
        search: Callable[[Params, PromptBatch, np.ndarray], tuple[ArrayLike, ArrayLike]],
        compare: Callable[[Callable[[Params, PromptBatch], Any]], ExactComparison] | None,
        score: Callable[[Params, PromptBatch, np.ndarray], Any],
    ):
        """Binds the searches.

        Args:
            users_E: users with a ranking example, ascending.
            num_users: of the dataset.
            num_candidates: of an example (C).
            search: (params, batch, candidates) -> lists of these.
            compare: makes the comparison, given (params, batch) -> scores of candidates; None: there is
                to be none.
            score: (params, batch on the devices, candidates) -> their scores.
        """
        self.users_E = users_E
        self.items_UC = np.full((num_users, num_candidates), -1, np.int32)
        self._search, self._score = search, score
        self._asked_BC = self.items_UC[:0]
        self.comparison = None
        if compare is not None:
            self.comparison = compare(
                lambda params, batch: self._score(params, batch, self._asked_BC)
            )

    def learn(self, users_E: Int[np.ndarray, " E"], items_EC: Int[np.ndarray, "E C"]) -> None:
        """Takes the candidates of some users."""
        self.items_UC[users_E] = np.sort(items_EC, axis=1)

    def recommend(self, params: Params, batch: PromptBatch) -> tuple[ArrayLike, ArrayLike]:
        """Searches each user's candidates with beams, and scores them all beside it, where wanted."""
        users_B = np.asarray(batch.users_B)
        self._asked_BC = np.where(users_B[:, None] >= 0, self.items_UC[users_B], -1)
        lists = self._search(params, batch, self._asked_BC)
        if self.comparison is None:
            return lists
        items_BR, scores_BR = map(np.asarray, lists)
        # The comparison knows candidates by their place, in the order of item numbers.
        targets_B = _places(self._asked_BC, np.asarray(batch.targets_B)[:, None])[:, 0]
        placed = dataclasses.replace(batch, targets_B=targets_B)
        self.comparison.add(params, placed, _places(self._asked_BC, items_BR), known=False)
        return items_BR, scores_BR


@dataclasses.dataclass(frozen=True)
class Ratings:
    """How likely each user is to like the held-out item, and whether they did.

    Attributes:
        users_E: the users.
        labels_E: whether the user liked it.
        odds: by row, one a wording (`model/rating/rating`), the model's log-odds that they do.
    """

    users_E: Int[np.ndarray, " E"]
    labels_E: Bool[np.ndarray, " E"]
    odds: Mapping[str, Float[np.ndarray, " E"]]

    def summary(
        self, others: Mapping[str, Float[np.ndarray, " E"]], level: float
    ) -> dict[str, Any]:
        """The `ratings` entry of metrics.json: see `results`."""
        scores = {**self.odds, **others}
        return {
            "users": len(self.users_E),
            "liked": float(self.labels_E.mean()),
            "systems": {
                name: {"auc_roc": results.entry(auc.estimate(given_E, self.labels_E, level))}
                for name, given_E in scores.items()
            },
            "paired": [
                {"a": model, "b": name, "metric": "auc_roc"}
                | results.entry(auc.compare(odds_E, given_E, self.labels_E, level))
                for model, odds_E in self.odds.items()
                for name, given_E in others.items()
            ],
        }


@dataclasses.dataclass(frozen=True)
class Question:
    """Rating prediction.

    Attributes:
        users_E: users with a rated held-out item, ascending.
        like_above: a rating above it is a like.
        wordings: the templates of each wording (`choose_wordings`), whose first one names the row.
        batches: a wording's first template -> prompts, and for each row the label.
        odds: (params, batch) -> log-odds of a like.
    """

    users_E: Int32[np.ndarray, " E"]
    like_above: float
    wordings: Sequence[Sequence[Template]]
    batches: Callable[[Template], Iterable[tuple[PromptBatch, Bool[np.ndarray, " B"]]]]
    odds: Callable[[Params, PromptBatch], Float[np.ndarray, " B"]]


class AlignmentEvaluator(Evaluator):
    """Scores parameters on the questions that a run was trained on.

    `templates` holds those that ask for an item, retrieval's and ranking's; rating is asked by `rate`.

    Attributes:
        choices: ranking's candidates, None where ranking is not asked.
        question: rating, None where it is not asked.
    """

    def __init__(
        self,
        *,
        choices: Choices | None,
        question: Question | None,
        templates: Sequence[Scored],
        **bound: Any,
    ):
        """Binds everything but the parameters; the rest is `Evaluator`'s."""
        super().__init__(templates=templates, **bound)
        self.choices, self.question = choices, question

    def num_rows(self, template: Scored) -> int:
        """Users that are scored with one template."""
        return len(self.users_of(template))

    def users_of(self, template: Scored) -> Int32[np.ndarray, " E"]:
        """The users whose held-out items a template asks for, ascending."""
        choices = self._choices_of(template)
        return self._users_E if choices is None else choices.users_E

    def asked(self) -> tuple[Scored, ...]:
        """See `Evaluator.asked`."""
        wordings = () if self.question is None else self.question.wordings
        return tuple(dict.fromkeys([*self.templates, *itertools.chain(*wordings)]))

    def comparison(self, template: Scored) -> ExactComparison | None:
        """What holds the exact ranks of the last `rank`: in ranking, always but while training."""
        choices = self._choices_of(template)
        return self.exact if choices is None else choices.comparison

    def rank(self, params: Params, template: Scored, on_lists: OnLists | None = None) -> UserRanks:
        """Searches the catalogue or, in ranking, each user's candidates; see `Evaluator.rank`."""
        choices = self._choices_of(template)
        if choices is None:
            return super().rank(params, template, on_lists)
        recommend = functools.partial(choices.recommend, params)
        return ranking.rank_users(
            self._batches(template, recommend),
            recommend,
            self.dataset,
            self.splits,
            self.split,
            on_lists,
        )

    def rate(self, params: Params) -> Ratings | None:
        """Asks whether users like their held-out items; None where the run does not know how."""
        if self.question is None or not len(self.question.users_E):
            return None
        odds = {}
        for template, *_ in self.question.wordings:
            users_E, labels_E, odds_E = self._rate_with(params, self.question, template)
            odds[system_name(template)] = odds_E
        return Ratings(users_E, labels_E, odds)

    def _rate_with(
        self, params: Params, question: Question, template: Template
    ) -> tuple[Int[np.ndarray, " E"], Bool[np.ndarray, " E"], Float[np.ndarray, " E"]]:
        """Users in ascending order, labels and log-odds in one wording."""
        parts, odds = [], functools.partial(question.odds, params)
        batches = question.batches(template)
        if self.tracer is not None:
            batches = self.tracer.trace(batches, lambda asked: odds(asked[0]))
        for batch, labels_B in batches:
            self.before_batch()
            odds_B = odds(batch)
            users_B = np.asarray(batch.users_B)
            real_B = users_B >= 0
            parts.append((users_B[real_B], labels_B[real_B], odds_B[real_B]))
        users_E, labels_E, odds_E = map(np.concatenate, zip(*parts, strict=True))
        order_E = np.argsort(users_E)
        return users_E[order_E], labels_E[order_E], odds_E[order_E]

    def _choices_of(self, template: Scored) -> Choices | None:
        return self.choices if template.task == "ranking" else None


def _places(sorted_BC: Int[np.ndarray, "B C"], items_BR: Int[np.ndarray, "B R"]) -> np.ndarray:
    """Where items stand in their row's sorted candidates; -1 for empty places."""
    same_BRC = items_BR[:, :, None] == sorted_BC[:, None, :]
    found_BR = same_BRC.any(axis=2) & (items_BR >= 0)
    return np.where(found_BR, same_BRC.argmax(axis=2), -1).astype(np.int32)
