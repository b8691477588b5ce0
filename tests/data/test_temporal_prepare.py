"""`genrec prepare --protocol temporal`: dates in, a dataset that keeps to them out."""

import json

import numpy as np
import pytest

from genrec_jax.cli import main
from genrec_jax.data import dataset, prepare, splits, toystore
from genrec_jax.errors import UserError

BY_DATE = prepare.SplitBy("temporal")


def make(path, split=prepare.LEAVE_ONE_OUT, **options):
    log = toystore.generate(num_users=60)
    return prepare.prepare(
        log, path, name="Toy", split=split, **({"filters": prepare.Filters(1, 1)} | options)
    )


def test_the_dataset_keeps_its_dates(tmp_path):
    made = make(tmp_path / "by_date", BY_DATE)
    entry = made.manifest["split"]
    assert json.loads((tmp_path / "by_date" / "dataset.json").read_text())["split"] == entry
    assert made.timestamps_X is not None
    part = splits.of(dataset.load(made.path))
    training_X = part.in_training_X(made)
    assert np.array_equal(training_X, made.timestamps_X < entry["validation_from"])
    assert 0.75 < training_X.mean() <= 0.8
    tested_U = part.test_U[part.test_U >= 0]
    assert (made.timestamps_X[tested_U] >= entry["test_from"]).all()
    assert {result["status"] for result in made.manifest["audit"]} == {"pass"}


def test_another_split_is_other_data_of_the_same_tables(tmp_path):
    last_items, by_date = make(tmp_path / "a"), make(tmp_path / "b", BY_DATE)
    entry = by_date.manifest["split"]
    same = make(
        tmp_path / "c", prepare.SplitBy("temporal", entry["validation_from"], entry["test_from"])
    )
    later = make(
        tmp_path / "d",
        prepare.SplitBy("temporal", entry["validation_from"], entry["test_from"] + 1),
    )
    assert last_items.manifest["files"] == by_date.manifest["files"]
    assert by_date.fingerprint == same.fingerprint
    assert len({made.fingerprint for made in (last_items, by_date, later)}) == 3
    assert last_items.manifest["split"] == {"protocol": "leave_one_out"}
    assert "oracle" in last_items.manifest
    assert "oracle" not in by_date.manifest  # it is about everybody's last item


def test_users_may_be_short(tmp_path):
    log = toystore.generate(num_users=60)
    cut = log.interactions.lazy().collect().head(40)  # the first 40 rows in time
    made = prepare.prepare(
        type(log)(cut, log.items),
        tmp_path / "d",
        name="Toy",
        filters=prepare.Filters(1, 1),
        split=BY_DATE,
    )
    assert made.lengths_U.min() < prepare.LEAVE_ONE_OUT_NEEDS


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (("temporal", 5, None), "has two dates"),
        (("temporal", 7, 5), "wanted a later one for the test"),
        (("leave_one_out", 5, 7), "pass --protocol temporal"),
    ],
)
def test_mistakes_that_need_no_data(split, message):
    with pytest.raises(UserError, match=message):
        prepare.SplitBy(*split)


def test_protocols_have_the_names_of_the_manifest():
    with pytest.raises(UserError, match="'leave-one-out'; wanted one of leave_one_out, temporal"):
        splits.check_protocol("leave-one-out", None, None)


def test_dates_that_leave_nothing_leave_nothing(tmp_path):
    with pytest.raises(UserError, match=r"Toy: the dates .* leave nothing to train"):
        make(tmp_path / "d", prepare.SplitBy("temporal", 5, 7))
    assert list(tmp_path.iterdir()) == []


def test_dates_cannot_be_changed_by_hand(tmp_path):
    for split in (BY_DATE, prepare.LEAVE_ONE_OUT):
        path = tmp_path / split.protocol
        manifest = make(path, split).manifest
        later = {
            "protocol": "temporal",
            "validation_from": 1_456_790_401,
            "test_from": 1_466_790_401,
        }
        (path / "dataset.json").write_text(json.dumps(manifest | {"split": later}))
        with pytest.raises(UserError, match=r"dataset.json: its `split` is not the one"):
            dataset.load(path)


def genrec(capsys, *words):
    code = main.main(["prepare", "toystore", "--num-users", "60", *map(str, words)])
    return code, " ".join(capsys.readouterr().out.split())


def test_the_command(tmp_path, capsys):
    words = ["--protocol", "temporal", "--validation-from", "2016-03-01"]
    words += ["--test-from", "2016-06-01T02:00:00+02:00", "--output", tmp_path / "d"]
    code, out = genrec(capsys, *words)
    assert code == 0
    assert "held out temporal, validation from 2016-03-01, test from 2016-06-01" in out
    made = dataset.load(tmp_path / "d")
    count = splits.count_targets(made, splits.of(made))["test"]
    said = (
        f"test {count.users} users; training never saw {count.new_users} of them, nor {count.cold}"
    )
    assert said in out


@pytest.mark.parametrize(
    "date", ["2016", "20160301", "1456790400", "March", "2016-13-01", "9999-12-31T23:59:59-10:00"]
)
def test_what_is_no_date(tmp_path, capsys, date):
    with pytest.raises(SystemExit):
        genrec(capsys, "--output", tmp_path / "d", "--validation-from", date)
    said = f"--validation-from: '{date}': wanted a date such as 2014-07-23"
    assert said in capsys.readouterr().err


def test_a_source_without_times(tmp_path, capsys):
    source = tmp_path / "user_sequence.txt"
    source.write_text("u a b c\nv b c a\n")
    words = ["sequences", "--input", str(source), "--output", str(tmp_path / "d")]
    words += ["--min-user-interactions", "1", "--min-item-interactions", "1"]
    assert main.main(["prepare", *words, "--protocol", "temporal"]) == 2
    assert "gives no times, and a temporal split needs them" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
