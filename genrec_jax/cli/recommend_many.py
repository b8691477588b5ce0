"""`genrec recommend --users` and `--histories`: lists for many, written to one file."""

import argparse
import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from genrec_jax.errors import UserError

if TYPE_CHECKING:
    from genrec_jax.data.dataset import Dataset
    from genrec_jax.decoding.recommendations import Recommendations
    from genrec_jax.decoding.recommender import Recommender

CHUNK = 1024
"""Requests recommended for at a time."""
KINDS = (".parquet", ".jsonl")
EVERYBODY = "all"
EXAMPLES = 3
"""Entries and users that are named where there may be many."""


class Request(NamedTuple):
    """One list that is wanted.

    Attributes:
        key: whose it is, in the file that is written.
        user: the user's number in training; None for a user that it did not see.
        history: source ids or titles, oldest first.
    """

    key: str
    user: int | None
    history: Sequence[str]


@dataclasses.dataclass
class Tally:
    """How many there are, and the first of them by name."""

    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)

    def add(self, names: Sequence[str]) -> None:
        """Counts some more."""
        self.count += len(names)
        self.first += names[: EXAMPLES - len(self.first)]

    @property
    def named(self) -> str:
        """The first of them in brackets; nothing where there are none."""
        return f" ({', '.join(self.first)})" if self.first else ""


@dataclasses.dataclass
class Written:
    """What came of the requests so far.

    Attributes:
        rows: rows written.
        empty: requests that got no item.
        unread: histories with entries that are not in the catalogue.
        left_out: those entries that mean nothing.
        taken: those that were taken for the nearest title.
        alone: users asked about by user alone, since nothing of their history is known.
    """

    rows: int = 0
    empty: int = 0
    unread: int = 0
    left_out: Tally = dataclasses.field(default_factory=Tally)
    taken: Tally = dataclasses.field(default_factory=Tally)
    alone: Tally = dataclasses.field(default_factory=Tally)

    def add(self, request: Request, found: "Recommendations") -> None:
        """Counts one request's list, and what of its history was not read as it stands."""
        self.rows += len(found)
        self.empty += not len(found)
        nearest = [match for match in found.matches if not match.exact]
        self.unread += bool(found.skipped or nearest)
        self.left_out.add([f"{entry!r} of {request.key}" for entry in found.skipped])
        self.taken.add([f"{one.query!r} for {one.title!r}" for one in nearest])
        if found.skipped and not found.matches and found.template is not None:
            self.alone.add([request.key])

    def told(self) -> Iterator[str]:
        """What whoever asked should know of it, a line each."""
        if self.unread:
            yield (
                f"{self.left_out.count + self.taken.count:,} entries in {self.unread:,} histories are not"
                f" in the catalogue: {self.left_out.count:,} left out{self.left_out.named},"
                f" {self.taken.count:,} taken for the nearest title{self.taken.named}"
            )
        if self.alone.count:
            yield (
                f"{self.alone.count:,} users{self.alone.named} were asked about by user alone, since"
                " nothing of their history is known: they get what an empty history gets"
            )
        if self.empty:
            yield (
                f"{self.empty:,} users have no list: nothing of their history is known, or nothing is left"
            )


def check_output(path: str | None, inputs: Iterable[str], *, overwrite: bool) -> pathlib.Path:
    """The file that lists are written to, before hours are spent on them.

    Args:
        path: as it was given.
        inputs: files that are read, and other words that may be one.
        overwrite: replace it, unless it is one of them.

    Raises:
        UserError: none is given, its name has another ending, it is an input, or it exists.
    """
    if path is None or pathlib.Path(path).suffix not in KINDS:
        raise UserError(
            f"--output is {path!r}; wanted with --users and --histories a file to write, whose name ends"
            f" in {' or '.join(KINDS)}"
        )
    target = pathlib.Path(path)
    for word in inputs:
        if _is_same_file(target, word):
            raise UserError(
                f"is read too, as {word}; wanted another --output, since this would replace it",
                file=str(target),
            )
    if target.exists() and not overwrite:
        raise UserError("exists; pass --overwrite to replace it", file=str(target))
    return target


def of_users(given: str, dataset: "Dataset") -> list[Request]:
    """The requests of a dataset's users.

    Args:
        given: `all`, or a file with a source id a line.
        dataset: the one trained on.

    Raises:
        UserError: no such file, or a user whom the dataset lacks, with file and line.
    """
    if given == EVERYBODY:
        return of_names(dataset.user_source_ids, dataset)
    known, names = set(dataset.user_source_ids), []
    for line, text in lines(given):
        if text not in known:
            raise UserError(
                f"has no user {text!r}; wanted source ids such as"
                f" {', '.join(dataset.user_source_ids[:3])}, one a line",
                file=given,
                line=line,
            )
        names.append(text)
    return of_names(names, dataset)


