"""An evaluation as a table for the terminal: a row a system, the interval under each figure."""

from typing import Any

import rich.table

COLUMNS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr@10")
BY_IMPORTANCE = ("hr@10", "ndcg@10", "hr@20", "hr@5", "hr@1", "mrr@10")
INTERVAL_WIDTH = len("0.0000-0.0000")
FRAME_WIDTH = 3  # of a column: two spaces and a line
TITLES = {
    "seen_kept": "items of the history kept in the lists",
    "seen_excluded": "items of the history struck from the lists",
}


def title(result: dict[str, Any], footing: str) -> str:
    """What a table shows, to be printed above it; `result` is a metrics.json or an aggregate."""
    measured = (
        f"mean and standard deviation of {len(result['runs'])} runs"
        if "runs" in result
        else f"step {result['step']}"
    )
    users, all_users = result["users"], result["dataset"]["users"]
    unit = result.get("unit", "users")
    of_all = "" if users == all_users or unit != "users" else f" of {all_users}"
    return (
        f"{result['dataset']['name']}, {result['split']}, {measured}, {users}{of_all} {unit},"
        f" {result['num_beams']} beams: {TITLES[footing]}"
    )


def footings(result: dict[str, Any]) -> list[str]:
    """The footings that any system has; `result` is a metrics.json or an aggregate."""
    return [name for name in TITLES if any(name in found for found in result["systems"].values())]


def metrics_table(
    metrics: dict[str, Any], footing: str = "seen_kept", width: int | None = None
) -> rich.table.Table:
    """The content of a metrics.json as a table.

    Args:
        metrics: as `results` lays it out.
        footing: `seen_kept` or `seen_excluded`.
        width: of the terminal; the less important metrics are left out where they do not fit.
    """
    systems = _on_footing(metrics, footing)
    columns = _columns_that_fit(systems, footing, width)
    table = rich.table.Table()
    table.add_column("system", no_wrap=True)
    for name in columns:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for system, footings in systems.items():
        estimates = [footings[footing][name] for name in columns]
        cells = [f"{e['value']:.4f}\n[dim]{e['low']:.4f}-{e['high']:.4f}[/dim]" for e in estimates]
        table.add_row(_label(system, metrics), *cells)
    oracle = metrics.get("oracle")
    if oracle and footing == "seen_kept":
        table.add_row(
            "best possible\n[dim]the generator's own[/dim]",
            *[f"{oracle[name]:.4f}" if name in oracle else "" for name in columns],
        )
    return table


def comparison_lines(metrics: dict[str, Any], metric: str = "hr@10") -> list[str]:
    """The paired comparisons of one metric as sentences, seen items kept."""
    return [
        f"{c['a']} against {c['b']}: {metric.upper()} {c['difference']:+.4f}"
        f" [{c['low']:+.4f}, {c['high']:+.4f}], p = {c['p_value']:.2g}"
        for c in metrics["paired"]
        if c["metric"] == metric and c["footing"] == "seen_kept"
    ]


def exact_lines(metrics: dict[str, Any]) -> list[str]:
    """What the whole catalogue's scores say of ranks and beams, as sentences; nothing without them."""
    lines = []
    for system, found in (metrics.get("exact") or {}).items():
        whole = found["ranks"]["seen_kept"]
        missed = ", ".join(f"{beam['miss_rate']:.1%} at {k}" for k, beam in found["beam"].items())
        lines.append(
            f"{system} over all {found['items']} items: MRR {whole['mrr']:.4f}, median rank"
            f" {whole['median_rank']:g}, mean {whole['mean_rank']:.1f};"
            f" {metrics['num_beams']} beams miss of the truly best items {missed}"
        )
    return lines


def rating_lines(metrics: dict[str, Any]) -> list[str]:
    """Rating prediction as sentences; nothing where it was not asked."""
    ratings = metrics.get("ratings")
    if not ratings:
        return []
    found = {name: system["auc_roc"] for name, system in ratings["systems"].items()}
    areas = [f"{n} {a['value']:.4f} [{a['low']:.4f}, {a['high']:.4f}]" for n, a in found.items()]
    lines = [
        f"rating, AUC-ROC over {ratings['users']} users ({ratings['liked']:.0%} liked the item):"
        f" {', '.join(areas)}"
    ]
    return lines + [
        f"{c['a']} against {c['b']}: AUC-ROC {c['difference']:+.4f}"
        f" [{c['low']:+.4f}, {c['high']:+.4f}], p = {c['p_value']:.2g}"
        for c in ratings["paired"]
    ]


def tie_lines(metrics: dict[str, Any], metric: str = "hr@10") -> list[str]:
    """How ties in time move the baselines, as sentences; nothing where they hardly do."""
    spread = metrics["tie_orders"]
    if spread is None:
        return []
    ranges = [
        f"{system} {footings['seen_kept'][metric]['low']:.4f}-{footings['seen_kept'][metric]['high']:.4f}"
        for system, footings in spread["systems"].items()
        if metric in footings["seen_kept"]
    ]
    return [
        f"ties in time decide the target of {spread['tied_share']:.0%} of users; over"
        f" {spread['orders']} random orders of the ties {metric.upper()} is {', '.join(ranges)}"
    ]


def _columns_that_fit(systems: dict[str, Any], footing: str, width: int | None) -> list[str]:
    measured = next(iter(systems.values()))[footing]
    wanted = [name for name in BY_IMPORTANCE if name in measured]
    if width is not None:
        taken = max(map(len, systems)) + FRAME_WIDTH + 1
        wanted = wanted[: max(1, (width - taken) // (INTERVAL_WIDTH + FRAME_WIDTH))]
    return [name for name in COLUMNS if name in wanted]


def aggregate_table(combined: dict[str, Any], footing: str = "seen_kept") -> rich.table.Table:
    """The content of an aggregate file as a table: mean, and standard deviation under it."""
    systems = _on_footing(combined, footing)
    columns = [name for name in COLUMNS if name in next(iter(systems.values()))[footing]]
    table = rich.table.Table()
    table.add_column("system", no_wrap=True)
    for name in columns:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for system, footings in systems.items():
        spreads = [footings[footing][name] for name in columns]
        cells = [
            f"{s['mean']:.4f}"
            + (
                ""
                if s["standard_deviation"] is None
                else f"\n[dim]±{s['standard_deviation']:.4f}[/dim]"
            )
            for s in spreads
        ]
        table.add_row(system, *cells)
    return table


def _on_footing(result: dict[str, Any], footing: str) -> dict[str, Any]:
    return {name: found for name, found in result["systems"].items() if footing in found}


def _label(system: str, metrics: dict[str, Any]) -> str:
    template = metrics["templates"].get(system.rpartition("/")[2])
    if template is None or template["seen"] is None:
        return system
    return f"{system}\n[dim]{'seen' if template['seen'] else 'unseen'} wording[/dim]"
