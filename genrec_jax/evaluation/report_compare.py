"""The report's sections that stand several runs, seeds and checkpoints side by side."""

from collections.abc import Sequence
from typing import Any

from genrec_jax.errors import UserError
from genrec_jax.evaluation import aggregate, report_plots, report_ratings, report_sections, results
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.evaluation.report_data import EvaluationView, RunView
from genrec_jax.evaluation.report_headline import best_possible, headline_metric
from genrec_jax.evaluation.report_html import (
    ABSENT,
    Markup,
    element,
    interval,
    join,
    section,
    table,
)
from genrec_jax.evaluation.report_plots import Interval
from genrec_jax.evaluation.report_sections import metric_title, system_title, unit

COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr@10")
MOST_OTHERS = 30
Ranked = tuple[RunView, EvaluationView, str]
"""A run, its evaluation, and the model's row to show."""


def comparison(runs: Sequence[RunView]) -> Markup:
    """A row a run, seeds averaged below, and their picture; ratings apart.

    Runs share a table where their figures can be compared: the same question about the same targets of
    the same users, searched in the same way and type. The table's caption says this, and so is its key.
    """
    rated: dict[str, list[tuple[RunView, EvaluationView]]] = {}
    for targets, run, view in _titled(runs):
        if view.metrics.get("ratings"):
            title = f"{targets}, {view.metrics['ratings']['users']:,} users"
            rated.setdefault(title, []).append((run, view))
    parts: list[object] = []
    for number, (title, group) in enumerate(ranked_groups(runs).items()):
        parts += [_picture(title, group, salt=f"cmp{number}"), _table(title, group)]
    parts += [_ratings(title, group) for title, group in rated.items()]
    return section("All runs", *parts, id_="all-runs")


def ranked_groups(runs: Sequence[RunView]) -> dict[str, list[Ranked]]:
    """The runs' main rows that can be compared with each other, by what they have in common."""
    ranked: dict[str, list[Ranked]] = {}
    for targets, run, view in _titled(runs):
        for pool in results.POOLS:
            main = view.main_of(pool)
            if main is not None:
                title = f"{targets}, {_of_row(view.metrics, main)}"
                ranked.setdefault(title, []).append((run, view, main))
    return ranked


def _titled(runs: Sequence[RunView]) -> list[tuple[str, RunView, EvaluationView]]:
    """Every evaluation with the targets that it is of, in words."""
    views = [(run, view) for run in runs for view in run.evaluations]
    names = _dataset_names([view.metrics for _, view in views])
    types_differ = len({view.metrics.get("dtype") for _, view in views}) > 1
    titled = []
    for run, view in views:
        found = view.metrics
        title = f"{names[_dataset(found)]}, {found['split']} items{_of_sample(found)}"
        if types_differ and found.get("dtype") is not None:
            title += f", evaluated in {found['dtype']}"
        titled.append((title, run, view))
    return titled


def _dataset(metrics: dict[str, Any]) -> tuple[str, str]:
    """A dataset's name, with that it is split by date, and its fingerprint."""
    by_date = " by date" if results.is_by_date(metrics) else ""
    return metrics["dataset"]["name"] + by_date, metrics["dataset"]["fingerprint"]


