"""The rows of readers: checked, counted and written to Parquet parts in a work folder.

Rows pass through in blocks, so that memory does not grow with the log; `prepare` scans the parts.
"""

import bisect
import collections
import dataclasses
import errno
import pathlib
from collections.abc import Callable, Collection

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from genrec_jax import progress
from genrec_jax.data import rawlog
from genrec_jax.data.readers import inputs
from genrec_jax.errors import UserError

MICROSECONDS = 1_000_000
LATEST_TIMESTAMP = 4_102_444_800  # 2100-01-01
MAX_QUOTED = 120
MAX_LISTED = 12
IMPOSSIBLE_TIME = "impossible timestamp"
NULL_VALUES = ("NaN", "nan", "null", "NULL", "None", "NA", "N/A", "<NA>", r"\N")
NULL_WORD = "a word for none as the"
SKIP_REMEDY = "Mend the file, or pass --skip-bad-rows to leave such rows out and count them"
NULL_REMEDY = f"{SKIP_REMEDY}; if it is an id, say with --null-values which words are none"


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """The options that every reader takes.

    Attributes:
        workspace: an empty folder for the reader's rows; it must outlive the `RawLog`.
        skip_bad_rows: count bad rows and go on, where the default is an error at the first.
        steps: where progress is shown.
        block_bytes: decompressed bytes taken into memory at a time.
    """

    workspace: pathlib.Path
    skip_bad_rows: bool = False
    steps: progress.Steps = dataclasses.field(default_factory=progress.Steps)
    block_bytes: int = 32 << 20