def of_names(names: Sequence[str], dataset: "Dataset") -> list[Request]:
    """The requests of users that a dataset has: whole histories, and no number where training saw none."""
    from genrec_jax.data import splits

    numbers = {source_id: number for number, source_id in enumerate(dataset.user_source_ids)}
    trained_U = splits.of(dataset).trained_U(dataset)
    ids = dataset.item_source_ids
    return [
        Request(
            name,
            number if trained_U[number := numbers[name]] else None,
            [ids[item] for item in dataset.sequence(number)],
        )
        for name in names
    ]


def of_histories(file: str) -> list[Request]:
    """The requests of a file of JSON lines: `{"user": "ann", "history": ["B01", "B02"]}`.

    Raises:
        UserError: no such file, or a line that is something else, with file and line.
    """
    requests = []
    for line, text in lines(file):
        try:
            entry = json.loads(text)
            history = entry["history"]
            fits = isinstance(history, list) and all(isinstance(item, str) for item in history)
            user = str(line if entry.get("user") is None else entry["user"])
            "".join([user, *history]).encode()  # fails at half an emoji, which no text can hold
        except (ValueError, TypeError, KeyError):
            fits = False
        if not fits:
            raise UserError(
                f"is {text[:80]!r}; wanted a JSON object such as"
                ' {"user": "ann", "history": ["B01", "B02"]}, items as source ids or titles, oldest first',
                file=file,
                line=line,
            )
        requests.append(Request(user, None, history))
    return requests


def check_known(requests: Sequence[Request], recommender: "Recommender", file: str) -> None:
    """Refuses histories of which nothing at all is known: everybody would get one list.

    It reads up to the first history with an entry that is known.

    Args:
        requests: with the histories.
        recommender: the run.
        file: where the histories are from, for the error.

    Raises:
        UserError: there are entries, and none is in the catalogue.
    """
    unknown: dict[str, None] = {}
    for request in requests:
        matches, skipped = recommender.catalogue.read(request.history, recommender.unknown)
        if matches:
            return
        unknown |= dict.fromkeys(skipped[:EXAMPLES])
    if unknown:
        ids, titles = recommender.catalogue.source_ids, recommender.catalogue.titles
        title = f" or {titles[0]!r}" if titles[0] else ""
        raise UserError(
            f"no entry of these {len(requests):,} histories is in the catalogue, such as"
            f" {', '.join(map(repr, [*unknown][:EXAMPLES]))}; wanted source ids or titles of the dataset"
            f" {recommender.dataset}, such as {ids[0]!r}{title}",
            file=file,
        )


def write(
    requests: Sequence[Request],
    recommender: "Recommender",
    target: pathlib.Path,
    arguments: argparse.Namespace,
    exclude: list[int] | None,
    allow: list[int] | None,
) -> Written:
    """Recommends for all and writes a row for each item, in order; the file is whole or not there.

    Args:
        requests: whose lists are wanted.
        recommender: the run.
        target: the file, Parquet or JSON lines by its ending.
        arguments: the command's.
        exclude: items that nobody gets.
        allow: the only items that anybody gets; None for all.

    Returns:
        what was written, and what is to be told of it.
    """
    from genrec_jax.data import artefacts
    from genrec_jax.progress import Steps

    steps = Steps(enabled=True)
    written = Written()
    with (
        artefacts.atomic_file(target) as temporary,
        _open(pathlib.Path(temporary), target.suffix) as append,
        steps.running(),
        steps.step(f"recommending to {len(requests):,} users", len(requests)) as done,
    ):
        for first in range(0, len(requests), CHUNK):
            part = requests[first : first + CHUNK]
            found = recommender.recommend(
                [request.history for request in part],
                k=arguments.k,
                users=[request.user for request in part],
                exclude_seen=arguments.exclude_seen,
                template=arguments.template,
                exclude=None if exclude is None else [exclude] * len(part),
                allow=None if allow is None else [allow] * len(part),
            )
            made = [
                {
                    "user": request.key,
                    "rank": rank,
                    "source_id": one.source_id,
                    "title": one.title,
                    "score": one.score,
                }
                for request, own in zip(part, found, strict=True)
                for rank, one in enumerate(own, start=1)
            ]
            append(made)
            for request, own in zip(part, found, strict=True):
                written.add(request, own)
            done(first + len(part))
    return written


def _is_same_file(target: pathlib.Path, word: str) -> bool:
    try:
        return target.samefile(word)
    except (OSError, ValueError):  # one is not there, or a title that no file can be called
        return False


@contextlib.contextmanager
def _open(path: pathlib.Path, kind: str) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """A writer of rows, to Parquet or to JSON lines."""
    if kind == ".jsonl":
        with open(path, "w", encoding="utf-8") as file:
            yield lambda rows: file.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for row in rows
            )
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("user", pa.string()),
            ("rank", pa.int32()),
            ("source_id", pa.string()),
            ("title", pa.string()),
            ("score", pa.float32()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def lines(file: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers; U+2028 and its like end none."""
    try:
        text = pathlib.Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read ({error}); wanted UTF-8 text, one entry a line", file=file
        ) from error
    stripped = (line.strip() for line in text.split("\n"))
    return ((number, line) for number, line in zip(itertools.count(1), stripped) if line)
