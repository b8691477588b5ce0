"""An evaluation as tables for the terminal: a row a system, the interval under each figure."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import rich.table
from rich.text import Text

from genrec_jax.evaluation.results import POOLS, Pool, is_by_date, noise_of, pool_of, wording

COLUMNS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr@10")
BY_IMPORTANCE = ("hr@10", "ndcg@10", "hr@20", "hr@5", "hr@1", "mrr@10")
LEADING_METRIC = "hr@10"
"""What the lines under a table are about."""
INTERVAL_WIDTH = len("0.0000-0.0000")
ABSENT = "-"
FRAME_WIDTH = 3  # of a column: two spaces and a line
TITLES = {
    "seen_kept": "items of the history kept in the lists",
    "seen_excluded": "items of the history struck from the lists",
}


def tables(
    result: dict[str, Any], width: int | None = None
) -> Iterator[tuple[str, rich.table.Table]]:
    """Every table of a result, each with the line to print above it.

    Args:
        result: a metrics.json or an aggregate.
        width: of the terminal; see `metrics_table`.
    """
    make = aggregate_table if "runs" in result else metrics_table
    for pool, footing in itertools.product(POOLS, TITLES):
        if pool == "candidates" and footing == "seen_excluded":
            continue  # negatives are none of the user's items: there is nothing to strike
        if _systems(result, footing, pool):
            yield title(result, footing, pool), make(result, footing, width, pool)
    if result.get("ratings"):
        ratings = result["ratings"]
        yield (
            f"{_measured(result)}, {ratings['users']} users, of whom {ratings['liked']:.1%} liked the"
            " item: rating prediction",
            ratings_table(result),
        )


def title(result: dict[str, Any], footing: str, pool: Pool = "catalogue") -> str:
    """The title of a table, to be printed above it; `result` is a metrics.json or an aggregate."""
    users, all_users = result["users"], result["dataset"]["users"]
    unit = result.get("unit", "users")
    of_all = "" if users == all_users or unit != "users" else f" of {all_users}"
    what = TITLES[footing] if pool == "catalogue" else "each user's own candidates"
    return f"{_measured(result)}, {users}{of_all} {unit}, {result['num_beams']} beams: {what}"


def _measured(result: dict[str, Any]) -> str:
    measured = (
        f"mean and standard deviation of {len(result['runs'])} runs"
        if "runs" in result
        else f"step {result['step']}"
    )
    by_date = " by date" if is_by_date(result) else ""
    return f"{result['dataset']['name']}, {result['split']}{by_date}, {measured}"


def metrics_table(
    metrics: dict[str, Any],
    footing: str = "seen_kept",
    width: int | None = None,
    pool: Pool = "catalogue",
) -> rich.table.Table:
    """The content of a metrics.json as a table.

    Args:
        metrics: as `results` lays it out.
        footing: `seen_kept` or `seen_excluded`.
        width: of the terminal; the less important metrics are left out where they do not fit.
        pool: what the systems rank.
    """
    systems = _systems(metrics, footing, pool)
    columns = _columns_that_fit(systems, footing, width)
    table = rich.table.Table()
    table.add_column("system", no_wrap=True)
    for name in columns:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for system, footings in systems.items():
        estimates = [footings[footing][name] for name in columns]
        table.add_row(_label(system, metrics), *map(_estimate, estimates))
    oracle = metrics.get("oracle")
    if oracle and footing == "seen_kept" and pool == "catalogue":
        table.add_row(
            _over("best possible", "the generator's own"),
            *[f"{oracle[name]:.4f}" if name in oracle else "" for name in columns],
        )
    return table


def comparison_lines(metrics: dict[str, Any]) -> list[str]:
    """The paired comparisons of HR@10 as sentences, seen items kept."""
    return [
        f"{c['a']} against {c['b']}: {LEADING_METRIC.upper()} {c['difference']:+.4f}"
        f" [{c['low']:+.4f}, {c['high']:+.4f}], p = {c['p_value']:.2g}"
        for c in metrics["paired"]
        if c["metric"] == LEADING_METRIC and c["footing"] == "seen_kept"
    ]


def pair_table(compared: Sequence[dict[str, Any]]) -> rich.table.Table:
    """The paired differences of two runs: a row a metric, each footing's difference, interval and p."""
    made = rich.table.Table()
    made.add_column("difference", no_wrap=True)
    cells: dict[str, dict[str, str]] = {}
    for c in compared:
        cells.setdefault(c["footing"], {})[c["metric"]] = (
            f"{c['difference']:+.4f} [{c['low']:+.4f}, {c['high']:+.4f}], p = {c['p_value']:.2g}"
        )
    for footing in cells:
        made.add_column(footing.replace("_", " "), justify="right", no_wrap=True)
    for metric in dict.fromkeys(c["metric"] for c in compared):
        made.add_row(metric.upper(), *(found[metric] for found in cells.values()))
    return made


