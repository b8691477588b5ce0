"""Reads any table with a user and an item a row: CSV, TSV, Parquet or JSON lines, columns named.

Without a time column the order of rows is taken on trust, and the audit says so.
"""

import codecs
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import (
    delimited,
    inputs,
    item_table,
    jsonlines,
    quoted_records,
    staging,
    times,
)
from genrec_jax.errors import UserError

DEFAULT_COLUMNS = ("user", "item", "timestamp", "rating")
OURS = ("user", "item", "timestamp", "rating", "review", "summary")
EXAMPLE = '{"user": "COLUMN", "item": "COLUMN", "timestamp": "COLUMN"}'
SEPARATORS = ("\t", ";", ",", "|", "::", " ")
ESCAPE = r"\\(?:t|\\|x[0-9A-Fa-f]{2}|[0-7]{1,3})"
IN_QUOTES = r'(?s)^"(?:[^"]|"")*"$'
Columns = str | Mapping[str, str]


def read(
    path: artefacts.PathLike,
    options: staging.ReadOptions,
    *,
    columns: Columns | None = None,
    header: bool = True,
    separator: str | None = None,
    quoted: bool | None = None,
    time_unit: str = "seconds",
    time_format: str | None = None,
    rating_range: tuple[float, float] | None = None,
    null_values: str | None = None,
    items: artefacts.PathLike | None = None,
    item_columns: dict[str, str] | None = None,
) -> rawlog.RawLog:
    """Reads a table.

    Args:
        path: one file, plain, `.gz` or alone in a `.zip`; the kind goes by `.csv`, `.tsv`,
            `.parquet`, `.jsonl` or `.json`.
        options: see `ReadOptions`.
        columns: which columns hold what. With a header, `user=USER_ID,item=SKU,timestamp=WHEN`, or a
            mapping {"user": "USER_ID", "item": "SKU", "timestamp": "WHEN"}; without one, what each
            column is, in order: `user,item,rating,timestamp`, `_` for columns to read past. By
            default columns go by our names (user, item, timestamp, rating, review, summary).
        header: False where a CSV or TSV has none.
        separator: between columns, where it is not the comma of CSV or the tab of TSV. The two letters
            `\\t`, which a shell passes on as they are, mean a tab; `\\x01` and `\\001` likewise.
        quoted: whether a field in quotes may hold separators and line breaks. By default yes, but not
            between tabs, where `"` is a letter like any other, as in tables of items; a field that is
            all in quotes is then an error, since it could mean either.
        time_unit: `seconds`, `milliseconds` or `microseconds` since 1970.
        time_format: strptime format, where times are dates, such as `%Y-%m-%d %H:%M:%S` (UTC).
        rating_range: lowest and highest rating that is possible.
        null_values: words, with commas between, that stand for no user, item or title; by default
            `staging.NULL_VALUES`. The empty text has none, for logs in which `NA` is an item.
        items: a table of items, see `item_table.read`.
        item_columns: its columns, where they have other names.

    Raises:
        UserError: another kind of file, a column that is not there, or a bad row.
    """
    found = inputs.Inputs(path, reader="table")
    member = found.require(
        "*.csv", "*.tsv", "*.txt", "*.parquet", "*.jsonl", "*.json", what="a table"
    )
    none = (
        staging.NULL_VALUES
        if null_values is None
        else tuple(word.strip() for word in null_values.split(",") if word.strip())
    )
    if time_unit not in times.TIME_UNITS:
        raise UserError(
            f"--time-unit {time_unit!r} is unknown; wanted one of {', '.join(times.TIME_UNITS)}"
        )
    stage = staging.Stage(
        options, time_remedy=lambda text: times.remedy(text, time_unit, time_format)
    )
    kind = pathlib.PurePath(member.base_name).suffix.lower()
    scale = times.TIME_UNITS[time_unit]
    formats = (time_format,) if time_format else ()
    if kind in (".jsonl", ".json"):
        keys = _named(columns, member) or {name: name for name in _json_keys(member)}
        fields = jsonlines.Fields(keys, rating_range, scale, formats, none)
        jsonlines.read(member, fields, stage)
        timed = "timestamp" in keys
    else:
        separator = _unescape(separator) if separator else "," if kind == ".csv" else "\t"
        frames = (
            _parquet_frames(member, columns, stage, of_time=scale != 1 or bool(formats))
            if kind == ".parquet"
            else _delimited_frames(member, columns, stage, header, separator, quoted)
        )
        timed = False
        for frame in frames:
            timed = "timestamp" in frame.columns
            is_time = frame.schema.get("timestamp") == pl.Int64  # of Parquet's own, see `_as_text`
            checked = staging.check_numbers(
                frame,
                rating_range=rating_range,
                time_unit=staging.MICROSECONDS if is_time else scale,
                time_formats=formats,
                null_values=none,
            )
            got = pl.struct(
                pl.exclude("row", "problem", "got", "within_second", "impossible_time")
            ).struct.json_encode()
            if "got" not in checked.columns:
                checked = checked.with_columns(
                    pl.when(pl.col("problem").is_not_null()).then(got).alias("got")
                )
            stage.add(checked, wanted=_wanted(rating_range, time_format or time_unit))
    described = None
    if items is not None:
        described = item_table.read(items, columns=item_columns, null_values=none)
    extra = [rawlog.source_file(items)] if items is not None else []
    return stage.finish(
        sources=(*found.sources(member), *extra), items=described, order_trusted=not timed
    )


