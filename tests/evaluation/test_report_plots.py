"""The report's pictures as markup: accessible, legible, and with room for what they show."""

import re

import pytest

from genrec_jax.evaluation import report_plots
from genrec_jax.evaluation.report_plots import BASELINE, BEST, MODEL, Interval


def contrast_on_white(colour: str) -> float:
    """By the definition of WCAG 2.1."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 1.05 / (sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05)


def test_pictures_are_accessible_and_name_nothing_twice():
    rows = [Interval("a <b> $x$", 0.5, 0.4, 0.6)]
    first = report_plots.intervals(rows, salt="p", caption="What <it> shows")
    other = report_plots.intervals(rows, salt="q", caption="What <it> shows")
    assert 'role="img" aria-label="What &lt;it&gt; shows"' in first
    assert "a &lt;b&gt; $x$" in first
    assert "<metadata" not in first
    names = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, other)]
    assert names[0] and not names[0] & names[1]
    for text, own in zip((first, other), names, strict=True):
        assert set(re.findall(r'"#([^"]+)"|\(#([^)]+)\)', text)) <= {
            pair for name in own for pair in ((name, ""), ("", name))
        }
    assert report_plots.curves([], salt="p", caption="none") == ""


@pytest.mark.parametrize("colour", [MODEL, BASELINE, BEST])
def test_bars_and_figures_stand_out_from_the_page(colour):
    """Graphics three to one, text four and a half to one (WCAG 2.1, 1.4.11 and 1.4.3)."""
    drawing = report_plots.intervals(
        [Interval("x", 0.5, 0.4, 0.6, colour)], salt="p", caption="one"
    )
    bars = re.findall(r'style="([^"]*stroke-width: 4[^"]*)"', drawing)
    assert len(bars) == 1 and "opacity" not in bars[0]
    (bar,) = re.findall(r"stroke: (#\w{6})", bars[0])
    assert contrast_on_white(bar) >= 3
    (figure,) = re.findall(r'<text style="font-weight: 700[^"]*fill: (#\w{6})[^>]*>0.5000', drawing)
    assert contrast_on_white(figure) >= 4.5


def test_a_long_name_leaves_room_for_the_axes():
    """Both ends of it are kept; a warning that no room is left would fail the test."""
    name = f"first{'x' * 100}last"
    drawing = report_plots.intervals([Interval(name, 0.5, 0.4, 0.6)], salt="p", caption="one")
    assert name not in drawing
    (label,) = re.findall(r"first[^<]*last", drawing)
    assert len(label) <= report_plots.LONGEST_LABEL
    width = float(re.findall(r'viewBox="0 0 ([\d.]+)', drawing)[0])
    ticks = [float(x) for x in re.findall(r'text-anchor: middle[^>]* x="([\d.]+)"', drawing)]
    assert max(ticks) - min(ticks) > width / 3
    short = report_plots.intervals([Interval("x" * 52, 0.5, 0.4, 0.6)], salt="p", caption="one")
    assert "x" * 52 in short
