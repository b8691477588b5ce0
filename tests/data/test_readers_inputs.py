"""Which file of an `--input` is read: never one of several in silence, never what is hidden."""

import errno
import io
import pathlib

import pytest

from genrec_jax.data import prepare_run
from genrec_jax.data.readers import inputs
from genrec_jax.errors import UserError
from tests.data.test_readers_common import zip_bytes

GOOD = b"1::a::5::100\n2::b::4::200\n"


def test_of_several_files_that_fit_none_is_read_in_silence(tmp_path):
    for name in ("part-0.csv", "part-1.csv", "notes.txt", ".part-2.csv", ".cache/part-3.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"user,item\n1,a\n")
    found = inputs.Inputs(tmp_path, reader="table")
    with pytest.raises(
        UserError, match=r"part-0\.csv, \S+part-1\.csv; wanted one file like \*\.csv"
    ):
        found.require("*.csv", "*.txt", what="a table")
    chosen = found.require("part-0.csv", "*.csv", what="a table")  # the earlier pattern has one
    assert chosen.base_name == "part-0.csv"
    assert len(found.members) == 3  # without what is hidden


def test_a_zip_made_in_its_own_folder(tmp_path):
    file = tmp_path / "here.zip"
    file.write_bytes(zip_bytes(**{"./a.dat": GOOD, "./.DS_Store": b"junk"}))
    assert [member.base_name for member in inputs.Inputs(file, reader="x").members] == ["a.dat"]


def test_a_zip_packed_by_deflate64(tmp_path):
    file = tmp_path / "big.zip"
    content = bytearray(zip_bytes(**{"a.dat": GOOD}))
    content[8] = content[content.index(b"PK\1\2") + 10] = 9  # the method, in both headers
    file.write_bytes(content)
    (member,) = inputs.Inputs(file, reader="x").members
    with (
        pytest.raises(UserError, match=r"big\.zip/a\.dat: is packed by Deflate64 .*Unpack it"),
        inputs.open_member(member),
    ):
        pass


@pytest.mark.parametrize("name", ["ratings.dat", "ratings.zip"])
def test_a_file_that_may_not_be_read_is_named_and_not_the_output(tmp_path, monkeypatch, name):
    file = tmp_path / name
    file.write_bytes(zip_bytes(**{"ratings.dat": GOOD}) if name.endswith("zip") else GOOD)
    opened = open

    def forbidden(path, *arguments, **keywords):
        if pathlib.Path(path) == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr("builtins.open", forbidden)
    monkeypatch.setattr(io, "open", forbidden)  # what zipfile calls
    with pytest.raises(UserError, match=rf"{name}: (cannot|may not) be read"):
        prepare_run.prepare_from("movietweetings", file, tmp_path / "out")
