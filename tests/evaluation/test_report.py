"""The report of run dirs made from known lists: every figure, every warning, nothing unescaped."""

import dataclasses
import itertools
import json
import re
import shutil

import pytest

from genrec_jax.data import artefacts, prepare, toystore
from genrec_jax.data.dataset import Dataset
from genrec_jax.errors import UserError
from genrec_jax.evaluation import checkpoints, report, report_compare, report_data
from genrec_jax.evaluation.evaluator import EvaluateConfig
from tests.evaluation import report_run, tiny_run
from tests.evaluation.report_page import Page

DASH = "\N{EN DASH}"
HOSTILE = "<script>alert('title')</script>"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return tiny_run.make_dataset(tmp_path_factory.mktemp("data"), num_users=80)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return report_run.make_reported_run(tmp_path_factory.mktemp("runs") / "first", dataset)


@pytest.fixture(scope="module")
def second(dataset, tmp_path_factory):
    return report_run.make_reported_run(tmp_path_factory.mktemp("runs") / "second", dataset, seed=1)


def written(tmp_path, run_dirs, **options) -> Page:
    path = report.write_report(run_dirs, tmp_path / "report.html", **options)
    return Page(path.read_text(encoding="utf-8"))


def metrics_of(run, split="test-400") -> dict:
    return json.loads((run.eval_dir / split / "metrics.json").read_text())


def test_the_page_has_every_figure_and_interval(run, tmp_path):
    page = written(tmp_path, [run.path])
    systems = metrics_of(run)["systems"]
    assert len(systems) == 4
    for footings in systems.values():
        for footing in ("seen_kept", "seen_excluded"):
            for metric in ("hr@1", "hr@20", "ndcg@10", "mrr@20"):
                estimate = footings[footing][metric]
                low, high = estimate["low"], estimate["high"]
                assert f"{estimate['value']:.4f} {low:.4f}{DASH}{high:.4f}" in page.text
    for metric, value in metrics_of(run)["oracle"].items():
        if metric not in ("ndcg@1", "mrr@1", "mrr@5"):
            assert f"{value:.4f}" in page.text, metric


def test_the_verdict_says_how_the_model_stands_to_the_baselines(run, tmp_path):
    page = written(tmp_path, [run.path])
    best = metrics_of(run)["oracle"]["hr@10"]
    value = metrics_of(run)["systems"]["model/sequential/A1"]["seen_kept"]["hr@10"]["value"]
    assert f"first 10 places for {value:.1%} of 80 users" in page.text
    assert "It beats popularity beyond the interval" in page.text
    assert "It beats last-item transition beyond the interval" in page.text
    assert f"whoever knows the rules expects {best:.1%}" in page.text


BASELINES = ("Popularity", "Last-item transition", "Second-last-item transition")


def test_the_baselines_stand_in_one_order_everywhere(run, second, tmp_path):
    text = written(tmp_path, [run.path, second.path]).text
    parts = text.partition("Paired comparisons")[0].split("HR@10 on")
    verdict, rest = parts[1].partition("The held-out item")[2], parts[2]
    together = (parts[0], parts[1].partition("The held-out item")[0], verdict, rest)
    for (
        part
    ) in together:  # the runs' picture and table; one run's sentences and picture, and tables
        places = [re.search(rf"(?<!-){name}", part, re.I) for name in BASELINES]
        starts = [place.start() for place in places if place is not None]
        assert len(starts) == 3 and starts == sorted(starts), part
    low = {found["b"]: found["low"] for found in metrics_of(run)["paired"]}
    assert low["transition_2"] < 0  # the toy shop is made of it: drawn lists are no better
    stands = r"(is behind|cannot be told from) second-last-item transition"
    assert re.search(stands, verdict)


