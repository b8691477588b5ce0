"""The report's pictures, as SVG that goes into the page: nothing is fetched, text stays text."""

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from genrec_jax.evaluation.report_html import Markup, element, escape

INK, MUTED, GRID = "#1c2733", "#5b6875", "#e3e8ed"
MODEL, BASELINE, BEST = "#0b6e69", "#5b6875", "#8a5a12"
BARS = {MODEL: "#4d9691", BASELINE: "#808d99", BEST: "#a97f3f"}
"""Of each mark's interval: lighter, but on white still three times as dark."""
LONGEST_LABEL = 52
SERIES = ("#0b6e69", "#c2410c", "#4756a6", "#8a2f6b", "#5f7a1c", "#96601a")
WIDTH = 9.2  # inches, drawn to the page's width

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}


@dataclasses.dataclass(frozen=True)
class Interval:
    """One row of an interval plot.

    Attributes:
        label: its name.
        value: the figure.
        low: lower end of its interval; the value itself where there is none.
        high: upper end.
        colour: of its mark: MODEL, BASELINE or BEST.
    """

    label: str
    value: float
    low: float
    high: float
    colour: str = MODEL


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve: steps, values and a name for the legend (None: no legend)."""

    steps: Sequence[int]
    values: Sequence[float]
    label: str | None = None
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes with some curves."""

    title: str
    lines: Sequence[Line]
    from_zero: bool = False


def intervals(
    rows: Sequence[Interval], *, salt: str, caption: str, origin: float | None = None
) -> Markup:
    """Systems one below the other, each a dot with its interval and its figure beside it.

    Args:
        rows: the systems.
        salt: tells the ids of this picture from another's.
        caption: what it shows.
        origin: what says nothing, marked by a dashed line (an AUC's 0.5); hit ratios begin at 0.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.55 + 0.36 * len(rows)))
        axes = figure.add_subplot()
        axes.grid(axis="y", visible=False)
        start = origin or 0.0
        top = max(max(row.high for row in rows), start + 1e-9)
        bottom = min(start, *(row.low for row in rows))
        if origin is not None:
            axes.axvline(origin, color=MUTED, linestyle="--", linewidth=1.5, zorder=1)
        for place, row in enumerate(rows):
            height = len(rows) - place
            axes.plot([start, row.value], [height, height], color=GRID, linewidth=1.2, zorder=1)
            axes.plot([row.low, row.high], [height, height], color=BARS[row.colour], linewidth=4)
            axes.plot(
                [row.value], [height], "o", color=row.colour, markersize=8, markeredgecolor="white"
            )
            axes.annotate(
                f"{row.value:.4f}",
                (max(row.high, row.value), height),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                color=row.colour,
                fontweight="bold",
            )
        axes.set_yticks(range(len(rows), 0, -1), [_short(row.label) for row in rows], color=INK)
        axes.tick_params(length=0)
        margin = 0.14 * (top - bottom)
        axes.set_xlim(bottom if origin is None else bottom - margin / 3, top + margin)
        axes.set_ylim(0.4, len(rows) + 0.6)
        axes.spines["left"].set_visible(False)
        figure.set_layout_engine("constrained")
        return _svg(figure, salt=salt, caption=caption)


def _short(label: str) -> str:
    """A label that leaves room for the axes, its middle left out; tables have the whole of it."""
    if len(label) <= LONGEST_LABEL:
        return label
    half = (LONGEST_LABEL - 1) // 2
    return f"{label[:half]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def curves(panels: Sequence[Panel], *, salt: str, caption: str) -> Markup:
    """Panels side by side over the same steps; empty ones are left out."""
    panels = [panel for panel in panels if any(len(line.steps) for line in panel.lines)]
    if not panels:
        return Markup("")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.1))
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _draw(axes, panel)
        figure.set_layout_engine("constrained")
        return _svg(figure, salt=salt, caption=caption)


def _draw(axes: Axes, panel: Panel) -> None:
    for place, line in enumerate(line for line in panel.lines if len(line.steps)):
        axes.plot(
            line.steps,
            line.values,
            color=MUTED if line.dashed else SERIES[place % len(SERIES)],
            linestyle="--" if line.dashed else "-",
            linewidth=1.2 if line.dashed else 1.8,
            marker="o" if len(line.steps) <= 25 and not line.dashed else None,
            markersize=3.5,
            label=line.label,
        )
    axes.set_title(panel.title)
    axes.set_xlabel("step")
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda step, _: f"{int(step):,}"))
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    if any(line.label for line in panel.lines):
        axes.legend()


def _svg(figure: Figure, *, salt: str, caption: str) -> Markup:
    """The figure as an accessible element that scrolls where it is too wide; the salt makes ids differ."""
    buffer = io.StringIO()
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(style):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    drawing = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    drawing = re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"',
        lambda found: f'role="img" aria-label="{escape(caption)}"',
        drawing,
        count=1,
    )
    ids = dict.fromkeys(re.findall(r'\bid="([^"]+)"', drawing))
    for number, name in enumerate(ids):
        fresh = f"{salt}-{number}"
        drawing = drawing.replace(f'id="{name}"', f'id="{fresh}"')
        drawing = drawing.replace(f'"#{name}"', f'"#{fresh}"').replace(f"(#{name})", f"(#{fresh})")
    frame = {"class_": "scroll", "tabindex": 0, "role": "group", "aria_label": "Picture"}
    return element(
        "figure", element("div", Markup(drawing), **frame), element("figcaption", caption)
    )
