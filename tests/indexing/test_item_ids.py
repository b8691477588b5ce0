"""The item ids artefact: round trip, and refusal of what is damaged or belongs elsewhere."""

import json

import pyarrow.parquet as pq
import pytest

from genrec_jax.errors import UserError
from genrec_jax.indexing import build, item_ids

SEQUENCES = [["d", "a", "x", "b"], ["a", "c", "b", "x"]]


@pytest.fixture
def index(make_dataset, prompt_lines):
    data = make_dataset(SEQUENCES)
    built = build.build_index(
        [data.path], build.IndexConfig("sequential", seed=5), prompt_lines=prompt_lines
    )
    return data, built[0]


def test_round_trip(index):
    data, built = index
    loaded = item_ids.load(built.path)
    assert loaded == built.item_ids
    assert loaded.texts == ("item_1002", "item_1005", "item_1003", "item_1001", "item_1004")
    assert (loaded.method, loaded.seed, loaded.dataset_name) == ("sequential", 5, "Tiny")
    assert loaded.dataset_fingerprint == data.fingerprint
    assert loaded.num_items == 5
    loaded.check_dataset(data)
    assert item_ids.load_vocabulary(built.path).sha256 == built.vocabulary.sha256


def test_table_has_titles_and_source_ids(index):
    _, built = index
    table = pq.read_table(built.path / "item_ids.parquet").to_pydict()
    assert table["item"] == [0, 1, 2, 3, 4]
    assert table["source_id"] == ["a", "b", "c", "d", "x"]
    assert table["title"] == ["The a", "The b", "The c", "The d", "The x"]
    assert table["item_id"][3] == "item_1001"


def test_another_dataset_is_refused(index, make_dataset):
    _, built = index
    other = make_dataset([*SEQUENCES, ["a", "b", "c"]], name="Other")
    with pytest.raises(UserError, match=r"another version of 'Tiny'.*Run `genrec index` again"):
        item_ids.load(built.path).check_dataset(other)


def test_a_damaged_table_is_refused(index):
    _, built = index
    table = built.path / "item_ids.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"item_ids\.parquet: its checksum"):
        item_ids.load(built.path)


def test_missing_parts_are_named(index, tmp_path):
    _, built = index
    with pytest.raises(UserError, match=r"index\.json: not found.*Run `genrec index` again"):
        item_ids.load(tmp_path / "nowhere")
    (built.path / "item_ids.parquet").unlink()
    with pytest.raises(UserError, match=r"item_ids\.parquet: missing"):
        item_ids.load(built.path)


def test_another_format_version_is_refused(index):
    _, built = index
    manifest = json.loads((built.path / "index.json").read_text())
    manifest["format_version"] = 99
    (built.path / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has format version 99; this genrec_jax reads version 1"):
        item_ids.load(built.path)


def test_an_exchanged_vocabulary_is_refused(index, prompt_lines):
    _, built = index
    build.make_vocabulary(
        [built.item_ids], base=None, prompt_lines=[*prompt_lines, "more words"]
    ).save(built.path / "vocabulary.model")
    with pytest.raises(UserError, match="not the vocabulary these ids were checked with"):
        item_ids.load_vocabulary(built.path)
