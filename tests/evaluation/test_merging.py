"""Two evaluations under one name: what either measured stands in the result, and nothing twice."""

import copy

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrec_jax.data import artefacts
from genrec_jax.evaluation import merging, predictions

ORDER = ("A1", "A2", "A10", "B1")


def figures(value):
    return {"seen_kept": {"hr@10": {"value": value, "low": value, "high": value, "count": 9}}}


def evaluation(value, *templates, **entries):
    """Of some templates, each with a reference's comparison."""
    models = [f"model/sequential/{template}" for template in templates]
    return {
        "format_version": 1,
        "parameters": "abc",
        "split": "test",
        "step": 7,
        "protocol": "leave_one_out",
        "unit": "users",
        "users": 9,
        "num_beams": 20,
        "length_penalty": 0.0,
        "finish_within_beams": False,
        "exact_exclusion": False,
        "max_users": None,
        "history": 20,
        "item_ids": {"method": "random"},
        "interval": {"level": 0.95},
        "dataset": {"name": "toys", "fingerprint": "f"},
        "templates": {name: {"task": "sequential", "seen": True} for name in templates},
        "systems": {name: figures(value) for name in models} | {"popularity": figures(0.1)},
        "lists": {name: {"seen_share": value} for name in models},
        "paired": [
            {"a": name, "b": "popularity", "footing": "seen_kept", "metric": "hr@10"}
            | {"difference": value - 0.1}
            for name in models
        ],
        "exact": None,
        "exact_block": None,
        "candidates": None,
        "ratings": None,
        "tie_orders": None,
        "oracle": None,
        "notes": ["a note"],
        "remarks": [],
        "seconds": 2.0,
        "audit": [{"check": "ties", "status": "pass", "detail": "none"}],
        **entries,
    }


def test_rows_of_both_stand_in_the_order_of_the_templates():
    before = evaluation(0.2, "A1", "A10", notes=["a note", "another"])
    merged = merging.merge(before, evaluation(0.3, "B1", "A2"), ORDER)
    models = [f"model/sequential/{template}" for template in ORDER]
    assert list(merged["systems"]) == [*models, "popularity"]
    assert list(merged["templates"]) == list(ORDER)
    assert list(merged["lists"]) == models
    assert sorted(pair["a"] for pair in merged["paired"]) == sorted(models)
    assert merged["notes"] == ["a note", "another"]
    assert merged["seconds"] == 4.0
    assert len(merged["audit"]) == 1


def test_what_is_measured_again_replaces_what_it_was():
    merged = merging.merge(evaluation(0.2, "A1", "A2"), evaluation(0.3, "A1"), ORDER)
    values = [
        merged["systems"][f"model/sequential/{name}"]["seen_kept"]["hr@10"]["value"]
        for name in ("A1", "A2")
    ]
    assert values == [0.3, 0.2]
    assert {pair["a"][-2:]: round(pair["difference"], 3) for pair in merged["paired"]} == {
        "A1": 0.2,
        "A2": 0.1,
    }


def test_exact_ranks_ratings_and_baselines_outlive_an_evaluation_without_them():
    exact = {"model/sequential/A1": {"items": 50}}
    before = evaluation(0.2, "A1", exact=exact, exact_block=64, ratings={"users": 5})
    before["candidates"] = {"number": 9, "seed": 0}
    before["systems"]["exact/sequential/A1"] = figures(0.25)
    now = evaluation(0.2, "A1", "A2", paired=[])
    del now["systems"]["popularity"]
    merged = merging.merge(before, now, ORDER)
    assert merged["exact"] == exact and merged["exact_block"] == 64
    assert merged["candidates"] == {"number": 9, "seed": 0}
    assert merged["ratings"] == {"users": 5}
    assert list(merged["systems"]) == [
        "model/sequential/A1",
        "exact/sequential/A1",
        "model/sequential/A2",
        "popularity",
    ]
    assert [pair["b"] for pair in merged["paired"]] == ["popularity"]


def test_neither_is_changed():
    before, now = evaluation(0.2, "A1"), evaluation(0.3, "A2")
    kept = copy.deepcopy((before, now))
    merging.merge(before, now, ORDER)
    assert (before, now) == kept


@pytest.mark.parametrize(
    ("entries", "stands"),
    [
        ({}, True),
        ({"parameters": None}, True),
        ({"parameters": "those of a run begun anew"}, False),
        ({"dataset": {"name": "toys", "fingerprint": "g"}}, False),
        ({"num_beams": 10}, False),
        ({"interval": {"level": 0.9}}, False),
    ],
)
def test_only_what_was_measured_of_the_same_is_merged(tmp_path, entries, stands):
    before = evaluation(0.2, "A1", **entries)
    artefacts.write_json(tmp_path / "metrics.json", before)
    assert merging.earlier(tmp_path, evaluation(0.3, "A2")) == (before if stands else None)


def test_rankings_of_other_candidates_do_not_stand_beside_new_ones(tmp_path):
    drawn = {"number": 12, "seed": 0}
    ranking = {"templates": {"R": {"task": "ranking", "seen": True}}}
    systems = {"model/ranking/R": figures(0.4)}
    now = evaluation(0.3, "A2", candidates=drawn)
    for known, stands in ((drawn, True), (None, False), ({"number": 12, "seed": 3}, False)):
        before = evaluation(0.2, systems=systems, candidates=known, **ranking)
        artefacts.write_json(tmp_path / "metrics.json", before)
        assert merging.earlier(tmp_path, now) == (before if stands else None)
        rest = evaluation(0.3, "A2", candidates=None)  # ranks nothing, so it contradicts nothing
        assert merging.merge(before, rest, ORDER)["candidates"] == known
    artefacts.write_json(tmp_path / "metrics.json", evaluation(0.2, "A1"))
    assert merging.earlier(tmp_path, now) is not None


def test_nothing_and_nothing_readable_is_nothing(tmp_path):
    assert merging.earlier(tmp_path / "gone", evaluation(0.3, "A2")) is None
    (tmp_path / "metrics.json").write_text("{")
    assert merging.earlier(tmp_path, evaluation(0.3, "A2")) is None


def test_lists_are_copied_but_for_templates_scored_anew(tmp_path):
    texts = tuple(f"item_{n}" for n in range(5))

    def write(folder, score, **users_of):
        folder.mkdir()
        with predictions.writing(folder / predictions.PREDICTIONS_FILE, texts) as writer:
            for template, users in users_of.items():
                users_E = np.array(users, np.int32)
                ranks_E = np.ones(len(users), np.int64)
                items_ER = np.tile(np.array([3, 1, -1], np.int32), (len(users), 1))
                scores_ER = np.full((len(users), 3), score, np.float32)
                writer.append(template, users_E, users_E, ranks_E, None, items_ER, scores_ER)
        return folder

    before = write(tmp_path / "before", -1.0, A1=[0, 1], A2=[0, 1])
    now = write(tmp_path / "now", -2.0, A2=[0, 1], B1=[1])
    merging.merge_predictions(now, before, ["A2", "B1"])
    rows = pq.read_table(now / predictions.PREDICTIONS_FILE).to_pylist()
    assert [(row["template"], row["user"], row["scores"][0]) for row in rows] == [
        ("A2", 0, -2.0),
        ("A2", 1, -2.0),
        ("B1", 1, -2.0),
        ("A1", 0, -1.0),
        ("A1", 1, -1.0),
    ]
    assert {tuple(row["item_ids"]) for row in rows} == {("item_3", "item_1")}
    assert sorted(path.name for path in before.iterdir()) == [predictions.PREDICTIONS_FILE]
