"""The table for the terminal: no figure is cut, whatever the width."""

import io

import pytest
import rich.console

from genrec_jax.evaluation import table

ESTIMATE = {"value": 0.0933, "low": 0.0753, "high": 0.1124}
METRICS = {
    "systems": {
        system: {"seen_kept": dict.fromkeys(table.COLUMNS, ESTIMATE)}
        for system in ("model/straightforward/B11", "popularity")
    },
    "templates": {"B11": {"seen": False}},
}


@pytest.mark.parametrize(("width", "columns"), [(80, 3), (132, 6), (None, 6)])
def test_as_many_metrics_as_fit_and_none_cut(width, columns):
    file = io.StringIO()
    console = rich.console.Console(width=width or 200, file=file)
    console.print(table.metrics_table(METRICS, width=width))
    text = file.getvalue()
    assert text.count("0.0753-0.1124") == columns * len(METRICS["systems"])
    assert "HR@10" in text
    assert "…" not in text
