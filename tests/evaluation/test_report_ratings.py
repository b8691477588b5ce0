"""The report on runs that rank candidates and rate: every verdict, every table, several runs together."""

import json
import re
import shutil

import pytest

from genrec_jax.data import artefacts
from genrec_jax.evaluation import aggregate, report, results, table
from tests.evaluation import report_run, tiny_run
from tests.evaluation.report_page import Page
from tests.evaluation.test_report_papers import HEADER

MODEL = "model/rating/rating"
RANKING = "model/ranking/ranking"
SEEDS = [{"settings": {"seed": 0}}, {"settings": {"seed": 1}}]
NO_AREA = dict.fromkeys(("model", "history", "low", "high"))


def area(value, half=0.02):
    low, high = (None, None) if value is None else (value - half, value + half)
    return {"auc_roc": {"value": value, "low": low, "high": high, "count": 900}}


def ratings(model=0.71, history=0.66, low=0.03, high=0.07):
    difference = None if model is None else model - history
    return {
        "users": 900,
        "liked": 0.75,
        "systems": {MODEL: area(model), "history": area(history)},
        "paired": [
            {"a": MODEL, "b": "history", "metric": "auc_roc", "difference": difference}
            | {"low": low, "high": high, "p_value": None if low is None else 0.001}
        ],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    dataset = tiny_run.make_dataset(folder, num_users=80)
    return report_run.make_reported_run(folder / "first", dataset)


@pytest.fixture
def reported(run, tmp_path):
    """(name, entry of metrics.json ...) -> a copy of the run with that evaluation alone."""

    def make(name, **entries):
        folder = shutil.copytree(run.path, tmp_path / name)
        shutil.rmtree(folder / "eval/validation-200")
        file = folder / "eval/test-400/metrics.json"
        artefacts.write_json(file, results.load(file) | entries)
        return folder

    return make


def rated_only(reported, name, **figures):
    return reported(
        name, systems={}, lists={}, paired=[], templates={}, notes=[], ratings=ratings(**figures)
    )


def with_ranking(metrics):
    """Rows of a unified model: its ranking of 100 candidates and popularity's, beside the others."""
    footing = metrics["systems"]["model/sequential/A1"]["seen_kept"]
    halved = {
        name: found | {key: found[key] / 2 for key in ("value", "low", "high")}
        for name, found in footing.items()
    }
    systems = metrics["systems"] | {
        RANKING: {"seen_kept": footing, "seen_excluded": footing},
        "exact/ranking/ranking": {"seen_kept": footing},
        "popularity/ranking": {"seen_kept": halved},
    }
    pair = {"a": RANKING, "b": "popularity/ranking", "footing": "seen_kept", "metric": "hr@10"}
    figures = {"difference": -0.125, "low": -0.2, "high": -0.05, "p_value": 0.001}
    ranks = {"mrr": 0.3, "mean_rank": 12.0, "median_rank": 9.0, "count": 80}
    beam = {"10": {"miss_rate": 0.01, "target_miss_rate": 0.0, "targets": 40}}
    return {
        "systems": systems,
        "templates": metrics["templates"] | {"ranking": {"task": "ranking", "seen": True}},
        "paired": [*metrics["paired"], pair | figures],
        "exact": {RANKING: {"items": 100, "ranks": {"seen_kept": ranks}, "beam": beam}},
    }


def page_of(tmp_path, run_dirs, **options) -> Page:
    path = report.write_report(run_dirs, tmp_path / "report.html", **options)
    return Page(path.read_text(encoding="utf-8"))


def test_a_run_that_only_rates_has_its_area_its_baseline_and_the_test(reported, tmp_path):
    page = page_of(tmp_path, [rated_only(reported, "rpat")])
    assert "in 71.0% of all pairs: AUC-ROC 0.7100, 95% interval 0.6900 to 0.7300" in page.text
    assert "over 900 users, of whom 75.0% liked it. Guessing reaches 50%." in page.text
    assert "It beats the user's history beyond the interval (+0.0500" in page.text
    assert "+0.0300 to +0.0700 0.001" in page.text
    assert "Asked to rate 900 users" in page.text
    for absent in (
        "Users scored",
        "HR@10 on the",
        "Model, sequential",
        "beams over",
        "Examples User",
    ):
        assert absent not in page.text, absent


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.2, -0.1, "It is behind the user's history"), (-0.1, 0.1, "It cannot be told from the u")],
)
def test_a_model_that_rates_no_better_is_told_so(reported, tmp_path, low, high, said):
    text = page_of(tmp_path, [rated_only(reported, "rpat", low=low, high=high)]).text
    assert said in text and "It beats" not in text


