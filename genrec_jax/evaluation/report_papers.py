"""Published figures beside ours, from a CSV file that the user has."""

import csv
import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.evaluation import results
from genrec_jax.evaluation.report_data import EvaluationView
from genrec_jax.evaluation.report_html import ABSENT, Markup, element, join, section, table

COLUMNS = ("paper", "table", "task", "dataset", "method", "metric", "value", "note")
KINDS = ("hr", "ndcg", "mrr")
TASKS = {"ranking": "ranking-1+99", "rating": "rating-prediction"}
"""What the tables of figures call a task, where that is not its name here."""
AREA = "auc-roc-percent"
NOT_OURS = ("bleu2", "bleu4", "rouge1", "rouge2", "rougel", "mae", "rmse")
"""Metrics that tables of figures have of tasks that no run here is scored on."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published figure; the fields are the CSV's columns, the metric in small letters."""

    paper: str
    table: str
    task: str
    dataset: str
    method: str
    metric: str
    value: float
    note: str


def read_figures(path: artefacts.PathLike) -> tuple[Figure, ...]:
    """Reads published figures.

    Raises:
        UserError: no such file, a column missing, an unknown metric, or a value that is not a number.
    """
    file = pathlib.Path(path)
    remedy = f"Wanted a CSV file with the columns {','.join(COLUMNS)}"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"lacks the columns {', '.join(missing)}. {remedy}", file=str(file))
            figures = []
            for row in reader:
                value = _number(row["value"])
                if value is None:
                    raise UserError(
                        f"the value {row['value']!r} is not a number. {remedy}",
                        file=str(file),
                        line=reader.line_num,
                    )
                texts = {column: row[column] or "" for column in COLUMNS}
                metric = texts["metric"].strip().casefold()
                if _place(metric) is None and metric not in (AREA, *NOT_OURS):
                    raise UserError(
                        f"the metric {texts['metric']!r} is not known; wanted hr@10 or another cutoff,"
                        f" ndcg@10, mrr@10, mrr, or {AREA}; {', '.join(NOT_OURS)} are passed over",
                        file=str(file),
                        line=reader.line_num,
                    )
                figures.append(Figure(**(texts | {"metric": metric, "value": value})))  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error}). {remedy}", file=str(file)) from error
    return tuple(figures)


def beside_papers(view: EvaluationView, figures: Sequence[Figure], *, level: int) -> Markup:
    """Our rows and every published row on the same dataset and task."""
    name = _plain(view.metrics["dataset"]["name"])
    templates = view.metrics.get("templates", {})
    parts: list[object] = []
    for task in dict.fromkeys(template["task"] for template in templates.values()):
        rows = _published(figures, name, task)
        places = {m: place for found in rows.values() for m in found if (place := _place(m))}
        columns = sorted(places, key=lambda metric: places[metric])
        if not columns:
            continue
        ours, classes = [], []
        for system, footings in view.metrics["systems"].items():
            kept = {m: figure["value"] for m, figure in footings["seen_kept"].items()}
            kept |= _whole_mrr(view.metrics, system)
            template = templates.get(system.rpartition("/")[2])
            if template is not None and template["task"] != task:
                continue
            if template is None and task == "ranking":  # of the whole catalogue
                continue
            cells = [f"{kept[m]:.4f}" if m in kept else ABSENT for m in columns]
            ours.append([element("b", system), "this run", *cells])
            classes.append("model" if system.startswith("model/") else None)
        published = [
            [method, join([f"{paper}, table {number}", f" ({note})" if note else ""])]
            + [f"{found[m]:.4f}" if m in found else ABSENT for m in columns]
            for (paper, number, method, note), found in sorted(
                rows.items(), key=lambda row: -row[1].get("hr@10", row[1].get("hr@5", 0.0))
            )
        ]
        parts.append(
            table(
                f"{task}, {view.metrics['dataset']['name']}: ours{_sample(view.metrics)}, then published"
                " figures by HR@10",
                ["method", "source", *(m.upper() for m in columns)],
                [*ours, *published],
                row_classes=classes,
                numbers_from=2,
            )
        )
    parts.append(_areas(view, _published(figures, name, "rating")))
    if not any(parts):
        return Markup("")
    said = _other_targets(view.metrics)
    if said is not None:
        said = f"None to compare with: this run's targets {said}, the papers' are each user's last item."
        return section("Beside published figures", element("p", said), level=level)
    said = (
        "Published figures as printed, under each paper's own protocol; ours with seen items kept. The"
        " transition rows are what counting alone reaches, with no learning."
    )
    return section("Beside published figures", element("p", said), *parts, level=level)


def _place(metric: str) -> tuple[int, int] | None:
    """Where a ranking metric's column stands, `mrr` of the whole list last; None for any other metric."""
    found = re.fullmatch(r"(?:(hr|ndcg|mrr)@([1-9]\d*))|mrr", metric)
    if found is None:
        return None
    return (KINDS.index(found[1]), int(found[2])) if found[1] else (len(KINDS), 0)


def _whole_mrr(metrics: dict[str, Any], system: str) -> dict[str, float]:
    """The MRR of the whole ranking, for a row without beams."""
    kind, _, row = system.partition("/")
    exact = (metrics.get("exact") or {}).get(f"model/{row}") if kind == "exact" else None
    return {} if exact is None else {"mrr": exact["ranks"]["seen_kept"]["mrr"]}


def _other_targets(metrics: dict[str, Any]) -> str | None:
    """Which targets a run has that no paper has; None for each user's last item."""
    if results.is_by_date(metrics):
        return "come after a date"
    return None if metrics["split"] == "test" else f"are the {metrics['split']} items"


def _sample(metrics: dict[str, Any]) -> str:
    most = metrics.get("max_users")
    return "" if most is None else f" (of a sample of {most:,} {metrics.get('unit', 'users')})"


def _published(
    figures: Sequence[Figure], dataset: str, task: str
) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """Figures of one dataset and task by metric, for each paper, table, method and note."""
    rows: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for figure in figures:
        if _plain(figure.dataset) == dataset and figure.task == TASKS.get(task, task):
            key = (figure.paper, figure.table, figure.method, figure.note)
            rows.setdefault(key, {})[figure.metric] = figure.value
    return rows


def _areas(
    view: EvaluationView, published: dict[tuple[str, str, str, str], dict[str, float]]
) -> Markup:
    """Rating prediction beside published figures, which are in percent."""
    ratings = view.metrics.get("ratings")
    found = [(key, row[AREA] / 100) for key, row in published.items() if AREA in row]
    if not ratings or not found:
        return Markup("")
    ours = [
        [element("b", system), "this run", ABSENT if value is None else f"{value:.4f}"]
        for system, area in ratings["systems"].items()
        for value in [area["auc_roc"]["value"]]
    ]
    classes = ["model" if name.startswith("model/") else None for name in ratings["systems"]]
    theirs = [
        [method, join([f"{paper}, table {number}", f" ({note})" if note else ""]), f"{area:.4f}"]
        for (paper, number, method, note), area in sorted(found, key=lambda row: -row[1])
    ]
    return table(
        f"rating, {view.metrics['dataset']['name']}: ours{_sample(view.metrics)}, then published figures",
        ["method", "source", "AUC-ROC"],
        [*ours, *theirs],
        row_classes=classes,
        numbers_from=2,
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
