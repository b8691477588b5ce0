import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from genrec_jax.data import dataset, prepare, prepare_run, rawlog
from genrec_jax.errors import UserError


def log(rows, *, columns=("user", "item", "timestamp"), items=None, **options):
    frame = pl.DataFrame(rows, schema=list(columns), orient="row")
    return rawlog.RawLog(frame, items=items, **options)


def make(tmp_path, raw, *, min_user=1, min_item=1, tie_seed=None, **options):
    filters = prepare.Filters(min_user, min_item, tie_seed=tie_seed)
    return prepare.prepare(raw, tmp_path / "out", name="Toy", **({"filters": filters} | options))


def test_numbers_and_order_of_a_hand_made_log(tmp_path):
    made = make(
        tmp_path,
        log(
            [
                ("zoe", "b10", 50),
                ("amy", "b9", 30),
                ("zoe", "b9", 20),
                ("amy", "a", 10),
                ("zoe", "a", 20),  # ties with the row before last of zoe: file order decides
                ("amy", "b10", 20),
            ]
        ),
    )
    assert sorted(made.user_source_ids) == ["amy", "zoe"]
    assert made.item_source_ids == ["a", "b10", "b9"]  # string order
    zoe, amy = (made.user_source_ids.index(name) for name in ("zoe", "amy"))
    assert made.sequence(zoe).tolist() == [2, 0, 1]
    assert made.sequence(amy).tolist() == [0, 1, 2]
    assert made.timestamps_X is not None
    times = {zoe: [20, 20, 50], amy: [10, 20, 30]}
    assert made.timestamps_X.tolist() == times[0] + times[1]
    assert made.manifest["order"] == "timestamp"


def test_source_ids_sort_as_strings_by_code_point(tmp_path):
    ids = ["é", "z", "Z", "10", "9", "09", "\U0001f600", "\uffee"]
    made = make(tmp_path, log([("u", item, 5) for item in ids]))
    assert made.item_source_ids == sorted(ids)


def test_user_numbers_tell_nothing_of_the_log(tmp_path):
    """Users who are met in the order of what they take, as in a log that is sorted by item."""
    names = [f"u{user:04d}" for user in range(2000)]
    rows = [(name, f"i{user // 50}", time) for user, name in enumerate(names) for time in (1, 2, 3)]
    shuffled = make(tmp_path / "shuffled", log(rows))
    in_file_order = make(tmp_path / "file", log(rows), user_order="file")
    assert in_file_order.user_source_ids == names
    assert (shuffled.manifest["user_order"], in_file_order.manifest["user_order"]) == (
        "shuffled",
        "file",
    )
    assert sorted(shuffled.user_source_ids) == names
    places = np.array([names.index(name) for name in shuffled.user_source_ids])
    # Of a random order neither ranks nor neighbours correlate; 4 standard deviations are .09.
    assert abs(np.corrcoef(places, np.arange(2000))[0, 1]) < 0.09
    assert abs(np.corrcoef(places[1:], places[:-1])[0, 1]) < 0.09
    # Numbers hang on the source ids alone, not on the order of the rows.
    again = make(tmp_path / "again", log(rows[::-1]))
    assert again.user_source_ids == shuffled.user_source_ids


def test_trusted_order_is_the_order_of_rows(tmp_path):
    rows = [("u", "c"), ("v", "a"), ("u", "a"), ("v", "b"), ("u", "b"), ("v", "b")]
    made = make(
        tmp_path, log(rows, columns=("user", "item"), order_trusted=True), user_order="file"
    )
    assert made.sequence(0).tolist() == [2, 0, 1]
    assert made.sequence(1).tolist() == [0, 1, 1]
    assert made.manifest["order"] == "trusted"
    assert made.manifest["ties"] is None
    assert made.manifest["duplicates"]["exact_kept"] == 1  # `b` twice running
    assert made.timestamps_X is None


