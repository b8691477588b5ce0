"""What all readers share: inputs, archives, lines, numbers, JSON, tables of items."""

import gzip
import io
import os
import pathlib
import zipfile

import polars as pl
import pytest

from genrec_jax.data.readers import delimited, inputs, jsonlines, staging
from genrec_jax.errors import UserError

LAYOUT = delimited.Layout("::", ("user", "item", "rating", "timestamp"), rating_range=(1.0, 5.0))


def options_of(tmp_path, **changes):
    workspace = tmp_path / "workspace"
    workspace.mkdir(exist_ok=True)
    return staging.ReadOptions(workspace, **changes)


def read_lines(tmp_path, content, *, layout=LAYOUT, name="ratings.dat", **changes):
    file = tmp_path / name
    file.write_bytes(content)
    stage = staging.Stage(options_of(tmp_path, **changes))
    delimited.read(inputs.Member(file), layout, stage)
    return stage.finish(sources=())


def rows_of(log):
    return log.interactions.lazy().sort("row").collect()


GOOD = b"1::a::5::100\n2::b::4::200\n"


def test_lines_become_rows(tmp_path):
    log = read_lines(tmp_path, b"1::a::5::100\r\n\n2::b::4.5::200.0")
    columns = ["row", "user", "item", "timestamp", "rating"]
    assert rows_of(log).select(columns).rows() == [(1, "1", "a", 100, 5.0), (3, "2", "b", 200, 4.5)]
    assert log.locate(3) == (str(tmp_path / "ratings.dat"), 3)
    assert (log.rows_read, log.rejected) == (2, {})


@pytest.mark.parametrize("block_bytes", [1, 7, 30, 1 << 20])
def test_blocks_do_not_show(tmp_path, block_bytes):
    lines = [f"{n % 7}::é{n}::{n % 5 + 1}::{1000 + n}" for n in range(40)]
    log = read_lines(tmp_path, ("\ufeff" + "\n".join(lines)).encode(), block_bytes=block_bytes)
    got = rows_of(log)
    assert got["item"].to_list() == [f"é{n}" for n in range(40)]
    assert got["row"].to_list() == list(range(1, 41))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1::a::5", "missing column"),
        (b"1::a::5::100::x", "too many columns"),
        (b"1,a,5,100", "missing column"),
        (b"::a::5::100", "missing user"),
        (b"1::  ::5::100", "missing item"),
        (b"1::a::6::100", "impossible rating"),
        (b"1::a::0.5::100", "impossible rating"),
        (b"1::a::good::100", "impossible rating"),
        (b"1::a::nan::100", "impossible rating"),
        (b"1::a::5::-100", "impossible timestamp"),
        (b"1::a::5::0", "impossible timestamp"),
        (b"1::a::5::1700000000000", "impossible timestamp"),  # milliseconds
        (b"1::a::5::9e99", "impossible timestamp"),
        (b"1::a::5::nan", "impossible timestamp"),
        (b"1::a::5::yesterday", "impossible timestamp"),
        (b"1::\xff::5::100", "not text in the file's encoding"),
    ],
)
def test_a_bad_line_is_named_or_counted(tmp_path, line, problem):
    content = GOOD + line + b"\n3::c::3::300\n"
    wanted = (
        "wanted utf-8" if line.count(b"\xff") else rf"{problem}: got .*wanted a line `user::item"
    )
    with pytest.raises(UserError, match=wanted) as caught:
        read_lines(tmp_path, content)
    assert (caught.value.file, caught.value.line) == (str(tmp_path / "ratings.dat"), 3)
    assert "--skip-bad-rows" in str(caught.value)
    for part in (tmp_path / "workspace").iterdir():
        part.unlink()
    log = read_lines(tmp_path, content, skip_bad_rows=True)
    assert rows_of(log)["user"].to_list() == ["1", "2", "3"]
    assert log.rejected == {problem: 1}
    assert log.rows_read == 4


def test_a_rating_that_is_not_there_is_none(tmp_path):
    log = read_lines(tmp_path, GOOD + b"1::c::::300\n3::d:: ::400\n")
    assert rows_of(log)["rating"].to_list() == [5.0, 4.0, None, None]
    assert log.rejected == {}


def test_the_line_is_right_in_a_later_block(tmp_path):
    content = GOOD * 500 + b"broken\n" + GOOD
    with pytest.raises(UserError) as caught:
        read_lines(tmp_path, content, block_bytes=1000)
    assert caught.value.line == 1001
    with pytest.raises(UserError) as caught:
        read_lines(tmp_path, content.replace(b"broken", b"\xfe"), block_bytes=1000)
    assert caught.value.line == 1001


