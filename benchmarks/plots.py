"""Draws docs/performance.md anew from the results: its figures, its tables, and what is not measured yet.

    PYTHONPATH=. python -m benchmarks.plots
    PYTHONPATH=. python -m benchmarks.plots --results FOLDER --page FOLDER/performance.md

The page's prose is written by hand; what stands between two marks is replaced. A figure whose results are
not there is not drawn, and an old one goes. The suites' limits in benchmarks/README.md are written too.
"""

import argparse
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks import common, cpu_suite, gpu_suite, measured, page_sections, suite
from genrec_jax.data import artefacts

PAGE = common.ROOT / "docs" / "performance.md"
README = common.ROOT / "benchmarks" / "README.md"
SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)

OURS, THEIRS = "#1b6ca8", "#d1711f"
SHADES = ("#1b6ca8", "#6aa84f", "#8e5ea2", "#b8860b")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genrec_jax",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
Rows = list[dict[str, Any]]


def draw_ratios() -> Figure | None:
    """A bar for each comparison, on a logarithmic axis; the skewed catalogues are in the table alone."""
    found = [
        one
        for one in measured.ratios()
        if one.times is not None
        and " zipf ids" not in one.what
        and "one-parent ids" not in one.what
    ]
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.24 * len(found)), layout="constrained")
    places = range(len(found), 0, -1)
    times = [one.times or 0.0 for one in found]
    colors = [OURS if value >= 1 else THEIRS for value in times]
    axes.barh(places, [value - 1 for value in times], left=1, color=colors, height=0.7)
    for place, one, value in zip(places, found, times, strict=True):
        axes.annotate(
            f"{measured.digits(value)}x",
            (value, place),
            xytext=(4 if value >= 1 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 1 else "right",
            va="center",
            fontsize=7,
        )
        if one.goal is not None:
            axes.plot([one.goal] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(min(0.7, min(times) / 2.5), max(times) * 2.2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(list(places), [f"{one.what} ({one.peer})" for one in found], fontsize=7)
    axes.set_xlabel("times faster or smaller than the peer (black: the goal)")
    axes.grid(axis="y", visible=False)
    return figure


def draw_trie_step() -> Figure | None:
    """Against items, against beams and against the batch."""
    _, rows = measured.trie_rows()
    rows = [row for row in rows if row["kind"] == "uniform"]
    if not rows:
        return None
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    axes = ("items", "beams", "batch")
    for panel, along in zip(panels, axes, strict=True):
        others = [name for name in axes if name != along]
        groups = sorted({tuple(row[name] for name in others) for row in rows})
        if along != "items":  # the catalogues are a panel of their own: here the largest but one
            sizes = sorted({row["items"] for row in rows})
            shown = sizes[min(1, len(sizes) - 1)]
            groups = [group for group in groups if group[0] == shown]
        for color, group in zip(SHADES * 4, groups, strict=False):
            mine = [row for row in rows if tuple(row[name] for name in others) == group]
            mine.sort(key=lambda row: row[along])
            label = ", ".join(
                f"{_short(value)} {name}" if name != "batch" else f"batch {value}"
                for name, value in zip(others, group, strict=True)
            )
            _line(panel, mine, along, "ours_ms", color, "-", label)
            _line(panel, mine, along, "static_exact_ms", color, ":", None)
        _label(panel, along, "ms for 8 tokens" if along == "items" else "")
        _legend_below(panel)
    figure.suptitle("A search without its network; dotted: STATIC, exact", fontsize=9)
    return figure


def draw_bytes() -> Figure | None:
    """Bytes an item against items."""
    _, rows = measured.build_rows()
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    rows.sort(key=lambda row: row["items"])
    _line(axes, rows, "items", "bytes_per_item", OURS, "-", "ours")
    _line(axes, rows, "items", "static_bytes_per_item", THEIRS, ":", "STATIC")
    _label(axes, "items", "bytes an item")
    axes.legend()
    return figure


def draw_decode() -> Figure | None:
    """Latency against the batch, time a user against beams, and the parts of a search."""
    latency = measured.load("recommend_latency")
    search = measured.load("beam_search")
    parts = measured.load("decode_parts_one_core")
    panels: list[Callable[[Axes], None]] = []
    if latency is not None:
        panels.append(lambda axes: _latency(axes, latency.rows))
    if search is not None:
        panels.append(lambda axes: _beams(axes, search.rows, search.content["settings"]["model"]))
    if parts is not None:
        panels.append(lambda axes: _parts(axes, parts.rows))
    if not panels:
        return None
    figure, grid = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.2), layout="constrained", squeeze=False
    )
    for axes, panel in zip(grid[0], panels, strict=True):
        panel(axes)
    return figure


def _latency(axes: Axes, rows: Rows) -> None:
    shown = [
        {"batch": row["batch"], "p50": row["p50_s"] * 1e3, "p99": row["p99_s"] * 1e3}
        for row in rows
    ]
    _line(axes, shown, "batch", "p50", OURS, "-", "p50")
    _line(axes, shown, "batch", "p99", OURS, "--", "p99")
    _label(axes, "batch", "ms a call")
    axes.set_title("recommend, T5-small", fontsize=9)
    _legend_below(axes)


def _beams(axes: Axes, rows: Rows, model: str) -> None:
    largest = max(row["items"] for row in rows)
    for color, batch in zip(SHADES, sorted({row["batch"] for row in rows}), strict=False):
        mine = [row for row in rows if row["items"] == largest and row["batch"] == batch]
        shown = [{"beams": row["beams"], "ms": row["wall_s_per_user"] * 1e3} for row in mine]
        _line(axes, shown, "beams", "ms", color, "-", f"batch {batch}")
    _label(axes, "beams", "ms a user")
    axes.set_title(f"search, {model} model, {largest:,} items", fontsize=9)
    _legend_below(axes)


def _parts(axes: Axes, rows: Rows) -> None:
    rows = sorted(rows, key=lambda row: row["batch"])
    below = [0.0] * len(rows)
    places = range(len(rows))
    for number, name in enumerate(rows[0]["parts_s"]):
        shares = [row["parts_s"][name] / sum(row["parts_s"].values()) for row in rows]
        color = plt.get_cmap("tab10")(number)
        axes.bar(places, shares, bottom=below, width=0.6, color=color, label=name)
        below = [a + b for a, b in zip(below, shares, strict=True)]
    axes.set_xticks(list(places), [f"batch {row['batch']}" for row in rows])
    axes.set_title("parts of a search, T5-small, one core", fontsize=9)
    axes.set_ylabel("share of the time")
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))


