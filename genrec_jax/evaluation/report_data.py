"""What a report shows of a run, read from the run dir and, where it is at hand, the dataset dir."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec_jax import storage
from genrec_jax.checkpoint import run_log
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts, audit, splits
from genrec_jax.data import dataset as datasets
from genrec_jax.errors import UserError
from genrec_jax.evaluation import predictions, report_choice, results, stored
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.pipeline import openp5

HISTORY_SHOWN = 8
LIST_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Recommended:
    """One place of a shown list.

    Attributes:
        title: the item's title, or its source id.
        item_id: the text that the model generated.
        score: its log-probability, under a length penalty divided by its number of tokens to that power.
        is_target: whether it is the held-out item.
        is_seen: whether the user had taken it before.
    """

    title: str
    item_id: str
    score: float
    is_target: bool
    is_seen: bool


@dataclasses.dataclass(frozen=True)
class ExampleUser:
    """One user as the report shows them, or an example of nobody.

    Attributes:
        user: the source's user id, or the example's number in its SeqIO task.
        known: whether it is a user; an example has no history to show.
        history: titles of the last items before the target, oldest first.
        earlier: how many items before those are not shown.
        target: title of the held-out item.
        rank: of the target in the list, 0 where it is missing.
        recommended: the list, best first.
    """

    user: str
    known: bool
    history: tuple[str, ...]
    earlier: int
    target: str
    rank: int
    recommended: tuple[Recommended, ...]


@dataclasses.dataclass(frozen=True)
class EvaluationView:
    """One evaluation of one dataset.

    Attributes:
        folder: where it lies.
        metrics: the content of metrics.json.
        audit: the leakage audit's results.
        audit_repeated: whether the audit was made anew for this report, on the artefacts.
        examples: a few users.
        notice: why something is missing, or None.
        checkpoint: how its checkpoint stands to the best.
    """

    folder: pathlib.Path
    metrics: dict[str, Any]
    audit: list[dict[str, Any]]
    audit_repeated: bool
    examples: tuple[ExampleUser, ...]
    notice: str | None
    checkpoint: report_choice.Standing

    @property
    def main_system(self) -> str | None:
        """The model's row for the headline; None where it only rated.

        Rows over the whole catalogue come before those over candidates, then tasks that were trained on,
        sequential before others and a seen wording before unseen.
        """
        return self.main_of("catalogue") or self.main_of("candidates")

    def main_of(self, pool: results.Pool) -> str | None:
        """The model's row for the headline among those that ranked `catalogue` or `candidates`."""
        templates = self.metrics.get("templates", {})

        def order(system: str) -> tuple[bool, bool, bool]:
            template = templates.get(system.rpartition("/")[2], {})
            untrained = template.get("trained") is False
            return (untrained, template.get("task") != "sequential", not template.get("seen", True))

        models = [name for name in self.metrics["systems"] if name.startswith("model/")]
        if not models and not self.metrics.get("ratings"):
            raise UserError(
                "holds no system of the model (`model/...`). Run `genrec evaluate` again",
                file=str(self.folder / results.METRICS_FILE),
            )
        among = [name for name in models if results.pool_of(name, self.metrics) == pool]
        return min(among, key=order, default=None)


@dataclasses.dataclass(frozen=True)
class RunView:
    """One run.

    Attributes:
        run: the run dir.
        name: how the report calls it: the folder's name, with its parent's where names clash.
        records: the lines of metrics.jsonl.
        evaluations: the one to show for each dataset.
        others: metrics of all other evaluations.
    """

    run: RunDir
    name: str
    records: list[dict[str, Any]]
    evaluations: tuple[EvaluationView, ...]
    others: tuple[dict[str, Any], ...]