def test_ties_and_duplicates_are_counted(tmp_path):
    rows = [
        ("u", "a", 1, 5.0),
        ("u", "b", 2, 5.0),
        ("u", "c", 2, 5.0),
        ("u", "b", 2, 5.0),  # the copy, not next to its original
        ("u", "b", 2, 4.0),  # another rating: no copy
        ("v", "a", 1, 5.0),
        ("v", "b", 2, 5.0),
        ("v", "c", 3, 5.0),
    ]
    made = make(tmp_path, log(rows, columns=("user", "item", "timestamp", "rating")))
    ties = made.manifest["ties"]
    assert (ties["rows"], ties["rows_share"]) == (4, 0.5)
    assert (ties["users_last_two"], ties["users_last_two_share"]) == (1, 0.5)
    assert made.manifest["duplicates"] == {"exact_kept": 1, "exact_dropped": 0}
    assert made.num_interactions == 8
    dropped = make(
        tmp_path,
        log(rows, columns=("user", "item", "timestamp", "rating")),
        filters=prepare.Filters(1, 1, drop_duplicates=True),
        overwrite=True,
    )
    assert dropped.manifest["duplicates"] == {"exact_kept": 0, "exact_dropped": 1}
    assert dropped.num_interactions == 7


def test_without_times_only_immediate_repeats_are_duplicates(tmp_path):
    rows = [
        ("u", "a", 5.0),
        ("v", "a", 5.0),  # between u's rows
        ("u", "a", 5.0),  # the repeat
        ("u", "b", None),
        ("u", "b", None),  # another
        ("u", "a", 5.0),  # taken again later: an interaction of its own
        ("u", "a", 4.0),  # another rating: no copy
        ("v", "b", 5.0),
        ("v", "a", 5.0),
    ]
    raw = log(rows, columns=("user", "item", "rating"), order_trusted=True)
    made = make(tmp_path, raw, user_order="file")
    assert made.manifest["duplicates"] == {"exact_kept": 2, "exact_dropped": 0}
    filters = prepare.Filters(1, 1, drop_duplicates=True)
    made = make(tmp_path, raw, user_order="file", filters=filters, overwrite=True)
    assert made.manifest["duplicates"] == {"exact_kept": 0, "exact_dropped": 2}
    assert made.sequence(0).tolist() == [0, 1, 0, 0]
    assert made.sequence(1).tolist() == [0, 1, 0]


def test_ties_may_be_ordered_at_random(tmp_path):
    rows = [("u", f"i{number}", 5 if number < 8 else number) for number in range(10)]
    orders = {}
    for seed in (None, 0, 0, 1):
        made = make(tmp_path, log(rows), tie_seed=seed, overwrite=True)
        order = tuple(made.sequence(0).tolist())
        assert sorted(order[:8]) == list(range(8))
        assert order[8:] == (8, 9)  # what does not tie stays
        assert orders.setdefault(seed, order) == order
        assert made.manifest["ties"]["rows"] == 8
        rule = "file order" if seed is None else f"a random order (seed {seed})"
        assert made.manifest["ties"]["rule"] == rule
    assert orders[None] == tuple(range(10))
    assert len(set(orders.values())) == 3


@pytest.mark.parametrize("columns", [("user", "item"), ("user", "item", "timestamp")])
def test_ordering_ties_needs_times(tmp_path, columns):
    rows = [("u", f"i{number}", 5)[: len(columns)] for number in range(5)]
    with pytest.raises(UserError, match="--tie-seed 0 has no effect: this source gives no times"):
        make(tmp_path, log(rows, columns=columns, order_trusted=True), tie_seed=0)
    assert not list(tmp_path.iterdir())


def test_numbering_closes_the_gaps_of_the_filter(tmp_path):
    rows = [(f"u{user}", f"i{item}", item) for user in range(3) for item in range(1, 4)]
    rows += [("lonely", "i0", 1), ("u1", "i0", 9)]
    made = make(tmp_path, log(rows), min_user=3, min_item=3)
    assert made.manifest["counts"] == {"users": 3, "items": 3, "interactions": 9}
    assert made.item_source_ids == ["i1", "i2", "i3"]
    assert made.manifest["rows"]["dropped_by_k_core"] == 2
    assert made.manifest["filters"]["min_user"] == 3


def test_texts_follow_their_rows(tmp_path):
    columns = ("user", "item", "timestamp", "review", "summary")
    rows = [
        ("u", "b", 3, "third", None),
        ("u", "a", 1, "first", "one"),
        ("u", "c", 2, None, "two"),
    ]
    make(tmp_path, log(rows, columns=columns))
    table = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert table["review"].to_pylist() == ["first", None, "third"]
    assert table["summary"].to_pylist() == ["one", "two", None]


def test_items_are_described_where_known(tmp_path):
    items = pl.DataFrame(
        {"item": ["c", "a", "a", "unused"], "title": ["C", "A", "again", "U"]},
    )
    made = make(tmp_path, log([("u", "a", 1), ("u", "b", 2), ("u", "c", 3)], items=items))
    assert made.item_titles == ["A", None, "C"]


