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


def test_quoted_fields_may_hold_line_breaks(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text('user,item,note\nu,"a\nb",x\nu,c,"""q"" , z"\nu,d\n')
    with pytest.raises(UserError, match=r"log\.csv:5: missing column: got 'u,d'"):
        reading.read("table", file, tmp_path)
    log = reading.read("table", file, tmp_path, skip_bad_rows=True)
    assert reading.rows(log, "row", "item") == [(2, "a\nb"), (4, "c")]
    assert log.rejected == {"missing column": 1}


@pytest.mark.parametrize("end", ["x\n", 'x\nv,e,"fine"\nv,f,z\n'], ids=["to the end", "to a quote"])
@pytest.mark.parametrize("block_bytes", [1, 30, 1 << 20])
def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path, end, block_bytes):
    """Python's own reader would make one row of all that follows the quote, or up to the next."""
    file = tmp_path / "log.csv"
    file.write_text('user,item,note\nu,a,"b\nb"\nu,c,"7 inch\nv,d,' + end)
    (workspace := tmp_path / "work").mkdir()
    with pytest.raises(UserError, match=r"log\.csv:4: the record that begins here .*never closed"):
        table.read(file, staging.ReadOptions(workspace, block_bytes=block_bytes))
    for part in workspace.iterdir():
        part.unlink()
    options = staging.ReadOptions(workspace, skip_bad_rows=True, block_bytes=block_bytes)
    log = table.read(file, options)
    rest = [(5, "d"), (6, "e"), (7, "f")] if "f" in end else [(5, "d")]
    assert reading.rows(log, "row", "item") == [(2, "a"), *rest]
    assert log.rejected == {"quotes that do not pair up": 1}
    log = reading.read("table", file, tmp_path, quoted=False, skip_bad_rows=True)
    assert [row[0] for row in reading.rows(log, "item")][-1] == ("f" if "f" in end else "d")


def test_many_broken_records(tmp_path):
    """Each costs its own line; what a broken record had taken from later blocks is read again."""
    file = tmp_path / "log.csv"
    file.write_text("user,item,note\n" + 'u,a,"b" c\nu,d,"e\ne"\nu,f,"g\n' * 50 + 'u,h,"i"\n')
    (workspace := tmp_path / "work").mkdir()
    log = table.read(file, staging.ReadOptions(workspace, skip_bad_rows=True, block_bytes=64))
    found = reading.rows(log, "item")
    assert found[0] == ("d",) and found[-1] == ("h",) and len(found) == 51
    assert log.rejected["quotes that do not pair up"] >= 100
    assert log.rows_read == sum(log.rejected.values()) + 51


def test_a_header_with_a_broken_quote_is_never_passed_over(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text('user,item,"note" x\nu,a,b\n')
    with pytest.raises(UserError, match=r"log\.csv:1: the record that begins here"):
        reading.read("table", file, tmp_path, skip_bad_rows=True)


@pytest.mark.parametrize("block_bytes", range(1, 90))
def test_quoted_records_across_blocks(tmp_path, block_bytes):
    """Block ends fall before, within and after fields with line breaks, and a lone quote confuses none."""
    file = tmp_path / "log.csv"
    file.write_text('user,item,note\nu,a,5" wide\nu,"b\n""\nb",x\nu,c,6" wide\nu,"d\nd",y\nu,e,z\n')
    (workspace := tmp_path / "work").mkdir()
    log = table.read(file, staging.ReadOptions(workspace, block_bytes=block_bytes))
    assert reading.rows(log, "row", "item") == [
        (2, "a"),
        (3, 'b\n"\nb'),
        (6, "c"),
        (7, "d\nd"),
        (9, "e"),
    ]
