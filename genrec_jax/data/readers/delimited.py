"""Reads logs with one interaction a line and fixed columns: `user::item::rating::time` and its kin."""

import codecs
import dataclasses
from collections.abc import Callable, Iterator

import polars as pl

from genrec_jax.data.readers import inputs, staging
from genrec_jax.errors import UserError

REPLACEMENT = "\ufffd"
UNDECODED = "\ufdd0"
"""Stands for bytes that are not text. Unicode keeps it free for such use, and U+FFFD may be in a text."""
MARKED = "genrec_jax.marked"
NOT_TEXT = "not text in the file's encoding"
KEPT = ("row", "got", "problem", "user", "item", "timestamp", "within_second", "rating")


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return UNDECODED, error.end


codecs.register_error(MARKED, _mark)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the lines of a log are laid out.

    Attributes:
        separator: between columns; None splits at runs of spaces and tabs.
        columns: name of each column: `user`, `item`, `timestamp`, `rating`; others are read past.
        header: the header line the file must begin with, or None where it has none.
        encoding: of the text.
        rating_range: lowest and highest rating.
        time_unit: source units in a second.
        earliest: first second that counts as a possible time.
    """

    separator: str | None
    columns: tuple[str, ...]
    header: str | None = None
    encoding: str = "utf-8"
    rating_range: tuple[float, float] | None = None
    time_unit: int = 1
    earliest: int = 1

    @property
    def wanted(self) -> str:
        """A line in words, for errors."""
        text = (self.separator or " ").join(self.columns).replace("\t", "<tab>")
        parts = [f"a line `{text}`"]
        if "rating" in self.columns and self.rating_range:
            parts.append(f"ratings {self.rating_range[0]:g} to {self.rating_range[1]:g}")
        if "timestamp" in self.columns:
            unit = "seconds" if self.time_unit == 1 else "milliseconds"
            parts.append(f"times in {unit} since 1970, before 2100")
        return ", ".join(parts)


def read(
    member: inputs.Member,
    layout: Layout,
    stage: staging.Stage,
    *,
    transform: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    keep: pl.Expr | None = None,
) -> None:
    """Reads one file into the stage.

    Args:
        member: the file.
        layout: its columns.
        stage: takes the rows; `row` is the line number (plus the file's base).
        transform: applied to each checked block; may set further problems.
        keep: which lines count at all, from the columns that the layout names.

    Raises:
        UserError: an empty file, a wrong header or encoding, or a bad line.
    """
    base = stage.begin_file(member.name)
    met_line = False
    for first_line, text in text_blocks(member, stage, encoding=layout.encoding):
        lines = pl.Series("got", [text.removesuffix("\n")]).str.split("\n").explode()
        frame = pl.DataFrame({"got": lines}).with_row_index("row", offset=first_line)
        frame = frame.with_columns(
            pl.col("row").cast(pl.Int64) + base, pl.col("got").str.strip_chars_end("\r")
        )
        if first_line == 1:
            _check_header(frame["got"][0], layout, member)
            if layout.header is not None:
                frame = frame.slice(1)
        frame = frame.filter(pl.col("got").str.strip_chars() != "")
        if not len(frame):
            continue
        met_line = True
        frame = _split(frame, layout)
        if keep is not None:
            frame = frame.filter(keep | pl.col("problem").is_not_null())
        frame = staging.check_numbers(
            frame.select([name for name in KEPT if name in frame.columns]),
            rating_range=layout.rating_range,
            time_unit=layout.time_unit,
            earliest=layout.earliest,
        )
        if transform is not None:
            frame = transform(frame)
        stage.add(frame, wanted=layout.wanted)
    if not met_line:
        raise UserError("has no rows; wanted interactions. Export it again", file=member.name)


def text_blocks(
    member: inputs.Member, stage: staging.Stage, *, encoding: str
) -> Iterator[tuple[int, str]]:
    """Whole lines of a file, a few million at a time, with the number of the first.

    Bytes that are not text become `UNDECODED` when bad rows are skipped, which the checks then count.

    Raises:
        UserError: bytes that are not text in `encoding`, naming the line.
    """
    options = stage.options
    skip = options.skip_bad_rows
    with (
        inputs.open_member(member) as stream,
        options.steps.step(f"reading {member.base_name}", stream.total) as advance,
    ):
        first_line, rest, ended = 1, b"", False
        while not ended:
            content = stream.read(options.block_bytes)
            ended = not content
            content = rest + content
            cut = len(content) if ended else content.rfind(b"\n") + 1
            block, rest = content[:cut], content[cut:]
            if not block:
                continue
            if first_line == 1:
                block = block.removeprefix(b"\xef\xbb\xbf")
            try:
                text = block.decode(encoding, errors=MARKED if skip else "strict")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"is not {encoding} text (byte {block[error.start]:#04x}); wanted {encoding}."
                    " Convert it, for example with `iconv -f latin1 -t utf8`, or pass"
                    " --skip-bad-rows to leave such lines out and count them",
                    file=member.name,
                    line=first_line + block.count(b"\n", 0, error.start),
                ) from error
            yield first_line, text
            first_line += block.count(b"\n")
            advance(stream.position())


def _split(frame: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    width = len(layout.columns)
    line = pl.col("got")
    if layout.separator is None:
        line = line.str.strip_chars().str.replace_all(r"[ \t]+", "\t")
    frame = frame.with_columns(
        line.str.split_exact(layout.separator or "\t", width).alias("fields")
    )
    field = pl.col("fields").struct.field
    names = [f"field_{index}" for index in range(width + 1)]
    kept = [
        field(name).alias(column)
        for name, column in zip(names[:width], layout.columns, strict=True)
    ]
    used = [text for text, column in zip(kept, layout.columns, strict=True) if column in KEPT]
    problem = (
        pl.when(pl.any_horizontal(text.str.contains(UNDECODED, literal=True) for text in used))
        .then(pl.lit(NOT_TEXT))
        .when(field(names[width - 1]).is_null())
        .then(pl.lit("missing column"))
        .when(field(names[width]).is_not_null())
        .then(pl.lit("too many columns"))
        .otherwise(pl.lit(None, pl.String))
    )
    return frame.select("row", "got", problem.alias("problem"), *kept)


def _check_header(line: str, layout: Layout, member: inputs.Member) -> None:
    if layout.header is not None and line.strip() != layout.header:
        raise UserError(
            f"begins with {staging.shorten(line)}; wanted the header {layout.header!r}. Check that this"
            " is the reader for the file, or use `table` and name the columns",
            file=member.name,
            line=1,
        )
