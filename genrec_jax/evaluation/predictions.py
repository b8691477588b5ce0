"""predictions.parquet: every scored user's list, written as the evaluation goes, never all in memory.

| column | type | |
|---|---|---|
| user | int32 | number in the dataset; null where a SeqIO task's examples belong to no user |
| example | int32 | number in the split of the SeqIO task, unshuffled; null for prompt templates |
| template | string | the prompt, such as `A1`, or the SeqIO task |
| target | int32 | the held-out item |
| rank | int32 | of the target in the list, from 1; 0 where it is missing |
| rank_seen_excluded | int32 | the same once items of the history are struck out; null if unknown |
| items | list of int32 | item numbers, best first |
| item_ids | list of string | the same as the ID texts that the model generated |
| scores | list of float32 | log-probabilities of those, under a length penalty divided (below) |

With `--length-penalty P` a score is the log-probability over the power P of the ID's number of tokens,
end-of-sequence included: what the list is ordered by, and for a P of 1 the mean of the tokens'.

Rows stand in the order they were computed: by template, then by prompt length; rows that an earlier
evaluation left in the same file come last.

references.parquet beside it has the baselines' ranks, for each template and user that they stand beside:

| column | type | |
|---|---|---|
| template, user | string, int32 | as above |
| system | string | such as `popularity` |
| rank | int32 | of the target among all items, or a ranking's candidates, from 1; 0 where it has none |
| rank_seen_excluded | int32 | the same without items of the history; null if unknown |
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32, Int, Int32, Int64

from genrec_jax.data import artefacts

PREDICTIONS_FILE = "predictions.parquet"
REFERENCES_FILE = "references.parquet"
ROWS_PER_GROUP = 8192

SCHEMA = pa.schema(
    [
        ("user", pa.int32()),
        ("example", pa.int32()),
        ("template", pa.string()),
        ("target", pa.int32()),
        ("rank", pa.int32()),
        ("rank_seen_excluded", pa.int32()),
        ("items", pa.list_(pa.int32())),
        ("item_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)

REFERENCES_SCHEMA = pa.schema(
    [
        ("template", pa.string()),
        ("user", pa.int32()),
        ("system", pa.string()),
        ("rank", pa.int32()),
        ("rank_seen_excluded", pa.int32()),
    ]
)


class PredictionWriter:
    """Appends lists to an open file; made by `writing`."""

    def __init__(self, writer: pq.ParquetWriter, item_ids: tuple[str, ...]):
        self._writer = writer
        self._item_ids = pa.array(item_ids, pa.string())
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def append(
        self,
        template: str,
        users_E: Int32[np.ndarray, " E"] | None,
        targets_E: Int32[np.ndarray, " E"],
        ranks_E: Int64[np.ndarray, " E"],
        excluded_ranks_E: Int64[np.ndarray, " E"] | None,
        items_ER: Int32[np.ndarray, "E R"],
        scores_ER: Float32[np.ndarray, "E R"],
        examples_E: Int32[np.ndarray, " E"] | None = None,
    ) -> None:
        """Adds one block of users; empty places of a list (item -1) are left out of it."""
        filled_ER = items_ER >= 0
        count = len(targets_E)

        def column(values_E: np.ndarray | None) -> pa.Array:
            return (
                pa.nulls(count, pa.int32()) if values_E is None else pa.array(values_E, pa.int32())
            )

        offsets = pa.array(np.concatenate([[0], np.cumsum(filled_ER.sum(axis=1))]), pa.int32())
        items = pa.array(items_ER[filled_ER], pa.int32())
        self._waiting.append(
            pa.table(
                [
                    column(users_E),
                    column(examples_E),
                    pa.array([template] * count, pa.string()),
                    column(targets_E),
                    column(ranks_E),
                    column(excluded_ranks_E),
                    pa.ListArray.from_arrays(offsets, items),
                    pa.ListArray.from_arrays(offsets, self._item_ids.take(items)),
                    pa.ListArray.from_arrays(offsets, pa.array(scores_ER[filled_ER])),
                ],
                schema=SCHEMA,
            )
        )
        self._rows += count
        if self._rows >= ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting rows as one row group."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._rows = [], 0


def add_from(
    path: artefacts.PathLike, earlier: artefacts.PathLike, *, without: Sequence[str]
) -> None:
    """Adds the rows of an earlier file, but for those of templates that were scored anew.

    Args:
        path: a predictions.parquet or references.parquet; replaced once all is written.
        earlier: another of the same columns.
        without: templates whose rows are left out.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    schema = pq.read_schema(path)
    with (
        artefacts.atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for source, left_out in ((path, ()), (earlier, without)):
            with pq.ParquetFile(source) as opened:
                for batch in opened.iter_batches(ROWS_PER_GROUP):
                    rows = pa.Table.from_batches([batch])
                    wanted = pa.array(list(left_out), pa.string())
                    known = pc.is_in(rows["template"], value_set=wanted)
                    writer.write_table(rows.filter(pc.invert(known)).cast(schema))


def write_references(
    path: artefacts.PathLike,
    found: Iterable[tuple[str, str, Int64[np.ndarray, " E"], Mapping[str, Int[np.ndarray, " E"]]]],
) -> None:
    """Writes references.parquet.

    Args:
        path: the file to make.
        found: template, system, the users, and under each footing the system's ranks of these.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with (
        artefacts.atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, REFERENCES_SCHEMA, compression="zstd") as writer,
    ):
        for template, system, users_E, footings in found:
            count, excluded_E = len(users_E), footings.get("seen_excluded")
            columns = [
                pa.array([template] * count, pa.string()),
                pa.array(users_E, pa.int32()),
                pa.array([system] * count, pa.string()),
                pa.array(footings["seen_kept"], pa.int32()),
                pa.nulls(count, pa.int32())
                if excluded_E is None
                else pa.array(excluded_E, pa.int32()),
            ]
            writer.write_table(pa.table(columns, schema=REFERENCES_SCHEMA))


def read_rows(path: artefacts.PathLike, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of a file by number, in the order asked for; of the rest only their row groups are read."""
    found: dict[int, dict[str, Any]] = {}
    with pq.ParquetFile(path) as opened:
        first = 0
        for group in range(opened.num_row_groups):
            after = first + opened.metadata.row_group(group).num_rows
            here = [row for row in rows if first <= row < after]
            if here:
                taken = opened.read_row_group(group).take([row - first for row in here])
                found |= zip(here, taken.to_pylist(), strict=True)
            first = after
    return [found[row] for row in rows]


@contextlib.contextmanager
def writing(path: artefacts.PathLike, item_ids: tuple[str, ...]) -> Iterator[PredictionWriter]:
    """Opens predictions.parquet for appending; it appears under its name only when all is written.

    Args:
        path: the file to make.
        item_ids: ID text of item i.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with (
        artefacts.atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        predictions = PredictionWriter(writer, item_ids)
        yield predictions
        predictions.flush()
