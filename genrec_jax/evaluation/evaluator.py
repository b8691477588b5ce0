"""The evaluator: built once for one dataset of a run, it scores any parameters, in training or after.

A model is scored once a template. Results are named `model/<task>/<template>`, so that it is always
clear whether the prompt's wording was seen in training.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Int32

from genrec_jax import checks
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.decoding.exact import BLOCK_SIZE
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.errors import UserError
from genrec_jax.evaluation import auc, ranking
from genrec_jax.evaluation.exact import ExactComparison
from genrec_jax.evaluation.intervals import BootstrapConfig
from genrec_jax.evaluation.ranking import OnLists, UserRanks
from genrec_jax.model.config import CHOICES
from genrec_jax.parallel.profiling import TracedBatches
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.prompts.templates import EVALUATED_TASKS, SEARCHED_TASKS, Template

Params = nnx.State
SCORED_TASKS = tuple(dict.fromkeys((*SEARCHED_TASKS, *EVALUATED_TASKS)))
"""Tasks that are about users' held-out items."""


@runtime_checkable
class Scored(Protocol):
    """The subject of a row of results: a prompt template, or a task of a SeqIO mixture."""

    @property
    def id(self) -> str:
        """Its name, such as `A1`."""
        ...

    @property
    def task(self) -> str:
        """Its task, such as `sequential`."""
        ...

    @property
    def seen(self) -> bool | None:
        """Whether training saw the wording; None where that is not known."""
        ...


@runtime_checkable
class Rated(Protocol):
    """What rating prediction says of some users; see `alignment.Ratings`."""

    users_E: np.ndarray
    labels_E: np.ndarray
    odds: Mapping[str, np.ndarray]


Search = Callable[[Params, PromptBatch], tuple[ArrayLike, ArrayLike]]
"""Compiled beam search: items (B, R) int32 and scores (B, R) float32, as `ranking.Recommend`."""

