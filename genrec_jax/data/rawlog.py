"""The raw log: the one type that every reader returns and `prepare` takes.

reader (amazon, movielens, ...) -> RawLog -> prepare (k-core, numbering, writing) -> dataset dir
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from genrec_jax.data import artefacts

ITEM_COLUMNS = {
    "item": pl.String,
    "title": pl.String,
    "brand": pl.String,
    "categories": pl.List(pl.String),
    "price": pl.Float32,
    "description": pl.String,
}


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One file that a dataset was made from.

    Attributes:
        name: the file's name, without its folder.
        bytes: its size.
        sha256: of its bytes as they lie on disk (the archive's, not its members').
    """

    name: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class RawLog:
    """Interactions as a source tells them, before any filter.

    Attributes:
        interactions: columns `user` and `item` (strings); where the source has them `timestamp`
            (int64, seconds since 1970), `within_second` (int32, what follows, in any unit: it orders
            what shares a second), `rating` (float32), `review` and `summary`; and
            `row` (int64, increasing in file order), which is added from the order of rows when absent.
        items: columns `item` (the source's id) and any of title, brand, categories (list of
            strings), price, description; or None. Items without interactions are ignored.
        order_trusted: there are no timestamps, so the order of rows is taken for the order in time.
        sources: the files read.
        rejected: rows left out, by reason.
        rows_read: rows met, rejected ones included; None where nobody counted.
        manifest: further entries for `dataset.json` (a generator's settings and its `oracle`).
        locate: file and line of a `row`, for errors; or None.
    """

    interactions: pl.LazyFrame | pl.DataFrame
    items: pl.DataFrame | None = None
    order_trusted: bool = False
    sources: tuple[SourceFile, ...] = ()
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rows_read: int | None = None
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    locate: Callable[[int], tuple[str, int | None]] | None = None


def source_file(path: artefacts.PathLike) -> SourceFile:
    """Describes a file by name, size and checksum."""
    file = pathlib.Path(path)
    return SourceFile(file.name, file.stat().st_size, artefacts.sha256_of_file(file))
