"""The report's section on rating prediction: AUC-ROC beside the History baseline, and their test."""

from collections.abc import Mapping
from typing import Any

from genrec_jax.evaluation import report_plots
from genrec_jax.evaluation.report_data import EvaluationView
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
from genrec_jax.evaluation.report_sections import stands_to, system_title

NAMES = {"history": "History: share of the user's items that were liked"}
GUESSING = 0.5


def name_of(system: str, metrics: dict[str, Any]) -> str:
    """A system's name as people read it; the model's with its wording where it was asked in several."""
    models = models_of(metrics)
    if system in models:
        return "Model" if len(models) == 1 else system_title(system, metrics)
    return NAMES.get(system, system)


def models_of(metrics: dict[str, Any]) -> list[str]:
    """The model's rows of rating prediction, those of a wording that training saw first."""
    templates = metrics.get("templates", {})
    models = [name for name in metrics["ratings"]["systems"] if name.startswith("model/")]
    return sorted(
        models, key=lambda name: not templates.get(name.rpartition("/")[2], {}).get("seen", True)
    )


def headline(view: EvaluationView, *, salt: str) -> Markup:
    """The AUC-ROC as a sentence, its comparison with the baseline, and a picture of both."""
    metrics, ratings = view.metrics, view.metrics["ratings"]
    areas = {name: found["auc_roc"] for name, found in ratings["systems"].items()}
    main = models_of(metrics)[0]
    model = areas[main]
    users, liked = f"{ratings['users']:,} users", f"{ratings['liked']:.1%}"
    if model["value"] is None:
        said = f"Of {users}, {liked} liked their held-out item: without both kinds there is no AUC-ROC."
        return element("p", said, class_="verdict")
    level = metrics.get("interval", {}).get("level", 0.95)
    low, high = _ends(model)
    sentences = [
        join(
            [
                "Of a user who liked the held-out item and one who did not, the model holds the first"
                " more likely to like it in ",
                element("strong", f"{model['value']:.1%}"),
                f" of all pairs: AUC-ROC {model['value']:.4f}, {level:.0%} interval {low:.4f} to"
                f" {high:.4f}, over {users}, of whom {liked} liked it."
                " Guessing reaches 50%.",
            ]
        )
    ]
    sentences += [
        stands_to("the user's history" if found["b"] == "history" else found["b"], found)
        for found in ratings["paired"]
        if found["a"] == main and found["low"] is not None
    ]
    rows = [
        Interval(
            name_of(name, metrics).partition(":")[0],
            area["value"],
            *_ends(area),
            report_plots.MODEL if name.startswith("model/") else report_plots.BASELINE,
        )
        for name, area in areas.items()
    ]
    caption = (
        f"AUC-ROC of rating prediction on the {metrics['split']} items of"
        f" {metrics['dataset']['name']}, with intervals; the dashed line is guessing."
    )
    picture = report_plots.intervals(rows, salt=salt, caption=caption, origin=GUESSING)
    return join([element("p", join(sentences, " "), class_="verdict"), picture])


def ratings_section(view: EvaluationView, *, level: int) -> Markup:
    """Every figure of rating prediction; empty if the run has no such task."""
    ratings = view.metrics.get("ratings")
    if not ratings:
        return Markup("")
    main, *others = models_of(view.metrics)
    against = {found["b"]: found for found in ratings["paired"] if found["a"] == main}
    rows, classes = [], []
    for name, found in ratings["systems"].items():
        area, compared = found["auc_roc"], against.get(name)
        rows.append([name_of(name, view.metrics), area_cell(area), *_test(compared)])
        classes.append("model" if name.startswith("model/") else None)
    caption = (
        f"AUC-ROC over {ratings['users']:,} users with a rated held-out item, of whom"
        f" {ratings['liked']:.1%} liked it"
    )
    less = f"{name_of(main, view.metrics)} less this" if others else "the model less this"
    header = ["", "AUC-ROC", less, "interval", "p"]
    notes = [
        "The score is the model's log-odds of the two answers' first tokens, at the decoder's first step.",
        "Intervals and the test of the difference on the same users: DeLong's, normal.",
    ]
    return section(
        "Ratings",
        table(caption, header, rows, row_classes=classes),
        element("ul", *(element("li", note) for note in notes), class_="notes"),
        level=level,
    )


def area_cell(area: Mapping[str, Any]) -> Markup:
    """An area with its interval below it."""
    if area["value"] is None:
        return ABSENT
    small = element("small", interval(*_ends(area)))
    return join([f"{area['value']:.4f}", small])


def area_text(area: Mapping[str, Any]) -> str:
    """An area with its interval in words."""
    if area["value"] is None:
        return "does not exist: all liked the item, or none"
    low, high = _ends(area)
    return f"{area['value']:.4f} ({low:.4f} to {high:.4f})"


def _ends(area: Mapping[str, Any]) -> tuple[float, float]:
    """Of the interval; the value itself where one example of a kind gives none."""
    low, high = area["low"], area["high"]
    return (area["value"], area["value"]) if low is None else (low, high)


def _test(compared: Mapping[str, Any] | None) -> list[object]:
    if compared is None or compared["low"] is None:
        return [ABSENT] * 3
    return [
        f"{compared['difference']:+.4f}",
        f"{compared['low']:+.4f} to {compared['high']:+.4f}",
        f"{compared['p_value']:.2g}",
    ]