@pytest.mark.parametrize("content", [b"", b"\n\n", b"   \n"])
def test_an_empty_file(tmp_path, content):
    with pytest.raises(UserError, match=r"ratings\.dat: (is empty|has no rows)"):
        read_lines(tmp_path, content)


def test_nothing_but_bad_lines(tmp_path):
    with pytest.raises(UserError, match="no usable interaction; 2 x missing column"):
        read_lines(tmp_path, b"x\ny\n", skip_bad_rows=True)


def test_a_wrong_header(tmp_path):
    layout = delimited.Layout(",", ("user", "item"), header="userId,movieId")
    log = read_lines(tmp_path, b"userId,movieId\nu,i\n", layout=layout)
    assert rows_of(log).rows() == [(2, "u", "i")]
    with pytest.raises(UserError, match=r":1: begins with 'user,item'; wanted the header"):
        read_lines(tmp_path, b"user,item\nu,i\n", layout=layout)


def test_gz_and_zip_read_like_plain(tmp_path):
    plain = rows_of(read_lines(tmp_path, GOOD))
    (tmp_path / "r.dat.gz").write_bytes(gzip.compress(GOOD))
    with zipfile.ZipFile(tmp_path / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/r.dat", GOOD)
        archive.writestr("deep/r2.dat.gz", gzip.compress(GOOD))
        archive.writestr("__MACOSX/deep/._r.dat", b"junk")
    members = [
        inputs.Member(tmp_path / "r.dat.gz"),
        *inputs.Inputs(tmp_path / "r.zip", reader="x").members,
    ]
    assert len(members) == 3
    for number, member in enumerate(members):
        folder = tmp_path / str(number)
        folder.mkdir()
        stage = staging.Stage(options_of(folder))
        delimited.read(member, LAYOUT, stage)
        assert rows_of(stage.finish(sources=())).equals(plain)


def test_a_truncated_gz(tmp_path):
    whole = gzip.compress(os.urandom(5000).hex().encode())
    for content in (whole[: len(whole) // 2], whole[:-3], whole[:4]):
        with pytest.raises(
            UserError, match=r"cut\.gz: the archive is truncated or damaged.*Download"
        ):
            read_lines(tmp_path, content, name="cut.gz")


def test_a_gz_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"truncated or damaged \(Not a gzipped file"):
        read_lines(tmp_path, GOOD, name="plain.gz")


def test_a_damaged_gz(tmp_path):
    content = bytearray(gzip.compress(GOOD * 1000, mtime=0))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(UserError, match="truncated or damaged"):
        read_lines(tmp_path, bytes(content), name="bad.gz")


def zip_bytes(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return content.getvalue()


def test_a_truncated_zip(tmp_path):
    file = tmp_path / "cut.zip"
    whole = zip_bytes(a=GOOD * 100)
    for content in (whole[: len(whole) // 2], whole[:-1], b"PK"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cut\.zip: the archive is truncated or damaged"):
            inputs.Inputs(file, reader="x")
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"cut\.zip: is empty"):
        inputs.Inputs(file, reader="x")


def test_a_zip_whose_member_is_damaged(tmp_path):
    file = tmp_path / "bad.zip"
    content = bytearray(zip_bytes(a=GOOD * 100))
    content[200] ^= 0xFF  # inside the stored bytes: the checksum no longer fits
    file.write_bytes(bytes(content))
    member = inputs.Inputs(file, reader="x").members[0]
    stage = staging.Stage(options_of(tmp_path, skip_bad_rows=True))
    with pytest.raises(UserError, match=r"bad\.zip/a: the archive is truncated or damaged"):
        delimited.read(member, LAYOUT, stage)


@pytest.mark.parametrize(
    "name", ["../evil.dat", "a/../../evil.dat", "/etc/evil.dat", "..\\evil.dat", "C:/evil.dat"]
)
def test_a_zip_member_that_escapes(tmp_path, name):
    file = tmp_path / "slip.zip"
    file.write_bytes(zip_bytes(**{"good.dat": GOOD, name: GOOD}))
    with pytest.raises(UserError, match="would land outside the folder"):
        inputs.Inputs(file, reader="x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["slip.zip"]


def test_other_archives_are_named(tmp_path):
    (tmp_path / "yelp_dataset.tar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"yelp_dataset\.tar: is an archive of a kind.*Unpack it"):
        inputs.Inputs(tmp_path / "yelp_dataset.tar", reader="yelp")


def test_what_is_there_is_listed_when_something_is_missing(tmp_path):
    (tmp_path / "other.txt").write_text("x")
    found = inputs.Inputs(tmp_path, reader="movielens")
    with pytest.raises(
        UserError, match=r"holds other\.txt; wanted ratings \(u\.data or ratings\.dat\)"
    ):
        found.require("u.data", "ratings.dat", what="ratings")
    with pytest.raises(UserError, match="not found; wanted the movielens data there"):
        inputs.Inputs(tmp_path / "nowhere", reader="movielens")


def test_dates_are_utc(tmp_path):
    frame = pl.DataFrame(
        {
            "user": ["u"] * 4,
            "item": ["i"] * 4,
            "timestamp": ["2019-01-01 00:00:01", "2019-01-01", "1.1.2019", "1969-12-31"],
        }
    )
    checked = staging.check_numbers(frame, time_formats=("%Y-%m-%d %H:%M:%S", "%Y-%m-%d"))
    assert checked["timestamp"].to_list()[:2] == [1546300801, 1546300800]
    assert checked["problem"].to_list() == [None, None] + ["impossible timestamp"] * 2


FIELDS = jsonlines.Fields({"user": "u", "item": "i", "rating": "r", "review": "text"}, (1.0, 5.0))


def read_json(tmp_path, content, **changes):
    file = tmp_path / "log.json"
    file.write_bytes(content)
    stage = staging.Stage(options_of(tmp_path, **changes))
    jsonlines.read(inputs.Member(file), FIELDS, stage)
    return stage.finish(sources=())


def test_json_lines_fast_and_slow_paths_agree(tmp_path):
    good = (
        b'{"u": "a", "i": 7, "r": 5.0, "text": "fish &amp; chips"}\n{"u": "b", "i": "x", "r": 3}\n'
    )
    slow = tmp_path / "slow"
    slow.mkdir()
    fast = rows_of(read_json(tmp_path, good))
    with_blank = rows_of(
        read_json(slow, good + b"\n")
    )  # the blank line sends the block to the slow path
    assert fast.equals(with_blank)
    assert fast["item"].to_list() == ["7", "x"]
    assert fast["review"].to_list() == ["fish & chips", None]


@pytest.mark.parametrize(
    "value", ["7", "7.0", "1e15", "1.5", "true", "[1, 2]", '{"a": 1}', "1" * 30]
)
def test_json_ids_do_not_depend_on_the_block(tmp_path, value):
    line = f'{{"u": {value}, "i": "x", "r": 5}}\n'.encode()
    slow = tmp_path / "slow"
    slow.mkdir()
    users = rows_of(read_json(tmp_path, line))["user"].to_list()
    assert rows_of(read_json(slow, line + b"\n"))["user"].to_list() == users


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"u": "a", "i": ', "broken line"),
        (b"[1, 2]", "broken line"),
        (b"__import__('os').abort()", "broken line"),
        (b'{"u": "a", "r": 2}', "missing item"),
        (b'{"u": "a", "i": "x", "r": 9}', "impossible rating"),
        (b'{"u": "a", "i": "x", "r": "many"}', "impossible rating"),
    ],
)
@pytest.mark.parametrize("block_bytes", [16, 1 << 20])
def test_a_bad_json_line(tmp_path, line, problem, block_bytes):
    good = b'{"u": "a", "i": "x", "r": 5}\n'
    content = good + good + line + b"\n" + good
    with pytest.raises(
        UserError, match=rf"log\.json:3: {problem}: got .*wanted a JSON object with u, i, r"
    ):
        read_json(tmp_path, content, block_bytes=block_bytes)
    log = read_json(tmp_path, content, skip_bad_rows=True, block_bytes=block_bytes)
    assert log.rejected == {problem: 1}


def test_python_dicts_are_parsed_and_never_evaluated(tmp_path):
    parse = jsonlines.parse_object
    assert parse("{'asin': '1', 'price': 3.5, 'related': {'also': ['2']}, 'x': None}") == {
        "asin": "1",
        "price": 3.5,
        "related": {"also": ["2"]},
        "x": None,
    }
    assert parse(r"{'title': 'AC\/DC \'live\''}") == {"title": r"AC\/DC 'live'"}
    marker = tmp_path / "ran"
    for attack in (
        f"{{'asin': open({str(marker)!r}, 'w')}}",
        "{'asin': __import__('os').system('true')}",
        "{'asin': [x for x in ()]}",
        "{'asin': 1 if True else 2}",
        "{" * 5000,
        "(" * 100_000,
        "{'a': 1}\0",
    ):
        with pytest.raises(ValueError, match=r"neither JSON|nested"):
            parse(attack)
    assert not marker.exists()
    source = pathlib.Path(jsonlines.__file__).read_text()
    assert "eval(" not in source.replace("literal_eval(", "")
