"""Evaluates one checkpoint of a run: `eval/<split>-<step>/{metrics.json,predictions.parquet}`.

A sample of N users goes to `eval/<split>-<step>-sampleN/`.
"""

import contextlib
import dataclasses
import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts, audit
from genrec_jax.data.prepare_progress import Steps
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation import from_run, predictions, ranking, results, tie_orders
from genrec_jax.evaluation.alignment import AlignmentEvaluator, RankCandidates, Rate
from genrec_jax.evaluation.evaluator import EvaluateConfig, Evaluator
from genrec_jax.evaluation.exact import ExactRanks
from genrec_jax.evaluation.results import References, SystemRanks
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel.profiling import TracedBatches


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was written for one dataset.

    Attributes:
        folder: holds metrics.json and predictions.parquet.
        metrics: the content of metrics.json.
    """

    folder: pathlib.Path
    metrics: dict[str, Any]


def evaluate_checkpoint(
    run_dir: RunDir | artefacts.PathLike,
    checkpoint: restore.Which = "best",
    config: EvaluateConfig | None = None,
    *,
    data: from_run.DataPaths | None = None,
    references: References | None = None,
    mesh: Mesh | None = None,
    show_progress: bool = False,
) -> tuple[Evaluation, ...]:
    """Searches the whole catalogue for every user, and writes metrics and predictions.

    Args:
        run_dir: the run.
        checkpoint: `best` on validation, `latest`, or a step.
        config: split, templates, beams; the defaults when not given.
        data: dataset name -> folder, where a dataset has moved since training.
        references: systems to stand beside the model and be compared with.
        mesh: the devices; all of them, each with its own users, when not given.
        show_progress: draw a bar on stderr.

    Returns:
        One evaluation for each dataset of the run. An earlier one of the same split, step and size of
        sample is replaced, once the new one is complete.

    Raises:
        UserError: no valid checkpoint, another dataset than the trained one, an unknown template, a
            full disk.
    """
    evaluation = RunEvaluation(
        run_dir, config, data=data, references=references, mesh=mesh, show_progress=show_progress
    )
    return evaluation.evaluate(checkpoint)


class RunEvaluation:
    """Evaluates any number of checkpoints of one run; datasets, search and references are made once.

    The arguments are those of `evaluate_checkpoint`, and the alignment system's references: systems that
    rank each example's candidates, and that rate. With `profile` the first batches are traced, and it is
    told where the trace lies.
    """

    def __init__(
        self,
        run_dir: RunDir | artefacts.PathLike,
        config: EvaluateConfig | None = None,
        *,
        data: from_run.DataPaths | None = None,
        references: References | None = None,
        candidate_references: RankCandidates | None = None,
        rate_references: Rate | None = None,
        mesh: Mesh | None = None,
        show_progress: bool = False,
        profile: Callable[[str], None] | None = None,
    ):
        """Opens the run and its datasets.

        Raises:
            UserError: another dataset than the trained one, or an unknown template.
        """
        self.run = run_dir if isinstance(run_dir, RunDir) else RunDir.load(run_dir)
        self._config = config or EvaluateConfig()
        self._mesh = mesh or meshes.make_mesh()
        self._show_progress = show_progress and jax.process_index() == 0
        self._counter = _Counter()
        self._candidate_references = candidate_references
        self._rate_references = rate_references
        self._evaluators = {
            entry.name: from_run.build(
                self.run,
                self._config,
                self._mesh,
                dataset_name=entry.name,
                data=data,
                on_batch=self._counter,
            )
            for entry in self.run.datasets
        }
        tracer = TracedBatches(self.run.events_dir, say=profile) if profile else None
        self._references: dict[str, list[_Group]] = {}
        self._tie_orders: dict[str, dict[str, Any] | None] = {}
        for name, evaluator in self._evaluators.items():
            evaluator.tracer = tracer
            self._references[name], self._tie_orders[name] = [], None
            if references is not None and _has_users(evaluator):
                self._references[name] = _of_scored_users(evaluator, references)
                self._tie_orders[name] = tie_orders.reference_spread(
                    evaluator.dataset,
                    evaluator.splits,
                    evaluator.split,
                    references,
                    max_rank=evaluator.max_rank,
                )

    def evaluate(self, checkpoint: restore.Which = "best") -> tuple[Evaluation, ...]:
        """Evaluates one checkpoint; see `evaluate_checkpoint`."""
        step = restore.choose_step(self.run, checkpoint)
        params = restore.restore_params(self.run, step, mesh=self._mesh)
        target = self.run.eval_dir / self._config.folder(step)
        steps = Steps(enabled=self._show_progress)
        written = []
        with _output(target) as folder, steps.running():
            for name, evaluator in self._evaluators.items():
                place = folder if len(self._evaluators) == 1 else folder / name
                place.mkdir(exist_ok=True)
                began = time.monotonic()
                ranks, lists, exact = self._score(name, params, place, steps)
                metrics = {
                    "format_version": results.FORMAT_VERSION,
                    "run_dir": str(self.run.path),
                    "step": step,
                    "checkpoint": checkpoint,
                    "split": self._config.split,
                    "max_users": self._config.max_users,
                    **_describe(self.run, evaluator, self._config, name, ranks),
                    **_systems(
                        evaluator,
                        ranks,
                        exact,
                        self._config,
                        [*self._references[name], *self._choice_group(name)],
                    ),
                    "ratings": self._rate(name, params, steps),
                    "lists": lists,
                    "exact": {name: found.summary() for name, found in exact.items()} or None,
                    "tie_orders": self._tie_orders[name],
                    "notes": _notes(self._config, evaluator),
                    "seconds": time.monotonic() - began,
                    "created": results.now(),
                    "conditions": results.conditions(),
                }
                artefacts.write_json(place / results.METRICS_FILE, metrics)
                written.append(Evaluation(target / place.relative_to(folder), metrics))
        return tuple(written)

    def _score(
        self, dataset_name: str, params: Any, folder: pathlib.Path, steps: Steps
    ) -> tuple[dict[str, ranking.UserRanks], dict[str, Any], dict[str, ExactRanks]]:
        """Ranks under every template, written to predictions.parquet on the way; true ones, if asked."""
        evaluator = self._evaluators[dataset_name]
        texts = self.run.item_ids(dataset_name).texts
        ranks, lists, exact = {}, {}, {}
        with predictions.writing(folder / predictions.PREDICTIONS_FILE, texts) as writer:
            for template in evaluator.templates:
                name = evaluators.system_name(template)
                title = f"{dataset_name}, {name.removeprefix('model/')}"
                with steps.step(title, evaluator.num_rows(template)) as tell:
                    self._counter.start(tell)
                    write = functools.partial(writer.append, template.id)
                    found = evaluator.rank(params, template, write)
                ranks[name] = found
                lists[name] = {"seen_share": found.seen_share, "empty_share": found.empty_share}
                comparison = evaluator.comparison(template)
                if comparison is not None:
                    known = evaluator.users_of(template) is not None and template.task != "ranking"
                    exact[name] = comparison.take(known)
        return ranks, lists, exact

    def _rate(self, dataset_name: str, params: Any, steps: Steps) -> dict[str, Any] | None:
        """Rating prediction beside its references, where the run knows it."""
        evaluator = self._evaluators[dataset_name]
        if not isinstance(evaluator, AlignmentEvaluator) or evaluator.question is None:
            return None
        question = evaluator.question
        title = f"{dataset_name}, rating"
        with steps.step(title, len(question.users_E)) as tell:
            self._counter.start(tell)
            rated = evaluator.rate(params)
        assert rated is not None
        others = {}
        if self._rate_references is not None:
            others = self._rate_references(
                evaluator.dataset, evaluator.splits, rated.users_E, question.like_above
            )
        return rated.summary(others, self._config.intervals.level)

    def _choice_group(self, dataset_name: str) -> list["_Group"]:
        """Reference systems on ranking's candidates, once these are known."""
        evaluator = self._evaluators[dataset_name]
        if (
            not isinstance(evaluator, AlignmentEvaluator)
            or evaluator.choices is None
            or self._candidate_references is None
        ):
            return []
        users_E = evaluator.choices.users_E
        targets_E = evaluator.dataset.items_X[evaluator.splits.targets_U(evaluator.split)[users_E]]
        found = self._candidate_references(
            evaluator.dataset, evaluator.splits, targets_E, evaluator.choices.items_UC[users_E]
        )
        names = tuple(evaluators.system_name(t) for t in evaluator.templates if t.task == "ranking")
        return [
            _Group(
                names,
                {f"{name}/ranking": {"seen_kept": ranks_E} for name, ranks_E in found.items()},
            )
        ]