def test_the_manifest_carries_sources_and_the_audit(tmp_path):
    raw = log(
        [("u", "a", 1), ("u", "b", 2), ("u", "c", 3)],
        sources=(rawlog.SourceFile("log.csv", 12, "ab" * 32),),
        rejected={"broken line": 2},
        rows_read=5,
        manifest={"oracle": {"hr@10": 0.5}},
    )
    manifest = make(tmp_path, raw, manifest={"reader": "test"}).manifest
    assert manifest["sources"] == [{"name": "log.csv", "bytes": 12, "sha256": "ab" * 32}]
    assert manifest["rows"]["rejected"] == {"broken line": 2}
    assert manifest["rows"]["read"] == 5
    assert (manifest["oracle"], manifest["reader"]) == ({"hr@10": 0.5}, "test")
    statuses = {entry["status"] for entry in manifest["audit"]}
    assert statuses <= {"pass", "warn", "fail"}
    assert any(entry["check"].startswith("order") for entry in manifest["audit"])
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == manifest


def test_a_short_user_is_an_error_or_a_count(tmp_path):
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "a", 1), ("v", "b", 2)]
    raw = log(rows, locate=lambda row: ("log.csv", row + 1))
    with pytest.raises(
        UserError, match=r"^log.csv:4: user 'v' has 2 interactions.*wanted at least 3"
    ):
        make(tmp_path, raw)
    assert not (tmp_path / "out").exists()
    made = make(tmp_path, raw, filters=prepare.Filters(1, 1, skip_short_users=True))
    assert made.num_users == 1
    assert made.manifest["rows"]["rejected"] == {"user with fewer than 3 interactions": 2}