def _wanted(rating_range: tuple[float, float] | None, time: str) -> str:
    ratings = f"{rating_range[0]:g} to {rating_range[1]:g}" if rating_range else "finite"
    return f"a user, an item, a time ({time}, before 2100) and a rating ({ratings}) where named"


def _named(columns: Columns | None, member: inputs.Member) -> dict[str, str] | None:
    """`user=A,item=B` as a dict; None where nothing was named."""
    if columns is None:
        return None
    named = {}
    pairs = columns.items() if isinstance(columns, Mapping) else map(_pair, columns.split(","))
    for ours, theirs in pairs:
        if not theirs or ours not in OURS:
            raise UserError(
                f"--columns has {ours if theirs is None else f'{ours}={theirs}'!r}; wanted pairs such as"
                f" user=USER_ID,item=SKU with any of {', '.join(OURS)}; from Python, columns={EXAMPLE}",
                file=member.name,
            )
        named[ours] = theirs
    _require_user_and_item(named, member)
    return named


def _pair(text: str) -> tuple[str, str | None]:
    ours, equals, theirs = text.partition("=")
    return ours.strip(), theirs.strip() if equals else None


def _require_user_and_item(named: dict[str, str] | list[str], member: inputs.Member) -> None:
    for needed in ("user", "item"):
        if needed not in named:
            raise UserError(
                f"no column is named for the {needed}; wanted one. Pass --columns"
                f" user=COLUMN,item=COLUMN,timestamp=COLUMN; from Python, columns={EXAMPLE}",
                file=member.name,
                line=1,
            )


def _pick(names: list[str], columns: Columns | None, member: inputs.Member) -> dict[str, str]:
    """Our column -> theirs, checked against the columns there are."""
    named = _named(columns, member) or {name: name for name in OURS if name in names}
    _refuse_twice(names, named.values(), member)
    missing = [theirs for theirs in named.values() if theirs not in names]
    if missing or not {"user", "item"} <= set(named):
        lacking = ", ".join(missing) or "user and item"
        raise UserError(
            f"has the columns {staging.listed(names)}; wanted {lacking}. Name them with --columns"
            f" user=COLUMN,item=COLUMN,timestamp=COLUMN,rating=COLUMN; from Python, columns={EXAMPLE}",
            file=member.name,
            line=1,
        )
    return named


def _refuse_twice(names: list[str], used: Iterable[str], member: inputs.Member) -> None:
    if twice := [name for name in used if names.count(name) > 1]:
        raise UserError(
            f"has {names.count(twice[0])} columns named {twice[0]!r}; wanted one, since nothing tells which"
            " is meant. Rename the others",
            file=member.name,
            line=1,
        )