@dataclasses.dataclass(frozen=True)
class _Group:
    """Reference systems on the users of some of the model's rows.

    Attributes:
        models: names of those rows, all on the same users.
        systems: the references' ranks of these users, by name.
    """

    models: tuple[str, ...]
    systems: Mapping[str, SystemRanks]


def _systems(
    evaluator: Evaluator,
    ranks: Mapping[str, ranking.UserRanks],
    exact: Mapping[str, ExactRanks],
    config: EvaluateConfig,
    references: Sequence[_Group],
) -> dict[str, Any]:
    systems: dict[str, SystemRanks] = {}
    for name, found in ranks.items():
        systems[name] = found.footings()
        if name in exact:
            systems[name.replace("model/", "exact/", 1)] = exact[name].footings()
    for group in references:
        systems |= group.systems
    settings = {"max_rank": evaluator.max_rank, "config": config.intervals}
    pairs = [(m, other) for group in references for m in group.models for other in group.systems]
    return {
        "users": evaluator.num_users,
        "unit": evaluator.unit,
        "systems": results.summarise_systems(systems, **settings),
        "paired": results.compare_systems(systems, pairs, **settings),
        "interval": results.interval_entry(config.intervals, evaluator.unit),
    }


def _has_users(evaluator: Evaluator) -> bool:
    """Whether anything that is scored asks for the users' held-out items."""
    return any(
        evaluator.users_of(template) is not None and template.task != "ranking"
        for template in evaluator.templates
    )


