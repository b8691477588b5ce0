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


def test_candidates_have_a_table_of_their_own_and_only_the_model_a_wording():
    footing = {"seen_kept": dict.fromkeys(table.COLUMNS, ESTIMATE)}
    names = ("model/retrieval/retrieval", "model/ranking/ranking", "popularity/ranking")
    result = {
        "dataset": {"name": "toys", "users": 9},
        "split": "test",
        "step": 3,
        "users": 9,
        "num_beams": 20,
        "systems": dict.fromkeys(names, footing),
        "templates": {name: {"task": name, "seen": True} for name in ("retrieval", "ranking")},
    }
    (_, catalogue), (title, candidates) = table.tables(result)
    assert title == "toys, test, step 3, 9 users, 20 beams: each user's own candidates"
    assert [str(cell) for cell in catalogue.columns[0].cells] == [
        "model/retrieval/retrieval\nseen wording"
    ]
    assert [str(cell) for cell in candidates.columns[0].cells] == [
        "model/ranking/ranking\nseen wording",
        "popularity/ranking",
    ]
