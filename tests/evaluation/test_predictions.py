"""predictions.parquet: what is read back, and that half a file is never left."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrec_jax.evaluation import predictions


def block(users, items):
    users = np.array(users, np.int32)
    items = np.array(items, np.int32)
    ranks = np.arange(len(users), dtype=np.int64)
    return users, users + 10, ranks, ranks // 2, items, np.where(items < 0, -np.inf, -items - 0.5)


def append(writer, template, users, items):
    *arrays, scores = block(users, items)
    writer.append(template, *arrays, scores.astype(np.float32))


def test_reads_back_what_was_appended(tmp_path):
    path = tmp_path / "predictions.parquet"
    with predictions.writing(path, ("item_1001", "item_1002", "item_1003")) as writer:
        append(writer, "A1", [4, 2], [[2, 0, -1], [-1, -1, -1]])
        append(writer, "A11", [2], [[0, 1, 2]])
    table = pq.read_table(path)
    assert table.schema.equals(predictions.SCHEMA)
    assert table.to_pylist()[0] == {
        "user": 4,
        "example": None,
        "template": "A1",
        "target": 14,
        "rank": 0,
        "rank_seen_excluded": 0,
        "items": [2, 0],
        "item_ids": ["item_1003", "item_1001"],
        "scores": [-2.5, -0.5],
    }
    assert table["items"].to_pylist()[1:] == [[], [0, 1, 2]]
    assert table["template"].to_pylist() == ["A1", "A1", "A11"]
    assert table["rank"].to_pylist() == [0, 1, 0]


def test_examples_of_nobody_have_numbers_and_no_user(tmp_path):
    path = tmp_path / "predictions.parquet"
    with predictions.writing(path, ("a", "b")) as writer:
        _, targets, ranks, _, items, scores = block([4, 2], [[0], [1]])
        examples = np.array([7, 0], np.int32)
        scores = scores.astype(np.float32)
        writer.append("mine", None, targets, ranks, None, items, scores, examples_E=examples)
    table = pq.read_table(path)
    assert table.schema.equals(predictions.SCHEMA)
    assert table["example"].to_pylist() == [7, 0]
    assert table["user"].to_pylist() == table["rank_seen_excluded"].to_pylist() == [None, None]


def test_rows_are_written_in_groups_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "ROWS_PER_GROUP", 10)
    path = tmp_path / "predictions.parquet"
    with predictions.writing(path, ("a",)) as writer:
        for start in range(0, 34, 4):
            append(writer, "A1", range(start, start + 4), [[0]] * 4)
            assert writer._rows < 10
    assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert pq.read_table(path)["user"].to_pylist() == list(range(36))


def test_a_few_rows_are_read_without_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "ROWS_PER_GROUP", 10)
    path = tmp_path / "predictions.parquet"
    with predictions.writing(path, ("a", "b")) as writer:
        for start in range(0, 50, 5):
            append(writer, "A1", range(start, start + 5), [[0]] * 5)
    asked = [37, 3, 31, 49, 38]
    groups: list[int] = []
    read = pq.ParquetFile.read_row_group

    def noted(self, group):
        groups.append(group)
        return read(self, group)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    assert [row["user"] for row in predictions.read_rows(path, asked)] == asked
    assert groups == [0, 3, 4]
    assert predictions.read_rows(path, []) == []


def test_a_failure_leaves_nothing(tmp_path):
    path = tmp_path / "predictions.parquet"

    def fail():
        with predictions.writing(path, ("a",)) as writer:
            append(writer, "A1", [0], [[0]])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
