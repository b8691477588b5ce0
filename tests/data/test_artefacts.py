import errno
import json
import os
import pathlib
import stat
import sys
import threading

import pytest

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with artefacts.atomic_file(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(RuntimeError), artefacts.atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~artefacts._umask()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_contents_are_on_the_disk_before_their_name(tmp_path, monkeypatch):
    """Every file and folder is flushed while the target does not stand yet, its folder after that."""
    flushed = []

    def fsync(handle):
        named = pathlib.Path(f"/proc/self/fd/{handle}").readlink()
        flushed.append((str(named), target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    target = tmp_path / "file"
    with artefacts.atomic_file(target) as temporary:
        temporary.write_text("x")
    assert flushed == [(str(temporary), False), (str(tmp_path), True)]
    flushed.clear()
    target = tmp_path / "folder"
    with artefacts.atomic_directory(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_text("a")
        (temporary / "b").write_text("b")
    inside = [temporary, temporary / "b", temporary / "deep", temporary / "deep" / "a"]
    assert sorted(flushed[:-1]) == [(str(path), False) for path in inside]
    assert flushed[-1] == (str(tmp_path), True)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), artefacts.atomic_directory(target) as temporary:
        (temporary / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with artefacts.atomic_directory(target) as temporary:
        (temporary / "one").write_text("1")
    with (
        pytest.raises(UserError, match=r"out: already exists.*--overwrite"),
        artefacts.atomic_directory(target),
    ):
        pass
    with artefacts.atomic_directory(target, overwrite=True) as temporary:
        (temporary / "two").write_text("2")
    assert [path.name for path in target.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_replaced_leaves_nothing_behind(tmp_path, monkeypatch, kind, at_once):
    if not at_once:
        monkeypatch.setattr(artefacts, "_exchange", lambda one, other: False)
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "folder":
        target.mkdir()
        (target / "old").write_text("x")
    elif kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(elsewhere)
    with artefacts.atomic_directory(target, overwrite=True) as temporary:
        (temporary / "new").write_text("x")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]
    assert not target.is_symlink()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two folders in one step")
def test_a_folder_that_is_replaced_is_there_all_the_time(tmp_path):
    target, done, missing = tmp_path / "out", threading.Event(), []

    def watch():
        while not done.is_set():
            if not target.is_dir():
                missing.append(True)

    with artefacts.atomic_directory(target) as temporary:
        (temporary / "file").write_text("0")
    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(100):
        with artefacts.atomic_directory(target, overwrite=True) as temporary:
            (temporary / "file").write_text(str(number))
    done.set()
    watcher.join()
    assert not missing


def test_a_failed_overwrite_keeps_the_old_folder(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("x")
    with (
        pytest.raises(RuntimeError),
        artefacts.atomic_directory(target, overwrite=True) as temporary,
    ):
        (temporary / "new").write_text("x")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full; nothing was changed"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "choose a folder you may write to"),
    ],
)
def test_disk_errors_are_for_reading(tmp_path, code, message):
    with pytest.raises(UserError, match=message), artefacts.disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    with pytest.raises(OSError, match="Bad file"), artefacts.disk_errors(tmp_path):
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_json_round_trip_and_damage(tmp_path):
    file = tmp_path / "value.json"
    value = {"é": [0.1, 1e-300, None], "n": 2**60}
    artefacts.write_json(file, value)
    assert artefacts.read_json(file, wanted="x", remedy="y") == value
    file.write_text(json.dumps(value)[:-1])
    with pytest.raises(UserError, match=r"is not JSON .*wanted a manifest\. Run it again"):
        artefacts.read_json(file, wanted="a manifest", remedy="Run it again")
    with pytest.raises(UserError, match="not found; wanted a manifest"):
        artefacts.read_json(tmp_path / "gone", wanted="a manifest", remedy="")
    with pytest.raises(UserError, match="not found; wanted a manifest"):
        artefacts.read_json(file / "dataset.json", wanted="a manifest", remedy="")
    with pytest.raises(UserError, match="cannot be read"):
        artefacts.read_json(tmp_path, wanted="a manifest", remedy="")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_is_strict_and_what_was_not_is_read_as_none(tmp_path, number):
    file = tmp_path / "value.json"
    artefacts.write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        artefacts.write_json(file, {"a": [number]})
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]
    file.write_text(json.dumps({"a": [number, 2.5]}))
    assert artefacts.read_json(file, wanted="x", remedy="y") == {"a": [None, 2.5]}


def test_versions(tmp_path):
    artefacts.check_version(1, 1, path=tmp_path, remedy="")
    with pytest.raises(
        UserError, match=r"has format version 2; this genrec_jax reads version 1\. Rerun"
    ):
        artefacts.check_version(2, 1, path=tmp_path, remedy="Rerun")


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert artefacts.sha256_of_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