def _of_scored_users(evaluator: Evaluator, references: References) -> list[_Group]:
    """The reference systems' ranks of exactly the users that the model is scored on.

    Where rows of the model are on different users, each such group has references of its own, named
    after its first row.
    """
    with_target_U = evaluator.splits.targets_U(evaluator.split) >= 0
    place_U = np.cumsum(with_target_U) - 1
    found = references(evaluator.dataset, evaluator.splits, evaluator.split)
    groups: dict[bytes, list[evaluators.Scored]] = {}
    for template in evaluator.templates:
        users_E = evaluator.users_of(template)
        if users_E is not None and template.task != "ranking":
            groups.setdefault(users_E.tobytes(), []).append(template)
    made = []
    for templates in groups.values():
        suffix = "" if len(groups) == 1 else f"/{templates[0].id}"
        places_E = place_U[evaluator.users_of(templates[0])]
        systems = {
            f"{name}{suffix}": {footing: ranks_E[places_E] for footing, ranks_E in footings.items()}
            for name, footings in found.items()
        }
        made.append(_Group(tuple(map(evaluators.system_name, templates)), systems))
    return made


def _describe(
    run: RunDir,
    evaluator: Evaluator,
    config: EvaluateConfig,
    dataset_name: str,
    ranks: Mapping[str, ranking.UserRanks],
) -> dict[str, Any]:
    dataset = evaluator.dataset
    index = artefacts.read_json(
        run.dataset(dataset_name).folder / item_ids_lib.MANIFEST,
        wanted="the description of the run's item ids",
        remedy="Run `genrec train` again",
    )
    return {
        "protocol": evaluator.protocol,
        "remarks": list(evaluator.remarks),
        "num_beams": config.num_beams,
        "length_penalty": config.length_penalty,
        "finish_within_beams": config.finish_within_beams,
        "exact_exclusion": config.exact_exclusion,
        "exact_block": config.exact_block if config.exact else None,
        "history": run.mixture["history"],
        "dataset": {
            "name": dataset.name,
            "path": dataset.url or str(dataset.path),
            "fingerprint": dataset.fingerprint,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "interactions": dataset.num_interactions,
        },
        "item_ids": {"method": index["method"], "parameters": index["parameters"]},
        "templates": {
            template.id: {"task": template.task, "seen": template.seen}
            for template in evaluator.templates
        },
        "audit": _audit(run, evaluator, dataset_name, ranks, index.get("audit", [])),
        "oracle": (
            dataset.manifest.get("oracle")
            if config.split == "test" and _has_users(evaluator)
            else None
        ),
    }


