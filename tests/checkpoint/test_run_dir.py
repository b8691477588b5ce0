"""The run dir: complete or not one at all, its settings compared, its parts checked."""

import dataclasses
import json
import pathlib
import subprocess

import numpy as np
import pyarrow as pa
import pytest

from genrec_jax.checkpoint import run_dir
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.errors import UserError
from genrec_jax.indexing import build
from genrec_jax.model.config import T5Config
from genrec_jax.prompts import templates

MODEL = T5Config(
    vocab_size=50,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
SETTINGS = {"data": {"batch_size": 8, "datasets": ["a"]}, "seed": 1, "rate": None}


def make_dataset(folder: pathlib.Path, name: str) -> dataset_lib.Dataset:
    rng = np.random.default_rng(len(name))
    users, items = np.repeat(np.arange(6, dtype=np.int32), 5), np.arange(30, dtype=np.int32) % 10
    return dataset_lib.write(
        folder / name,
        name=name,
        interactions=pa.table({"user": users, "item": rng.permutation(items)}),
        items=pa.table(
            {"item": np.arange(10, dtype=np.int32), "source_id": [f"s{i}" for i in range(10)]}
        ),
        users=pa.table(
            {"user": np.arange(6, dtype=np.int32), "source_id": [f"u{i}" for i in range(6)]}
        ),
    )


@pytest.fixture
def make(tmp_path):
    """Makes a run dir over datasets of these names."""

    def make_run(*names: str, write_trie=None) -> run_dir.RunDir:
        datasets = [make_dataset(tmp_path, name) for name in names]
        index = tmp_path / "index"
        folders = [d.path for d in datasets]
        lines = [t.input for t in templates.load_templates()]
        config = build.IndexConfig(method="random")
        built = build.build_index(folders, config, output=index, prompt_lines=lines)
        return run_dir.RunDir.create(
            tmp_path / "run",
            model_config=MODEL,
            mixture={"name": "openp5", "history": 20},
            datasets=datasets,
            index_dirs=[index if len(names) == 1 else index / name for name in names],
            vocabulary=built[0].vocabulary,
            templates_text=templates.OPENP5_TEMPLATES.read_text(),
            write_trie=write_trie or (lambda number, path: path.write_bytes(b"trie %d" % number)),
            selection={"metric": "hr@10", "mode": "max"},
            settings=SETTINGS,
            operative_config=None,
        )

    return make_run


def test_one_dataset_lies_flat(make, tmp_path):
    opened = make("shop")
    assert run_dir.RunDir.exists(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        *("run.json", "vocabulary.model", "item_ids.parquet", "index.json", "trie.npz")
    }
    assert opened.model_config == MODEL
    assert opened.item_ids() == opened.item_ids("shop")
    assert len(opened.item_ids().texts) == 10
    assert opened.dataset().trie.read_bytes() == b"trie 0"
    assert opened.dataset().path == tmp_path / "shop"
    assert len(opened.templates) == 22
    assert opened.settings == SETTINGS
    assert opened.manifest["versions"].keys() == set(run_dir.PACKAGES)


def test_several_datasets_have_a_folder_each_and_one_vocabulary(make):
    opened = make("shop", "books")
    assert [d.name for d in opened.datasets] == ["shop", "books"]
    assert opened.dataset("books").trie.read_bytes() == b"trie 1"
    assert opened.item_ids("books").dataset_name == "books"
    assert opened.vocabulary.size > 100
    with pytest.raises(UserError, match="was trained on shop, books; got None"):
        opened.dataset()


def test_an_interrupted_creation_is_no_run_dir_and_is_made_again(make, tmp_path):
    def fail(number, path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("shop", write_trie=fail)
    assert not run_dir.RunDir.exists(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"holds no run\.json, so it is no run dir; wanted a folder that"
    ):
        run_dir.RunDir.load(tmp_path / "run")
    with pytest.raises(
        UserError, match="nowhere: is not there; wanted a folder that `genrec train`"
    ):
        run_dir.RunDir.load(tmp_path / "nowhere")
    assert not list((tmp_path / "run").glob(".*"))


def test_a_changed_vocabulary_is_refused(make, tmp_path):
    opened = make("shop")
    path = tmp_path / "run" / "vocabulary.model"
    path.write_bytes(path.read_bytes().replace(b"item", b"itfm"))
    with pytest.raises(UserError, match=r"vocabulary.model: is not the vocabulary"):
        _ = opened.vocabulary


def test_another_format_version_says_what_to_do(make, tmp_path):
    make("shop")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(UserError, match=r"format version 99.*genrec train"):
        run_dir.RunDir.load(tmp_path / "run")


def test_differences_are_named_by_path():
    new = {"data": {"batch_size": 16, "datasets": ["a"], "packing": True}, "seed": 1, "rate": 0.5}
    assert run_dir.compare_settings(SETTINGS, new) == [
        ("data.batch_size", "8", "16"),
        ("data.packing", "absent", "True"),
        ("rate", "None", "0.5"),
    ]
    assert run_dir.compare_settings(SETTINGS, json.loads(json.dumps(SETTINGS))) == []


def test_what_may_differ_may_differ(make):
    opened = make("shop")
    moved = {"data": {"batch_size": 8, "datasets": ["b"]}, "seed": 1, "rate": None}
    opened.check_settings(moved, free=("data.datasets",))
    with pytest.raises(UserError, match=r"data.datasets: \['a'\] there, \['b'\] now"):
        opened.check_settings(moved, free=("data.dat",))


def test_the_description_survives_json(make):
    opened = make("shop")
    assert dataclasses.asdict(opened.model_config) == dataclasses.asdict(MODEL)
    assert isinstance(opened.model_config.mlp_activations, tuple)


def test_the_commit_is_that_of_the_code_with_a_mark_where_it_was_changed(tmp_path):
    def git(*words):
        named = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *named, *words], check=True)

    package = tmp_path / "package"
    for name in ("checkpoint/run_dir.py", "model/t5.py", "venv/run_dir.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("1\n")
    git("init", "--quiet")
    git("add", "package/checkpoint", "package/model")
    git("commit", "--quiet", "--message", "first")
    clean = run_dir.git_commit(package / "checkpoint/run_dir.py")
    assert clean is not None and len(clean) == 40
    (package / "model/t5.py").write_text("2\n")
    assert run_dir.git_commit(package / "checkpoint/run_dir.py") == f"{clean}+"
    # Installed below a checkout that does not have it: that commit says nothing about this code.
    assert run_dir.git_commit(package / "venv/run_dir.py") is None