def _dataset_names(every: Sequence[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """What to call each `_dataset`: its name, and the fingerprint's start where two share a name."""
    known = dict.fromkeys(map(_dataset, every))
    taken = [name for name, _ in known]
    return {
        (name, mark): name if taken.count(name) == 1 else f"{name} ({mark[:8]})"
        for name, mark in known
    }


def _of_row(metrics: dict[str, Any], main: str) -> str:
    """What a row of the model was asked, on how many users, and how it was searched."""
    count = next(iter(metrics["systems"][main]["seen_kept"].values()))["count"]
    asked = [f"{count:,} {unit(metrics)}", f"{metrics['num_beams']} beams"]
    if metrics["protocol"] == "seqio_tasks":  # each has targets of its own
        asked.insert(0, f"SeqIO task {main.rpartition('/')[2]}")
    elif metrics["protocol"] != "temporal":  # which the dataset's name says
        asked.insert(0, metrics["protocol"].replace("_", " "))
    if results.pool_of(main, metrics) == "candidates":
        candidates = (metrics.get("exact") or {}).get(main, {}).get("items")
        asked.append("each user's candidates" + (f" ({candidates})" if candidates else ""))
    return ", ".join(asked) + _of_search(metrics, but_beams=True)


def other_evaluations(run: RunView, *, level: int) -> Markup:
    """The evaluations of other checkpoints and splits, test first; early steps of validation are cut."""
    rows = []
    kept = sorted(run.others, key=lambda metrics: (metrics["split"] == "test", metrics["step"]))
    kept = sorted(kept[-MOST_OTHERS:], key=lambda metrics: (metrics["split"], metrics["step"]))
    for metrics in kept:
        named = f"{metrics['dataset']['name']}, {metrics['split']}, step {metrics['step']:,}"
        named += _of_sample(metrics) + _of_search(metrics)
        if metrics.get("dtype", run.run.model_config.dtype) != run.run.model_config.dtype:
            named += f", in {metrics['dtype']}"
        for system, footings in metrics["systems"].items():
            if system.startswith("model/"):
                metric = headline_metric(metrics, system)
                figure = f"{metric_title(metric)} {_interval(footings['seen_kept'][metric])}"
                rows.append([named, system_title(system, metrics), figure])
        for system in report_ratings.models_of(metrics) if metrics.get("ratings") else ():
            area = report_ratings.area_text(metrics["ratings"]["systems"][system]["auc_roc"])
            rows.append([named, system_title(system, metrics), f"AUC-ROC {area}"])
    made = table("Seen items kept", ["evaluation", "system", "result"], rows, numbers_from=2)
    more = len(run.others) - len(kept)
    said = f"Not shown: {more} more, of earlier steps."
    note = element("p", said, class_="notes") if more else None
    return section("Other evaluations of this run", made, note, level=level)


def _of_sample(metrics: dict[str, Any]) -> str:
    most, seed = metrics.get("max_users"), metrics.get("sample_seed")
    if most is None:
        return ""
    return f", a sample of {most:,}" + ("" if seed is None else f" (seed {seed})")


def _of_search(metrics: dict[str, Any], *, but_beams: bool = False) -> str:
    """What is unusual in a search, so that two evaluations are told apart."""
    usual = EvaluateConfig()
    beams = metrics["num_beams"]
    own = {
        f"{beams} beams": beams != usual.num_beams and not but_beams,
        f"length penalty {metrics['length_penalty']:g}": metrics["length_penalty"] != 0,
        "lists finished within the beams": metrics["finish_within_beams"],
        "searched again without the history": metrics["exact_exclusion"],
    }
    return "".join(f", {said}" for said, is_own in own.items() if is_own)


def seed_groups(ranked: Sequence[Ranked]) -> list[list[Ranked]]:
    """Groups of at least two runs whose settings differ in seeds only."""
    groups: list[tuple[list[Any], list[Ranked]]] = []
    for run, view, main in ranked:
        metrics = view.metrics
        measured = [main, *(metrics.get(key) for key in aggregate.MUST_AGREE)]
        measured += [metrics["dataset"]["fingerprint"], metrics.get("item_ids")]
        for known, group in groups:
            settings, _ = aggregate.compare_runs(group[0][0].run.manifest, run.run.manifest)
            if known == measured and not settings:
                group.append((run, view, main))
                break
        else:
            groups.append((measured, [(run, view, main)]))
    return [group for _, group in groups if len(group) > 1]


def _picture(name: str, ranked: Sequence[Ranked], *, salt: str) -> Markup:
    _, first, first_main = ranked[0]
    metric = headline_metric(first.metrics, first_main)
    rows = []
    for run, view, main in ranked:
        estimate = view.metrics["systems"][main]["seen_kept"].get(metric)
        if estimate is not None:
            rows.append(Interval(run.name, estimate["value"], estimate["low"], estimate["high"]))
    for title, found in _references(ranked):
        estimate = found.get(metric)
        if estimate is not None:
            ends = (estimate["low"], estimate["high"])
            rows.append(Interval(title, estimate["value"], *ends, report_plots.BASELINE))
    if results.pool_of(first_main, first.metrics) == "catalogue":
        rows += best_possible(first.metrics, metric)
    caption = f"{metric_title(metric)} on {name}; intervals, seen items kept."
    return report_plots.intervals(rows, salt=salt, caption=caption)


def _references(ranked: Sequence[Ranked]) -> list[tuple[str, dict[str, Any]]]:
    """Title and figures of the systems beside the model's rows, each from the first run that has it."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in report_sections.SYSTEM_NAMES:
        for _, view, main in ranked:
            candidates = results.pool_of(main, view.metrics) == "candidates"
            system = f"{name}/{main.rpartition('/')[2]}" if candidates else name
            if system in view.metrics["systems"]:
                title = system_title(system, view.metrics)
                found.setdefault(name, (title, view.metrics["systems"][system]["seen_kept"]))
    return list(found.values())


def _table(name: str, ranked: Sequence[Ranked]) -> Markup:
    rows: list[list[object]] = []
    classes: list[str | None] = []

    def add(label: str, ids: str, steps: str, found: dict[str, Any], css: str | None) -> None:
        rows.append([label, ids, steps, *(_figure(found.get(column)) for column in COLUMNS)])
        classes.append(css)

    for run, view, main in ranked:
        metrics = view.metrics
        add(
            run.name,
            metrics.get("item_ids", {}).get("method", ABSENT),
            _step(view),
            metrics["systems"][main]["seen_kept"],
            "model",
        )
    notes = []
    for group in seed_groups(ranked):
        if len({view.checkpoint.alarm is None for _, view, _ in group}) > 1:
            said = "some of their figures are of the best checkpoint and some are not"
            notes.append(_no_mean(group, said))
            continue
        named = [view.metrics | {"run_dir": run.name} for run, view, _ in group]
        try:
            combined = aggregate.aggregate(named, [run.run.manifest for run, _, _ in group])
        except UserError as error:
            notes.append(_no_mean(group, str(error)))
            continue
        _, first, main = group[0]
        add(
            f"{len(group)} seeds: mean ± std. dev.",
            first.metrics.get("item_ids", {}).get("method", ABSENT),
            ABSENT,
            combined["systems"][main]["seen_kept"],
            "best",
        )
    for title, found in _references(ranked):
        add(title, ABSENT, ABSENT, found, None)
    caption = (
        f"{name}: each run's main row, {_rule([view for _, view, _ in ranked])}, seen items kept"
    )
    header = ["run", "item IDs", "step", *map(metric_title, COLUMNS)]
    return join([table(caption, header, rows, row_classes=classes, numbers_from=2), *notes])


def _no_mean(group: Sequence[Ranked], why: str) -> Markup:
    said = f"No mean over these {len(group)} runs, whose settings differ in seeds only: {why}."
    return element("p", said, class_="notes")


def _ratings(name: str, pairs: Sequence[tuple[RunView, EvaluationView]]) -> Markup:
    """Each run's rating prediction, with the baselines of the first."""
    rows: list[list[object]] = []
    classes: list[str | None] = []
    for run, view in pairs:
        ratings = view.metrics.get("ratings")
        if not ratings:
            continue
        found = ratings["systems"]
        if not rows:
            rows = [
                [
                    report_ratings.name_of(system, view.metrics),
                    ABSENT,
                    report_ratings.area_cell(area["auc_roc"]),
                ]
                for system, area in found.items()
                if not system.startswith("model/")
            ]
            classes = [None] * len(rows)
        place = len(rows) - classes.count(None)
        main = report_ratings.models_of(view.metrics)[0]
        area = report_ratings.area_cell(found[main]["auc_roc"])
        rows.insert(place, [run.name, _step(view), area])
        classes.insert(place, "model")
    caption = f"{name}: rating prediction, {_rule([view for _, view in pairs])}"
    return table(caption, ["run", "step", "AUC-ROC"], rows, row_classes=classes)


def _rule(views: Sequence[EvaluationView]) -> str:
    """Which checkpoints the rows of a table are of."""
    others = sum(view.checkpoint.alarm is not None for view in views)
    if not others:
        return "best checkpoint"
    return f"NOT of the best checkpoint for {others} of {len(views)} runs"


def _step(view: EvaluationView) -> str:
    marked = "" if view.checkpoint.alarm is None else f" ({view.checkpoint.said})"
    return f"{view.metrics['step']:,}{marked}"


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