PromptsOf = Callable[[str], Iterable[PromptBatch]]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How a model is evaluated.

    Attributes:
        split: `validation` or `test`.
        templates: ids of the prompts, such as `("A1", "A11")`. None: for each task the run was
            trained on, the first seen and the first unseen one (OpenP5's own choice).
        num_beams: beams, and length of the lists.
        length_penalty: see `BeamConfig`; OpenP5's published numbers have 1.0.
        finish_within_beams: Hugging Face's finishing rule, as in OpenP5's published numbers.
        exact_exclusion: search a second time for the figures with seen items excluded, in a
            catalogue without the user's history. Otherwise the history is struck from the one list,
            which leaves it shorter and understates these figures at large cutoffs.
        exact: score every item of the catalogue too, for true ranks and for what the beams missed.
        exact_block: prefixes scored at once for each user; memory is in proportion.
        dtype: activations, `float32` or `bfloat16`; None takes the run's own. bfloat16 rounds so coarsely
            that lists and exact scores depend on batch, mesh and block.
        batch_size: users searched at once.
        max_users: score a seeded sample of this many users only; None scores everybody.
        seed: of that sample.
        intervals: bootstrap settings.
    """

    split: SplitName = "test"
    templates: Sequence[str] | None = None
    num_beams: int = 20
    length_penalty: float = 0.0
    finish_within_beams: bool = False
    exact_exclusion: bool = False
    exact: bool = False
    exact_block: int = BLOCK_SIZE
    dtype: str | None = None
    batch_size: int = 64
    max_users: int | None = None
    seed: int = 0
    intervals: BootstrapConfig = dataclasses.field(default_factory=BootstrapConfig)

    def __post_init__(self):
        if isinstance(self.templates, str):
            object.__setattr__(self, "templates", (self.templates,))
        elif self.templates is not None:
            object.__setattr__(self, "templates", tuple(self.templates))
        if self.split not in ("validation", "test"):
            raise UserError(f"split is {self.split!r}; wanted validation or test")
        checks.whole_fields(self, "num_beams", "batch_size", "exact_block")
        checks.whole_fields(self, "max_users", otherwise="all users")
        checks.whole_fields(self, "seed", least=0)
        checks.number_fields(self, "length_penalty", least=0)
        checks.flag_fields(self, "finish_within_beams", "exact_exclusion", "exact")
        if self.dtype not in (None, *CHOICES["dtype"]):
            known = " or ".join(CHOICES["dtype"])
            raise UserError(f"dtype is {self.dtype!r}; wanted {known}, or None for the run's own")
        if self.exact and self.length_penalty:
            raise UserError(
                f"length_penalty is {self.length_penalty} and exact is asked for; wanted 0, for true ranks"
                " are by log-probability, without which beams cannot be compared with them"
            )

    def folder(self, step: int) -> str:
        """What a result is called: `test-2000`, and what its search has of its own, `-beams10`.

        A sample never takes the place of everybody's, nor one search that of another.
        """
        usual = EvaluateConfig()
        of_sample, of_intervals = self.max_users is not None, usual.intervals
        own = {
            f"sample{self.max_users}": of_sample,
            f"seed{self.seed}": of_sample and self.seed != usual.seed,
            f"beams{self.num_beams}": self.num_beams != usual.num_beams,
            f"penalty{self.length_penalty:g}": self.length_penalty != usual.length_penalty,
            "within-beams": self.finish_within_beams,
            "exact-exclusion": self.exact_exclusion,
            f"{self.dtype}": self.dtype is not None,
            f"level{self.intervals.level:g}": self.intervals.level != of_intervals.level,
            f"resamples{self.intervals.resamples}": self.intervals.resamples
            != of_intervals.resamples,
            f"bootstrap{self.intervals.seed}": self.intervals.seed != of_intervals.seed,
        }
        return "-".join([self.split, str(step), *(name for name, is_own in own.items() if is_own)])

    @property
    def beams(self) -> BeamConfig:
        """The search this asks for."""
        return BeamConfig(
            num_beams=self.num_beams,
            num_results=self.num_beams,
            length_penalty=self.length_penalty,
            finish_within_beams=self.finish_within_beams,
        )


def choose_templates(
    templates: Sequence[Template], tasks: Sequence[str], wanted: Sequence[str] | None
) -> tuple[Template, ...]:
    """The templates to evaluate with.

    Args:
        templates: all of the run's.
        tasks: what the run was trained on.
        wanted: template ids; None takes the first seen and the first unseen one of each task.

    Raises:
        UserError: an id that the run does not have, the same one twice, or a task that only trains.
    """
    if wanted is None:
        chosen = []
        for task in tasks:
            for seen in (True, False) if task in SCORED_TASKS else ():
                chosen += [t for t in templates if t.task == task and t.seen == seen][:1]
        if not chosen:
            raise UserError(
                f"this run was trained on {', '.join(tasks)}, of which nothing can be scored on users'"
                f" held-out items; wanted a run of one of {', '.join(SCORED_TASKS)}"
            )
        return tuple(chosen)
    by_id = {template.id: template for template in templates}
    check_names(wanted, list(by_id), "template")
    chosen = tuple(by_id[name] for name in wanted)
    for template in chosen:
        if template.task not in SCORED_TASKS:
            raise UserError(
                f"template {template.id} is of the task {template.task}, which only trains and holds"
                f" nothing out to score; wanted templates of {', '.join(SCORED_TASKS)}"
            )
    return chosen


def check_names(wanted: Sequence[str], known: Sequence[str], kind: str) -> None:
    """Checks that a run has the names of --templates, each given once.

    Raises:
        UserError: it says which, and what there is.
    """
    unknown = [name for name in wanted if name not in known]
    twice = [name for name in dict.fromkeys(wanted) if list(wanted).count(name) > 1]
    if unknown:
        problem = f"this run has no {kind} {', '.join(unknown)}"
    elif twice:
        problem = f"{kind} {', '.join(twice)} is named twice"
    elif not wanted:
        problem = f"no {kind} is named"
    else:
        return
    raise UserError(
        f"{problem}; wanted one or several of {', '.join(known)}, each once. Name them with --templates,"
        " separated by commas, or leave it out for the usual ones"
    )


def system_name(template: Scored) -> str:
    """The name of the model's row for one template, such as `model/sequential/A1`."""
    return f"model/{template.task}/{template.id}"


class Evaluator:
    """Scores parameters on one dataset; compiles and prepares prompts once.

    Attributes:
        dataset: what the users come from.
        splits: where the histories end.
        split: which target is to be found.
        templates: the prompts, in the order they are scored.
        max_rank: length of the lists.
        unit: what is scored, in the plural.
        protocol: how inputs and targets were chosen.
        remarks: what could not be scored, a sentence each.
        exact: what compares the search with the whole catalogue's scores, if anything does.
        tracer: traces the first batches, where that is wanted.
        before_batch: called before each batch; what it raises ends the evaluation.
    """

    unit = "users"

    def __init__(
        self,
        *,
        dataset: Dataset,
        splits: Splits,
        split: SplitName,
        users_E: Int32[np.ndarray, " E"],
        templates: Sequence[Scored],
        prompts_of: PromptsOf,
        search: Search,
        search_unseen: Search | None = None,
        max_rank: int,
        keep_prompts: bool = False,
        exact: ExactComparison | None = None,
    ):
        """Binds everything but the parameters.

        Args:
            dataset: the histories.
            splits: where they end.
            split: which target is to be found.
            users_E: users that `prompts_of` has prompts for, in ascending order.
            templates: the prompts to score with.
            prompts_of: template id -> batches of prompts of distinct users; called once a scoring.
            search: (params, batch) -> lists, compiled.
            search_unseen: the same without the items of the users' histories, where these are not
                to be struck from the first list.
            max_rank: length of the lists.
            keep_prompts: hold the prompts in memory, for scoring the same users again and again.
            exact: scores the whole catalogue beside the search; it then holds the last `rank`'s.
        """
        self.dataset, self.splits = dataset, splits
        self.split: SplitName = split
        self._users_E, self.max_rank = users_E, max_rank
        self.templates = tuple(templates)
        self.protocol: str = splits.protocol
        self.remarks: tuple[str, ...] = ()
        self._prompts_of, self._keep = prompts_of, keep_prompts
        self._kept: dict[str, list[PromptBatch]] = {}
        self._search, self._search_unseen = search, search_unseen
        self.exact = exact
        self.tracer: TracedBatches | None = None
        self.before_batch: Callable[[], None] = lambda: None

    @property
    def num_users(self) -> int:
        """Users that are scored; with a SeqIO mixture, examples of all its tasks."""
        return len(self._users_E)

    def num_rows(self, template: Scored) -> int:
        """Users that are scored with one template."""
        return len(self._users_E)

    def users_of(self, template: Scored) -> Int32[np.ndarray, " E"] | None:
        """The users, ascending, whose held-out items a template asks for; None: it asks for others."""
        return self._users_E

    def rank(self, params: Params, template: Scored, on_lists: OnLists | None = None) -> UserRanks:
        """Searches for every user with one template and ranks the targets.

        Args:
            params: the model's parameters.
            template: one of `templates`.
            on_lists: told of each block of lists.
        """
        recommend, unseen = self._recommend(params, known=True), None
        if self._search_unseen is not None:
            unseen = functools.partial(self._search_unseen, params)
        return ranking.rank_users(
            self._batches(template, recommend, unseen),
            recommend,
            self.dataset,
            self.splits,
            self.split,
            on_lists,
            unseen,
        )

    def asked(self) -> tuple[Scored, ...]:
        """Every template that is asked with, those of rating prediction among them."""
        return self.templates

    def comparison(self, template: Scored) -> ExactComparison | None:
        """What holds the exact ranks of the last `rank`, if anything does."""
        return self.exact

    def rate(self, params: Params) -> Rated | None:
        """Rating prediction, where a run knows it (`alignment.AlignmentEvaluator`)."""
        return None

    def metrics(self, params: Params) -> dict[str, float]:
        """Metrics for the training loop, seen items kept.

        Returns:
            `hr@10` and `ndcg@10` (with lists shorter than 10, at their length): the mean over the
            templates, and each template's own as `hr@10/sequential/A1`. Where some search the whole
            catalogue and others their own candidates, the mean is over the former. `auc` is that of
            rating prediction in its first wording, where a run knows it.
        """
        cutoff = min(10, self.max_rank)
        values: dict[str, float] = {}
        of_catalogue = [t for t in self.templates if t.task != "ranking"] or list(self.templates)
        for kind in ("hr", "ndcg") if of_catalogue else ():
            values[f"{kind}@{cutoff}"] = 0.0
        rated = self.rate(params)
        if rated is not None:
            values["auc"] = auc.auc_roc(next(iter(rated.odds.values())), rated.labels_E)
        for template in self.templates:
            histogram = self.rank(params, template).histogram(self.max_rank)
            for kind in ("hr", "ndcg"):
                value = histogram.mean(f"{kind}@{cutoff}")
                values[f"{kind}@{cutoff}/{template.task}/{template.id}"] = value
                if template in of_catalogue:
                    values[f"{kind}@{cutoff}"] += value / len(of_catalogue)
        return values

    def _recommend(self, params: Params, known: bool) -> ranking.Recommend:
        """The search with its parameters, and what is to be done beside it."""
        search = functools.partial(self._search, params)
        return search if self.exact is None else self.exact.beside(search, params, known)

    def _batches(
        self, template: Scored, *searches: ranking.Recommend | None
    ) -> Iterator[PromptBatch]:
        """A template's prompts; the first of all under a trace, if one is wanted."""
        batches = self._prompts(template.id)
        if self.tracer is None:
            return batches

        def warm_up(batch: PromptBatch) -> None:
            for search in searches:
                if search is not None:
                    jax.block_until_ready(search(batch))
            comparison = self.comparison(template)
            if comparison is not None:
                comparison.take(known=False)  # the batch will come again

        return self.tracer.trace(batches, warm_up)

    def _prompts(self, template_id: str) -> Iterator[PromptBatch]:
        if self._keep and template_id not in self._kept:
            self._kept[template_id] = list(self._prompts_of(template_id))
        for batch in self._kept[template_id] if self._keep else self._prompts_of(template_id):
            self.before_batch()
            yield batch