def _audit(
    run: RunDir,
    evaluator: Evaluator,
    dataset_name: str,
    ranks: Mapping[str, ranking.UserRanks],
    of_index: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The leakage audit made anew on what was evaluated, and what only indexing could check."""
    dataset, splits = evaluator.dataset, evaluator.splits
    made_anew = [
        *audit.audit_dataset(dataset, splits),
        *audit.audit_item_ids(dataset, splits, run.item_ids(dataset_name).texts),
    ]
    for template in evaluator.templates:
        if evaluator.users_of(template) is not None:
            scored = ranks[evaluators.system_name(template)]
            users_E = scored.users_E
            made_anew.append(
                audit.audit_predictions(
                    dataset, splits, evaluator.split, users_E, scored.targets_U[users_E]
                )
            )
            break
    checks = {result.check for result in made_anew}
    return [
        *map(dataclasses.asdict, made_anew),
        *(entry for entry in of_index if entry["check"] not in checks),
    ]


def _notes(config: EvaluateConfig, evaluator: Evaluator) -> list[str]:
    notes = [
        f"Every system's list is cut at {config.num_beams} items, the number of beams, before anything"
        " is measured."
    ]
    if _has_users(evaluator):
        notes.append(
            "Without items of the history: the model searched a second time, in a catalogue that lacks"
            " them."
            if config.exact_exclusion
            else "Without items of the history: they are struck from the model's list, which is then"
            " shorter, while the baselines rank all that is left. This understates the model at large"
            " cutoffs; `--exact-exclusion` searches a second time instead."
        )
    if config.exact:
        notes.append(
            "Rows `exact/...` rank every item of the catalogue by its score, without beams; like the"
            " other rows they are cut before HR, NDCG and MRR are taken, and their full MRR is apart."
        )
    if config.max_users is not None:
        notes.append(
            f"Only a random sample of at most {config.max_users} {evaluator.unit} was scored for each row"
            f" (seed {config.seed})."
        )
    if (config.num_beams, config.length_penalty, config.finish_within_beams) != (10, 1.0, True):
        notes.append(
            "The search is this project's own; OpenP5's published numbers have 10 beams, length"
            " penalty 1.0 and Hugging Face's rule for finished lists (`--num-beams 10"
            " --length-penalty 1 --finish-within-beams`)."
        )
    return notes


class _Counter:
    """Adds up users for the progress bar."""

    def __init__(self):
        self.start(lambda done: None)

    def start(self, tell: Callable[[int], None]) -> None:
        """Begins anew, for the next template."""
        self._tell, self._done = tell, 0

    def __call__(self, users: int) -> None:
        self._done += users
        self._tell(self._done)


@contextlib.contextmanager
def _output(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Host 0 writes the result; the others, which compute the same, write into a folder that goes."""
    if jax.process_index() == 0:
        with artefacts.atomic_directory(target, overwrite=True) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