def _line(
    axes: Axes, rows: Rows, x: str, y: str, color: str, dashes: str, label: str | None
) -> None:
    """A line through the rows that have the value."""
    there = [row for row in rows if y in row]
    if there:
        xs, ys = [row[x] for row in there], [row[y] for row in there]
        axes.plot(xs, ys, dashes, color=color, marker="o", markersize=3, label=label)


def _label(axes: Axes, x: str, y: str) -> None:
    """Names the axes, both logarithmic; ticks along x stand where something was measured."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    values = sorted(
        {int(value) for line in axes.lines for value in np.atleast_1d(line.get_xdata())}
    )
    axes.set_xticks(values, [_short(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _legend_below(axes: Axes) -> None:
    axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _short(value: int) -> str:
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return str(value)


FIGURES: dict[str, Callable[[], Figure | None]] = {
    "ratios": draw_ratios,
    "trie_step": draw_trie_step,
    "bytes": draw_bytes,
    "decode": draw_decode,
}


def draw(folder: pathlib.Path) -> Iterable[pathlib.Path]:
    """Draws every figure that has results, and removes those that have none any more."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name, make in FIGURES.items():
            path = folder / f"{name}.svg"
            figure = make()
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            plt.close(figure)
            yield path


LIMITS: dict[str, Callable[[], str]] = {
    "cpu_limits": lambda: suite.budgets(cpu_suite.STEPS),
    "gpu_limits": lambda: suite.budgets(gpu_suite.STEPS),
    "left_out": cpu_suite.left_out,
}
"""What benchmarks/README.md has of the suites."""


def written_anew(text: str, sections: Mapping[str, Callable[[], str]]) -> str:
    """A page with what stands between its marks replaced.

    Raises:
        ValueError: a mark names a section that there is not, or a section has no mark.
    """
    marked = [found.group(2) for found in SECTION.finditer(text)]
    if sorted(marked) != sorted(sections):
        wanted = ", ".join(sections)
        raise ValueError(f"the page marks {', '.join(marked)}; wanted each of {wanted} once")
    return SECTION.sub(lambda m: f"{m[1]}\n{sections[m[2]]()}\n\n{m[3]}", text)


def write_page(page: pathlib.Path, sections: Mapping[str, Callable[[], str]]) -> None:
    """`written_anew`, in place."""
    text = written_anew(page.read_text(encoding="utf-8"), sections)
    with artefacts.atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {page}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=pathlib.Path, help="folder (benchmarks/results)")
    parser.add_argument("--page", type=pathlib.Path, default=PAGE, help="written anew, in place")
    arguments = parser.parse_args()
    if arguments.results is not None:
        common.use_results(arguments.results)
    page = arguments.page
    for path in draw(page.parent / page_sections.FIGURES):
        print(f"drew {path}")
    write_page(page, page_sections.SECTIONS)
    if page == PAGE:
        write_page(README, LIMITS)


if __name__ == "__main__":
    main()
