import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec_jax.data import dataset
from genrec_jax.errors import UserError


def tables(**interactions):
    columns = {"user": [0, 0, 0, 1, 1, 1], "item": [1, 0, 1, 0, 1, 2]} | interactions
    return {
        "interactions": pa.table(columns),
        "items": pa.table(
            {"item": [0, 1, 2], "source_id": ["a", "b", "c"], "title": ["A", None, "C"]}
        ),
        "users": pa.table({"user": [0, 1], "source_id": ["x", "y"]}),
    }


def test_round_trip(tmp_path):
    made = dataset.write(
        tmp_path / "out",
        name="Toy",
        **tables(timestamp=[1, 2, 3, 4, 5, 6], rating=[1.0, None, 3.0, 4.0, 5.0, 2.0]),
        manifest={"order": "timestamp"},
    )
    loaded = dataset.load(tmp_path / "out")
    assert loaded.manifest == made.manifest
    assert (loaded.name, loaded.num_users, loaded.num_items, loaded.num_interactions) == (
        "Toy",
        2,
        3,
        6,
    )
    assert loaded.offsets_U1.tolist() == [0, 3, 6]
    assert loaded.users_X.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.lengths_U.tolist() == [3, 3]
    assert loaded.sequence(1).tolist() == [0, 1, 2]
    assert loaded.timestamps_X is not None
    assert loaded.timestamps_X.tolist() == [1, 2, 3, 4, 5, 6]
    assert loaded.ratings_X is not None
    assert np.isnan(loaded.ratings_X[1])
    assert loaded.item_titles == ["A", None, "C"]
    assert loaded.item_source_ids == ["a", "b", "c"]
    assert loaded.user_source_ids == ["x", "y"]
    assert pq.read_schema(tmp_path / "out" / "items.parquet").equals(dataset.ITEM_SCHEMA)


def test_absent_columns_are_none(tmp_path):
    made = dataset.write(tmp_path / "out", name="Toy", **tables())
    assert made.timestamps_X is None
    assert made.ratings_X is None
    assert made.within_second_X is None
    assert not made.tied_X.any()
    # As in datasets that were written before there was `within_second`, so fingerprints stay.
    names = ["user", "item", "timestamp", "rating", "review", "summary"]
    assert pq.read_schema(tmp_path / "out" / "interactions.parquet").names == names


def test_fractions_of_a_second_come_back_and_are_part_of_the_data(tmp_path):
    times = {"timestamp": [7, 7, 7, 7, 7, 8]}
    whole = dataset.write(tmp_path / "whole", name="Toy", **tables(**times))
    assert whole.tied_X.tolist() == [False, True, True, False, True, False]
    dataset.write(
        tmp_path / "finer", name="Toy", **tables(**times, within_second=[1, 1, 2, 2, 3, 3])
    )
    finer = dataset.load(tmp_path / "finer")
    assert finer.within_second_X is not None
    assert finer.within_second_X.tolist() == [1, 1, 2, 2, 3, 3]
    assert finer.tied_X.tolist() == [False, True, False, False, False, False]
    assert finer.fingerprint != whole.fingerprint


def test_the_fingerprint_is_of_the_contents(tmp_path):
    prints = set()
    for number, changes in enumerate(
        ({}, {}, {"timestamp": [1, 2, 3, 4, 5, 6]}, {"item": [1, 0, 1, 0, 2, 1]})
    ):
        made = dataset.write(tmp_path / str(number), name=f"Toy{number}", **tables(**changes))
        prints.add(made.fingerprint)
    assert len(prints) == 3


def test_finish_sees_the_dataset_and_adds_to_the_manifest(tmp_path):
    seen = []

    def finish(made):
        seen.append((made.num_items, made.item_titles))
        assert not (tmp_path / "out").exists()
        return {"audit": ["fine"]}

    made = dataset.write(tmp_path / "out", name="Toy", **tables(), finish=finish)
    assert seen == [(3, ["A", None, "C"])]
    assert dataset.load(tmp_path / "out").manifest["audit"] == ["fine"] == made.manifest["audit"]

    def fail(made):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        dataset.write(tmp_path / "failed", name="Toy", **tables(), finish=fail)
    assert not (tmp_path / "failed").exists()


def test_half_a_dataset_is_refused(tmp_path):
    folder = tmp_path / "out"
    dataset.write(folder, name="Toy", **tables())
    manifest = (folder / "dataset.json").read_text()
    table = folder / "interactions.parquet"
    whole = table.read_bytes()

    table.write_bytes(whole[:-1])
    with pytest.raises(
        UserError, match=r"interactions\.parquet: its checksum is not the manifest's"
    ):
        dataset.load(folder)
    flipped = bytearray(whole)
    flipped[40] ^= 1
    table.write_bytes(bytes(flipped))
    with pytest.raises(UserError, match=r"checksum.*Run `genrec prepare` again"):
        dataset.load(folder)
    table.unlink()
    with pytest.raises(UserError, match=r"interactions\.parquet: missing"):
        dataset.load(folder)
    table.write_bytes(whole)
    dataset.load(folder)

    (folder / "dataset.json").write_text(manifest[: len(manifest) // 2])
    with pytest.raises(UserError, match="is not JSON"):
        dataset.load(folder)
    (folder / "dataset.json").write_text(json.dumps(json.loads(manifest) | {"format_version": 99}))
    with pytest.raises(UserError, match="has format version 99"):
        dataset.load(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(
        UserError, match=r"holds no dataset.json.*wanted a folder that `genrec prepare`"
    ):
        dataset.load(folder)
    with pytest.raises(
        UserError, match=r"elsewhere: is not there; wanted a folder that `genrec prep"
    ):
        dataset.load(folder / "elsewhere")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"user": [0, 1, 0, 1, 1, 1]}, ValueError, "not sorted by user"),
        ({"item": [0, 1, 2, 3, 0, 0]}, ValueError, "that the tables lack"),
        ({"user": [0, 0, 0, 1, 1, 2]}, ValueError, "that the tables lack"),
        ({"item": [0, -1, 2, 0, 0, 0]}, ValueError, "that the tables lack"),
    ],
)
def test_tables_that_break_the_format(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        dataset.write(tmp_path / "out", name="Toy", **tables(**changes))
    assert not (tmp_path / "out").exists()


def test_an_empty_dataset_is_refused(tmp_path):
    empty = tables() | {
        "interactions": pa.table({"user": pa.array([], "int32"), "item": pa.array([], "int32")})
    }
    with pytest.raises(UserError, match="no interaction is left"):
        dataset.write(tmp_path / "out", name="Toy", **empty)
