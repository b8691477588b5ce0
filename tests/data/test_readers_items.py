"""Tables of items: titles, categories and prices as others write them."""

import json

import numpy as np
import polars as pl
import pytest
import reading

from genrec_jax.data.readers import item_table
from genrec_jax.errors import UserError


def test_item_tables(tmp_path):
    file = tmp_path / "items.tsv"
    file.write_text(
        "asin\tignored\ttitle\tbrand\tcategories_json\tprice\n"
        'a\t1\tJohnson &amp; Johnson "Soap"\tJ&#39;s\t'
        '[["Beauty", "Bath &amp; Body"], ["Beauty", "Soap"]]\t$1,234.50\n'
        "b\t2\t\t\t\t\n"
        '\nc\t3\t"Heroes"\t"J\t\t\n'
    )
    rows = item_table.read(file).rows(named=True)
    assert rows[0]["title"] == 'Johnson & Johnson "Soap"'
    assert rows[0]["brand"] == "J's"
    assert rows[0]["categories"] == ["Beauty", "Bath & Body", "Soap"]
    assert rows[0]["price"] == pytest.approx(1234.5)
    assert [rows[1][key] for key in ("item", "title", "brand", "categories", "price")] == [
        "b",
        *[None] * 4,
    ]
    assert (rows[2]["title"], rows[2]["brand"]) == ('"Heroes"', '"J')


def test_item_tables_in_other_formats(tmp_path):
    frame = pl.DataFrame({"id": ["a"], "name": ["T, U"], "genres": ["X|Y"]})
    frame.write_csv(tmp_path / "i.csv")
    frame.write_ndjson(tmp_path / "i.jsonl")
    frame.write_parquet(tmp_path / "i.parquet")
    for name in ("i.csv", "i.jsonl", "i.parquet"):
        row = item_table.read(tmp_path / name).row(0, named=True)
        assert (row["item"], row["title"], row["categories"]) == ("a", "T, U", ["X", "Y"])
    renamed = item_table.read(tmp_path / "i.csv", columns={"title": "genres"})
    assert renamed["title"].to_list() == ["X|Y"]


@pytest.mark.parametrize(
    "names", [["Beauty", "Hair Care"], ["Men's", 'The "best"', "a, b", "c]"], ["Only"], []]
)
@pytest.mark.parametrize("write", [json.dumps, str, lambda names: str(np.array(names))])
def test_categories_as_others_write_lists(names, write):
    assert item_table.clean_categories(write(names)) == (names or None)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[Beauty, Hair Care]", ["Beauty", "Hair Care"]),
        ("""['The "x" "y" z']""", ['The "x" "y" z']),
        ("""["The 'x' 'y' z"]""", ["The 'x' 'y' z"]),
        ("['Beauty', 'Hair", ["Beauty", "Hair"]),
        ("[['Beauty', 'Hair'], ['Beauty', 'Skin']]", ["Beauty", "Hair", "Skin"]),
        ("Beauty|Men's", ["Beauty", "Men's"]),
        ("Beauty, Hair", ["Beauty, Hair"]),
        ("[" * 100_000, None),
        ("[__import__('os')]", ["__import__('os')"]),
    ],
)
def test_categories_in_other_forms(text, names):
    assert item_table.clean_categories(text) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n1\t2\n", r":1: has the columns a, b; wanted item or item_id"),
        ("item\ttitle\nx\n", r":2: has 1 columns; wanted the 2 of the header"),
        ('item\ttitle\nx\t"y\nz\t"a ""b"""\n', r":3: got the field .*wanted tabs without quoting"),
    ],
)
def test_broken_item_tables(tmp_path, content, message):
    file = tmp_path / "items.tsv"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        item_table.read(file)
    with pytest.raises(UserError, match="not found; wanted a table of items"):
        item_table.read(tmp_path / "nowhere.tsv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("i.parquet", "PAR", r"i\.parquet: is not a whole Parquet file"),
        ("i.json", '[{"item": "a"}]', r"i\.json:1: got .*not an object.*one JSON object a line"),
        ("i.jsonl", '{"item": "a"}\n{"item"\n', r"i\.jsonl:2: got .*one JSON object a line"),
        (
            "i.csv",
            'item,title\na,b\nc,"' + "x" * 200_000,
            r"i\.csv:3: .*a quote that is never closed",
        ),
        ("i.csv", 'item,title\na,"b\nc,d\n', r"i\.csv:2: .*a quote that is never closed"),
        ("i.csv", 'item,title\na,"b\nc,"d"\n', r"i\.csv:2: .*a quote that is never closed"),
    ],
)
def test_item_tables_that_cannot_be_read(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        item_table.read(file)


def test_item_columns_must_be_ours(tmp_path):
    file = tmp_path / "i.csv"
    file.write_text("item,name\na,b\n")
    with pytest.raises(UserError, match="--item-columns names 'titel'; wanted any of item, title"):
        item_table.read(file, columns={"titel": "name"})


def test_json_titles_may_hold_other_line_ends(tmp_path):
    file = tmp_path / "i.jsonl"
    file.write_text('{"item": "a", "title": "b\u2028c\u0085d"}\r\n', encoding="utf-8", newline="")
    assert item_table.read(file)["title"].to_list() == ["b c d"]


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("$5.99", 5.99),
        (5.99, 5.99),
        ("$1,234.50", 1234.5),
        ("1,299", 1299.0),
        ("12,345,678", 12345678.0),
        ("12,50", 12.5),
        ("$1,5", 1.5),
        ("1.299,00", 1299.0),
        ("1299,00", 1299.0),
        ("€5.99", 5.99),
        ("5,99 €", 5.99),
        ("£ 3", 3.0),
        ("¥12,000", 12000.0),
        (".5", 0.5),
        ("0", 0.0),
        ("1,2345", None),
        ("0,500", None),
        ("12,34,56", None),
        ("1,29.9", None),
        ("$5.99 - $7.99", None),
        ("5,99-7,99", None),
        ("-5", None),
        ("free", None),
        ("€", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_prices(text, price):
    assert item_table.clean_price(text) == price


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Guitar&amplifier", "Guitar&amplifier"),
        ("A &amp B &notit;", "A &amp B &notit;"),
        ("R&amp;B &quot;x&quot; &#39;y&#x27; &eacute;&nbsp;z", "R&B \"x\" 'y' \u00e9 z"),
        ("&amp;amp; &#55357; &#; &;", "&amp; \ufffd &#; &;"),
    ],
)
def test_entities_end_in_a_semicolon(tmp_path, written, read):
    assert item_table.clean_text(written) == read
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps({"user": "u", "item": "a", "review": written}))
    log = reading.read("table", file, tmp_path)
    assert [" ".join(text.split()) for (text,) in reading.rows(log, "review")] == [read]
