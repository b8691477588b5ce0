"""Splits text whose fields may be in quotes into records: CSV logs, block by block, and tables of items."""

import collections
import csv
import io
from collections.abc import Iterable, Iterator

import polars as pl

from genrec_jax.data.readers import inputs, staging
from genrec_jax.errors import UserError

BROKEN = "quotes that do not pair up"


class BrokenRecord(UserError):
    """A record that cannot be split into columns."""


def of_block(
    texts: Iterator[str],
    first_line: int,
    separator: str,
    member: inputs.Member,
    stage: staging.Stage,
    *,
    needed: int = 0,
) -> pl.DataFrame:
    """The records of a block, and of the next ones for as long as a record goes on into them.

    Where bad rows are skipped, a broken record is counted and reading goes on at the line after its first.

    Args:
        texts: the block and those after it, of whole lines.
        first_line: of the block.
        separator: between columns.
        member: where the text comes from.
        stage: counts broken records.
        needed: how many records must be whole all the same (the header).

    Returns:
        `row` (lines after `first_line`), `got` and `fields`.

    Raises:
        UserError: a separator of several characters, or a broken record.
    """
    if len(separator) != 1:
        raise UserError(
            f"has quotes, and columns separated by {separator!r}; wanted a separator of one character"
            " where fields are quoted. Export it again, or pass --no-quoted where quotes are letters",
            file=member.name,
        )
    waiting = collections.deque(_lines(next(texts)))
    taken: list[str] = []  # of the record at hand

    def lines() -> Iterator[str]:
        while waiting or (text := next(texts, None)) is not None:
            if not waiting:
                waiting.extend(_lines(text))
            taken.append(waiting.popleft())
            yield taken[-1]

    rows, fields = [], []
    begins = first_line
    while waiting:
        records = csv_records(
            lines(),
            member,
            separator=separator,
            first_line=begins,
            otherwise="; where quotes are letters like any other, pass --no-quoted, and --skip-bad-rows to"
            " leave the line out, count it and go on with the next",
        )
        try:
            for line, record in records:
                if record:
                    rows.append(line - first_line)
                    fields.append(record)
                begins = line + len(taken)
                taken.clear()
                if not waiting:
                    break
        except BrokenRecord:
            if not stage.options.skip_bad_rows or len(rows) < needed:
                raise
            stage.reject(
                BROKEN, file=member.name, line=begins, got=taken[0], wanted="pairs of quotes"
            )
            begins += 1
            waiting.extendleft(reversed(taken[1:]))
            taken.clear()
    return pl.DataFrame(
        {"row": rows, "got": [separator.join(record) for record in fields], "fields": fields},
        schema={"row": pl.UInt32, "got": pl.String, "fields": pl.List(pl.String)},
    )


def csv_records(
    lines: Iterable[str],
    member: inputs.Member,
    *,
    separator: str = ",",
    first_line: int = 1,
    otherwise: str = "",
) -> Iterator[tuple[int, list[str]]]:
    """The records of a text whose fields may be quoted, each with the line on which it begins.

    Args:
        lines: the text, with its line ends.
        member: where it comes from, for the error.
        separator: between columns.
        first_line: the number of the first of `lines` in the file.
        otherwise: what else the error advises.

    Raises:
        BrokenRecord: a quote that is never closed, or one within a quoted field that is not written twice:
            without the check it would swallow the rest of the log. The line is the record's first.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    begins = first_line
    try:
        for record in reader:
            yield begins, record
            begins = first_line + reader.line_num
    except csv.Error as error:
        raise BrokenRecord(
            f"the record that begins here cannot be split into columns ({error}); wanted quotes in"
            " pairs, those within a quoted field written twice, no carriage return alone outside quotes,"
            f" and no field over {csv.field_size_limit():,} letters. Look for a quote that is never"
            f" closed{otherwise}",
            file=member.name,
            line=begins,
        ) from error


def in_quotes(text: str) -> bool:
    """Whether a field of a table without quoting is what only a table with quoting would write.

    For example `"a ""b"" c"`, but not `"a"`, which may be a title.
    """
    inner = text[1:-1]
    enclosed = len(text) > 1 and text.startswith('"') and text.endswith('"')
    return enclosed and '""' in inner and '"' not in inner.replace('""', "")


def _lines(text: str) -> Iterable[str]:
    """With their ends, which are line feeds alone: `delimited.text_blocks` counts no others."""
    return io.StringIO(text, newline="\n")
