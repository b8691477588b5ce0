"""Reads `user item item ...`, one user a line in time order: how many papers publish their data.

There are no times, so the order is taken on trust, and the audit says so. Titles come from a table
of items beside it (`--items items.tsv`; HTML entities in it are resolved).
"""

import dataclasses

import numpy as np
import polars as pl

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import delimited, inputs, item_table, staging

FILE_NAMES = ("user_sequence.txt", "sequential_data.txt", "*sequence*.txt", "*.txt")
WANTED = "a line `user item item ...`, each user on one line"


def read(
    path: artefacts.PathLike,
    options: staging.ReadOptions,
    *,
    items: artefacts.PathLike | None = None,
    item_columns: dict[str, str] | None = None,
) -> rawlog.RawLog:
    """Reads a file of sequences.

    Args:
        path: the file, or a folder or .zip with one of `FILE_NAMES` (then an `items.tsv` there is
            read too).
        options: see `ReadOptions`.
        items: a table of items, see `item_table.read`.
        item_columns: its columns, where they have other names.

    Raises:
        UserError: an empty file, a user without items, or a user on two lines.
    """
    found = inputs.Inputs(path, reader="sequences")
    member = found.members[0] if found.is_one_file else found.require(*FILE_NAMES, what="sequences")
    table = found.find("items.tsv") if items is None and not found.is_one_file else None
    if table is not None and table.member is None:
        items = table.file
    described = item_table.read(items, columns=item_columns) if items is not None else None
    stage = staging.Stage(options)
    stage.begin_file(member.name)
    seen: dict[str, int] = {}
    first_rows: list[np.ndarray] = []
    line_numbers: list[np.ndarray] = []
    next_row = 0
    for first_line, text in delimited.text_blocks(member, stage, encoding="utf-8"):
        lines = pl.DataFrame({"got": text.removesuffix("\n").split("\n")})
        words = (
            lines.with_row_index("line", offset=first_line)
            .with_columns(pl.col("got").str.strip_chars().str.replace_all(r"\s+", " "))
            .filter(pl.col("got") != "")
            .with_columns(pl.col("got").str.split(" ").alias("words"))
            .with_columns(
                pl.col("words").list.first().alias("user"),
                pl.col("words").list.slice(1).alias("item"),
            )
        )
        words = words.filter(pl.Series(_good_lines(words, seen, stage, member), dtype=pl.Boolean))
        if not len(words):
            continue
        lengths = words["item"].list.len().to_numpy().astype(np.int64)
        first_rows.append(next_row + np.concatenate([[0], np.cumsum(lengths)[:-1]]))
        line_numbers.append(words["line"].to_numpy().astype(np.int64))
        rows = words.select("user", "item").explode("item")
        rows = rows.with_columns(
            pl.int_range(next_row, next_row + len(rows), dtype=pl.Int64).alias("row"),
            pl.lit(None, pl.String).alias("problem"),
            pl.lit(None, pl.String).alias("got"),
        )
        next_row += len(rows)
        stage.add(rows, wanted=WANTED)
    log = stage.finish(
        sources=(
            *found.sources(member),
            *([rawlog.source_file(items)] if items is not None else []),
        ),
        items=described,
        order_trusted=True,
    )
    starts, numbers = np.concatenate(first_rows), np.concatenate(line_numbers)

    def locate(row: int) -> tuple[str, int | None]:
        return member.name, int(numbers[np.searchsorted(starts, row, side="right") - 1])

    return dataclasses.replace(log, locate=locate)


def _good_lines(
    words: pl.DataFrame, seen: dict[str, int], stage: staging.Stage, member: inputs.Member
) -> list[bool]:
    good = []
    for line, got, user, count in words.select(
        "line", "got", "user", pl.col("item").list.len()
    ).iter_rows():
        problem = None
        if delimited.UNDECODED in got:
            problem = delimited.NOT_TEXT
        elif not count:
            problem = "a user without items"
        elif user in seen:
            problem = f"a user met before, on line {seen[user]}"
            if stage.options.skip_bad_rows:
                problem = "a user met before"
        else:
            seen[user] = line
        if problem is not None:
            stage.reject(problem, file=member.name, line=line, got=got, wanted=WANTED)
        good.append(problem is None)
    return good
