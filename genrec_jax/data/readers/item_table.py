"""Titles and the like from a table beside the log: `items.tsv`, CSV, JSON lines or Parquet."""

import io
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import inputs, jsonlines, quoted_records, staging
from genrec_jax.errors import UserError

NAMES = {
    "item": ("item", "item_id", "source_id", "asin", "parent_asin", "movieId", "business_id", "id"),
    "title": ("title", "name"),
    "brand": ("brand", "store"),
    "categories": ("categories", "categories_json", "genres", "category"),
    "price": ("price",),
    "description": ("description",),
}
SEPARATORS = (",", "\t", ";", "|")
NUMPY_NAME = r"""'[^']*'|"[^"]*\""""
THOUSANDS = r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?"
DECIMAL_COMMA = r"(\d+|[1-9]\d{0,2}(\.\d{3})+),\d{1,2}"
NUMPY_LIST = rf"\[(?:{NUMPY_NAME})(?:\s+(?:{NUMPY_NAME}))+\]"


def read(
    path: artefacts.PathLike,
    *,
    columns: dict[str, str] | None = None,
    null_values: Collection[str] = (),
) -> pl.DataFrame:
    """Reads a table of items.

    HTML entities (`&amp;`) are turned back into characters. Categories may be a list as JSON, Python or
    NumPy write it, a list of lists (Amazon's paths; flattened, doubles dropped) or names separated by
    `|`.

    Args:
        path: `.tsv` and `.txt` (tabs, no quoting: `"` is a letter), `.csv`, `.jsonl`/`.json`,
            `.parquet`; text may also be gzipped.
        columns: which of the file's columns is `item`, `title`, ...; the rest go by `NAMES`.
        null_values: words that stand for no title, brand and so on.

    Returns:
        The columns of `rawlog.ITEM_COLUMNS`, a row for each of the table's that has an id.

    Raises:
        UserError: no such file, no item column or two of one name, a broken line or file, or a column
            of `columns` that items do not have.
    """
    member = inputs.Member(pathlib.Path(path))
    if not member.file.is_file():
        raise UserError(
            "not found; wanted a table of items with titles. Check --items", file=member.name
        )
    if unknown := [name for name in columns or () if name not in NAMES]:
        raise UserError(
            f"--item-columns names {unknown[0]!r}; wanted any of {', '.join(NAMES)}, such as"
            " title=COLUMN",
            file=member.name,
        )
    kept = _renamed((row for _, row in rows(member)), member, columns or {})
    return frame(_without_words_for_none(row, null_values) for row in kept if _has_id(row))


def rows(member: inputs.Member) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table in any of these forms, each with its line (in Parquet its number).

    Raises:
        UserError: a broken line or file.
    """
    suffix = pathlib.PurePath(member.base_name).suffix.lower()
    if suffix == ".parquet":
        try:
            table = pq.read_table(member.file).to_pylist()
        except (ValueError, OSError) as error:
            raise UserError(
                f"is not a whole Parquet file ({error}); wanted one. Export it again",
                file=member.name,
            ) from error
        yield from enumerate(table, start=1)
    elif suffix in (".jsonl", ".json"):
        yield from _json_rows(member)
    else:
        yield from delimited_rows(member, quoted=suffix == ".csv")


def frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Items as a table, from one dict each with the keys of `rawlog.ITEM_COLUMNS` (any missing)."""
    columns: dict[str, list[Any]] = {name: [] for name in rawlog.ITEM_COLUMNS}
    for row in rows:
        columns["item"].append(str(jsonlines.as_text(row["item"])).strip())
        for name in ("title", "brand", "description"):
            columns[name].append(clean_text(row.get(name)))
        columns["categories"].append(clean_categories(row.get("categories")))
        columns["price"].append(clean_price(row.get("price")))
    return pl.DataFrame(columns, schema=rawlog.ITEM_COLUMNS)


def clean_text(value: Any) -> str | None:
    """A text on one line, HTML entities resolved; None where there is none.

    For example `"Johnson &amp; Johnson\\n"` becomes `"Johnson & Johnson"`; lists are joined.
    """
    if isinstance(value, list):
        value = " ".join(str(part) for part in value)
    if value is None:
        return None
    text = " ".join(jsonlines.writable(jsonlines.unescape(str(value))).split())
    return text or None