def test_without_likes_and_dislikes_there_is_no_area(reported, tmp_path):
    csv = tmp_path / "figures.csv"
    csv.write_text(HEADER + "Alignment,3,rating-prediction,toystore,RpAT,auc-roc-percent,71.16,\n")
    runs = [rated_only(reported, name, **NO_AREA) for name in ("rpat", "again")]
    shutil.copytree(runs[0] / "eval/test-400", runs[0] / "eval/validation-400")
    file = runs[0] / "eval/validation-400/metrics.json"
    artefacts.write_json(file, results.load(file) | {"split": "validation"})
    page = page_of(tmp_path, runs, paper_figures=csv)
    assert "without both kinds there is no AUC-ROC" in page.text
    assert "Model, rating AUC-ROC does not exist: all liked the item, or none" in page.text
    assert not re.search(r"\b(nan|None|null)\b", page.text.partition("Every setting")[0])


def test_one_example_of_a_kind_has_an_area_and_no_interval(reported, tmp_path):
    folder = rated_only(reported, "rpat")
    file = folder / "eval/test-400/metrics.json"
    metrics = results.load(file)
    for found in metrics["ratings"]["systems"].values():
        found["auc_roc"] |= {"low": None, "high": None}
    metrics["ratings"]["paired"][0] |= {"low": None, "high": None, "p_value": None}
    artefacts.write_json(file, metrics)
    text = page_of(tmp_path, [folder]).text
    assert "in 71.0% of all pairs" in text
    assert "It beats" not in text and "None" not in text.partition("Every setting")[0]
    (_, printed) = next(table.tables(metrics))
    assert list(printed.columns[1].cells) == ["0.7100", "0.6600"]
    assert table.rating_lines(metrics) == []


def test_the_nan_of_an_earlier_version_is_read_as_no_area(reported, tmp_path):
    folder = rated_only(reported, "rpat", **NO_AREA)
    file = folder / "eval/test-400/metrics.json"
    before = file.read_text()
    written = before.replace('"value": null', '"value": NaN').replace('"low": null', '"low": NaN')
    assert written.count("NaN") == 5
    file.write_text(written)
    assert "there is no AUC-ROC" in page_of(tmp_path, [folder]).text
    assert results.load(file) == json.loads(before)


def test_a_unified_run_has_a_heading_for_each_question(reported, run, tmp_path):
    metrics = results.load(run.eval_dir / "test-400")
    unified = reported("unified", ratings=ratings(), **with_ranking(metrics))
    page = page_of(tmp_path, [unified])
    value = metrics["systems"]["model/sequential/A1"]["seen_kept"]["hr@10"]["value"]
    for words in (
        "Retrieval from the whole catalogue",
        "Ranking of 100 candidates",
        f"first 10 places among 100 candidates for {value:.1%}",
        "It is behind popularity among the same candidates beyond the interval",
        "Drawing lots would find 10.0%.",
        "Rating prediction",
        "Each user's own candidates alone",
        "Model without beams, ranking",
        "Every candidate was scored",
        "20 beams over the whole catalogue and each user's candidates",
    ):
        assert words in page.text, words
    # Candidates stand in no table or picture of the catalogue: one caption, one label in its picture.
    before = page.text.partition("Ranking of 100 candidates")[0]
    assert "the same candidates" not in before


def test_two_wordings_of_a_rating_are_told_apart(reported, tmp_path):
    unseen, found = "model/rating/aloud", ratings()
    found["systems"] = {unseen: area(0.52), **found["systems"]}
    pair = found["paired"][0]
    found["paired"] = [pair | {"a": unseen, "difference": -0.14}, pair]
    folder = rated_only(reported, "rpat")
    file = folder / "eval/test-400/metrics.json"
    templates = {
        name: {"task": "rating", "seen": seen}
        for name, seen in (("rating", True), ("aloud", False))
    }
    entries = {"ratings": found, "templates": templates}
    artefacts.write_json(file, results.load(file) | entries)
    text = page_of(tmp_path, [folder]).text
    assert "AUC-ROC 0.7100, 95% interval" in text and "-0.14" not in text.partition("setting")[0]
    assert "Model, rating, aloud (unseen wording) 0.5200" in text
    assert "Model, rating less this" in text


