"""The report's sections on one evaluation: tables, comparisons, examples, audit, facts."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from genrec_jax.data import splits
from genrec_jax.evaluation import results
from genrec_jax.evaluation.report_data import EvaluationView, ExampleUser, Recommended
from genrec_jax.evaluation.report_html import (
    ABSENT,
    Markup,
    definitions,
    element,
    interval,
    join,
    section,
    table,
)

FOOTINGS = {
    "seen_kept": "Items of the user's history kept in the lists",
    "seen_excluded": "Items of the user's history struck from the lists",
}
COLUMNS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10", "mrr@20")
SYSTEM_NAMES = {
    "popularity": "Popularity",
    "transition": "Last-item transition",
    "transition_2": "Second-last-item transition",
}
MARKS = {"pass": "✓ pass", "warn": "! warn", "fail": "✗ fail"}


def metric_title(metric: str) -> str:
    """`hr@10` as it is printed."""
    return metric.upper()


def system_title(system: str, metrics: dict[str, Any]) -> str:
    """A system's name as people read it, such as `Model, sequential, A1 (seen wording)`."""
    if not system.startswith(("model/", "exact/")):
        name, _, task = system.partition("/")
        where = f", users of {task}" if task else ""
        if results.pool_of(system, metrics) == "candidates":
            where = " among the same candidates"
        return SYSTEM_NAMES.get(name, name) + where
    kind, *task, template_id = system.split("/")
    first = "Model" if kind == "model" else "Model without beams"
    if [template_id] == task:  # a task of one prompt
        return f"{first}, {template_id}"
    said = results.wording(metrics.get("templates", {}).get(template_id, {}))
    return ", ".join([first, *task, template_id]) + ("" if said is None else f" ({said})")


def unit(metrics: dict[str, Any]) -> str:
    """The plural noun for what was scored: users, or examples of a SeqIO mixture."""
    return metrics.get("unit", "users")


def stands_to(other: str, comparison: Mapping[str, Any]) -> Markup:
    """One sentence on a paired comparison of the model with another system."""
    figures = (
        f"{comparison['difference']:+.4f}, paired interval {comparison['low']:+.4f} to"
        f" {comparison['high']:+.4f}"
    )
    if comparison["low"] > 0:
        said, css = f"It beats {other} beyond the interval ({figures}).", "good"
    elif comparison["high"] < 0:
        said, css = f"It is behind {other} beyond the interval ({figures}).", "bad"
    else:
        said, css = f"It cannot be told from {other} ({figures}).", "unclear"
    return element("span", said, class_=css)


def results_tables(view: EvaluationView, *, level: int) -> Markup:
    """Every metric of every system, on both footings; rankings of candidates in tables of their own."""
    metrics = view.metrics
    parts: list[object] = []
    for pool, footing in itertools.product(results.POOLS, FOOTINGS):
        systems = {
            name: footings[footing]
            for name, footings in metrics["systems"].items()
            if footing in footings and results.pool_of(name, metrics) == pool
        }
        # Negatives are none of the user's items: among candidates there is nothing to strike.
        if not systems or (pool == "candidates" and footing == "seen_excluded"):
            continue
        title = FOOTINGS[footing] if pool == "catalogue" else "Each user's own candidates alone"
        columns = [name for name in COLUMNS if any(name in found for found in systems.values())]
        rows, classes = [], []
        for name, found in systems.items():
            rows.append([system_title(name, metrics), *(_cell(found.get(c)) for c in columns)])
            classes.append("model" if name.startswith("model/") else None)
        oracle = metrics.get("oracle")
        if oracle and footing == "seen_kept" and pool == "catalogue":
            rows.append(
                ["Best possible", *(f"{oracle[c]:.4f}" if c in oracle else ABSENT for c in columns)]
            )
            classes.append("best")
        parts.append(table(title, ["", *map(metric_title, columns)], rows, row_classes=classes))
    share = metrics.get("lists", {}).get(view.main_of("catalogue"))
    if not any(parts):  # it only rated
        return Markup("")
    parts.append(tie_orders(view))
    notes = [*metrics.get("remarks", []), *metrics.get("notes", [])]
    if share:
        seen = share["seen_share"]
        taken = "" if seen is None else f"{seen:.1%} held an item of the user's history and "
        notes.append(f"Of the model's list places, {taken}{share['empty_share']:.1%} were empty.")
    interval = metrics.get("interval")
    if interval and parts:
        notes.append(
            f"Under each figure: its {interval['level']:.0%} interval,"
            f" {interval['method']}, {interval['resamples']:,} resamples."
        )
    parts.append(element("ul", *(element("li", note) for note in notes), class_="notes"))
    return section("Results", *parts, level=level)