def test_evaluations_of_before_the_second_transition_are_reported(run, second, tmp_path):
    """What is missing in one run stands in the table of all by the other's figures."""
    old = shutil.copytree(run.path, tmp_path / "old")
    for file in old.glob("eval/*/metrics.json"):
        metrics = json.loads(file.read_text())
        del metrics["systems"]["transition_2"]
        metrics["paired"] = [pair for pair in metrics["paired"] if pair["b"] != "transition_2"]
        artefacts.write_json(file, metrics)
    text = written(tmp_path, [old]).text
    assert "It beats last-item transition beyond the interval" in text
    assert "econd-last" not in text
    both = written(tmp_path, [old, second.path]).text.partition("The held-out item")[0]
    found = metrics_of(second)["systems"]["transition_2"]["seen_kept"]["hr@10"]
    assert f"{found['value']:.4f} {found['low']:.4f}{DASH}{found['high']:.4f}" in both


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.2, -0.1, "It is behind popularity beyond"), (-0.1, 0.1, "It cannot be told from pop")],
)
def test_a_losing_model_is_told_so(run, tmp_path, low, high, said):
    copied = shutil.copytree(run.path, tmp_path / "copied")
    file = copied / "eval/test-400/metrics.json"
    metrics = json.loads(file.read_text())
    for comparison in metrics["paired"]:
        comparison |= {"difference": (low + high) / 2, "low": low, "high": high}
    artefacts.write_json(file, metrics)
    text = written(tmp_path, [copied]).text
    assert said in text
    assert "It beats" not in text


def test_nothing_is_fetched_and_ids_are_unique(run, second, tmp_path):
    page = written(tmp_path, [run.path, second.path])
    assert set(page.addresses) <= {"#content", "data:,"} | {f"#{name}" for name in page.ids}
    assert not {"script", "img", "iframe", "object", "embed"} & set(page.tags)
    assert len(set(page.ids)) == len(page.ids)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)


def test_headings_descend_one_level_at_a_time(run, second, tmp_path):
    for run_dirs in ([run.path], [run.path, second.path]):
        page = written(tmp_path, run_dirs)
        levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_examples_show_titles_target_and_scores(run, dataset, tmp_path):
    (view,) = report_data.read_run(run.path, name="r", data={}, num_examples=6).evaluations
    assert len(view.examples) == 6
    assert {bool(example.rank) for example in view.examples} == {True, False}
    titles = set(dataset.item_titles)
    text = written(tmp_path, [run.path]).text
    for example in view.examples:
        user = dataset.user_source_ids.index(example.user)
        sequence = [dataset.item_titles[item] for item in dataset.sequence(user)]
        assert sequence[-1] == example.target
        assert sequence[:-1][-8:] == list(example.history)
        assert example.earlier == max(0, len(sequence) - 9)
        assert {place.title for place in example.recommended} <= titles
        marked = [n for n, p in enumerate(example.recommended, start=1) if p.is_target]
        assert marked == ([example.rank] if 0 < example.rank <= 10 else [])
        assert {p.title for p in example.recommended if p.is_seen} <= set(sequence[:-1])
        assert f"User {example.user}" in text
        assert example.target in text
    assert "0.500" in text


def test_scores_under_a_length_penalty_are_not_called_probabilities(run, tmp_path):
    """The fixture's first place has log(.5) for a score: a probability of .5 without a penalty only."""
    copied = shutil.copytree(run.path, tmp_path / "copied")
    file = copied / "eval/test-400/metrics.json"
    artefacts.write_json(file, json.loads(file.read_text()) | {"length_penalty": 0.5})
    plain, text = (written(tmp_path, [path]).text for path in (run.path, copied))
    for page, said, other in ((plain, " 0.500", " -0.693"), (text, " -0.693", " 0.500")):
        examples = page.partition("spread evenly over hits")[2].partition("Leakage audit")[0]
        assert said in examples and other not in examples
    assert "is the probability the model gives it." in plain
    assert "is the probability" not in text
    assert "divided by its number of tokens to the power of 0.5, the length penalty." in text


def test_the_audit_is_made_anew(run, tmp_path):
    (view,) = report_data.read_run(run.path, name="r", data={}, num_examples=1).evaluations
    assert view.audit_repeated
    checks = {result["check"]: result["status"] for result in view.audit}
    assert checks["item_ids_not_by_held_out"] == checks["targets_are_held_out"] == "pass"
    text = written(tmp_path, [run.path]).text
    assert "Made anew for this report" in text
    assert "The leakage audit failed" not in text


def test_predictions_scored_on_the_wrong_item_raise_the_alarm(run, tmp_path):
    copied = shutil.copytree(run.path, tmp_path / "copied")
    shutil.copy(
        copied / "eval/validation-200/predictions.parquet",
        copied / "eval/test-400/predictions.parquet",
    )
    text = written(tmp_path, [copied]).text
    assert "The leakage audit failed: targets are held out" in text


