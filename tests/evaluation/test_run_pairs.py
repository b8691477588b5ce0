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


def changed(row, **entries):
    """A row of an evaluation whose metrics.json says something else."""
    found = stored.Stored(row.stored.folder, row.stored.metrics | entries)
    return dataclasses.replace(row, stored=found)


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
    assert hits["low"] > 0.2
    assert hits["p_value"] == pytest.approx(1 / 501)  # the least of the runs' own 500 resamples


def test_intervals_are_made_as_the_runs_own_were(runs):
    one, other = rows_of(*runs)

    def width(**settings):
        rows = [
            changed(row, interval=row.stored.metrics["interval"] | settings) for row in (one, other)
        ]
        found = run_pairs.compare(*rows)[0]
        return found["high"] - found["low"]

    assert width(level=0.5) < 0.6 * width(level=0.95)
    assert width(seed=1) != width(seed=0)


@pytest.mark.parametrize("users", [80, 50])
def test_rows_are_joined_by_user_in_whatever_order_they_stand(runs, tmp_path, users):
    """The same run with its rows reversed differs from itself by nothing; some users missing is refused."""
    (row,) = rows_of(runs[0])
    table = row.stored.predictions()
    rows = list(range(len(table)))[::-1][:users]
    pq.write_table(table.take(rows), tmp_path / "predictions.parquet")
    other = dataclasses.replace(
        row, name="other", stored=stored.Stored(tmp_path, row.stored.metrics)
    )
    if users < 80:
        with pytest.raises(UserError, match="other users, 80 and 50, of whom 50 are the same"):
            run_pairs.compare(row, other)
        return
    for found in run_pairs.compare(row, other):
        assert (found["difference"], found["count"], found["p_value"]) == (0, 80, 1)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("split", "validation", "split is 'test' and 'validation'"),
        ("dataset", {"fingerprint": "abc"}, "dataset fingerprint is .* and 'abc'"),
        ("sample_seed", 1, "sample_seed is None and 1"),
        ("dtype", "bfloat16", "dtype is None and 'bfloat16'"),
        ("interval", {"level": 0.9}, "interval is .* and {'level': 0.9}"),
    ],
)
def test_what_shares_no_users_is_refused(runs, key, value, said):
    one, other = rows_of(*runs)
    with pytest.raises(UserError, match=f"run0 and run1 cannot be compared user by user: {said}"):
        run_pairs.compare(one, changed(other, **{key: value}))


def test_the_report_sets_runs_against_each_other(runs, tmp_path):
    page = report.write_report([run.path for run in runs], tmp_path / "page.html", num_examples=0)
    text = page.read_text(encoding="utf-8")
    found = run_pairs.compare(*rows_of(*runs))
    hits = next(f for f in found if (f["footing"], f["metric"]) == ("seen_kept", "hr@10"))
    assert "Runs against each other" in text
    assert "on 80 users, 95% interval" in text
    assert f"It beats run1 beyond the interval ({hits['difference']:+.4f}, paired" in text
    assert f"{len(found)} paired comparisons" in text


def test_a_report_without_the_lists_says_so(runs, shop, tmp_path):
    bare = report_run.make_reported_run(tmp_path / "bare", shop, seed=5)
    (bare.eval_dir / "test-400" / "predictions.parquet").unlink()
    page = report.write_report([runs[0].path, bare.path], tmp_path / "page.html", num_examples=0)
    text = page.read_text(encoding="utf-8")
    assert "Runs against each other" in text and "predictions.parquet: is missing" in text


@pytest.mark.parametrize(
    ("other_seed", "said"),
    [
        (0, None),
        (1, "candidates are 100 drawn with seed 0 and 100 drawn with seed 1"),
        (None, "candidates are 100 drawn with seed 0 and unknown"),
    ],
)
def test_rankings_are_compared_where_the_candidates_are_the_same(runs, other_seed, said):
    one, other = (
        changed(
            row,
            templates={"A1": {"task": "ranking", "seen": True}},
            candidates=None if seed is None else {"number": 100, "seed": seed},
        )
        for row, seed in zip(rows_of(*runs), (0, other_seed), strict=True)
    )
    if said is None:
        found = run_pairs.compare(one, other)
        assert {pair["footing"] for pair in found} == {"seen_kept"}
        assert [pair["count"] for pair in found] == [80] * len(found)
        return
    for compare in (
        lambda: run_pairs.compare(one, other),
        lambda: run_pairs.check([(row.name, row.stored.metrics) for row in (one, other)]),
    ):
        with pytest.raises(UserError, match=said):
            compare()


def test_the_catalogue_is_not_compared_with_candidates(runs):
    one, other = rows_of(*runs)
    other = changed(
        other, templates={"A1": {"task": "ranking"}}, candidates={"number": 9, "seed": 0}
    )
    with pytest.raises(UserError, match=r"A1 ranks the catalogue and .*A1 the candidates"):
        run_pairs.compare(one, other)


def test_runs_without_a_prompt_in_common_are_refused(runs):
    one, other = map(evaluation, runs)
    systems = {"model/sequential/A2": other.metrics["systems"][A1]}
    renamed = stored.Stored(other.folder, other.metrics | {"systems": systems})
    said = (
        f"one and two .* share no prompt, for the first has {A1} and the second model/sequential/A2"
    )
    with pytest.raises(UserError, match=said):
        run_pairs.compare_all([("one", one), ("two", renamed)])
