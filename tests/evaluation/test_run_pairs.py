"""Two runs joined user by user: differences from their own files, and refusals of what shares no users."""

import dataclasses

import pyarrow.parquet as pq
import pytest

from genrec_jax.errors import UserError
from genrec_jax.evaluation import report, run_pairs, stored
from tests.evaluation import report_run, tiny_run

A1 = "model/sequential/A1"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return tiny_run.make_dataset(tmp_path_factory.mktemp("shop"), num_users=80)


@pytest.fixture(scope="module")
def runs(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [
        report_run.make_reported_run(folder / f"run{seed}", shop, seed=seed, skill=skill)
        for seed, skill in enumerate((0.9, 0.3))
    ]


def evaluation(run):
    return stored.find(run, name="test-400")


def rows_of(*runs):
    return [run_pairs.Row(run.path.name, evaluation(run), A1) for run in runs]


def test_differences_are_those_of_the_runs_own_figures(runs):
    one, other = rows_of(*runs)
    compared = run_pairs.compare(one, other)
    assert {found["footing"] for found in compared} == {"seen_kept", "seen_excluded"}
    for found in compared:
        a, b = (
            row.stored.metrics["systems"][A1][found["footing"]][found["metric"]]["value"]
            for row in (one, other)
        )
        assert found["difference"] == pytest.approx(a - b)
        assert found["count"] == 80
    hits = next(f for f in compared if (f["footing"], f["metric"]) == ("seen_kept", "hr@10"))
    assert hits["low"] > 0.2 and hits["p_value"] < 0.001


def test_rows_are_joined_by_user_in_whatever_order_they_stand(runs, tmp_path):
    """The same run with its rows reversed and some users missing differs from itself by nothing."""
    (row,) = rows_of(runs[0])
    table = row.stored.predictions()
    pq.write_table(table.take(list(range(len(table)))[::-1][:50]), tmp_path / "predictions.parquet")
    other = dataclasses.replace(
        row, name="other", stored=stored.Stored(tmp_path, row.stored.metrics)
    )
    for found in run_pairs.compare(row, other):
        assert (found["difference"], found["count"], found["p_value"]) == (0, 50, 1)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("split", "validation", "split is 'test' and 'validation'"),
        ("dataset", {"fingerprint": "abc"}, "dataset fingerprint is .* and 'abc'"),
    ],
)
def test_what_shares_no_users_is_refused(runs, key, value, said):
    one, other = rows_of(*runs)
    changed = stored.Stored(other.stored.folder, other.stored.metrics | {key: value})
    with pytest.raises(UserError, match=f"run0 and run1 cannot be compared user by user: {said}"):
        run_pairs.compare(one, dataclasses.replace(other, stored=changed))


def test_the_report_sets_runs_against_each_other(runs, tmp_path):
    page = report.write_report([run.path for run in runs], tmp_path / "page.html", num_examples=0)
    text = page.read_text(encoding="utf-8")
    found = run_pairs.compare(*rows_of(*runs))
    hits = next(f for f in found if (f["footing"], f["metric"]) == ("seen_kept", "hr@10"))
    assert "Runs against each other" in text
    assert f"It beats run1 beyond the interval ({hits['difference']:+.4f}, paired" in text
    assert f"{len(found)} paired comparisons" in text


def test_a_report_without_the_lists_says_so(runs, shop, tmp_path):
    bare = report_run.make_reported_run(tmp_path / "bare", shop, seed=5)
    (bare.eval_dir / "test-400" / "predictions.parquet").unlink()
    page = report.write_report([runs[0].path, bare.path], tmp_path / "page.html", num_examples=0)
    text = page.read_text(encoding="utf-8")
    assert "Runs against each other" in text and "predictions.parquet: is missing" in text


def test_runs_without_a_prompt_in_common_are_refused(runs):
    one, other = map(evaluation, runs)
    systems = {"model/sequential/A2": other.metrics["systems"][A1]}
    renamed = stored.Stored(other.folder, other.metrics | {"systems": systems})
    with pytest.raises(UserError, match="one and two share no prompt"):
        run_pairs.compare_all([("one", one), ("two", renamed)])
