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
    with pytest.raises(UserError, match="must be later"):
        splits.temporal(timed, validation_from=2, test_from=2)
    for validation_from, test_from in ((-5, 2), (10, 20)):
        with pytest.raises(UserError, match=r"leave nothing to train or to test on.* from 1 to 3"):
            splits.temporal(timed, validation_from=validation_from, test_from=test_from)