def _json_keys(member: inputs.Member) -> list[str]:
    """Our names among the keys of the first object."""
    with inputs.open_member(member) as stream:
        line = next((line for line in stream.read(1 << 20).split(b"\n") if line.strip()), b"")
    try:
        names = list(jsonlines.parse_object(line.decode("utf-8-sig", "replace")))
    except ValueError as error:
        raise UserError(
            f"begins with {staging.shorten(line.decode('utf-8', 'replace'))}; wanted one JSON object"
            " a line. Convert it, or check the file's ending",
            file=member.name,
            line=1,
        ) from error
    return list(_pick(names, None, member))


def _parquet_frames(
    member: inputs.Member, columns: Columns | None, stage: staging.Stage, *, of_time: bool
) -> Iterator[pl.DataFrame]:
    """Blocks of rows; `of_time` says that a flag tells how times are written."""
    if member.member is not None or member.name.endswith(".gz"):
        raise UserError("is Parquet in an archive; unpack it first", file=member.name)
    try:
        file = pq.ParquetFile(member.file)
    except (ValueError, OSError) as error:
        raise UserError(
            f"is not a whole Parquet file ({error}); wanted one. Export it again", file=member.name
        ) from error
    named = _pick(file.schema_arrow.names, columns, member)
    for theirs in named.values():
        kind = file.schema_arrow.field(theirs).type
        if pa.types.is_nested(kind):
            raise UserError(
                f"its column {theirs} holds {kind}; wanted one value a row. Name another with"
                " --columns, or export it flat",
                file=member.name,
            )
        if (
            pa.types.is_fixed_size_binary(kind)
            or pa.types.is_duration(kind)
            or pa.types.is_decimal256(kind)
            or isinstance(kind, pa.BaseExtensionType)
        ):
            raise _no_text(theirs, kind, member)
        is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        if of_time and is_time and theirs == named.get("timestamp"):
            raise UserError(
                f"its column {theirs} holds {kind}, which are times as they are; --time-unit and"
                " --time-format are for numbers and texts. Leave them out",
                file=member.name,
            )
    base = stage.begin_file(member.name)
    done = 0
    with stage.options.steps.step(f"reading {member.base_name}", file.metadata.num_rows) as advance:
        for batch in file.iter_batches(1 << 20, columns=list(named.values())):
            frame = pl.DataFrame(pl.from_arrow(batch))
            texts = {}
            for ours, theirs in named.items():
                try:
                    texts[ours] = frame.select(_as_text(frame, theirs).alias(ours))[ours]
                except pl.exceptions.ComputeError as error:  # bytes that are not UTF-8
                    kind = file.schema_arrow.field(theirs).type
                    raise _no_text(theirs, kind, member) from error
            row = pl.int_range(pl.len(), dtype=pl.Int64) + base + done + 1
            frame = pl.DataFrame(texts).with_columns(row.alias("row"))
            done += len(frame)
            advance(done)
            yield frame


def _no_text(column: str, kind: pa.DataType, member: inputs.Member) -> UserError:
    return UserError(
        f"its column {column} holds {kind}; wanted text, numbers or dates. Export it as text, such as with"
        f" CAST({column} AS VARCHAR), or name another with --columns",
        file=member.name,
    )


def _as_text(frame: pl.DataFrame, column: str) -> pl.Expr:
    """Dates become microseconds, everything else its text, so that all sources are checked alike.

    The text of 7.0 is `7`: pandas writes whole numbers so in a column where one is missing.
    """
    value = pl.col(column)
    if frame.schema[column] in (pl.Date, pl.Datetime):
        return value.cast(pl.Datetime("us")).dt.epoch("us")
    if not frame.schema[column].is_float():
        return value.cast(pl.String)
    whole = value.cast(pl.Int64, strict=False)
    return (
        pl.when(whole == value)
        .then(whole.cast(pl.String))
        .otherwise(value.fill_nan(None).cast(pl.String))
    )