def test_the_audit_is_that_of_the_tasks_that_were_trained(reported, tmp_path):
    folder = rated_only(reported, "rpat")
    manifest = artefacts.read_json(folder / "run.json", wanted="the run", remedy="")
    said = "none of the 99 positions that rating, mlm, mim train on is held out by rating"
    entry = {"check": "tasks_hold_out_the_same", "status": "pass", "detail": said}
    manifest["mixture"] |= {"name": "alignment_rpat", "audit": [entry]}
    artefacts.write_json(folder / "run.json", manifest)
    text = page_of(tmp_path, [folder]).text
    assert f"tasks hold out the same ✓ pass {said}" in text
    assert "inputs before targets" not in text


def test_several_runs_are_compared_question_by_question(reported, run, tmp_path):
    metrics = results.load(run.eval_dir / "test-400")
    unified = reported("unified", ratings=ratings(model=0.6), **with_ranking(metrics))
    page = page_of(tmp_path, [unified, rated_only(reported, "rpat")])
    for words in (
        "toystore, test items, leave one out, 80 users, 20 beams, each user's candidates (100): each run's",
        "toystore, test items, leave one out, 80 users, 20 beams: each run's main row",
        "toystore, test items, 900 users: rating prediction",
    ):
        assert words in page.text, words
    table = page.text.partition("900 users: rating prediction")[2]
    assert (
        table.index("unified 400 0.6000") < table.index("rpat 400 0.7100") < table.index("0.6600")
    )


def test_other_evaluations_name_ratings(reported, tmp_path):
    folder = rated_only(reported, "rpat")
    shutil.copytree(folder / "eval/test-400", folder / "eval/validation-400")
    file = folder / "eval/validation-400/metrics.json"
    artefacts.write_json(file, results.load(file) | {"split": "validation"})
    text = page_of(tmp_path, [folder]).text
    assert "toystore, validation, step 400 Model, rating AUC-ROC 0.7100 (0.6900 to 0.7300)" in text


def test_published_rankings_and_ratings_stand_beside_ours(reported, run, tmp_path):
    csv = tmp_path / "figures.csv"
    csv.write_text(
        HEADER + "Alignment,2,ranking-1+99,toystore,RaAT,hr@10,0.3453,\n"
        "Alignment,3,rating-prediction,toystore,RpAT,auc-roc-percent,71.16,\n"
    )
    metrics = results.load(run.eval_dir / "test-400")
    unified = reported("unified", ratings=ratings(), **with_ranking(metrics))
    text = page_of(tmp_path, [unified], paper_figures=csv).text
    published = text.partition("Beside published figures")[2].partition("Paired comparisons")[0]
    assert "RaAT Alignment, table 2 0.3453" in published
    assert "model/rating/rating this run 0.7100" in published
    assert "RpAT Alignment, table 3 0.7116" in published
    assert "transition this run" not in published  # it ranks no candidates


def test_areas_that_do_not_exist_have_no_mean(reported):
    found = [
        results.load(rated_only(reported, f"seed{n}", **NO_AREA) / "eval/test-400")
        | {"run_dir": f"seed{n}"}
        for n in range(2)
    ]
    combined = aggregate.aggregate(found, SEEDS)
    spread = combined["ratings"]["systems"][MODEL]["auc_roc"]
    assert spread["mean"] is spread["standard_deviation"] is None
    assert spread["values"] == [None, None]
    (_, printed) = next(table.tables(combined))
    assert list(printed.columns[1].cells) == ["-", "-"]


def test_areas_of_seeds_are_averaged(reported):
    found = [
        results.load(rated_only(reported, f"seed{n}", model=model) / "eval/test-400")
        | {"run_dir": f"seed{n}"}
        for n, model in enumerate((0.70, 0.72))
    ]
    combined = aggregate.aggregate(found, SEEDS)["ratings"]["systems"]
    assert combined[MODEL]["auc_roc"]["mean"] == pytest.approx(0.71)
    assert combined[MODEL]["auc_roc"]["standard_deviation"] == pytest.approx(0.0002**0.5)
    assert combined["history"]["auc_roc"]["standard_deviation"] == 0