def read_run(
    path: RunDir | artefacts.PathLike,
    *,
    name: str,
    data: Mapping[str, artefacts.PathLike],
    num_examples: int,
) -> RunView:
    """Reads everything that a report shows of a run.

    Args:
        path: the run dir, opened or not.
        name: how to call it.
        data: dataset name or fingerprint -> folder, where a dataset has moved since training.
        num_examples: users to show.

    Raises:
        UserError: no run dir, or a broken metrics file.
    """
    run = path if isinstance(path, RunDir) else RunDir.load(path)
    best = report_choice.best_of(run)
    found = sorted(stored.every(run), key=lambda one: report_choice.importance(one, run, best))
    chosen = {one.metrics["dataset"]["name"]: one for one in found}
    views = []
    for one in chosen.values():
        standing = report_choice.standing(one.metrics, run, best)
        audited = one.metrics.get("audit", [])
        bare = EvaluationView(one.folder, one.metrics, audited, False, (), None, standing)
        views.append(_view(run, bare, data, num_examples))
    shown = {view.folder for view in views}
    others = tuple(one.metrics for one in found if one.folder not in shown)
    return RunView(run, name, run_log.read_metrics(run.path), tuple(views), others)


def curve(records: list[dict[str, Any]], kind: str, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one curve, values that are not finite left out."""
    points = [
        (int(record["step"]), float(record[name]))
        for record in records
        if record.get("kind") == kind
        and isinstance(record.get(name), int | float)
        and math.isfinite(record[name])
    ]
    return [step for step, _ in points], [value for _, value in points]


def _view(
    run: RunDir, bare: EvaluationView, data: Mapping[str, artefacts.PathLike], num_examples: int
) -> EvaluationView:
    """The evaluation with its audit made anew and a few users, where the dataset is at hand."""
    folder, metrics = bare.folder, bare.metrics
    name, fingerprint = metrics["dataset"]["name"], metrics["dataset"]["fingerprint"]
    place = storage.join(data.get(fingerprint, data.get(name, metrics["dataset"]["path"])))
    file = folder / predictions.PREDICTIONS_FILE
    try:
        dataset = datasets.load(place)
    except UserError as error:
        notice = (
            f"The dataset is not at hand ({error}), so the audit is the stored one and no users are"
            " shown. Name its folder with --data."
        )
        return dataclasses.replace(bare, notice=notice)
    if dataset.fingerprint != fingerprint:
        notice = (
            f"{place} holds another dataset than the one evaluated; the audit is the stored one."
        )
        return dataclasses.replace(bare, notice=notice)
    part = splits.of(dataset)
    ids = item_ids_lib.load(run.dataset(name).folder)
    checks = [
        *audit.audit_dataset(dataset, part),
        *audit.audit_item_ids(dataset, part, ids.texts, ordered=ids.ordered),
        *_training_audit(run, name, dataset, part),
    ]
    main = bare.main_system
    if main is None:
        view = bare
    elif not file.is_file():
        view = dataclasses.replace(bare, notice=f"{file} is missing, so no users are shown.")
    else:
        table = pq.read_table(file, columns=["user", "template", "target", "rank"])
        users_E = table["user"].fill_null(-1).to_numpy()
        targets_E, known_E = table["target"].to_numpy(), users_E >= 0
        if known_E.any():
            of_users = (users_E[known_E], targets_E[known_E])
            checks.append(audit.audit_predictions(dataset, part, metrics["split"], *of_users))
        template = main.rpartition("/")[2]
        rows = _choose(
            pc.equal(table["template"], template).to_numpy(),
            users_E,
            table["rank"].to_numpy(),
            num_examples,
        )
        examples = _examples(dataset, part, metrics["split"], file, rows)
        view = dataclasses.replace(bare, examples=examples)
    repeated = [dataclasses.asdict(check) for check in checks]
    return dataclasses.replace(
        view, audit=[*repeated, *_only_stored(metrics, repeated)], audit_repeated=True
    )


def _training_audit(
    run: RunDir, name: str, dataset: datasets.Dataset, part: splits.Splits
) -> list[audit.AuditResult]:
    """What training read: what the run's own audit found and, of OpenP5's mixtures, positions anew."""
    if run.mixture.get("module") is not None:
        return [_training_inputs(run, dataset, part)]
    names = [entry.name for entry in run.datasets]
    kept = run.mixture.get("audit", [])
    of_tasks = audit.AuditResult(
        "tasks_hold_out_the_same", "warn", "not known: the run keeps no audit of its mixture"
    )
    if len(kept) == len(names):
        of_tasks = audit.AuditResult(**kept[names.index(name)])
    if run.mixture["name"].startswith("alignment"):
        return [of_tasks]
    found = [_training_inputs(run, dataset, part)]
    return [of_tasks, *found] if kept else found


def _training_inputs(
    run: RunDir, dataset: datasets.Dataset, part: splits.Splits
) -> audit.AuditResult:
    """What OpenP5's mixtures read in training, by position; nobody knows it of a user's own."""
    if run.mixture.get("module") is not None:
        said = (
            f"not checked: the run was trained on the SeqIO mixture {run.mixture['name']} of the module"
            f" {run.mixture['module']}, and only its author knows which positions it reads"
        )
        return audit.AuditResult("inputs_before_targets", "warn", said)
    history = int(run.mixture.get("history", 20))
    positions_E = openp5.training_positions(dataset, part)
    users_E = dataset.users_X[positions_E]
    starts_E = np.maximum(positions_E - history, dataset.offsets_U1[users_E])
    return audit.audit_examples(
        dataset, part, "training", users_E, starts_E, positions_E, positions_E
    )


def _only_stored(metrics: dict[str, Any], repeated: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stored results that cannot be repeated here, such as rebuilding the ids."""
    names = {result["check"] for result in repeated}
    return [result for result in metrics.get("audit", []) if result["check"] not in names]


def _choose(
    chosen_E: np.ndarray, users_E: np.ndarray, ranks_E: np.ndarray, number: int
) -> list[int]:
    """Rows to show, spread evenly over users: hits at the top, hits below it, and misses."""
    groups = [
        np.flatnonzero(chosen_E & group_E)
        for group_E in (ranks_E == 1, (ranks_E > 1) & (ranks_E <= LIST_SHOWN), ranks_E == 0)
    ]
    rows: list[int] = []
    for place, group in enumerate(groups):
        share = number // 3 + (place < number % 3)
        group = group[np.argsort(users_E[group], kind="stable")]
        if len(group):
            spread = np.linspace(0, len(group) - 1, min(share, len(group)) + 2)[1:-1]
            rows += group[np.unique(spread.round().astype(int))].tolist()
    return rows


def _examples(
    dataset: datasets.Dataset,
    part: splits.Splits,
    split: Any,
    file: pathlib.Path,
    rows: list[int],
) -> tuple[ExampleUser, ...]:
    titles = [
        title or source
        for title, source in zip(dataset.item_titles, dataset.item_source_ids, strict=True)
    ]
    shown = []
    for row in predictions.read_rows(file, rows):
        user, history = row["user"], []
        if user is not None:
            start, end = int(dataset.offsets_U1[user]), int(part.targets_U(split)[user])
            history = dataset.items_X[start:end].tolist()
        places = zip(row["items"], row["item_ids"], row["scores"], strict=True)
        shown.append(
            ExampleUser(
                user=str(row["example"]) if user is None else dataset.user_source_ids[user],
                known=user is not None,
                history=tuple(titles[item] for item in history[-HISTORY_SHOWN:]),
                earlier=max(0, len(history) - HISTORY_SHOWN),
                target=titles[row["target"]],
                rank=row["rank"],
                recommended=tuple(
                    Recommended(
                        titles[item], item_id, score, item == row["target"], item in history
                    )
                    for item, item_id, score in list(places)[:LIST_SHOWN]
                ),
            )
        )
    return tuple(shown)