def _delimited_frames(
    member: inputs.Member,
    columns: Columns | None,
    stage: staging.Stage,
    header: bool,
    separator: str,
    quoted: bool | None,
) -> Iterator[pl.DataFrame]:
    base = stage.begin_file(member.name)
    names: list[str] = []
    named: dict[str, str] = {}
    blocks = delimited.text_blocks(member, stage, encoding="utf-8")
    for first_line, text in blocks:
        has_quotes = '"' in text
        if has_quotes and (separator != "\t" if quoted is None else quoted):
            texts = itertools.chain([text], (text for _, text in blocks))
            needed = 1 if header and not names else 0
            frame = quoted_records.of_block(
                texts, first_line, separator, member, stage, needed=needed
            )
        else:
            frame = _split_plain(text, separator)
        if not len(frame):
            continue
        unsure = has_quotes and separator == "\t" and quoted is None
        if not names:
            width = len(frame["fields"][0])
            if width == 1:
                _refuse_one_column(frame["got"][0], separator, member)
            if unsure:
                _refuse_quotes(frame.head(1), range(width), member, first_line)
            if header:
                names = [name.strip() for name in frame["fields"][0]]
                frame = frame.slice(1)
                named = _pick(names, columns, member)
            else:
                if isinstance(columns, Mapping):
                    raise UserError(
                        "has no header, and columns is a mapping; wanted what each column is, in order:"
                        ' columns="user,item,_,timestamp"',
                        file=member.name,
                    )
                names = [name.strip() for name in (columns or ",".join(DEFAULT_COLUMNS)).split(",")]
                _require_user_and_item(names, member)
                if len(names) != width:
                    raise UserError(
                        f"has {width} columns; --columns names {len(names)} ({', '.join(names)})."
                        " Name each, `_` for those to read past",
                        file=member.name,
                        line=1,
                    )
                named = {name: name for name in names if name in OURS}
                _refuse_twice(names, named, member)
        if unsure:
            _refuse_quotes(frame, map(names.index, named.values()), member, first_line)
        count = pl.col("fields").list.len()
        kept = {
            ours: pl.col("fields").list.get(names.index(theirs), null_on_oob=True)
            for ours, theirs in named.items()
        }
        undecoded = [text.str.contains(delimited.UNDECODED, literal=True) for text in kept.values()]
        problem = (
            pl.when(pl.any_horizontal(undecoded))
            .then(pl.lit(delimited.NOT_TEXT))
            .when(count < len(names))
            .then(pl.lit("missing column"))
            .when(count > len(names))
            .then(pl.lit("too many columns"))
            .otherwise(pl.lit(None, pl.String))
        )
        yield frame.select(
            pl.col("row").cast(pl.Int64) + first_line + base,
            "got",
            problem.alias("problem"),
            *(text.alias(ours) for ours, text in kept.items()),
        )


def _unescape(separator: str) -> str:
    return re.sub(ESCAPE, lambda found: codecs.decode(found[0], "unicode_escape"), separator)


def _refuse_one_column(line: str, separator: str, member: inputs.Member) -> None:
    """Says which separator a first line has that is one column; says nothing where it has none."""
    others = [other for other in SEPARATORS if other in line and other != separator]
    if others:
        raise UserError(
            f"has one column where {separator!r} separates them, {staging.shorten(line)}; wanted a user"
            f" and an item at least. Pass --separator {max(others, key=line.count)!r}",
            file=member.name,
            line=1,
        )


def _split_plain(text: str, separator: str) -> pl.DataFrame:
    lines = pl.Series("got", [text.removesuffix("\n")]).str.split("\n").explode()
    frame = pl.DataFrame({"got": lines}).with_row_index("row")
    frame = frame.with_columns(pl.col("got").str.strip_chars_end("\r"))
    frame = frame.filter(pl.col("got").str.strip_chars() != "")
    return frame.with_columns(pl.col("got").str.split(separator).alias("fields"))


def _refuse_quotes(
    frame: pl.DataFrame, places: Iterable[int], member: inputs.Member, first_line: int
) -> None:
    """Between tabs a field all in quotes may be quoted or not: the user has to say."""
    for place in places:
        field = pl.col("fields").list.get(place, null_on_oob=True)
        found = frame.filter(field.str.contains(IN_QUOTES)).select("row", field).head(1)
        for row, text in found.iter_rows():
            raise UserError(
                f"got {staging.shorten(text)} between tabs, where quotes may enclose a field or be part"
                " of it; wanted to be told. Pass --quoted if they enclose it, --no-quoted if they are"
                " letters like any other",
                file=member.name,
                line=row + first_line,
            )