class Stage:
    """Collects a reader's rows.

    Args:
        options: see `ReadOptions`.
        tolerated: reasons that are counted but never an error.
        time_remedy: what to do about an impossible time of that text, where the user says how times are
            written and may have said it wrongly; it may give None.
    """

    def __init__(
        self,
        options: ReadOptions,
        *,
        tolerated: Collection[str] = (),
        time_remedy: Callable[[str], str | None] | None = None,
    ):
        self.options = options
        self._time_remedy = time_remedy
        self._first_remedy: str | None = None
        self.rejected: collections.Counter[str] = collections.Counter()
        self.rows_read = 0
        self._tolerated = set(tolerated)
        self._parts = 0
        self._first_rows: list[int] = []
        self._names: list[str] = []
        self._last_row = -1
        self._within_seconds = False

    def begin_file(self, name: str) -> int:
        """Announces the next file; returns what to add to its line numbers to get `row`."""
        base = max(self._last_row, 0)
        self._first_rows.append(base)
        self._names.append(name)
        return base

    def add(self, frame: pl.DataFrame, *, wanted: str) -> None:
        """Takes one block of rows.

        Args:
            frame: columns of `rawlog.RawLog.interactions` (`row`, `user`, `item` at least; `row` goes
                on rising from block to block), and `problem` (the reason a row is bad, or null) and
                `got` (what the row says);
                `impossible_time` as `check_numbers` adds it.
            wanted: what a row should look like, for the error.

        Raises:
            UserError: a bad row, unless it is to be skipped.
        """
        if not len(frame):
            return
        self.rows_read += len(frame)
        rows_N = frame["row"].to_numpy()
        assert rows_N[0] > self._last_row and (np.diff(rows_N) > 0).all(), "rows must rise"
        self._last_row = int(rows_N[-1])
        bad = frame.filter(pl.col("problem").is_not_null())
        times = bad["impossible_time"] if "impossible_time" in bad.columns else [None] * len(bad)
        for (row, problem, got), time in zip(
            bad.select("row", "problem", "got").iter_rows(), times, strict=True
        ):
            if time and self._time_remedy and not self._first_remedy and problem == IMPOSSIBLE_TIME:
                advice = self._time_remedy(time)
                if advice and (self._parts or row != frame["row"][0]):  # earlier rows were read
                    advice = f"{advice}; if only some are so: {SKIP_REMEDY}"
                self._first_remedy = advice
            if not self.options.skip_bad_rows and problem not in self._tolerated:
                file, line = self.locate(row)
                usual = NULL_REMEDY if problem.startswith(NULL_WORD) else SKIP_REMEDY
                remedy = self._first_remedy or usual
                raise UserError(
                    f"{problem}: got {shorten(got)}; wanted {wanted}. {remedy}",
                    file=file,
                    line=line,
                )
            self.rejected[problem] += 1
        good = frame.filter(pl.col("problem").is_null())
        good = good.drop("problem", "got", "impossible_time", strict=False)
        if len(good):
            if "within_second" in good.columns:
                self._within_seconds |= bool((good["within_second"] != 0).any())
            part = self.options.workspace / f"rows-{self._parts:06d}.parquet"
            _write_part(good, part)
            self._parts += 1

    def reject(self, problem: str, *, file: str, line: int | None, got: str, wanted: str) -> None:
        """One bad row that never made it into a frame: an error, or a count when skipping."""
        if not self.options.skip_bad_rows and problem not in self._tolerated:
            raise UserError(
                f"{problem}: got {shorten(got)}; wanted {wanted}. {SKIP_REMEDY}",
                file=file,
                line=line,
            )
        self.rows_read += 1
        self.rejected[problem] += 1

    def locate(self, row: int) -> tuple[str, int | None]:
        """The file and line that a `row` came from."""
        index = bisect.bisect_left(self._first_rows, row) - 1
        index = max(index, 0)
        return self._names[index], row - self._first_rows[index]

    def finish(
        self,
        *,
        sources: tuple[rawlog.SourceFile, ...],
        items: pl.DataFrame | None = None,
        order_trusted: bool = False,
    ) -> rawlog.RawLog:
        """The raw log of everything added.

        Raises:
            UserError: not one good row.
        """
        if not self._parts:
            rejected = "".join(f"; {count} x {why}" for why, count in self.rejected.items())
            remedy = self._first_remedy or "Check --input and the reader's name"
            raise UserError(
                f"holds no usable interaction{rejected}; wanted at least one. {remedy}",
                file=self._names[0] if self._names else None,
            )
        interactions = pl.scan_parquet(self.options.workspace / "rows-*.parquet")
        if not self._within_seconds:  # no time of the whole log has a fraction
            interactions = interactions.drop("within_second", strict=False)
        return rawlog.RawLog(
            interactions=interactions,
            items=items,
            order_trusted=order_trusted,
            sources=sources,
            rejected=dict(self.rejected),
            rows_read=self.rows_read,
            locate=self.locate,
        )


