"""launch/quickstart.sh with a `genrec` that only notes what it was asked."""

import os
import pathlib
import subprocess

import pytest

from tests.launch import shells

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "launch" / "quickstart.sh"


@pytest.fixture
def quickstart(tmp_path):
    """Runs the script in an empty folder; gives the exit code and the calls of `genrec`.

    `quickstart.said` has what it said of each run.
    """
    tools = tmp_path / "tools"
    tools.mkdir()
    calls = tmp_path / "calls"
    (tools / "genrec").write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\n')
    (tools / "genrec").chmod(0o755)

    said = []

    def run(dataset):
        done = subprocess.run(
            [shells.BASH, str(SCRIPT), str(dataset)],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        said.append(done.stderr)
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    run.said = said
    return run


def _folder(path, **files):
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def test_toystore_runs_every_stage(quickstart):
    code, calls = quickstart("toystore")
    assert code == 0
    assert [call.split()[0] for call in calls] == [
        "prepare",
        "index",
        "train",
        "evaluate",
        "report",
    ]
    assert calls[0] == "prepare toystore --output data/toystore"


@pytest.mark.parametrize(
    ("files", "reader"),
    [
        ({"u__data": "1\t2\t3\t4\n"}, "movielens"),
        ({"ratings__csv": "userId,movieId,rating,timestamp\n"}, "movielens"),
        ({"ratings__dat": "1::1193::5::978300760\n", "users__dat": "1::F\n"}, "movielens"),
        # MovieTweetings has a users.dat too; among its many ids some are seven digits without a zero.
        (
            {
                "ratings__dat": "1::1074638::7::1365029107\n" * 9 + "2::0104257::8::1364690142\n",
                "users__dat": "1::177651718\n",
            },
            "movietweetings",
        ),
        ({"user_sequence__txt": "1 2 3 4\n"}, "sequences"),
        ({"std__csv": "user,item,timestamp,rating\nu,i,1,5\n"}, "table"),
        ({"ratings__csv": '"rating","item","user"\r\n5,i,u\r\n'}, "table"),
        ({"log__tsv": "\ufeffuser\titem\nu\ti\n", "notes__csv": "user,note\n"}, "table"),
        ({"log__parquet": "PAR1"}, "table"),
    ],
)
def test_a_folder_of_raw_files_gets_its_reader(quickstart, tmp_path, files, reader):
    raw = _folder(tmp_path / "my raw-files", **files)
    code, calls = quickstart(raw)
    assert code == 0
    assert calls[0].startswith(f"prepare {reader} --input {raw}")
    if reader == "table":
        assert next(iter(files)).replace("__", ".") in calls[0]
    assert calls[0].endswith("--name myraw-files --output data/myraw-files")


def test_a_dataset_dir_is_not_prepared_again(quickstart, tmp_path):
    prepared = _folder(tmp_path / "prepared", dataset__json="{}")
    code, calls = quickstart(prepared)
    assert code == 0
    assert calls[0] == f"index {prepared} --method sequential"


def test_what_it_does_not_know_is_refused(quickstart, tmp_path):
    assert quickstart(tmp_path / "nowhere") == (2, [])
    assert quickstart(_folder(tmp_path / "other", notes__txt="")) == (2, [])


@pytest.mark.parametrize("items", ["items.tsv", "items.csv", "items.parquet"])
@pytest.mark.parametrize("log", ["log.csv", "user_sequence.txt"])
def test_a_table_of_items_goes_along(quickstart, tmp_path, log, items):
    raw = _folder(tmp_path / "raw", **{log: "user,item\n", items: "item,user\n"})
    code, calls = quickstart(raw)
    assert code == 0
    assert f"--input {raw}/{log} --name raw --items {raw}/{items} --output" in calls[0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.csv": "user,item\n", "b.tsv": "item\tuser\n"}, "could both be the log"),
        ({"a.csv": "visitor,item\n"}, "with columns named user and item"),
        ({"ratings.csv": "visitor,item\n"}, "with columns named user and item"),
    ],
)
def test_tables_that_it_cannot_tell(quickstart, tmp_path, files, said):
    raw = _folder(tmp_path / "raw", **files)
    assert quickstart(raw) == (2, [])
    assert said in quickstart.said[-1]
