"""Evaluates one checkpoint of a run: `eval/<split>-<step>/{metrics.json,predictions.parquet}`."""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.prepare_progress import Steps
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation import from_run, predictions, ranking, results
from genrec_jax.evaluation.evaluator import EvaluateConfig, Evaluator
from genrec_jax.evaluation.results import SystemRanks
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.parallel import mesh as meshes

References = Callable[[Dataset, Splits, SplitName], Mapping[str, SystemRanks]]
"""Ranks of other systems, by name and footing, of every user of the dataset who has a target, in
user order. This is how baselines come in: they are imported by the command line, not from here."""


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
        One evaluation for each dataset of the run. An earlier one of the same split and step is
        replaced, once the new one is complete.

    Raises:
        UserError: no valid checkpoint, another dataset than the trained one, an unknown template, a
            full disk.
    """
    run = run_dir if isinstance(run_dir, RunDir) else RunDir.load(run_dir)
    config = config or EvaluateConfig()
    mesh = mesh or meshes.make_mesh()
    step = restore.choose_step(run, checkpoint)
    params = restore.restore_params(run, step, mesh=mesh)
    target = run.eval_dir / f"{config.split}-{step}"
    steps = Steps(enabled=show_progress and jax.process_index() == 0)
    written = []
    with _output(target) as folder, steps.running():
        for entry in run.datasets:
            place = folder if len(run.datasets) == 1 else folder / entry.name
            place.mkdir(exist_ok=True)
            began = time.monotonic()
            counter = _Counter()
            evaluator = from_run.build(
                run, config, mesh, dataset_name=entry.name, data=data, on_batch=counter
            )
            ranks, lists = _score(evaluator, params, place, run, entry.name, steps, counter)
            metrics = {
                "format_version": results.FORMAT_VERSION,
                "run_dir": str(run.path),
                "step": step,
                "checkpoint": checkpoint,
                "split": config.split,
                **_describe(run, evaluator, config, entry.name),
                **_systems(evaluator, ranks, config, references),
                "lists": lists,
                "notes": _notes(config),
                "seconds": time.monotonic() - began,
                "created": results.now(),
                "conditions": results.conditions(),
            }
            artefacts.write_json(place / results.METRICS_FILE, metrics)
            written.append(Evaluation(target / place.relative_to(folder), metrics))
    return tuple(written)


def _score(
    evaluator: Evaluator,
    params: Any,
    folder: pathlib.Path,
    run: RunDir,
    dataset_name: str,
    steps: Steps,
    counter: "_Counter",
) -> tuple[dict[str, ranking.UserRanks], dict[str, Any]]:
    texts = run.item_ids(dataset_name).texts
    ranks, lists = {}, {}
    with predictions.writing(folder / predictions.PREDICTIONS_FILE, texts) as writer:
        for template in evaluator.templates:

            def write(*block, template_id=template.id):
                writer.append(template_id, *block)

            title = f"{dataset_name}, {template.task} template {template.id}"
            with steps.step(title, evaluator.num_users) as tell:
                counter.start(tell)
                found = evaluator.rank(params, template, write)
            name = evaluators.system_name(template)
            ranks[name] = found
            lists[name] = {"seen_share": found.seen_share, "empty_share": found.empty_share}
    return ranks, lists


def _systems(
    evaluator: Evaluator,
    ranks: Mapping[str, ranking.UserRanks],
    config: EvaluateConfig,
    references: References | None,
) -> dict[str, Any]:
    systems: dict[str, SystemRanks] = {name: found.footings() for name, found in ranks.items()}
    users_E = next(iter(ranks.values())).users_E
    others = {} if references is None else _references(evaluator, users_E, references)
    systems |= others
    settings = {"max_rank": evaluator.max_rank, "config": config.intervals}
    pairs = [(model, other) for model in ranks for other in others]
    return {
        "users": len(users_E),
        "systems": results.summarise_systems(systems, **settings),
        "paired": results.compare_systems(systems, pairs, **settings),
        "interval": results.interval_entry(config.intervals),
    }


def _references(
    evaluator: Evaluator, users_E: Int[np.ndarray, " E"], references: References
) -> dict[str, SystemRanks]:
    """The reference systems' ranks of exactly the users that the model was scored on."""
    with_target_U = evaluator.splits.targets_U(evaluator.split) >= 0
    place_U = np.cumsum(with_target_U) - 1
    found = references(evaluator.dataset, evaluator.splits, evaluator.split)
    return {
        name: {footing: ranks[place_U[users_E]] for footing, ranks in footings.items()}
        for name, footings in found.items()
    }


def _describe(
    run: RunDir, evaluator: Evaluator, config: EvaluateConfig, dataset_name: str
) -> dict[str, Any]:
    dataset = evaluator.dataset
    index = json.loads(
        (run.dataset(dataset_name).folder / item_ids_lib.MANIFEST).read_text(encoding="utf-8")
    )
    audit = [*dataset.manifest.get("audit", []), *index.get("audit", [])]
    return {
        "protocol": evaluator.splits.protocol,
        "num_beams": config.num_beams,
        "length_penalty": config.length_penalty,
        "finish_within_beams": config.finish_within_beams,
        "history": run.mixture["history"],
        "dataset": {
            "name": dataset.name,
            "path": str(dataset.path),
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
        "audit": audit,
        "oracle": dataset.manifest.get("oracle") if config.split == "test" else None,
    }


def _notes(config: EvaluateConfig) -> list[str]:
    notes = [
        "seen_excluded strikes the items of the user's whole history from the list the search"
        " returned; `lists` says how many places that cost. Every system's list is cut at num_beams"
        " items before the metrics are taken.",
    ]
    if config.max_users is not None:
        notes.append(
            f"At most {config.max_users} users were scored, a sample with seed {config.seed}."
        )
    if (config.num_beams, config.length_penalty, config.finish_within_beams) != (10, 1.0, True):
        notes.append(
            "The search is this project's own; OpenP5's published numbers have 10 beams, length"
            " penalty 1.0 and the finishing rule of Hugging Face (finish_within_beams)."
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