def test_without_the_dataset_the_stored_audit_is_shown(run, dataset, tmp_path):
    copied = shutil.copytree(run.path, tmp_path / "copied")
    file = copied / "eval/test-400/metrics.json"
    metrics = json.loads(file.read_text())
    metrics["dataset"]["path"] = str(tmp_path / "gone")
    artefacts.write_json(file, metrics)
    text = written(tmp_path, [copied]).text
    assert "The dataset is not at hand" in text
    assert "As stored when the dataset was prepared" in text
    moved = written(tmp_path, [copied], data={"toystore": dataset.path}).text
    assert "Made anew for this report" in moved


def test_another_dataset_under_the_same_path_is_not_shown(run, tmp_path):
    other = tiny_run.make_dataset(tmp_path / "other", num_users=61)
    text = written(tmp_path, [run.path], data={"toystore": other.path}).text
    assert "holds another dataset than the one evaluated" in text


def test_curves_and_cost_come_from_the_records(run, tmp_path):
    view = report_data.read_run(run.path, name="r", data={}, num_examples=1)
    steps, values = report_data.curve(view.records, "validation", "hr@10")
    assert steps == [100, 200, 300, 400]
    assert values == sorted(values)
    text = written(tmp_path, [run.path]).text
    assert "Loss per target token" in text
    assert "Training time 3 min 20 s" in text
    assert "Examples seen 25,600" in text
    assert "Padding in batches 11.3%" in text
    floors = {
        name: metrics_of(run, "validation-200")["systems"][name]["seen_kept"]["hr@10"]["value"]
        for name in ("transition", "transition_2")
    }
    assert floors["transition_2"] > floors["transition"]
    curves = text.partition("Validation hit ratio")[2].partition("Learning curves")[0]
    assert "second-last-item transition" in curves  # the higher floor, and no other
    assert curves.count("last-item transition") == 1


