"""Words for none in tables, `NaN` and the like, are no users, items or titles, unless one says so."""

import polars as pl
import pytest
import reading

from genrec_jax.data.readers import staging
from genrec_jax.errors import UserError

NAMES = ("user", "item")


@pytest.mark.parametrize("word", staging.NULL_VALUES)
@pytest.mark.parametrize("column", [0, 1])
def test_a_word_for_none_is_a_bad_row(tmp_path, word, column):
    file = tmp_path / "log.csv"
    row = ["u1", "a"]
    row[column] = f" {word}"
    file.write_text(f"user,item\nu1,a\n{','.join(row)}\nu2,Nancy\n")
    with pytest.raises(
        UserError, match=f"a word for none as the {NAMES[column]}: got .*null-values"
    ) as e:
        reading.read("table", file, tmp_path)
    assert e.value.line == 3
    log = reading.read("table", file, tmp_path, skip_bad_rows=True)
    assert reading.rows(log, *NAMES) == [("u1", "a"), ("u2", "Nancy")]
    assert log.rejected == {f"a word for none as the {NAMES[column]}": 1}


@pytest.mark.parametrize(
    ("null_values", "kept"), [("", ["NA", "NULL", "-"]), ("-, NULL", ["NA"]), ("-", ["NA", "NULL"])]
)
def test_other_words_can_be_named(tmp_path, null_values, kept):
    file = tmp_path / "log.csv"
    file.write_text("user,item\nu,NA\nu,NULL\nu,-\n")
    log = reading.read("table", file, tmp_path, skip_bad_rows=True, null_values=null_values)
    assert [item for (item,) in reading.rows(log, "item")] == kept


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_missing_number_is_none_whatever_words_are(tmp_path, kind):
    file = tmp_path / f"log.{kind}"
    if kind == "parquet":
        pl.DataFrame({"user": ["u", "u", "u"], "item": [1.0, float("nan"), None]}).write_parquet(
            file
        )
    else:
        file.write_text('{"user":"u","item":1.0}\n{"user":"u","item":null}\n{"user":"u"}\n')
    log = reading.read("table", file, tmp_path, skip_bad_rows=True, null_values="")
    assert reading.rows(log, *NAMES) == [("u", "1")]
    assert log.rejected == {"missing item": 2}


def test_json_words(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(
        '{"user":"u","item":"a"}\n{"user":"u","item":"None"}\n{"user":"u","item":NaN}\n'
    )
    log = reading.read("table", file, tmp_path, skip_bad_rows=True)
    assert reading.rows(log, *NAMES) == [("u", "a")]
    assert log.rejected == {"a word for none as the item": 2}


def test_titles(tmp_path):
    file, items = tmp_path / "log.csv", tmp_path / "items.csv"
    file.write_text("user,item\nu,a\nu,b\n")
    items.write_text("item,title,brand\na,NaN,Nanette\nb,A title,None\n,nothing,\n")
    log = reading.read("table", file, tmp_path, items=items)
    assert log.items.select("item", "title", "brand").rows() == [
        ("a", None, "Nanette"),
        ("b", "A title", None),
    ]
    log = reading.read("table", file, tmp_path, items=items, null_values="")
    assert log.items["title"].to_list() == ["NaN", "A title"]
