"""The report's sections that stand several runs, seeds and checkpoints side by side."""

from collections.abc import Sequence
from typing import Any

from genrec_jax.evaluation import aggregate, report_plots
from genrec_jax.evaluation.report_data import EvaluationView, RunView
from genrec_jax.evaluation.report_html import ABSENT, Markup, element, interval, section, table
from genrec_jax.evaluation.report_plots import Interval
from genrec_jax.evaluation.report_sections import (
    best_possible,
    headline_metric,
    metric_title,
    system_title,
)

COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr@10")
MOST_OTHERS = 30


def comparison(runs: Sequence[RunView]) -> Markup:
    """One table a dataset with a row a run, seeds averaged below; and the picture of it."""
    by_dataset: dict[str, list[tuple[RunView, EvaluationView]]] = {}
    for run in runs:
        for view in run.evaluations:
            by_dataset.setdefault(view.metrics["dataset"]["name"], []).append((run, view))
    parts: list[object] = []
    for number, (name, pairs) in enumerate(by_dataset.items()):
        parts += [_picture(name, pairs, salt=f"cmp{number}"), _table(name, pairs)]
    return section("All runs", *parts, id_="all-runs")


def other_evaluations(run: RunView, *, level: int) -> Markup:
    """The evaluations of other checkpoints and splits, newest steps last."""
    rows = []
    ordered = sorted(run.others, key=lambda metrics: (metrics["split"], metrics["step"]))
    for metrics in ordered[-MOST_OTHERS:]:
        for system, footings in metrics["systems"].items():
            if system.startswith("model/"):
                metric = headline_metric(metrics, system)
                rows.append(
                    [
                        f"{metrics['dataset']['name']}, {metrics['split']}, step {metrics['step']:,}"
                        + _of_sample(metrics),
                        system_title(system, metrics),
                        f"{metric_title(metric)} {_interval(footings['seen_kept'][metric])}",
                    ]
                )
    made = table("Seen items kept", ["evaluation", "system", "result"], rows, numbers_from=2)
    return section("Other evaluations of this run", made, level=level)


def _of_sample(metrics: dict[str, Any]) -> str:
    most = metrics.get("max_users")
    return "" if most is None else f", a sample of {most:,}"


def seed_groups(
    pairs: Sequence[tuple[RunView, EvaluationView]],
) -> list[list[tuple[RunView, EvaluationView]]]:
    """Groups of at least two runs whose settings differ in seeds only."""
    groups: dict[str, list[tuple[RunView, EvaluationView]]] = {}
    for run, view in pairs:
        manifest = run.run.manifest
        key = repr(
            [
                _without_seeds(
                    {part: manifest.get(part) for part in ("model", "mixture", "settings")}
                ),
                [view.metrics[key] for key in aggregate.MUST_AGREE],
                view.metrics["dataset"]["fingerprint"],
                view.metrics.get("item_ids"),
            ]
        )
        groups.setdefault(key, []).append((run, view))
    return [group for group in groups.values() if len(group) > 1]


def _without_seeds(value: Any) -> Any:
    """Settings without seeds, and without the folders that differ with them."""
    if isinstance(value, dict):
        return {
            name: _without_seeds(inner)
            for name, inner in sorted(value.items())
            if "seed" not in name and name not in ("model_dir", "run_dir", "output")
        }
    return [_without_seeds(inner) for inner in value] if isinstance(value, list | tuple) else value


def _picture(name: str, pairs: Sequence[tuple[RunView, EvaluationView]], *, salt: str) -> Markup:
    first = pairs[0][1]
    metric = headline_metric(first.metrics, first.main_system)
    rows = []
    for run, view in pairs:
        estimate = view.metrics["systems"][view.main_system]["seen_kept"].get(metric)
        if estimate is not None:
            rows.append(Interval(run.name, estimate["value"], estimate["low"], estimate["high"]))
    for system in ("popularity", "transition"):
        estimate = first.metrics["systems"].get(system, {}).get("seen_kept", {}).get(metric)
        if estimate is not None:
            rows.append(
                Interval(
                    system_title(system, first.metrics),
                    estimate["value"],
                    estimate["low"],
                    estimate["high"],
                    report_plots.BASELINE,
                )
            )
    rows += best_possible(first.metrics, metric)
    caption = f"{metric_title(metric)} on {name}, {first.metrics['split']} items, with intervals."
    return report_plots.intervals(rows, salt=salt, caption=caption)


def _table(name: str, pairs: Sequence[tuple[RunView, EvaluationView]]) -> Markup:
    rows: list[list[object]] = []
    classes: list[str | None] = []

    def add(label: str, ids: str, steps: str, found: dict[str, Any], css: str | None) -> None:
        rows.append([label, ids, steps, *(_figure(found.get(column)) for column in COLUMNS)])
        classes.append(css)

    for run, view in pairs:
        metrics = view.metrics
        add(
            run.name,
            metrics.get("item_ids", {}).get("method", ABSENT),
            f"{metrics['step']:,}",
            metrics["systems"][view.main_system]["seen_kept"],
            "model",
        )
    for group in seed_groups(pairs):
        combined = aggregate.aggregate([view.metrics for _, view in group])
        first = group[0][1]
        add(
            f"{len(group)} seeds: mean ± std. dev.",
            first.metrics.get("item_ids", {}).get("method", ABSENT),
            ABSENT,
            combined["systems"][first.main_system]["seen_kept"],
            "best",
        )
    first = pairs[0][1]
    for system in ("popularity", "transition"):
        if system in first.metrics["systems"]:
            found = first.metrics["systems"][system]["seen_kept"]
            add(system_title(system, first.metrics), ABSENT, ABSENT, found, None)
    caption = f"{name}: each run's main row, seen items kept"
    header = ["run", "item IDs", "step", *map(metric_title, COLUMNS)]
    return table(caption, header, rows, row_classes=classes, numbers_from=2)


def _figure(estimate: dict[str, Any] | None) -> Markup:
    if estimate is None:
        return ABSENT
    if "mean" in estimate:
        spread = estimate["standard_deviation"]
        return element("span", f"{estimate['mean']:.4f}", element("small", f"± {spread:.4f}"))
    small = element("small", interval(estimate["low"], estimate["high"]))
    return element("span", f"{estimate['value']:.4f}", small)


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.4f} ({estimate['low']:.4f} to {estimate['high']:.4f})"
