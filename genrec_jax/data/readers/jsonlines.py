"""Reads logs with one JSON object a line (Amazon reviews, Yelp); older files hold Python dicts.

Blocks go through Polars' parser; a block in which it finds a fault, or would miss half a surrogate
pair, is read line by line, so that the error can name the line.
"""

import ast
import dataclasses
import decimal
import html.entities
import io
import json
import re
import warnings
from typing import Any

import polars as pl

from genrec_jax.data.readers import delimited, inputs, staging
from genrec_jax.errors import UserError

FIRST_HALF = re.compile(r"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])")
"""The first of a surrogate pair without the second, which Polars reads as NUL; it refuses a lone second."""

ENTITY = re.compile(r"&(#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")


@dataclasses.dataclass(frozen=True)
class Fields:
    """Which keys of an object hold what.

    Attributes:
        keys: our column (`user`, `item`, `timestamp`, `rating`, `review`, `summary`) -> their key.
        rating_range: lowest and highest rating.
        time_unit: source units in a second.
        time_formats: strptime formats, where times are dates.
        null_values: words that stand for no user or item.
    """

    keys: dict[str, str]
    rating_range: tuple[float, float] | None = None
    time_unit: int = 1
    time_formats: tuple[str, ...] = ()
    null_values: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """A line in words, for errors."""
        needed = ", ".join(
            key for column, key in self.keys.items() if column not in ("review", "summary")
        )
        text = f"a JSON object with {needed}"
        if self.rating_range and "rating" in self.keys:
            text += f", ratings {self.rating_range[0]:g} to {self.rating_range[1]:g}"
        return text


def read(
    member: inputs.Member,
    fields: Fields,
    stage: staging.Stage,
    *,
    keep: pl.Expr | None = None,
) -> None:
    """Reads one file into the stage.

    Args:
        member: the file.
        fields: its keys.
        stage: takes the rows; `row` is the line number (plus the file's base).
        keep: which checked rows count at all (a range of dates); bad rows always do.

    Raises:
        UserError: an empty file, a wrong encoding, a bad line, or a key for ratings that no line has.
    """
    base = stage.begin_file(member.name)
    met_line = met_good = False
    rated = "rating" not in fields.keys
    for first_line, text in delimited.text_blocks(member, stage, encoding="utf-8"):
        lines = text.removesuffix("\n").split("\n")
        frame = _parse_block(text, lines, fields)
        frame = frame.with_columns(pl.col("row") + first_line + base)
        if not len(frame):
            continue
        met_line = True
        frame = staging.check_numbers(
            frame,
            rating_range=fields.rating_range,
            time_unit=fields.time_unit,
            time_formats=fields.time_formats,
            null_values=fields.null_values,
        )
        met_good |= frame["problem"].has_nulls()
        rated |= "rating" in frame.columns and frame["rating"].count() > 0
        if keep is not None:
            frame = frame.filter(keep | pl.col("problem").is_not_null())
        frame = _with_lines(_clean_texts(frame), lines, first_line + base)
        stage.add(frame, wanted=fields.wanted)
    if not met_line:
        raise UserError("has no rows; wanted interactions. Export it again", file=member.name)
    if met_good and not rated:
        raise UserError(
            f"no line has a rating under {fields.keys['rating']!r}; wanted some. Use the reader `table`"
            " and name the key, or leave ratings out: --columns user=KEY,item=KEY,timestamp=KEY,rating=KEY",
            file=member.name,
        )