def check_numbers(
    frame: pl.DataFrame,
    *,
    rating_range: tuple[float, float] | None = None,
    time_unit: int = 1,
    time_formats: tuple[str, ...] = (),
    earliest: int = 1,
    null_values: Collection[str] = (),
) -> pl.DataFrame:
    """Turns `timestamp` and `rating` from text to numbers, and names what is wrong with each row.

    Args:
        frame: string columns `user`, `item` and, where there are any, `timestamp` and `rating`;
            `problem` may already be set by the caller and is kept.
        rating_range: lowest and highest rating allowed; None allows any finite number, and an empty text
            or none is no rating.
        time_unit: source units in a second (1000 for milliseconds).
        time_formats: strptime formats to try in turn, where times are dates (taken as UTC).
        earliest: first second that counts as possible.
        null_values: words that stand for no user or item.

    Returns:
        The frame with numbers and `problem`; with `timestamp` also `within_second`, in microseconds, and
        `impossible_time`, the text of one that is impossible. For example `("7", "x", "9e99", "3")` for
        user, item, timestamp and rating gets the problem "impossible timestamp".
    """
    problem = pl.col("problem") if "problem" in frame.columns else pl.lit(None, pl.String)
    checks: list[tuple[pl.Expr, str]] = []
    changes: list[pl.Expr] = []
    for column in ("user", "item"):
        text = pl.col(column).str.strip_chars()
        changes.append(text.alias(column))
        checks.append((text.is_null() | (text == ""), f"missing {column}"))
        if null_values:
            checks.append((text.is_in(list(null_values)), f"{NULL_WORD} {column}"))
    if "timestamp" in frame.columns:
        text = pl.col("timestamp").cast(pl.String).str.strip_chars()
        seconds, within_second = _times(text, time_unit, time_formats)
        possible = seconds.is_between(earliest, LATEST_TIMESTAMP - 1)
        impossible = ~possible.fill_null(False)
        checks.append((impossible, IMPOSSIBLE_TIME))
        changes.append(pl.when(impossible).then(text).alias("impossible_time"))
        changes.append(seconds.alias("timestamp"))
        changes.append(within_second.cast(pl.Int32, strict=False).alias("within_second"))
    if "rating" in frame.columns:
        text = pl.col("rating").cast(pl.String).str.strip_chars()
        rating = text.cast(pl.Float64, strict=False)
        possible = rating.is_finite()
        if rating_range is not None:
            possible &= rating.is_between(*rating_range)
        checks.append(((text != "") & ~possible.fill_null(False), "impossible rating"))
        changes.append(rating.cast(pl.Float32, strict=False).alias("rating"))
    chain = problem
    for failed, reason in checks:
        chain = pl.when(chain.is_null() & failed).then(pl.lit(reason)).otherwise(chain)
    return frame.with_columns(*changes, chain.alias("problem"))


def _write_part(frame: pl.DataFrame, part: pathlib.Path) -> None:
    # pyarrow, because Polars' own writer hides the operating system's error number
    try:
        pq.write_table(frame.to_arrow(), part, compression="lz4")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            "the disk of the temporary folder is full; no dataset was written. Free some space, or set"
            " TMPDIR to a folder on a larger disk",
            file=str(part.parent),
        ) from error


def _times(text: pl.Expr, time_unit: int, time_formats: tuple[str, ...]) -> tuple[pl.Expr, pl.Expr]:
    """Whole seconds since 1970, and the microseconds after each."""
    if time_formats:
        dates = [text.str.to_datetime(form, strict=False, exact=True) for form in time_formats]
        ticks = pl.coalesce(dates).dt.epoch("us")
        return ticks // MICROSECONDS, ticks % MICROSECONDS
    number = text.cast(pl.Float64, strict=False)
    whole = pl.coalesce(
        text.cast(pl.Int64, strict=False), number.floor().cast(pl.Int64, strict=False)
    )
    each = MICROSECONDS // time_unit
    fraction = ((number - number.floor()) * each).round().cast(pl.Int64, strict=False)
    return whole // time_unit, whole % time_unit * each + fraction


def shorten(text: str | None) -> str:
    """A row's text as errors quote it: one line, at most `MAX_QUOTED` characters."""
    shown = repr(text)
    return shown if len(shown) <= MAX_QUOTED else shown[: MAX_QUOTED - 3] + "..."


def listed(names: Collection[str]) -> str:
    """Names of columns as errors list them: at most `MAX_LISTED`, each cut like `shorten`'s."""
    shown = [name if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]}..." for name in names]
    more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    return ", ".join(shown[:MAX_LISTED]) + more


def read_all(member: inputs.Member, *, encoding: str = "utf-8") -> str:
    """The whole text of a small file (titles, users).

    Raises:
        UserError: bytes that are not text in this encoding; the line is named.
    """
    with inputs.open_member(member) as stream:
        content = stream.read()
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"is not {encoding} text (byte {content[error.start]:#04x}); wanted {encoding}. Convert it,"
            " for example with `iconv -f latin1 -t utf8`",
            file=member.name,
            line=line,
        ) from error