def test_a_broken_line_in_the_records_is_named(run, tmp_path):
    copied = shutil.copytree(run.path, tmp_path / "copied")
    (copied / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        written(tmp_path, [copied])


def test_other_evaluations_are_listed(run, tmp_path):
    estimate = metrics_of(run, "validation-200")["systems"]["model/sequential/A1"]["seen_kept"]
    text = written(tmp_path, [run.path]).text
    assert "toystore, validation, step 200" in text
    assert f"HR@10 {estimate['hr@10']['value']:.4f}" in text


def test_a_later_sample_does_not_take_the_place_of_everybody(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    sample = shutil.copytree(copy / "eval" / "test-400", copy / "eval" / "test-400-sample5")
    metrics = json.loads((sample / "metrics.json").read_text())
    metrics |= {"max_users": 5, "created": "2030-01-01T00:00:00+00:00"}
    (sample / "metrics.json").write_text(json.dumps(metrics))
    (view,) = report_data.read_run(copy, name="copy", data={}, num_examples=2).evaluations
    assert view.folder.name == "test-400"
    assert "step 400, a sample of 5" in written(tmp_path, [copy]).text


def test_another_search_is_told_apart(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    file = copy / "eval/validation-200/metrics.json"
    other = {"num_beams": 10, "length_penalty": 1.0, "finish_within_beams": True}
    artefacts.write_json(file, json.loads(file.read_text()) | other)
    text = written(tmp_path, [copy]).text
    said = "step 200, 10 beams, length penalty 1, lists finished within the beams Model, sequential"
    assert said in text


def test_settings_are_all_shown(run, tmp_path):
    text = written(tmp_path, [run.path]).text
    assert "model.embed_dim 16" in text
    assert "settings.train.steps 400" in text


def test_runs_that_differ_in_the_seed_are_averaged(run, second, tmp_path):
    text = written(tmp_path, [run.path, second.path]).text
    values = [
        metrics_of(one)["systems"]["model/sequential/A1"]["seen_kept"]["hr@10"]["value"]
        for one in (run, second)
    ]
    assert values[0] != values[1]
    spread = abs(values[0] - values[1]) / 2**0.5
    assert "2 seeds: mean ± std. dev." in text
    assert f"{sum(values) / 2:.4f} ± {spread:.4f}" in text


def test_runs_with_other_settings_are_compared_but_not_averaged(run, second, tmp_path):
    copied = shutil.copytree(second.path, tmp_path / "copied")
    manifest = json.loads((copied / "run.json").read_text())
    manifest["settings"]["train"]["steps"] = 800
    artefacts.write_json(copied / "run.json", manifest)
    text = written(tmp_path, [run.path, copied]).text
    assert "All runs" in text
    assert "seeds: mean" not in text


def test_seeds_that_were_searched_otherwise_are_compared_but_not_averaged(run, second, tmp_path):
    other = shutil.copytree(second.path, tmp_path / "other")
    file = other / "eval/test-400/metrics.json"
    artefacts.write_json(file, json.loads(file.read_text()) | {"length_penalty": 1.0})
    text = written(tmp_path, [run.path, other]).text
    assert "All runs" in text
    assert "seeds: mean" not in text


def test_run_names_tell_runs_apart():
    assert report.run_names(["a/x", "b/y"]) == ["x", "y"]
    assert report.run_names(["a/x", "b/x"]) == ["a/x", "b/x"]
    with pytest.raises(UserError, match="named twice"):
        report.run_names(["a/x", "a/../a/x"])


def test_one_run_needs_no_list(run, tmp_path):
    assert written(tmp_path, run).text == written(tmp_path, str(run.path)).text


def test_a_run_without_evaluation_still_has_curves(run, tmp_path):
    copied = shutil.copytree(run.path, tmp_path / "copied")
    shutil.rmtree(copied / "eval")
    text = written(tmp_path, [copied]).text
    assert "Not evaluated yet: run `genrec evaluate" in text
    assert "Loss per target token" in text
    comparison = report_compare.comparison(
        [report_data.read_run(copied, name="r", data={}, num_examples=1)]
    )
    assert comparison == ""


def test_not_a_run_dir(tmp_path):
    with pytest.raises(UserError, match="wanted a folder that `genrec train` wrote"):
        report.write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(UserError, match="no run dir"):
        report.write_report([], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_an_earlier_report_is_replaced_and_nothing_else_is(run, tmp_path):
    output = tmp_path / "report.html"
    report.write_report([run.path], output, title="First")
    report.write_report([run.path], output, title="Second")
    assert "<title>Second</title>" in output.read_text()
    output.write_text("my own notes")
    with pytest.raises(UserError, match="is no report"):
        report.write_report([run.path], output)
    assert output.read_text() == "my own notes"
    report.write_report([run.path], output, overwrite=True)
    assert "my own notes" not in output.read_text()
    with pytest.raises(UserError, match="is no report"):
        report.write_report([run.path], tmp_path, overwrite=True)


def test_the_spread_over_orders_of_ties_is_shown(run, tmp_path):
    copied = shutil.copytree(run.path, tmp_path / "copied")
    file = copied / "eval/test-400/metrics.json"
    spread = {"transition": {"seen_kept": {"hr@10": {"low": 0.0851, "high": 0.1181}}}}
    metrics = json.loads(file.read_text())
    metrics["tie_orders"] = {"tied_share": 0.44, "orders": 5, "systems": spread}
    artefacts.write_json(file, metrics)
    text = written(tmp_path, [copied]).text
    assert "the target of 44% of users: least and greatest figure over 5 random orders" in text
    assert f"0.0851{DASH}0.1181" in text


def test_hostile_titles_and_names_are_escaped(tmp_path):
    raw = toystore.generate(num_users=60)
    assert raw.items is not None
    items = raw.items.with_columns(title=raw.items["title"] + HOSTILE)
    raw = dataclasses.replace(raw, items=items)
    made = prepare.prepare(
        raw, tmp_path / "toystore", name="toystore", filters=prepare.Filters(min_item=1)
    )
    run = report_run.make_reported_run(tmp_path / "<b>run & $x^2$", made)
    page = written(tmp_path, [run.path], title=HOSTILE)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) > 20
    assert "<b>run & $x^2$" in page.text


def test_a_really_evaluated_run_is_reported(dataset, tmp_path):
    """The evaluator writes what the report reads: a short search with 4 beams, so no HR@5 and on."""
    run = tiny_run.make_run(tmp_path / "real", [dataset.path], tasks=("sequential",))
    config = EvaluateConfig(num_beams=4, max_users=20, templates=("A1",))
    (written_one,) = checkpoints.evaluate_checkpoint(run, "best", config)
    assert written_one.folder.name == "test-10-sample20-beams4"
    value = written_one.metrics["systems"]["model/sequential/A1"]["seen_kept"]["hr@1"]["value"]
    page = written(tmp_path, [run.path])
    assert f"the model's first place for {value:.1%} of 20 users" in page.text
    assert "HR@1" in page.text and "HR@5" not in page.text
    assert "Made anew for this report" in page.text
    assert "No training record" in page.text
    assert page.tags.count("article") >= 1