def test_the_k_core_holds_without_short_users(tmp_path):
    """`rare` has two users, one of them short; without it, v has two interactions and goes too."""
    rows = [(user, item, time) for user in ("t", "u") for time, item in enumerate("abc")]
    rows += [("v", "a", 1), ("v", "b", 2), ("v", "rare", 3), ("short", "rare", 1)]
    made = make(tmp_path, log(rows), filters=prepare.Filters(1, 2, skip_short_users=True))
    assert sorted(made.user_source_ids) == ["t", "u"]
    assert made.item_source_ids == ["a", "b", "c"]
    assert np.bincount(made.items_X).min() >= 2
    counted = made.manifest["rows"]
    assert counted["rejected"] == {"user with fewer than 3 interactions": 1}
    assert (counted["dropped_by_k_core"], counted["kept"]) == (3, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"filters": prepare.Filters(9, 1)},
            "nothing is left of 3 interactions.*every user needs 9",
        ),
        ({"name": "a b"}, "the name 'a b' cannot stand in prompts"),
        ({"name": ""}, "the name '' cannot stand"),
        ({"expected_counts": {"users": 2}}, r"1 users \(published: 2\)"),
    ],
)
def test_refusals_leave_nothing(tmp_path, options, message):
    raw = log([("u", "a", 1), ("u", "b", 2), ("u", "c", 3)])
    arguments = {"name": "Toy", "filters": prepare.Filters(1, 1)} | options
    with pytest.raises(UserError, match=message):
        prepare.prepare(raw, tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_preparing_twice_gives_the_same_fingerprint(tmp_path):
    draws = np.random.default_rng(0)
    rows = [
        (f"u{draws.integers(9)}", f"i{draws.integers(9)}", int(draws.integers(50)))
        for _ in range(200)
    ]
    first = prepare.prepare(log(rows), tmp_path / "a", name="Toy")
    second = prepare.prepare(log(rows), tmp_path / "b", name="Toy")
    assert first.fingerprint == second.fingerprint
    assert first.manifest["files"] == second.manifest["files"]


def write_log(path: pathlib.Path, rows: int) -> None:
    draws = np.random.default_rng(0)
    users, items = draws.integers(0, 2000, rows), draws.integers(0, 500, rows)
    times = draws.integers(10**9, 2 * 10**9, rows)
    lines = [f"{u}::{i}::5::{t}" for u, i, t in zip(users, items, times, strict=True)]
    path.write_text("\n".join(lines) + "\n")


def test_a_killed_run_leaves_no_dataset(tmp_path):
    """SIGKILL at random moments: `load` finds a whole dataset or refuses."""
    source = tmp_path / "ratings.dat"
    write_log(source, 150_000)
    code = (
        "import sys; from genrec_jax.data import prepare_run; print('go', flush=True);"
        "prepare_run.prepare_from('movielens', sys.argv[1], sys.argv[2], name='Toy')"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def start(output):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(source), str(output)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert process.stdout is not None
        with process.stdout as words:
            assert words.readline() == b"go\n"
        return process

    seconds = float("inf")
    for attempt in range(2):  # the quicker of two: one may have waited for other work
        whole = start(tmp_path / f"whole{attempt}")
        begun = time.monotonic()
        assert whole.wait() == 0
        seconds = min(seconds, time.monotonic() - begun)
        dataset.load(tmp_path / f"whole{attempt}")
    moments = random.Random(0)
    killed = 0
    for attempt in range(5):
        output = tmp_path / f"killed{attempt}"
        process = start(output)
        time.sleep(seconds * moments.uniform(0.1, 0.95))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode == 0:
            dataset.load(output)
            continue
        killed += 1
        if output.exists():  # killed after the last rename: then it must be whole
            dataset.load(output)
        else:
            with pytest.raises(UserError, match="is not there; wanted a folder"):
                dataset.load(output)
        prepare_run.prepare_from("movielens", source, output, name="Toy", overwrite=True)
        dataset.load(output)
    assert killed


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 256 KiB, where the machine lets us mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs `mount`")
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_at_the_output(tmp_path, tiny_disk):
    source = tmp_path / "ratings.dat"
    write_log(source, 60_000)
    with pytest.raises(UserError, match="the disk is full; nothing was changed"):
        prepare_run.prepare_from("movielens", source, tiny_disk / "out", name="Toy")
    assert list(tiny_disk.iterdir()) == []


def test_a_full_temporary_folder(tmp_path, tiny_disk, monkeypatch):
    source = tmp_path / "ratings.dat"
    write_log(source, 60_000)
    monkeypatch.setattr("tempfile.tempdir", str(tiny_disk))
    with pytest.raises(UserError, match=r"temporary folder is full.*TMPDIR"):
        prepare_run.prepare_from("movielens", source, tmp_path / "out", name="Toy")
    assert not (tmp_path / "out").exists()
    assert list(tiny_disk.iterdir()) == []


def test_a_disk_that_fills_while_writing_without_mounting(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(UserError, match="the disk is full"):
        make(tmp_path, log([("u", "a", 1), ("u", "b", 2), ("u", "c", 3)]))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(UserError, match=r"already exists.*--overwrite"):
        prepare_run.prepare_from("toystore", None, tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "x"


def test_only_datasets_are_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    prepare_run.prepare_from("toystore", None, tmp_path / "out", overwrite=True)
    prepare_run.prepare_from("toystore", None, tmp_path / "out", overwrite=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").write_text("x")
    for target in (tmp_path / "home", tmp_path / "home" / "precious"):
        with pytest.raises(UserError, match="exists and is not a dataset dir"):
            prepare_run.prepare_from("toystore", None, target, overwrite=True)
    assert (tmp_path / "home" / "precious").read_text() == "x"


def test_a_dataset_dir_with_a_run_in_it_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    written = prepare_run.prepare_from("toystore", None, out)
    (out / "runs/a").mkdir(parents=True)
    (out / "runs/a/run.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds the training run \S*out/runs/a, which"):
        prepare_run.prepare_from("toystore", None, out, overwrite=True)
    with pytest.raises(UserError, match="holds the training run"):
        make(tmp_path, log([("u", "a", 1), ("u", "b", 2), ("u", "c", 3)]), overwrite=True)
    assert (out / "runs/a/run.json").exists()
    assert dataset.load(out).fingerprint == written.fingerprint


def test_reader_names_and_options_are_checked(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"no reader 'netflix'; wanted one of amazon, movielens"):
        prepare_run.prepare_from("netflix", "x", out)
    with pytest.raises(UserError, match=r"--seed means nothing to the reader `movielens`.*keys of"):
        prepare_run.prepare_from("movielens", "x", out, reader_options={"seed": 1})
    with pytest.raises(UserError, match="needs data; pass --input"):
        prepare_run.prepare_from("movielens", None, out)
    with pytest.raises(UserError, match="reads nothing; leave --input out"):
        prepare_run.prepare_from("toystore", "x", out)
    with pytest.raises(UserError, match="not found; wanted the movielens data there"):
        prepare_run.prepare_from("movielens", tmp_path / "nowhere", out)
    assert list(tmp_path.iterdir()) == []