def tie_orders(view: EvaluationView) -> Markup:
    """How far the baselines move when ties in time are broken differently, where that was measured."""
    spread = view.metrics.get("tie_orders")
    if not spread:
        return Markup("")
    systems = {name: found["seen_kept"] for name, found in spread["systems"].items()}
    columns = [name for name in COLUMNS if any(name in found for found in systems.values())]
    rows = [
        [
            system_title(name, view.metrics),
            *(
                interval(found[c]["low"], found[c]["high"]) if c in found else ABSENT
                for c in columns
            ),
        ]
        for name, found in systems.items()
    ]
    caption = (
        f"Ties in time decide the target of {spread['tied_share']:.0%} of users: least and greatest"
        f" figure over {spread['orders']} random orders of the ties, seen items kept"
    )
    return table(caption, ["", *map(metric_title, columns)], rows)


def _cell(estimate: dict[str, Any] | None) -> Markup:
    if estimate is None:
        return ABSENT
    return join(
        [
            f"{estimate['value']:.4f}",
            element("small", interval(estimate["low"], estimate["high"])),
        ]
    )


def comparisons(view: EvaluationView, *, level: int) -> Markup:
    """The paired tests between the model and the others."""
    metrics = view.metrics
    rows, classes = [], []
    for found in metrics.get("paired", []):
        rows.append(
            [
                system_title(found["a"], metrics),
                system_title(found["b"], metrics),
                found.get("footing", "seen_kept").replace("_", " "),
                metric_title(found["metric"]),
                f"{found['difference']:+.4f}",
                f"{found['low']:+.4f} to {found['high']:+.4f}",
                f"{found['p_value']:.2g}",
            ]
        )
        classes.append("better" if found["low"] > 0 else "worse" if found["high"] < 0 else None)
    made = table(
        "The first system's figure less the second's, user by user",
        ["System", "against", "seen items", "metric", "difference", "interval", "p"],
        rows,
        row_classes=classes,
        numbers_from=4,
    )
    if not made:
        return made
    body = element("details", element("summary", f"{len(rows)} paired comparisons"), made)
    return section("Paired comparisons", body, level=level)


def audit_section(view: EvaluationView, *, level: int) -> Markup:
    """The leakage audit, check by check."""
    repeated = (
        "Made anew for this report, on the dataset, the item IDs and the predictions."
        if view.audit_repeated
        else "As stored when the dataset was prepared and indexed."
    )
    rows = [
        [
            result["check"].replace("_", " "),
            element("span", MARKS.get(result["status"], result["status"]), class_=result["status"]),
            result["detail"],
        ]
        for result in view.audit
    ]
    made = table("Leakage audit", ["check", "result", "measured"], rows, numbers_from=99)
    if not made:
        made = element("p", "No audit is stored with this evaluation.", class_="fail")
    return section("Leakage audit", element("p", repeated), made, level=level)


def audit_warning(view: EvaluationView) -> Markup | None:
    """Said at the very top where a check failed: the figures below mean nothing."""
    failed = [
        result["check"].replace("_", " ") for result in view.audit if result["status"] == "fail"
    ]
    if not failed:
        return None
    return element(
        "p",
        element("strong", "The leakage audit failed: "),
        f"{', '.join(failed)}. The figures on {view.metrics['dataset']['name']} cannot be trusted.",
        class_="alarm",
        role="alert",
    )


def checkpoint_warning(said: str) -> Markup:
    """Said at the very top where the figures below are not of the best checkpoint."""
    return element(
        "p", element("strong", "Not the best checkpoint: "), said, class_="alarm", role="alert"
    )


