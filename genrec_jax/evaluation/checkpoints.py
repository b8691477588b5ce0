"""Evaluates one checkpoint of a run: `eval/<split>-<step>/`, with metrics, lists and the baselines' ranks.

What is searched otherwise than usual, a sample of N users for instance, goes to a folder of its own,
`eval/<split>-<step>-sampleN/` (`EvaluateConfig.folder`).
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
from jax.sharding import Mesh

from genrec_jax import storage
from genrec_jax.checkpoint import manifest, restore, store
from genrec_jax.checkpoint.run_dir import EVALUATIONS, EVENTS_FOLDER, RunDir
from genrec_jax.data import artefacts
from genrec_jax.evaluation import (
    description,
    from_run,
    merging,
    predictions,
    ranking,
    reference_ranks,
    results,
    tie_orders,
)
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation.alignment import AlignmentEvaluator
from genrec_jax.evaluation.evaluator import EvaluateConfig, Evaluator
from genrec_jax.evaluation.exact import ExactRanks
from genrec_jax.evaluation.reference_ranks import BASELINES, ReferenceGroup, References
from genrec_jax.evaluation.results import SystemRanks
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel.profiling import TracedBatches
from genrec_jax.progress import Steps


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was written for one dataset.

    Attributes:
        folder: path or URL of the folder that holds metrics.json and predictions.parquet.
        metrics: the content of metrics.json.
    """

    folder: artefacts.PathLike
    metrics: dict[str, Any]


def evaluate_checkpoint(
    run_dir: RunDir | artefacts.PathLike,
    checkpoint: restore.Which = "best",
    config: EvaluateConfig | None = None,
    *,
    data: from_run.DataPaths | None = None,
    references: References = BASELINES,
    mesh: Mesh | None = None,
    show_progress: bool = False,
    profile: Callable[[str], None] | None = None,
) -> tuple[Evaluation, ...]:
    """Searches the whole catalogue for every user, and writes metrics and predictions: `genrec evaluate`.

    Args:
        run_dir: the run.
        checkpoint: `best` on validation, `latest`, or a step.
        config: split, templates, beams; the defaults when not given.
        data: dataset name or fingerprint -> folder, where a dataset has moved since training.
        references: systems to stand beside the model and be compared with: the baselines, unless others
            are given, or `reference_ranks.NONE`.
        mesh: the devices; all of them, each with its own users, when not given.
        show_progress: draw a bar on stderr.
        profile: trace the first batches, and tell this where the trace lies.

    Returns:
        One evaluation for each dataset of the run. What an earlier one of the same parameters and
        search measured, and this one does not, is kept beside it (`merging`).

    Raises:
        UserError: no valid checkpoint, another dataset than the trained one, an unknown template,
            references that answer in another form, a full disk.
    """
    evaluation = RunEvaluation(
        run_dir,
        config,
        data=data,
        references=references,
        mesh=mesh,
        show_progress=show_progress,
        profile=profile,
    )
    return evaluation.evaluate(checkpoint)


