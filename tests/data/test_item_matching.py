"""Items of a log and the rows of a table of items: found, contradicting, or written otherwise."""

import json

import polars as pl
import pytest

from genrec_jax.cli import main
from genrec_jax.data import dataset, item_matching
from genrec_jax.data.readers import item_table
from genrec_jax.errors import UserError

IDS = pl.Series("item", [str(item) for item in range(60)])


def described(*rows):
    return item_table.frame([{"item": item, "title": title} for item, title in rows])


def test_rows_are_joined_and_counted():
    table = described(("1", "one"), ("9", "nine"), ("1", "one"), ("1", "ONE"), ("x", "other"))
    items, entry = item_matching.match(IDS, table, file="out")
    assert len(items) == 60
    assert items["title"][1] == "one" and items["title"][9] == "nine" and items["title"][0] is None
    assert entry is not None
    assert entry == {"found": 2, "contradicting": 1, "there": "1", "here": "0"}
    assert item_matching.summary(entry, 60) == (
        "2 of 60; ids there look like '1', in the log like '0'; 1 further rows that say otherwise were"
        " left out"
    )
    assert item_matching.summary({**entry, "found": 60, "contradicting": 0}, 60) == "60 of 60"
    assert item_matching.match(IDS, None, file="out")[1] is None


def test_lists_are_compared_too():
    rows = [{"item": "1", "categories": names} for names in (["a", "b"], ["a", "b"], ["a", "c"])]
    _, entry = item_matching.match(IDS, item_table.frame(rows), file="out")
    assert entry is not None and entry["contradicting"] == 1


def test_a_table_of_other_ids_is_an_error():
    table = described(*((f"{item}.0", "t") for item in range(60)))
    with pytest.raises(
        UserError,
        match=r"0 of 60 items were found in the table of items; ids there look like '0\.0', in the log"
        r" like '0'\. Write them alike",
    ):
        item_matching.match(IDS, table, file="out")


def test_prepare_says_how_many_were_found(tmp_path, capsys):
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user,item\n" + "".join(f"u{u},{i}\n" for u in range(6) for i in range(6)))
    items.write_text("item,title\n0,zero\n0,nought\n7,seven\n")
    words = ["prepare", "table", "--input", str(log), "--items", str(items)]
    assert main.main([*words, "--output", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "found in the table of items 1 of 6; ids there look like '0'" in printed
    manifest = json.loads((tmp_path / "out/dataset.json").read_text())
    assert manifest["item_table"]["contradicting"] == 1
    items.write_text("item,title\n0.0,zero\n1.0,one\n")
    assert main.main([*words, "--output", str(tmp_path / "other")]) == 2
    assert "0 of 6 items were found" in capsys.readouterr().err


def test_whole_numbers_of_a_parquet_file_have_no_point(tmp_path):
    numbers = [float(item) for item in range(6)]
    log, items = tmp_path / "log.parquet", tmp_path / "items.parquet"
    pl.DataFrame(
        {"user": [float(u) for u in range(6) for _ in numbers], "item": numbers * 6}
    ).write_parquet(log)
    pl.DataFrame(
        {"item": [None, *numbers], "title": ["-", *[f"title {item}" for item in range(6)]]}
    ).write_parquet(items)
    words = ["prepare", "table", "--input", str(log), "--items", str(items)]
    assert main.main([*words, "--output", str(tmp_path / "out")]) == 0
    made = dataset.load(tmp_path / "out")
    assert made.item_source_ids == [str(item) for item in range(6)]
    assert sorted(made.user_source_ids) == made.item_source_ids
    assert made.item_titles == [f"title {item}" for item in range(6)]
