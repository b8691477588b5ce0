"""The dataset dir: Parquet tables and a manifest, the artefact between `prepare` and `index`.

    interactions.parquet  user int32, item int32, timestamp int64?, rating float32?, review?, summary?
                          sorted by user, then time, file order breaking ties; within_second int32
                          (what follows the second) where times are finer than seconds, else no such column
    items.parquet         item int32 (dense, in the order of source ids, so that a number tells no more
                          about time than they do), source_id, title?, brand?, categories?, price?,
                          description?
    users.parquet         user int32 (dense, in an order that tells nothing), source_id
    dataset.json          counts, filters, split, sources with sha256, checksums, format version

Reading needs pyarrow alone, so that training boxes need no Polars.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int32, Int64

from genrec_jax import storage
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
TABLES = ("interactions.parquet", "items.parquet", "users.parquet")

INTERACTION_SCHEMA = pa.schema(
    [
        ("user", pa.int32()),
        ("item", pa.int32()),
        ("timestamp", pa.int64()),
        ("rating", pa.float32()),
        ("review", pa.string()),
        ("summary", pa.string()),
    ]
)
WITHIN_SECOND = pa.field("within_second", pa.int32())
ITEM_SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("source_id", pa.string()),
        ("title", pa.string()),
        ("brand", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("price", pa.float32()),
        ("description", pa.string()),
    ]
)
USER_SCHEMA = pa.schema([("user", pa.int32()), ("source_id", pa.string())])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared dataset: flat arrays in memory, wide text columns left on disk until asked for.

    User `u`'s sequence, in time order, is `items_X[offsets_U1[u]:offsets_U1[u + 1]]`.

    Attributes:
        path: the dataset dir.
        manifest: the parsed `dataset.json`.
        offsets_U1: where each user's interactions begin; one more entry than users.
        items_X: item number of each interaction.
        timestamps_X: seconds since 1970, or None where the source has no times.
        ratings_X: ratings on the source's own scale, or None where it has none.
        url: of the remote dataset dir, where `path` is a copy of one.
        within_second_X: what follows each second, which orders what shares it; None where times are whole
            seconds.
    """

    path: pathlib.Path
    manifest: dict[str, Any]
    offsets_U1: Int64[np.ndarray, " U1"]
    items_X: Int32[np.ndarray, " X"]
    timestamps_X: Int64[np.ndarray, " X"] | None
    ratings_X: Float32[np.ndarray, " X"] | None
    url: str | None = None
    within_second_X: Int32[np.ndarray, " X"] | None = None

    @property
    def location(self) -> str:
        """The dataset's URL, or the absolute path of its folder."""
        return self.url or str(self.path.absolute())

    @property
    def name(self) -> str:
        """The name that prompts use for `{dataset}`, such as `Beauty`."""
        return self.manifest["name"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over tables and split: two datasets with equal fingerprints are the same data."""
        return self.manifest["fingerprint"]

    @property
    def num_users(self) -> int:
        """Users, numbered from 0."""
        return len(self.offsets_U1) - 1

    @property
    def num_items(self) -> int:
        """Items of the catalogue, numbered from 0."""
        return self.manifest["counts"]["items"]

    @property
    def num_interactions(self) -> int:
        """Interactions of all users."""
        return len(self.items_X)

    @functools.cached_property
    def lengths_U(self) -> Int64[np.ndarray, " U"]:
        """Interactions of each user."""
        return np.diff(self.offsets_U1)

    @functools.cached_property
    def users_X(self) -> Int32[np.ndarray, " X"]:
        """User number of each interaction."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.lengths_U)

    @functools.cached_property
    def tied_X(self) -> Bool[np.ndarray, " X"]:
        """Whether each interaction has the time of the one before it, to the fraction of a second."""
        tied_X = np.zeros(self.num_interactions, bool)
        if self.timestamps_X is not None:
            tied_X[1:] = True
            for values_X in (self.users_X, self.timestamps_X, self.within_second_X):
                if values_X is not None:
                    tied_X[1:] &= values_X[1:] == values_X[:-1]
        return tied_X

    def sequence(self, user: int) -> Int32[np.ndarray, " length"]:
        """One user's items in time order (a view)."""
        return self.items_X[self.offsets_U1[user] : self.offsets_U1[user + 1]]

    def item_column(self, column: str) -> list[Any]:
        """One column of `items.parquet` as a list indexed by item number."""
        return _read_column(self.path / "items.parquet", column)

    @functools.cached_property
    def item_source_ids(self) -> list[str]:
        """The source's own item ids, indexed by item number."""
        return self.item_column("source_id")

    @functools.cached_property
    def item_titles(self) -> list[str | None]:
        """Item titles, indexed by item number; None where the source has none."""
        return self.item_column("title")

    @functools.cached_property
    def user_source_ids(self) -> list[str]:
        """The source's own user ids, indexed by user number."""
        return _read_column(self.path / "users.parquet", "source_id")


def load(path: artefacts.PathLike, *, verify: bool = True) -> Dataset:
    """Reads a dataset dir.

    Args:
        path: the folder that `genrec prepare` wrote, or the URL of one.
        verify: check the tables against the manifest's checksums.

    Raises:
        UserError: no dataset there, another format version, a table that is damaged, or a split that was
            changed after the dataset was written.
    """
    folder = storage.local_copy(path, (MANIFEST, *TABLES))
    remedy = "Run `genrec prepare` again"
    if not (folder / MANIFEST).is_file():
        there = storage.exists(path)
        found = f"holds no {MANIFEST}, so it is no dataset dir" if there else "is not there"
        raise UserError(
            f"{found}; wanted a folder that `genrec prepare` wrote. Check the path, or make it with"
            f" `genrec prepare READER --output {path}` (`genrec prepare --help` lists the readers)",
            file=str(path),
        )
    manifest = artefacts.read_json(
        folder / MANIFEST,
        wanted="the manifest of a dataset that `genrec prepare` wrote",
        remedy=remedy,
        shown=storage.join(path, MANIFEST),
    )
    artefacts.check_version(
        manifest.get("format_version"),
        FORMAT_VERSION,
        path=storage.join(path, MANIFEST),
        remedy=remedy,
    )
    tables = manifest.get("fingerprint_of_tables", manifest["fingerprint"])
    if manifest["fingerprint"] != _with_split(tables, manifest.get("split", {})):
        raise UserError(
            "its `split` is not the one that its fingerprint was made of: it was changed by hand. Run"
            " `genrec prepare` again, with the dates that you want",
            file=str(storage.join(path, MANIFEST)),
        )
    for name in TABLES:
        table = folder / name
        if not table.exists():
            raise UserError(
                f"missing from the dataset. {remedy}", file=str(storage.join(path, name))
            )
        if verify and artefacts.sha256_of_file(table) != manifest["files"][name]:
            raise UserError(
                f"its checksum is not the manifest's: the file changed after it was written. {remedy}",
                file=str(storage.join(path, name)),
            )
    interactions = folder / "interactions.parquet"
    finer = WITHIN_SECOND.name in pq.read_schema(interactions).names
    columns = pq.read_table(
        interactions,
        columns=["user", "item", "timestamp", "rating", *([WITHIN_SECOND.name] if finer else [])],
    )
    users_X = columns["user"].to_numpy()
    counts_U = np.bincount(users_X, minlength=manifest["counts"]["users"])
    offsets_U1 = np.concatenate([[0], np.cumsum(counts_U)]).astype(np.int64)
    return Dataset(
        path=folder,
        manifest=manifest,
        offsets_U1=offsets_U1,
        items_X=np.ascontiguousarray(columns["item"].to_numpy(), np.int32),
        timestamps_X=_optional(columns["timestamp"], np.int64),
        ratings_X=_optional(columns["rating"], np.float32),
        url=os.fspath(path) if storage.is_remote(path) else None,
        within_second_X=_optional(columns[WITHIN_SECOND.name], np.int32) if finer else None,
    )


def write(
    path: artefacts.PathLike,
    *,
    name: str,
    interactions: pa.Table,
    items: pa.Table,
    users: pa.Table,
    manifest: dict[str, Any] | None = None,
    overwrite: bool = False,
    finish: Callable[[Dataset], dict[str, Any]] | None = None,
) -> Dataset:
    """Writes a dataset dir atomically, and returns it as `load` would.

    Args:
        path: the folder to make, or its URL.
        name: the dataset's name in prompts; letters, digits, `_` and `-`.
        interactions: columns of INTERACTION_SCHEMA (absent ones become null) and perhaps
            WITHIN_SECOND, without nulls, already sorted by user, then time.
        items: columns of ITEM_SCHEMA (absent ones become null); row i is item i.
        users: columns of USER_SCHEMA; row u is user u.
        manifest: further entries for `dataset.json` (filters, sources, ties, rejected rows).
        overwrite: replace an existing dataset.
        finish: called with the dataset before it gets its final place; gives last entries for the
            manifest (the leakage audit). If it raises, nothing is left.

    Raises:
        UserError: the folder exists, or the tables are empty.
        ValueError: the tables break the format (numbers not dense, rows not sorted by user).
    """
    finer = WITHIN_SECOND.name in interactions.column_names
    schema = INTERACTION_SCHEMA.append(WITHIN_SECOND) if finer else INTERACTION_SCHEMA
    interactions = _conform(interactions, schema)
    items = _conform(items, ITEM_SCHEMA)
    users = _conform(users, USER_SCHEMA)
    if not interactions.num_rows:
        raise UserError("no interaction is left; check the filters and the input", file=str(path))
    _check_dense(items["item"].to_numpy(), "items.item")
    _check_dense(users["user"].to_numpy(), "users.user")
    user_X, item_X = interactions["user"].to_numpy(), interactions["item"].to_numpy()
    if (np.diff(user_X) < 0).any():
        raise ValueError("interactions are not sorted by user")
    if (
        user_X[0] < 0
        or user_X[-1] >= users.num_rows
        or item_X.min() < 0
        or item_X.max() >= items.num_rows
    ):
        raise ValueError("interactions name a user or an item that the tables lack")
    with artefacts.atomic_directory(path, overwrite=overwrite, manifests=(MANIFEST,)) as folder:
        for file, table in zip(TABLES, (interactions, items, users), strict=True):
            pq.write_table(table, folder / file, compression="zstd")
        checksums = {file: artefacts.sha256_of_file(folder / file) for file in TABLES}
        content = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "counts": {
                "users": users.num_rows,
                "items": items.num_rows,
                "interactions": interactions.num_rows,
            },
            **(manifest or {}),
            "files": checksums,
            "fingerprint_of_tables": (tables := _fingerprint(interactions, items, users)),
            "fingerprint": _with_split(tables, (manifest or {}).get("split", {})),
        }
        if finish is not None:
            artefacts.write_json(folder / MANIFEST, content)
            content |= finish(load(folder, verify=False))
        artefacts.write_json(folder / MANIFEST, content)
    return load(path, verify=False)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _check_dense(numbers: np.ndarray, what: str) -> None:
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise ValueError(f"{what} is not 0, 1, 2, ... in row order")


def _with_split(tables: str, split: dict[str, Any]) -> str:
    """The fingerprint of tables and split: leave-one-out adds nothing, a temporal split its dates."""
    if split.get("protocol", "leave_one_out") == "leave_one_out":
        return tables
    return hashlib.sha256((tables + json.dumps(split, sort_keys=True)).encode()).hexdigest()


def _fingerprint(*tables: pa.Table) -> str:
    """SHA-256 of the tables' contents, independent of Parquet's encoding and version."""
    digest = hashlib.sha256()
    for table in tables:
        table = table.combine_chunks()
        for batch in table.to_batches(max_chunksize=1 << 20):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_batch(batch)
            digest.update(sink.getvalue())
    return digest.hexdigest()


def _optional(column: pa.ChunkedArray, dtype: Any) -> np.ndarray | None:
    if column.null_count == len(column):
        return None
    if column.null_count:
        column = column.cast(pa.float64()) if dtype is not np.int64 else column.fill_null(-1)
    return np.ascontiguousarray(column.to_numpy(), dtype)


def _read_column(path: pathlib.Path, column: str) -> list[Any]:
    return pq.read_table(path, columns=[column])[column].to_pylist()