class RunEvaluation:
    """Evaluates any number of checkpoints of one run; datasets, search and references are made once.

    The arguments are those of `evaluate_checkpoint`.
    """

    def __init__(
        self,
        run_dir: RunDir | artefacts.PathLike,
        config: EvaluateConfig | None = None,
        *,
        data: from_run.DataPaths | None = None,
        references: References = BASELINES,
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
        self._references = references = reference_ranks.checked(references)
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
        tracer = None
        if profile is not None:

            def traced(text: str) -> None:
                self.run.publish(f"{EVENTS_FOLDER}/plugins")
                profile(text)

            tracer = TracedBatches(self.run.events_dir, say=traced)
        self._groups: dict[str, list[ReferenceGroup]] = {}
        self._tie_orders: dict[str, dict[str, Any] | None] = {}
        for name, evaluator in self._evaluators.items():
            evaluator.tracer = tracer
            self._groups[name], self._tie_orders[name] = [], None
            rank_targets = references.rank_targets
            if rank_targets is not None and reference_ranks.has_users(evaluator):
                self._groups[name] = reference_ranks.of_scored_users(evaluator, rank_targets)
                self._tie_orders[name] = tie_orders.reference_spread(
                    evaluator.dataset,
                    evaluator.splits,
                    evaluator.split,
                    rank_targets,
                    max_rank=evaluator.max_rank,
                )

    def evaluate(self, checkpoint: restore.Which = "best") -> tuple[Evaluation, ...]:
        """Evaluates one checkpoint; see `evaluate_checkpoint`."""
        step = restore.choose_step(self.run, checkpoint)
        params = restore.restore_chosen(self.run, step, mesh=self._mesh)
        parameters = manifest.digest(self.run.checkpoint_dir / str(step), only=store.PARAMS)
        name = f"{EVALUATIONS}/{self._config.folder(step)}"
        self.run.bring(name)
        earlier, target = self.run.path / name, self.run.output_path(name)
        steps = Steps(enabled=self._show_progress)
        written = []
        with _output(target) as folder, steps.running():
            for name, evaluator in self._evaluators.items():
                place = folder if len(self._evaluators) == 1 else folder / name
                place.mkdir(exist_ok=True)
                began = time.monotonic()
                ranks, lists, exact = self._score(name, params, place, steps)
                references = [
                    *self._groups[name],
                    *reference_ranks.of_candidates(evaluator, self._references.rank_candidates),
                ]
                predictions.write_references(
                    place / predictions.REFERENCES_FILE, reference_ranks.rows(references, ranks)
                )
                now = {
                    "format_version": results.FORMAT_VERSION,
                    "run_dir": self.run.location,
                    "step": step,
                    "checkpoint": checkpoint,
                    "parameters": parameters,
                    "split": self._config.split,
                    **description.describe(self.run, evaluator, self._config, name, ranks),
                    **_systems(evaluator, ranks, exact, self._config, references),
                    "ratings": self._rate(name, params, steps),
                    "lists": lists,
                    "exact": {name: found.summary() for name, found in exact.items()} or None,
                    "tie_orders": self._tie_orders[name],
                    "notes": description.notes(self._config, evaluator),
                    "seconds": time.monotonic() - began,
                    "created": results.now(),
                    "conditions": results.conditions(),
                }
                below = place.relative_to(folder)
                metrics = self._beside_earlier(earlier / below, now, place)
                artefacts.write_json(place / results.METRICS_FILE, metrics)
                written.append(Evaluation(storage.join(target, *below.parts), metrics))
        return tuple(written)

    def _beside_earlier(
        self, earlier: pathlib.Path, now: dict[str, Any], place: pathlib.Path
    ) -> dict[str, Any]:
        """Adds what was measured earlier under the same name to what is written in `place`."""
        first_host = jax.process_index() == 0  # which alone looks at the folder that it replaces
        before = merging.earlier(earlier, now) if first_host else None
        if before is None:
            return now
        merging.merge_predictions(place, earlier, list(now["templates"]))
        return merging.merge(before, now, [template.id for template in self.run.templates])

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
        with steps.step(title, len(question.users_E) * len(question.wordings)) as tell:
            self._counter.start(tell)
            rated = evaluator.rate(params)
        if rated is None:  # nobody has a rated item to be asked about
            return None
        others = {}
        if self._references.rate is not None:
            others = self._references.rate(
                evaluator.dataset, evaluator.splits, rated.users_E, question.like_above
            )
        return rated.summary(others, self._config.intervals.level)


def _systems(
    evaluator: Evaluator,
    ranks: Mapping[str, ranking.UserRanks],
    exact: Mapping[str, ExactRanks],
    config: EvaluateConfig,
    references: Sequence[ReferenceGroup],
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
def _output(target: artefacts.PathLike) -> Iterator[pathlib.Path]:
    """Host 0 writes the result; the others, which compute the same, write into a folder that goes."""
    if jax.process_index() == 0:
        with artefacts.atomic_directory(
            target, overwrite=True, manifests=[results.METRICS_FILE]
        ) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