def examples_section(view: EvaluationView, *, level: int) -> Markup:
    """A few users with their history, the held-out item and the model's list."""
    penalty = view.metrics["length_penalty"]
    cards = [_card(user, level + 1, penalised=penalty != 0) for user in view.examples]
    if view.main_system is None and view.notice is None:
        return Markup("")
    number = (
        "its score, by which the list is ordered: the log-probability that the model gives it, divided"
        f" by its number of tokens to the power of {penalty:g}, the length penalty"
        if penalty
        else "the probability the model gives it"
    )
    said = (
        f"{unit(view.metrics).capitalize()} spread evenly over hits in first place, hits below it, and"
        f" misses. The number behind an item is {number}."
    )
    if not view.examples:
        return section("Examples", element("p", view.notice) if view.notice else None, level=level)
    return section(
        "Examples", element("p", said), element("div", *cards, class_="cards"), level=level
    )


def _card(user: ExampleUser, level: int, *, penalised: bool) -> Markup:
    earlier = f"{user.earlier} earlier items, then " if user.earlier else ""
    found = f"in place {user.rank}" if user.rank else "not in the list"
    return element(
        "article",
        element(f"h{level}", "User " if user.known else "Example ", element("span", user.user)),
        element("p", element("b", "History: "), earlier, _titles(user.history))
        if user.known
        else None,
        element("p", element("b", "Took next: "), user.target, element("em", f" ({found})")),
        element("ol", *(_place(item, penalised) for item in user.recommended)),
        class_="card",
    )


def _titles(titles: Sequence[str]) -> Markup:
    return join((element("span", title, class_="taken") for title in titles), " → ")


def _place(item: Recommended, penalised: bool) -> Markup:
    css = "target" if item.is_target else "seen" if item.is_seen else None
    note = " ← taken next" if item.is_target else " (taken before)" if item.is_seen else ""
    # A score under a length penalty is no log-probability: nothing is gained by its exponential.
    figure = item.score if penalised else math.exp(min(item.score, 0.0))
    return element(
        "li",
        element(
            "div",
            element("span", element("span", item.title, title=item.item_id), note),
            element("small", f"{figure:.3f}"),
        ),
        class_=css,
    )


def moment(text: str | None) -> str | None:
    """A time such as `2026-01-31T12:00:00+00:00` as `2026-01-31 12:00 UTC`."""
    if text is None or not text.endswith("+00:00"):
        return text
    return f"{text[:16].replace('T', ' ')} UTC"


def _search(view: EvaluationView) -> str | None:
    """What was searched, if anything was."""
    searched: dict[results.Pool, str] = {
        "catalogue": "the whole catalogue",
        "candidates": "each user's candidates",
    }
    pools = [said for pool, said in searched.items() if view.main_of(pool) is not None]
    return f"{view.metrics['num_beams']} beams over {' and '.join(pools)}" if pools else None


def _protocol(metrics: dict[str, Any]) -> str:
    """How the targets were chosen, with a temporal split's dates."""
    named = metrics["protocol"].replace("_", " ")
    if not results.is_by_date(metrics):
        return named
    dates = splits.describe(metrics["dataset"]["split"])
    return dates if metrics["protocol"] == "temporal" else f"{named}; {dates}"


def facts(view: EvaluationView) -> Markup:
    """A short description of the evaluation."""
    metrics = view.metrics
    dataset = metrics["dataset"]
    ids, ratings = metrics.get("item_ids", {}), metrics.get("ratings")
    return definitions(
        [
            ("Dataset", dataset["name"]),
            (
                "Users, items, interactions",
                f"{dataset['users']:,}, {dataset['items']:,}, {dataset['interactions']:,}",
            ),
            ("Protocol", f"{_protocol(metrics)}; {metrics['split']} items"),
            (
                f"{unit(metrics).capitalize()} scored",
                f"{metrics.get('users', 0):,}" if metrics["systems"] else None,
            ),
            ("Item IDs", ids.get("method")),
            ("Search", _search(view)),
            ("Activations", metrics.get("dtype")),
            ("Asked to rate", f"{ratings['users']:,} users" if ratings else None),
            ("Checkpoint", f"step {metrics['step']:,} ({view.checkpoint.said})"),
            ("Evaluated", moment(metrics.get("created"))),
        ]
    )
