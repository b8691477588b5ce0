"""Bytes that are not text: a bad row where a column is used, and none of anybody's business elsewhere."""

import pytest
import reading

from genrec_jax.errors import UserError

HEADS = {"csv": b"user,item,note\n", "tsv": b"user\titem\tnote\n", "jsonl": b""}


def encoded(kind, item, note):
    if kind == "jsonl":
        return b'{"user":"u","item":"%s","note":"%s"}\n' % (item, note)
    if kind == "csv":
        return b'u,%s,"%s"\n' % (item, note)
    return b"u\t%s\t%s\n" % (item, note)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_only_columns_that_are_used_count(tmp_path, kind):
    file = tmp_path / f"log.{kind}"
    rows = [(b"a", b"caf\xe9"), (b"b\xff", b"fine"), (b"c", b"fine"), ("d\ufffd".encode(), b"fine")]
    file.write_bytes(b"\xef\xbb\xbf" + HEADS[kind] + b"".join(encoded(kind, *row) for row in rows))
    with pytest.raises(UserError, match=r"is not utf-8 text \(byte 0xe9\)"):
        reading.read("table", file, tmp_path)
    log = reading.read("table", file, tmp_path, skip_bad_rows=True)
    assert [item for (item,) in reading.rows(log, "item")] == ["a", "c", "d\ufffd"]
    assert log.rejected == {"not text in the file's encoding": 1}


def test_titles_of_metadata_show_where_they_were_no_text(tmp_path):
    reviews, metadata = tmp_path / "reviews_Beauty.json", tmp_path / "meta_Beauty.json"
    reviews.write_text(
        '{"reviewerID": "u", "asin": "a", "overall": 5.0, "unixReviewTime": 1400000000}\n'
    )
    metadata.write_bytes(b'{"asin": "a", "title": "caf\xe9"}\n')
    log = reading.read("amazon", reviews, tmp_path, skip_bad_rows=True)
    assert log.items["title"].to_list() == ["caf\ufffd"]
