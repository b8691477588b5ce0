import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from genrec_jax.data import dataset, splits
from genrec_jax.errors import UserError


def make(tmp_path, sequences, times=None):
    users = [user for user, items in enumerate(sequences) for _ in items]
    flat = [item for items in sequences for item in items]
    columns = {"user": users, "item": flat}
    if times is not None:
        columns["timestamp"] = [time for of_user in times for time in of_user]
    count = max(flat) + 1
    return dataset.write(
        tmp_path / "out",
        name="Toy",
        interactions=pa.table(columns),
        items=pa.table({"item": range(count), "source_id": [str(n) for n in range(count)]}),
        users=pa.table(
            {"user": range(len(sequences)), "source_id": [str(n) for n in range(len(sequences))]}
        ),
    )


def test_leave_one_out_by_hand(tmp_path):
    made = make(tmp_path, [[0, 1, 2, 3], [3, 2, 1], [0, 0, 0, 0, 4]])
    split = splits.leave_one_out(made)
    assert split.train_end_U.tolist() == [2, 5, 10]
    assert made.items_X[split.validation_U].tolist() == [2, 2, 0]
    assert made.items_X[split.test_U].tolist() == [3, 1, 4]
    assert (
        split.in_training_X(made).tolist()
        == [True] * 2 + [False] * 2 + [True] + [False] * 2 + [True] * 3 + [False] * 2
    )
    assert splits.training_counts_I(made, split).tolist() == [4, 1, 0, 1, 0]
    assert split.targets_U("validation") is split.validation_U
    assert split.targets_U("test") is split.test_U


def test_leave_one_out_needs_three(tmp_path):
    made = make(tmp_path, [[0, 1, 2], [0, 1]])
    with pytest.raises(UserError, match=r"1 users have fewer than 3.*user 1 with 2"):
        splits.leave_one_out(made)


def test_temporal_by_hand(tmp_path):
    made = make(
        tmp_path,
        [[0, 1, 2, 3], [0, 1, 2], [3, 3, 3], [1, 2, 3]],
        times=[[1, 5, 12, 25], [1, 2, 3], [11, 21, 22], [1, 2, 30]],
    )
    split = splits.temporal(made, validation_from=10, test_from=20)
    assert split.train_end_U.tolist() == [2, 7, 7, 12]
    assert split.validation_U.tolist() == [2, -1, -1, -1]  # user 2 has no history before it
    assert split.test_U.tolist() == [3, -1, 8, 12]
    assert splits.training_counts_I(made, split).tolist() == [2, 3, 2, 0]


def test_temporal_refusals(tmp_path):
    made = make(tmp_path, [[0, 1, 2]])
    with pytest.raises(UserError, match="has no timestamps"):
        splits.temporal(made, validation_from=1, test_from=2)
    timed = make(tmp_path / "timed", [[0, 1, 2]], times=[[1, 2, 3]])
    with pytest.raises(UserError, match="wanted a later one for the test"):
        splits.temporal(timed, validation_from=2, test_from=2)
    for validation_from, test_from in ((-5, 2), (10, 20)):
        with pytest.raises(
            UserError,
            match=r"leave nothing to train on, or nobody to validate.*from 1970-01-01T00:00:01 to",
        ):
            splits.temporal(timed, validation_from=validation_from, test_from=test_from)


def test_the_manifest_says_which(tmp_path):
    made = make(tmp_path, [[0, 1, 2, 3], [3, 0, 1]], times=[[1, 5, 12, 25], [1, 2, 3]])
    assert splits.of(made).protocol == "leave_one_out"  # manifests of before have no such entry
    entry = {"protocol": "temporal", "validation_from": 5, "test_from": 12}
    dated = dataclasses.replace(made, manifest=made.manifest | {"split": entry})
    assert splits.of(dated).train_end_U.tolist() == [1, 7]
    assert splits.of(dated).validation_U.tolist() == [1, -1]
    assert splits.of(dated).test_U.tolist() == [2, -1]
    odd = dataclasses.replace(made, manifest=made.manifest | {"split": {"protocol": "odd"}})
    with pytest.raises(
        UserError, match=r"dataset.json.*the protocol 'odd'; wanted one of leave_one"
    ):
        splits.of(odd)


def test_dates_by_default_part_the_interactions(tmp_path):
    times = np.random.default_rng(0).permutation(1000)
    entry = splits.manifest_entry("temporal", times)
    assert entry == {"protocol": "temporal", "validation_from": 800, "test_from": 900}
    assert splits.manifest_entry("temporal", times, -5, 7)["validation_from"] == -5
    assert splits.manifest_entry("leave_one_out", times) == {"protocol": "leave_one_out"}
    for wrong, message in (
        (("leave_one_out", times, 5, 7), "pass --protocol temporal with them"),
        (("leave_one_out", times, None, 7), "pass --protocol temporal with them"),
        (("temporal", times, None, 7), "has two dates"),
        (("temporal", None), "gives no times"),
        (("temporal", np.repeat([3, 4], [1, 9])), "end at 1970-01-01T00:00:04 and 1970"),
        (("temporal", np.repeat([3, 4], [9, 1])), "wanted two moments after the first"),
    ):
        with pytest.raises(UserError, match=message):
            splits.manifest_entry(*wrong)


def test_moments_and_protocols_in_words():
    assert splits.moment(0) == "1970-01-01"
    assert splits.moment(86_400 * 365 + 61) == "1971-01-01T00:01:01"
    assert splits.moment(-86_400) == "1969-12-31"
    assert splits.describe({}) == "leave one out"
    entry = {"protocol": "temporal", "validation_from": 0, "test_from": 86_400}
    assert splits.describe(entry) == "temporal, validation from 1970-01-01, test from 1970-01-02"


def test_cold_targets_are_counted(tmp_path):
    made = make(tmp_path, [[0, 1, 2, 3], [0, 1, 1, 0], [0, 2, 4, 4]])
    found = splits.count_targets(made, splits.leave_one_out(made))
    assert found == {
        "validation": splits.TargetCount(users=3, new_users=0, cold=1),
        "test": splits.TargetCount(users=3, new_users=0, cold=2),
    }


def test_users_whom_training_never_saw_are_counted(tmp_path):
    made = make(tmp_path, [[0, 1], [0, 1, 2], [3, 3]], times=[[1, 21], [11, 12, 22], [1, 13]])
    part = splits.temporal(made, validation_from=10, test_from=20)
    assert part.trained_U(made).tolist() == [True, False, True]
    found = splits.count_targets(made, part)
    assert found["validation"] == splits.TargetCount(users=1, new_users=0, cold=0)
    assert found["test"] == splits.TargetCount(users=2, new_users=1, cold=2)
