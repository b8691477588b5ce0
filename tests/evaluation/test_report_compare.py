"""Runs side by side in one report, and what it says of how they were trained."""

import copy
import dataclasses
import re
import shutil

import pytest

from genrec_jax.data import artefacts
from genrec_jax.evaluation import report, report_compare, report_data, report_training, results
from tests.evaluation import report_run, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    shop = tiny_run.make_dataset(folder, num_users=40)
    return report_run.make_reported_run(folder / "run", shop)


def test_runs_on_other_splits_stand_in_tables_of_their_own(run):
    """Same name, other targets: neither rows nor baselines of one may stand in the other's table."""
    last_items = report_data.read_run(run.path, name="last_items", data={}, num_examples=1)
    (view,) = last_items.evaluations
    split = {"protocol": "temporal", "validation_from": 0, "test_from": 86_400}
    other = {**view.metrics["dataset"], "fingerprint": "other", "split": split}
    dated = dataclasses.replace(view, metrics={**view.metrics, "dataset": other, "oracle": None})
    by_date = dataclasses.replace(last_items, name="after_dates", evaluations=(dated,))
    text = str(report_compare.comparison([last_items, by_date]))
    name = view.metrics["dataset"]["name"]
    assert f"on {name}, test items, leave one out, 40 users, 20 beams;" in text
    at = text.index(f"{name} by date")
    first, second = text[:at], text[at:]
    for word in ("last_items", "Best possible"):
        assert word in first
        assert word not in second
    assert "after_dates" in second
    assert "after_dates" not in first


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"split": "validation"}, "toystore, validation items, leave one out, 40 users, 20 beams"),
        ({"protocol": "seqio_tasks"}, "test items, SeqIO task A1, 40 users, 20 beams"),
        ({"num_beams": 5}, "test items, leave one out, 40 users, 5 beams"),
        ({"length_penalty": 1.0}, "40 users, 20 beams, length penalty 1"),
        ({"finish_within_beams": True}, "20 beams, lists finished within the beams"),
        ({"exact_exclusion": True}, "20 beams, searched again without the history"),
        ({"max_users": 25}, "toystore, test items, a sample of 25, leave one out"),
        ({"max_users": 25, "sample_seed": 1}, "a sample of 25 (seed 1), leave one out"),
        ({"dtype": "bfloat16"}, "toystore, test items, evaluated in bfloat16, leave one out"),
    ],
)
def test_what_was_measured_otherwise_stands_apart_with_its_own_baselines(run, entries, said):
    """A figure of popularity is changed in the other run: its table shows that, the first's does not."""
    one = report_data.read_run(run.path, name="one", data={}, num_examples=0)
    (view,) = one.evaluations
    systems = copy.deepcopy(view.metrics["systems"])
    systems["popularity"]["seen_kept"]["hr@5"]["value"] = 0.4321
    changed = view.metrics | entries | {"systems": systems}
    other = dataclasses.replace(
        one, name="other", evaluations=(dataclasses.replace(view, metrics=changed),)
    )
    text = str(report_compare.comparison([one, other]))
    captions = re.findall("<caption>(.*?): each run&#x27;s main row", text)
    assert len(captions) == 2 and captions[0] != captions[1]
    assert said in captions[1] and said not in captions[0]
    first, second = text.split("</table>")[:2]
    assert "0.4321" in second and "0.4321" not in first
    assert "other" not in first


def test_a_run_without_baselines_stands_beside_those_of_its_group(run):
    one = report_data.read_run(run.path, name="one", data={}, num_examples=0)
    (view,) = one.evaluations
    systems = {n: s for n, s in view.metrics["systems"].items() if n.startswith("model/")}
    bare = dataclasses.replace(view, metrics=view.metrics | {"systems": systems})
    alone = dataclasses.replace(one, name="bare", evaluations=(bare,))
    text = str(report_compare.comparison([alone, one]))
    assert text.count("<caption>") == 1
    for title in ("Popularity", "Last-item transition"):
        assert f'<th scope="row">{title}</th>' in text


def test_two_datasets_of_one_name_are_told_apart(run):
    one = report_data.read_run(run.path, name="one", data={}, num_examples=0)
    (view,) = one.evaluations
    dataset = view.metrics["dataset"] | {"fingerprint": "0123456789abcdef"}
    changed = dataclasses.replace(view, metrics=view.metrics | {"dataset": dataset})
    other = dataclasses.replace(one, name="other", evaluations=(changed,))
    text = str(report_compare.comparison([one, other]))
    assert "toystore (01234567), test items" in text
    assert f"toystore ({view.metrics['dataset']['fingerprint'][:8]}), test items" in text


@pytest.mark.parametrize("checksums", [("a", "b", "c"), ("a", "b", "a")])
def test_a_run_that_comes_twice_costs_the_mean_and_not_the_page(run, tmp_path, checksums):
    """Copies all say the path that they were evaluated at; their parameters' checksums tell them apart."""
    folders = [shutil.copytree(run.path, tmp_path / f"seed{n}") for n in range(len(checksums))]
    for seed, (folder, checksum) in enumerate(zip(folders, checksums, strict=True)):
        artefacts.write_json(folder / "run.json", run.manifest | {"settings": {"seed": seed}})
        file = folder / "eval/test-400/metrics.json"
        artefacts.write_json(file, results.load(file) | {"parameters": checksum})
    page = report.write_report(folders, tmp_path / "report.html", num_examples=0)
    text = page.read_text(encoding="utf-8")
    distinct = len(set(checksums)) == len(checksums)
    assert ("3 seeds: mean" in text) == distinct
    assert ("seed0 and seed2 have the same parameters: one run twice" in text) != distinct
    assert ("No mean over these 3 runs" in text) != distinct


def test_the_report_says_how_many_prompts_were_cut():
    said = report_training._cut
    assert said({}) is None
    mixture = {"max_input_length": 1024, "cut_shares": {"Toys/retrieval": 0.0, "Toys/mim": 0.1234}}
    assert said(mixture) == "Toys/mim 12.3% lose oldest items to the limit of 1,024 tokens"
    mixture["cut_shares"]["Toys/mim"] = 0.0
    assert said(mixture) == "none lose items to the limit of 1,024 tokens"


def test_many_other_evaluations_lose_early_validation_before_any_test(run):
    one = report_data.read_run(run.path, name="one", data={}, num_examples=0)
    (view,) = one.evaluations
    steps = [("test", 10)] + [("validation", step) for step in range(100, 3500, 100)]
    others = tuple(view.metrics | {"split": split, "step": step} for split, step in steps)
    text = str(report_compare.other_evaluations(dataclasses.replace(one, others=others), level=2))
    shown = re.findall(r"toystore, (\w+), step ([\d,]+)", text)
    assert shown[0] == ("test", "10")
    assert [step for _, step in shown[1:]] == [f"{step:,}" for step in range(600, 3500, 100)]
    assert "Not shown: 5 more, of earlier steps." in text
    few = report_compare.other_evaluations(dataclasses.replace(one, others=others[:3]), level=2)
    assert "Not shown" not in str(few)