def clean_categories(value: Any) -> list[str] | None:
    """Category names in order, each once; see `read` for the forms understood.

    For example `"['Beauty', 'Hair Care']"`, as pandas writes a list, becomes `["Beauty", "Hair Care"]`.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                if re.fullmatch(NUMPY_LIST, text):  # Python would read its names as one
                    text = "[" + ", ".join(re.findall(NUMPY_NAME, text)) + "]"
                value = jsonlines.parse_value(text)
            except ValueError:
                value = [part.strip().strip("'\"") for part in text.strip("[]").split(",")]
        else:
            value = text.split("|")
    flat: dict[str, None] = {}
    stack = list(reversed(value if isinstance(value, (list, tuple)) else [value]))
    while stack:
        part = stack.pop()
        if isinstance(part, (list, tuple)):
            stack.extend(reversed(part))
        elif (name := clean_text(part)) is not None:
            flat[name] = None
    return list(flat) or None


def clean_price(value: Any) -> float | None:
    """A price in the source's currency; `"$1,299.50"` and `"1.299,50 €"` become 1299.5.

    A comma separates thousands, or one or two decimals; ranges and texts become None.
    """
    if value is None:
        return None
    text = "".join(letter for letter in str(value) if unicodedata.category(letter) != "Sc").strip()
    if re.fullmatch(THOUSANDS, text):
        text = text.replace(",", "")
    elif re.fullmatch(DECIMAL_COMMA, text):
        text = text.replace(".", "").replace(",", ".")
    try:
        price = float(text)
    except ValueError:
        return None
    return price if 0 <= price < 1e9 else None


def _renamed(
    rows: Iterable[dict[str, Any]], member: inputs.Member, columns: dict[str, str]
) -> Iterator[dict[str, Any]]:
    names: dict[str, str] | None = None
    for row in rows:
        if names is None:
            names = {}
            for name, candidates in NAMES.items():
                asked = (columns[name],) if name in columns else candidates
                found = [candidate for candidate in asked if candidate in row]
                if found:
                    names[name] = found[0]
                elif name in columns or name == "item":
                    raise UserError(
                        f"has the columns {staging.listed(row)}; wanted {' or '.join(asked)} for"
                        f" the {name}. Name it in the header or with --item-columns {name}=COLUMN",
                        file=member.name,
                        line=1,
                    )
        yield {name: row.get(column) for name, column in names.items()}


def _has_id(row: dict[str, Any]) -> bool:
    value = row["item"]
    return not (value is None or value != value or str(value).strip() == "")  # NaN is not itself


def _without_words_for_none(row: dict[str, Any], null_values: Collection[str]) -> dict[str, Any]:
    empty = [
        name
        for name, value in row.items()
        if name != "item" and isinstance(value, str) and value.strip() in null_values
    ]
    return row | dict.fromkeys(empty)


def delimited_rows(member: inputs.Member, *, quoted: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with a header and their lines: CSV when `quoted`, else tabs without quoting.

    Raises:
        UserError: a line with another number of columns than the header, a header with another
            separator, a quote without an end, or tabs with quoting after all.
    """
    lines = io.StringIO(staging.read_all(member), newline="")
    records = (
        quoted_records.csv_records(lines, member)
        if quoted
        else ((line, _at_tabs(text)) for line, text in enumerate(lines, start=1))
    )
    header: list[str] | None = None
    for line, fields in records:
        if not fields:
            continue
        if header is None:
            header = fields
            _refuse_one_column(header, "," if quoted else "\t", member, line)
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise UserError(
                    f"has {header.count(twice[0])} columns named {twice[0]!r}; wanted one, since nothing"
                    " tells which is meant. Rename the others",
                    file=member.name,
                    line=line,
                )
            continue
        if len(fields) != len(header):
            raise UserError(
                f"has {len(fields)} columns; wanted the {len(header)} of the header. Mend the line",
                file=member.name,
                line=line,
            )
        if (
            not quoted
            and (field := next(filter(quoted_records.in_quotes, fields), None)) is not None
        ):
            raise UserError(
                f"got the field {staging.shorten(field)}, with quotes around it; wanted tabs without"
                " quoting. Save the table as CSV, or without quotes",
                file=member.name,
                line=line,
            )
        yield line, dict(zip(header, fields, strict=True))


def _refuse_one_column(header: list[str], separator: str, member: inputs.Member, line: int) -> None:
    """Says which separator a header has that is one column; says nothing where it has none."""
    others = [other for other in SEPARATORS if other in header[0] and other != separator]
    if len(header) == 1 and others:
        found = max(others, key=header[0].count)
        remedy = {",": "Name the file .csv", "\t": "Name the file .tsv"}.get(
            found, "Save the table anew, as CSV with commas or as TSV with tabs"
        )
        raise UserError(
            f"has the header {staging.shorten(header[0])}, whose columns {found!r} separates; wanted"
            f" {separator!r}. {remedy}",
            file=member.name,
            line=line,
        )


def _at_tabs(line: str) -> list[str]:
    text = line.rstrip("\r\n")
    return text.split("\t") if text else []


def _json_rows(member: inputs.Member) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(staging.read_all(member).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = jsonlines.parse_object(line)
        except ValueError as error:
            raise UserError(
                f"got {staging.shorten(line)} ({error}); wanted one JSON object a line, an item each."
                " Mend the line",
                file=member.name,
                line=number,
            ) from error
        yield number, row
