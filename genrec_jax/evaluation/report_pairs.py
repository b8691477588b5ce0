"""The report's section on runs against each other: their lists joined user by user."""

import itertools
from collections.abc import Sequence

from genrec_jax.errors import UserError
from genrec_jax.evaluation import report_compare, run_pairs
from genrec_jax.evaluation.report_data import RunView
from genrec_jax.evaluation.report_headline import headline_metric
from genrec_jax.evaluation.report_html import Markup, element, section, table
from genrec_jax.evaluation.report_sections import metric_title, stands_to, system_title, unit
from genrec_jax.evaluation.stored import Stored

MOST_RUNS = 6
HEADER = ("run", "against", "seen items", "metric", "difference", "interval", "p")


def against_each_other(runs: Sequence[RunView]) -> Markup:
    """Each pair of runs whose main rows stand in one table of `report_compare.comparison`."""
    parts: list[object] = []
    for title, group in report_compare.ranked_groups(runs).items():
        if len(group) > 1:
            parts += _group(title, group)
    if not parts:
        return Markup("")
    said = (
        "The difference of each pair of runs' main rows on the same users, with its interval over users."
        " Two runs whose own intervals overlap may yet differ for certain. Another seed of training would"
        " move both: only several seeds of each say by how much."
    )
    return section("Runs against each other", element("p", said), *parts, id_="pairs")


def _group(title: str, group: Sequence[report_compare.Ranked]) -> list[Markup]:
    if len(group) > MOST_RUNS:
        said = f"{title}: {len(group)} runs, too many for each pair; name at most {MOST_RUNS}."
        return [element("p", said, class_="notes")]
    sentences, notes, rows, classes = [], [], [], []
    metric = headline_metric(group[0][1].metrics, group[0][2])
    for pair in itertools.combinations(group, 2):
        measured = pair[0][1].metrics
        one, other = (
            run_pairs.Row(run.name, Stored(view.folder, view.metrics), main)
            for run, view, main in pair
        )
        try:
            compared = run_pairs.compare(one, other)
        except UserError as error:
            notes.append(element("p", f"{title}: {error}", class_="notes"))
            continue
        for found in compared:
            if (found["footing"], found["metric"]) == ("seen_kept", metric):
                systems = [system_title(row.system, row.stored.metrics) for row in (one, other)]
                what = systems[0] if systems[0] == systems[1] else " against ".join(systems)
                level = 100 * measured["interval"]["level"]
                said = (
                    f"{one.name}: {metric_title(metric)}, {what}, on {found['count']:,}"
                    f" {unit(measured)}, {level:g}% interval. ",
                    stands_to(other.name, found),
                )
                sentences.append(element("li", *said))
            rows.append(
                [
                    one.name,
                    other.name,
                    found["footing"].replace("_", " "),
                    metric_title(found["metric"]),
                    f"{found['difference']:+.4f}",
                    f"{found['low']:+.4f} to {found['high']:+.4f}",
                    f"{found['p_value']:.2g}",
                ]
            )
            classes.append("better" if found["low"] > 0 else "worse" if found["high"] < 0 else None)
    if not rows:
        return notes
    caption = f"{title}: the first run's figure less the second's, user by user"
    made = table(caption, HEADER, rows, row_classes=classes, numbers_from=4)
    count = element("summary", f"{len(rows)} paired comparisons")
    return [element("ul", *sentences), element("details", count, made), *notes]