def parse_object(line: str) -> dict[str, Any]:
    """One line as a dict: JSON, or the Python literal of Amazon's 2014 files (never evaluated).

    For example `{'asin': '0000031852', 'price': 3.17}`.

    Raises:
        ValueError: neither, or not a dict.
    """
    value = parse_value(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def parse_value(text: str) -> Any:
    """JSON, or a Python literal (never evaluated).

    Raises:
        ValueError: neither.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "invalid escape sequence" in old titles
            try:
                return ast.literal_eval(text.strip())
            except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
                raise ValueError("neither JSON nor a Python literal") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _parse_block(text: str, lines: list[str], fields: Fields) -> pl.DataFrame:
    """Columns `row` (from 0), `problem` and those of the keys, as strings."""
    schema = dict.fromkeys(fields.keys.values(), pl.String)
    if delimited.UNDECODED not in text and not FIRST_HALF.search(text):
        try:
            frame = pl.read_ndjson(io.BytesIO(text.encode()), schema=schema)
        except pl.exceptions.PolarsError:
            frame = None
        if frame is not None and len(frame) == len(lines):
            renamed = [pl.col(key).alias(column) for column, key in fields.keys.items()]
            rows = pl.int_range(pl.len(), dtype=pl.Int64).alias("row")
            return frame.select(rows, pl.lit(None, pl.String).alias("problem"), *renamed)
    columns: dict[str, list[Any]] = {name: [] for name in ("row", "problem", *fields.keys)}
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        problem, value = None, {}
        try:
            value = parse_object(line)
        except ValueError:
            problem = delimited.NOT_TEXT if delimited.UNDECODED in line else "broken line"
        for column, key in fields.keys.items():
            written = as_text(found := value.get(key))
            if isinstance(found, str) and delimited.UNDECODED in found:
                problem = delimited.NOT_TEXT
            elif (
                isinstance(found, str) and column in ("user", "item") and _lost_half(found, written)
            ):
                problem = f"half a character in the {column}"
            columns[column].append(written)
        columns["row"].append(number)
        columns["problem"].append(problem)
    types = dict.fromkeys(columns, pl.String) | {"row": pl.Int64}
    return pl.DataFrame(columns, schema=types)


def as_text(value: Any) -> str | None:
    """A value as Polars' parser writes it: an id must not depend on its block, so 7.0 is `7`."""
    if value is None:
        return None
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float | list | tuple | dict):
        return json.dumps(value, default=str, skipkeys=True)
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def unescape(text: str) -> str:
    """HTML entities as characters, those that end in `;` alone: `Guitar&amplifier` has none."""
    return ENTITY.sub(_character, text)


def _character(entity: re.Match[str]) -> str:
    known = entity[1].startswith("#") or f"{entity[1]};" in html.entities.html5
    return html.unescape(entity[0]) if known else entity[0]


def writable(text: str) -> str:
    r"""A text that UTF-8 can hold: pairs of surrogates become their character, halves U+FFFD.

    For example `\ud83d`, half an emoji of a text cut off too early, which JSON can hold. What could not be
    decoded becomes U+FFFD too.
    """
    if text.isascii():
        return text
    text = text.replace(delimited.UNDECODED, delimited.REPLACEMENT)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _lost_half(text: str, written: str | None) -> bool:
    return (written or "").count(delimited.REPLACEMENT) > text.count(delimited.REPLACEMENT)


def _with_lines(frame: pl.DataFrame, lines: list[str], first_row: int) -> pl.DataFrame:
    """Adds `got`, the line itself, for bad rows only."""
    bad = frame.select("row", "problem").iter_rows()
    got = [None if problem is None else lines[row - first_row] for row, problem in bad]
    return frame.with_columns(pl.Series("got", got, dtype=pl.String))


def _clean_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """HTML entities resolved, empty texts to null."""
    changes = []
    for column in ("review", "summary"):
        if column in frame.columns:
            text = pl.col(column)
            entity = text.str.contains(ENTITY.pattern)
            unescaped = (
                pl.when(entity)
                .then(text)
                .map_elements(unescape, return_dtype=pl.String, skip_nulls=True)
            )
            cleaned = pl.coalesce(unescaped, text).str.strip_chars()
            changes.append(pl.when(cleaned != "").then(cleaned).alias(column))
    return frame.with_columns(changes)
