"""Quoted tables: rows are the lines of the file, however long its fields, and keep the order of the log."""

import polars as pl
import pytest
import reading

from genrec_jax.data.readers import staging, table
from genrec_jax.errors import UserError


@pytest.mark.parametrize("block_bytes", [1, 40, 200, 1 << 20])
def test_carriage_returns_in_fields_leave_the_order_alone(tmp_path, block_bytes):
    """Old tables of texts break lines with them; the next field is on the same line of the file."""
    file = tmp_path / "log.csv"
    lines = [f'u,i{n},"a\rb\rc{n}"\r\n' if n % 3 else f"u,i{n},plain\n" for n in range(40)]
    file.write_bytes(("user,item,review\n" + "".join(lines)).encode())
    (workspace := tmp_path / "work").mkdir()
    log = table.read(file, staging.ReadOptions(workspace, block_bytes=block_bytes))
    assert reading.rows(log, "row", "item", "review") == [
        (n + 2, f"i{n}", f"a\rb\rc{n}" if n % 3 else "plain") for n in range(40)
    ]


def test_a_carriage_return_outside_quotes_is_no_line_end(tmp_path):
    file = tmp_path / "log.csv"
    file.write_bytes(b'user,item\nu,"a"\nu,b\rv,c\n')
    with pytest.raises(UserError, match=r"log\.csv:3: .*no carriage return alone outside quotes"):
        reading.read("table", file, tmp_path)


@pytest.mark.parametrize("rows", [[2, 2], [3, 2], [1, 2]])
def test_a_reader_that_numbers_two_rows_alike_is_stopped(tmp_path, rows):
    stage = staging.Stage(staging.ReadOptions(tmp_path))
    stage.begin_file("log")
    frame = pl.DataFrame({"user": "u", "item": ["a", "b"], "problem": None, "got": None})
    stage.add(frame.with_columns(row=pl.Series([0, 1])), wanted="")
    with pytest.raises(AssertionError, match="rows must rise"):
        stage.add(frame.with_columns(row=pl.Series(rows)), wanted="")
