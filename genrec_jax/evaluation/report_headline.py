"""The report's first lines: for each question that was asked a verdict, and the picture that shows it."""

from typing import Any

from genrec_jax.evaluation import report_plots, report_ratings, results
from genrec_jax.evaluation.report_data import EvaluationView
from genrec_jax.evaluation.report_html import Markup, element, join, section
from genrec_jax.evaluation.report_plots import Interval
from genrec_jax.evaluation.report_sections import metric_title, stands_to, system_title, unit

HEADLINE_METRICS = ("hr@10", "hr@5", "hr@1")


def headline(view: EvaluationView, *, salt: str, level: int) -> Markup:
    """The model's main figures, under one heading for each task."""
    parts: list[tuple[str, Markup]] = []
    for pool in results.POOLS:
        main = view.main_of(pool)
        if main is not None:
            picture = _picture(view, pool, main, salt=f"{salt}{pool[:3]}")
            parts.append((_title(view, pool, main), join([verdict(view, main), picture])))
    if view.metrics.get("ratings"):
        parts.append(("Rating prediction", report_ratings.headline(view, salt=f"{salt}rat")))
    if len(parts) == 1:
        return parts[0][1]
    return join(section(title, content, level=level) for title, content in parts)


def headline_metric(metrics: dict[str, Any], system: str) -> str:
    """HR@10, or the deepest hit ratio that shorter lists can answer."""
    known = metrics["systems"][system]["seen_kept"]
    return next((name for name in HEADLINE_METRICS if name in known), next(iter(known)))


def verdict(view: EvaluationView, main: str) -> Markup:
    """In one sentence each: what the model reached, and how it stands to every other system."""
    metrics = view.metrics
    metric = headline_metric(metrics, main)
    estimate = metrics["systems"][main]["seen_kept"][metric]
    cutoff = int(metric.partition("@")[2])
    places = "first place" if cutoff == 1 else f"first {cutoff} places"
    candidates = _candidates(view, main)
    level = metrics.get("interval", {}).get("level", 0.95)
    sentences = [
        join(
            [
                "The held-out item stands in the model's ",
                places,
                "" if candidates is None else f" among {candidates} candidates",
                " for ",
                element("strong", f"{estimate['value']:.1%}"),
                f" of {estimate['count']:,} {unit(metrics)} ({level:.0%} interval {estimate['low']:.1%} to"
                f" {estimate['high']:.1%}).",
            ]
        )
    ]
    for comparison in metrics.get("paired", []):
        if (
            comparison["a"] == main
            and comparison["metric"] == metric
            and comparison.get("footing", "seen_kept") == "seen_kept"
        ):
            other = system_title(comparison["b"], metrics)
            sentences.append(stands_to(other[:1].lower() + other[1:], comparison))
    if candidates is not None:
        sentences.append(
            element("span", f"Drawing lots would find {min(1.0, cutoff / candidates):.1%}.")
        )
    oracle = (metrics.get("oracle") or {}).get(metric)
    if oracle and candidates is None:
        said = f"The data are generated: whoever knows the rules expects {oracle:.1%}."
        sentences.append(element("span", said))
    return element("p", join(sentences, " "), class_="verdict")


def best_possible(metrics: dict[str, Any], metric: str) -> list[Interval]:
    """The generator's own optimum as a row of the picture, where there is one."""
    oracle = (metrics.get("oracle") or {}).get(metric)
    return [Interval("Best possible", oracle, oracle, oracle, report_plots.BEST)] if oracle else []


def _picture(view: EvaluationView, pool: str, main: str, *, salt: str) -> Markup:
    metrics = view.metrics
    metric = headline_metric(metrics, main)
    rows = [
        Interval(
            system_title(system, metrics),
            estimate["value"],
            estimate["low"],
            estimate["high"],
            report_plots.MODEL if system.startswith("model/") else report_plots.BASELINE,
        )
        for system, footings in metrics["systems"].items()
        if results.pool_of(system, metrics) == pool
        for estimate in [footings["seen_kept"][metric]]
    ]
    candidates = _candidates(view, main)
    if candidates is None:
        rows += best_possible(metrics, metric)
    among = "" if candidates is None else f", among {candidates} candidates"
    caption = (
        f"{metric_title(metric)} on the {metrics['split']} items of"
        f" {metrics['dataset']['name']}{among}, with intervals; seen items kept."
    )
    return report_plots.intervals(rows, salt=salt, caption=caption)


def _title(view: EvaluationView, pool: str, main: str) -> str:
    candidates = _candidates(view, main)
    if pool == "catalogue" or candidates is None:
        return "Retrieval from the whole catalogue"
    return f"Ranking of {candidates} candidates"


def _candidates(view: EvaluationView, system: str) -> int | None:
    """How many candidates a row ranks; None where it is the whole catalogue."""
    if results.pool_of(system, view.metrics) == "catalogue":
        return None
    return view.metrics["exact"][system]["items"]