def exact_lines(metrics: dict[str, Any]) -> list[str]:
    """What the whole catalogue's scores say of ranks and beams, as sentences; none without `--exact`."""
    lines = []
    for system, found in (metrics.get("exact") or {}).items():
        whole = found["ranks"]["seen_kept"]
        missed = ", ".join(f"{beam['miss_rate']:.1%} at {k}" for k, beam in found["beam"].items())
        lines.append(
            f"{system} over all {found['items']} items: MRR {whole['mrr']:.4f}, median rank"
            f" {whole['median_rank']:g}, mean {whole['mean_rank']:.1f};"
            f" {metrics['num_beams']} beams miss of the truly best items {missed}"
        )
    noise = noise_of(metrics)
    return [*lines, noise] if lines and noise else lines


def ratings_table(result: dict[str, Any]) -> rich.table.Table:
    """Rating prediction of a metrics.json or an aggregate: a row a system."""
    made = rich.table.Table()
    made.add_column("system", no_wrap=True)
    made.add_column("AUC-ROC", justify="right", no_wrap=True)
    for name, found in result["ratings"]["systems"].items():
        area = found["auc_roc"]
        cell = _spread(area) if "mean" in area else _estimate(area)
        made.add_row(_label(name, result), cell)
    return made


def rating_lines(metrics: dict[str, Any]) -> list[str]:
    """The paired comparisons of rating prediction as sentences, if there are any."""
    return [
        f"{c['a']} against {c['b']}: AUC-ROC {c['difference']:+.4f}"
        f" [{c['low']:+.4f}, {c['high']:+.4f}], p = {c['p_value']:.2g}"
        for c in (metrics.get("ratings") or {}).get("paired", [])
        if c["low"] is not None
    ]


def tie_lines(metrics: dict[str, Any]) -> list[str]:
    """How ties in time change HR@10 of the baselines, as sentences; nothing if they hardly do."""
    spread = metrics["tie_orders"]
    if spread is None:
        return []
    ranges = [
        f"{system} {found['low']:.4f}-{found['high']:.4f}"
        for system, footings in spread["systems"].items()
        if (found := footings["seen_kept"].get(LEADING_METRIC))
    ]
    return [
        f"ties in time decide the target of {spread['tied_share']:.0%} of users; over"
        f" {spread['orders']} random orders of the ties {LEADING_METRIC.upper()} is {', '.join(ranges)}"
    ]


def _columns_that_fit(systems: dict[str, Any], footing: str, width: int | None) -> list[str]:
    measured = next(iter(systems.values()))[footing]
    wanted = [name for name in BY_IMPORTANCE if name in measured]
    if width is not None:
        taken = max(map(len, systems)) + FRAME_WIDTH + 1
        wanted = wanted[: max(1, (width - taken) // (INTERVAL_WIDTH + FRAME_WIDTH))]
    return [name for name in COLUMNS if name in wanted]


def aggregate_table(
    combined: dict[str, Any],
    footing: str = "seen_kept",
    width: int | None = None,
    pool: Pool = "catalogue",
) -> rich.table.Table:
    """The content of an aggregate file as a table: mean, and standard deviation under it."""
    systems = _systems(combined, footing, pool)
    columns = _columns_that_fit(systems, footing, width)
    table = rich.table.Table()
    table.add_column("system", no_wrap=True)
    for name in columns:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for system, footings in systems.items():
        spreads = [footings[footing][name] for name in columns]
        table.add_row(system, *map(_spread, spreads))
    return table


def _estimate(found: dict[str, Any]) -> str | Text:
    """A figure with its interval under it, where these exist."""
    if found["value"] is None:
        return ABSENT
    if found["low"] is None:
        return f"{found['value']:.4f}"
    return _over(f"{found['value']:.4f}", f"{found['low']:.4f}-{found['high']:.4f}")


def _spread(found: dict[str, Any]) -> str | Text:
    """A mean with its standard deviation under it, where these exist."""
    if found["mean"] is None:
        return ABSENT
    deviation = found["standard_deviation"]
    mean = f"{found['mean']:.4f}"
    return mean if deviation is None else _over(mean, f"±{deviation:.4f}")


def _over(text: str, below: str) -> Text:
    """A cell of two lines, the second of them faint."""
    return Text.assemble(text, "\n", (below, "dim"))


def _systems(result: dict[str, Any], footing: str, pool: Pool) -> dict[str, Any]:
    return {
        name: found
        for name, found in result["systems"].items()
        if footing in found and pool_of(name, result) == pool
    }


def _label(system: str, metrics: dict[str, Any]) -> str | Text:
    said = wording(metrics["templates"].get(system.rpartition("/")[2], {}))
    if said is None or not system.startswith(("model/", "exact/")):
        return system
    return _over(system, said)
