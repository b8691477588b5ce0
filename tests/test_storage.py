"""Dataset dirs and item ids behind a URL: `memory://` stands for every object store."""

import json
import os
import pathlib

import fsspec
import numpy as np
import pytest

from genrec_jax import storage
from genrec_jax.checkpoint import run_dir
from genrec_jax.cli import main
from genrec_jax.data import artefacts, dataset
from genrec_jax.errors import UserError
from genrec_jax.evaluation import from_run
from genrec_jax.indexing import item_ids
from genrec_jax.training import config, inputs, lock


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty store, and a cache of its copies that belongs to the test."""
    monkeypatch.setenv("GENREC_STORAGE_CACHE", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")

    def empty() -> None:
        files.store.clear()
        files.pseudo_dirs[:] = [""]

    empty()
    yield files
    empty()


def put(files: fsspec.AbstractFileSystem, **contents: str) -> None:
    for name, text in contents.items():
        files.pipe_file(f"/bucket/{name}", text.encode())


def names(files: fsspec.AbstractFileSystem, place: str = "/bucket") -> list[str]:
    return sorted(name.removeprefix(f"{place}/") for name in files.find(place))


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("gs://bucket/data", True),
        ("s3://bucket", True),
        ("memory://x", True),
        ("data/toystore", False),
        ("/data/a:b", False),
        ("C:\\data", False),
    ],
)
def test_a_url_is_told_from_a_path(path, remote):
    assert storage.is_remote(path) == remote


def test_one_path_is_a_list_of_one():
    for one in ("gs://b/data", "data", pathlib.Path("data")):
        assert storage.listed(one) == storage.listed([one]) == [one]
    assert storage.listed(name for name in "ab") == ["a", "b"]


def test_paths_and_urls_are_joined_alike(tmp_path):
    assert storage.join("gs://b/data/", "index", "random") == "gs://b/data/index/random"
    assert storage.join(tmp_path, "index") == tmp_path / "index"
    assert os.fspath(storage.argument("gs://b/data/")) == "gs://b/data"
    assert storage.last_name("gs://b/data/toys/") == storage.last_name("data/toys/") == "toys"


def test_a_copy_follows_the_store(store):
    put(store, a="one", b="two")
    folder = storage.local_copy("memory://bucket")
    assert (folder / "a").read_text() == "one"
    first = (folder / "b").stat().st_ino
    put(store, a="three")
    store.rm_file("/bucket/b")
    put(store, c="four")
    assert storage.local_copy("memory://bucket") == folder
    assert (folder / "a").read_text() == "three"
    assert not (folder / "b").exists()
    inode = (folder / "c").stat().st_ino
    storage.local_copy("memory://bucket/")
    assert (folder / "c").stat().st_ino == inode != first, (
        "what has not changed is not fetched again"
    )


def test_only_the_files_that_are_named_are_copied(store):
    put(store, a="one", b="two")
    folder = storage.local_copy("memory://bucket", ["a", "absent"])
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] == ["a"]


def test_the_manifest_goes_first_and_comes_last(store, monkeypatch):
    put(store, **{"manifest.json": "old", "old": "old", "sub/manifest.json": "old"})
    calls = []
    for name in ("put_file", "rm_file"):
        plain = getattr(type(store), name)

        def recorded(self, *paths, plain=plain, **options):
            calls.append((plain.__name__, paths[-1].removeprefix("/bucket/")))
            return plain(self, *paths, **options)

        monkeypatch.setattr(type(store), name, recorded)
    with storage.publishing("memory://bucket", manifests=["manifest.json"]) as folder:
        (folder / "sub").mkdir()
        for name in ("manifest.json", "a", "sub/manifest.json", "sub/z"):
            (folder / name).write_text("new")
        assert names(store) == ["manifest.json", "old", "sub/manifest.json"]
    removed = [name for call, name in calls if call == "rm_file"]
    written = [name for call, name in calls if call == "put_file"]
    assert removed[0] == "manifest.json"
    assert written[-2:] == ["sub/manifest.json", "manifest.json"]
    assert names(store) == ["a", "manifest.json", "sub/manifest.json", "sub/z"]


def test_nothing_is_published_when_the_work_fails(store):
    put(store, **{"manifest.json": "old"})
    with (
        pytest.raises(ZeroDivisionError),
        storage.publishing("memory://bucket", manifests=["manifest.json"]) as folder,
    ):
        (folder / "manifest.json").write_text("new")
        raise ZeroDivisionError
    assert store.cat_file("/bucket/manifest.json") == b"old"


def test_prepare_and_index_write_to_a_url_what_they_write_here(store, tmp_path, capsys):
    """And what reads them finds the same data under both."""
    here, there = tmp_path / "toys", "memory://bucket/toys"
    for place in (str(here), there):
        assert main.main(["prepare", "toystore", "--output", place, "--num-users", "60"]) == 0
        assert main.main(["index", place, "--method", "sequential"]) == 0
    assert f"next: genrec index {there}" in capsys.readouterr().out
    assert names(store, "/bucket/toys") == sorted(
        p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()
    )
    local, remote = dataset.load(here), dataset.load(there)
    assert remote.fingerprint == local.fingerprint
    assert remote.location == there
    assert local.location == str(here)
    np.testing.assert_array_equal(remote.items_X, local.items_X)
    assert remote.item_titles == local.item_titles
    index = storage.join(there, "index", "sequential")
    ids = item_ids.load(index)
    assert ids == item_ids.load(here / "index" / "sequential")
    ids.check_dataset(remote)
    assert item_ids.load_vocabulary(index).sha256 == ids_vocabulary(here)


def test_training_and_evaluation_find_what_lies_at_a_url(store):
    place = "memory://bucket/toys"
    assert main.main(["prepare", "toystore", "--output", place, "--num-users", "60"]) == 0
    data = config.DataConfig(datasets=[place], mixture="openp5", batch_size=8)
    loaded = (dataset.load(place),)
    with pytest.raises(
        UserError, match=r"^memory://bucket/toys/index/sequential: holds no item ids"
    ):
        inputs.find_index_dirs(data, loaded)
    assert main.main(["index", place, "--method", "sequential"]) == 0
    (folder,) = inputs.find_index_dirs(data, loaded)
    item_ids.load(folder).check_dataset(loaded[0])
    entry = run_dir.RunDataset("toys", storage.join(place), loaded[0].fingerprint, folder, 60)
    assert from_run.open_dataset(entry, {}).location == place
    assert from_run.open_dataset(entry, {"toys": place}).fingerprint == entry.fingerprint
    moved = run_dir.RunDataset("toys", "memory://bucket/gone", entry.fingerprint, folder, 60)
    with pytest.raises(UserError, match=r"^memory://bucket/gone: is not there"):
        from_run.open_dataset(moved, {})


def ids_vocabulary(folder) -> str:
    return item_ids.load_vocabulary(folder / "index" / "sequential").sha256


def test_a_dataset_at_a_url_is_replaced_only_on_request(store, capsys):
    command = ["prepare", "toystore", "--output", "memory://bucket/toys", "--num-users", "60"]
    assert main.main(command) == 0
    capsys.readouterr()
    assert main.main(command) == 2
    assert "memory://bucket/toys: already exists" in capsys.readouterr().err
    assert main.main([*command, "--overwrite"]) == 0
    put(store, **{"other/file": "somebody's"})
    command[3] = "memory://bucket/other"
    assert main.main([*command, "--overwrite"]) == 2
    assert "exists and is not a dataset dir" in capsys.readouterr().err
    assert store.exists("/bucket/other/file")


def test_a_damaged_and_an_absent_dataset_are_named_by_their_url(store):
    with pytest.raises(UserError, match=r"^memory://bucket/toys: is not there; wanted"):
        dataset.load("memory://bucket/toys")
    assert main.main(["prepare", "toystore", "--output", "memory://bucket/toys"]) == 0
    manifest = json.loads(store.cat_file("/bucket/toys/dataset.json"))
    manifest["files"]["items.parquet"] = "0" * 64
    store.pipe_file("/bucket/toys/dataset.json", json.dumps(manifest).encode())
    with pytest.raises(UserError, match=r"^memory://bucket/toys/items.parquet: its checksum"):
        dataset.load("memory://bucket/toys")


def test_what_needs_a_file_system_is_refused_at_a_url(tmp_path, monkeypatch):
    """No folder called `gs:` in the working folder, as pathlib would make."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^gs://b/runs/a: is a URL; a run dir must be on a file"):
        lock.RunLock("gs://b/runs/a")
    write = artefacts.atomic_directory
    with (
        pytest.raises(UserError, match=r"^memory://b/x: is a URL; this output"),
        write("memory://b/x"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_goes_to_a_url_whole_or_not_at_all(store):
    artefacts.write_json("memory://bucket/a.json", {"one": 1})
    assert json.loads(store.cat_file("/bucket/a.json")) == {"one": 1}
    assert storage.read_head("memory://bucket/a.json", 1) == b"{"
    with pytest.raises(ZeroDivisionError), artefacts.atomic_file("memory://bucket/b") as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert names(store) == ["a.json"]


def test_an_unknown_store_is_a_readable_error():
    with pytest.raises(UserError, match=r"^nosuch://bucket/a: .*nosuch"):
        dataset.load("nosuch://bucket/a")


def test_a_dataset_dir_with_a_run_below_it_is_not_overwritten(store):
    put(
        store, **{"shop/dataset.json": "{}", "shop/runs/a/run.json": "{}", "shop/my-run.json": "{}"}
    )
    with pytest.raises(UserError, match="the training run memory://bucket/shop/runs/a, which"):
        artefacts.check_output(
            "memory://bucket/shop", overwrite=True, ours=True, kind="a dataset dir"
        )
    store.rm_file("/bucket/shop/runs/a/run.json")
    artefacts.check_output("memory://bucket/shop", overwrite=True, ours=True, kind="a dataset dir")
