"""Halves of surrogate pairs, as in texts cut off within an emoji: JSON can write them, UTF-8 cannot."""

import json

import pytest
import reading

from genrec_jax.data.readers import item_table, jsonlines
from genrec_jax.errors import UserError

WHOLE, HALF = '{"user":"u","item":"a","review":"good"}\n', r"good \ud83d"


def log_of(tmp_path, line, *, slow, **options):
    """The log of a good line and this one; a blank line has Python read it instead of Polars."""
    file = tmp_path / "log.jsonl"
    file.write_text(WHOLE + line + "\n" * (1 + slow))
    columns = "user=user,item=item,review=review"
    return reading.read("table", file, tmp_path, columns=columns, **options)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        (HALF, "good \ufffd"),
        (r"\uDE00, x", "\ufffd, x"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\\\\ud83d\ude00", r"\\ud83d" + "\ufffd"),  # an escaped backslash, and half a pair
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud83d", r"\ud83d"),
    ],
)
def test_halves_in_texts_are_replaced(tmp_path, written, read, slow):
    line = f'{{"user":"u","item":"b","review":"{written}"}}'
    log = log_of(tmp_path, line, slow=slow)
    assert reading.rows(log, "item", "review") == [("a", "good"), ("b", read)]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("column", ["user", "item"])
def test_halves_in_ids_are_bad_rows(tmp_path, column, slow):
    """Two ids that were cut off must not become one."""
    entry = {"user": "v", "item": "b", "review": ""} | {column: "b\ud83d"}
    problem = f"half a character in the {column}"
    with pytest.raises(UserError, match=rf"log\.jsonl:2: {problem}: got .*ud83d"):
        log_of(tmp_path, json.dumps(entry), slow=slow)
    log = log_of(tmp_path, json.dumps(entry), slow=slow, skip_bad_rows=True)
    assert reading.rows(log, "user", "item") == [("u", "a")]
    assert log.rejected == {problem: 1}


def test_blocks_with_whole_pairs_stay_with_the_fast_parser(monkeypatch, tmp_path):
    monkeypatch.setattr(jsonlines, "parse_object", None)
    line = r'{"user":"u","item":"b","review":"\ud83d\ude00"}'
    assert len(reading.rows(log_of(tmp_path, line, slow=False), "item")) == 2


def test_titles(tmp_path):
    file = tmp_path / "items.jsonl"
    entry = {"item": "a", "title": "cut \ud83d", "categories": ["x\ude00"]}
    file.write_text(json.dumps(entry) + "\n" + json.dumps(entry | {"item": "b\ud83d"}) + "\n")
    frame = item_table.read(file)
    assert frame["title"].to_list() == ["cut \ufffd"] * 2
    assert frame["categories"].to_list() == [["x\ufffd"]] * 2


def test_python_writes_pairs_as_two_halves():
    assert jsonlines.writable("\ud83d\ude00 é") == "\U0001f600 é"
