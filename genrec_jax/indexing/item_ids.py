"""The item ids artefact: `item_ids.parquet` and `index.json`, between `index` and everything after it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec_jax import storage
from genrec_jax.data import artefacts
from genrec_jax.data.dataset import Dataset
from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary

FORMAT_VERSION = 1
TABLE = "item_ids.parquet"
MANIFEST = "index.json"
VOCABULARY = "vocabulary.model"
PREFIX = "item_"

SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("source_id", pa.string()),
        ("title", pa.string()),
        ("item_id", pa.string()),
    ]
)
_REMEDY = "Run `genrec index` again"


@dataclasses.dataclass(frozen=True)
class ItemIds:
    """The item ids of one dataset: the texts that the model reads and writes.

    Attributes:
        texts: the id of item i, such as `item_1001` or `item_<CI0><CI3>`.
        method: `random`, `sequential`, `collaborative`, `independent`, `short` or `file`.
        parameters: the method's settings, as they are written to `index.json`.
        seed: the seed that the method drew with.
        added_tokens: tokens that a vocabulary needs for these ids, in their order.
        dataset_name: of the dataset they belong to.
        dataset_fingerprint: of the same.
        titles: the title of each item, None where the source has none; as read from an index.
    """

    texts: tuple[str, ...]
    method: str
    parameters: dict[str, Any]
    seed: int
    added_tokens: tuple[str, ...]
    dataset_name: str
    dataset_fingerprint: str
    titles: tuple[str | None, ...] = ()

    @property
    def num_items(self) -> int:
        """Items of the catalogue, cold ones included."""
        return len(self.texts)

    @property
    def ordered(self) -> bool:
        """Whether a model can tell the ids' order: not where each is one token, which has no neighbours."""
        return self.method != "independent"

    def check_dataset(self, dataset: Dataset) -> None:
        """Raises `UserError` unless these ids were made from exactly this dataset."""
        if self.dataset_fingerprint != dataset.fingerprint:
            raise UserError(
                f"the item ids were made from another version of {self.dataset_name!r} (fingerprint"
                f" {self.dataset_fingerprint[:12]}, this one's is {dataset.fingerprint[:12]})."
                f" {_REMEDY} on this dataset",
                file=dataset.location,
            )


def write(
    index_dir: artefacts.PathLike,
    item_ids: ItemIds,
    dataset: Dataset,
    *,
    vocabulary: Vocabulary,
    vocabulary_file: str = VOCABULARY,
    audit: Sequence[dict[str, Any]] = (),
    details: dict[str, Any] | None = None,
) -> None:
    """Writes `item_ids.parquet` and `index.json` into an existing folder.

    The vocabulary itself is written by the caller, at `vocabulary_file` relative to `index_dir`.

    Args:
        index_dir: the folder; make it with `artefacts.atomic_directory`.
        item_ids: what to write.
        dataset: what they were made from.
        vocabulary: the vocabulary that reads them.
        vocabulary_file: where it lies.
        audit: results of the leakage audit.
        details: further entries for `index.json`.
    """
    folder = pathlib.Path(index_dir)
    table = pa.table(
        [
            pa.array(range(item_ids.num_items), pa.int32()),
            pa.array(dataset.item_source_ids, pa.string()),
            pa.array(dataset.item_titles, pa.string()),
            pa.array(item_ids.texts, pa.string()),
        ],
        schema=SCHEMA,
    )
    with artefacts.atomic_file(folder / TABLE) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    artefacts.write_json(
        folder / MANIFEST,
        {
            "format_version": FORMAT_VERSION,
            "dataset": {
                "name": item_ids.dataset_name,
                "fingerprint": item_ids.dataset_fingerprint,
            },
            "method": item_ids.method,
            "parameters": item_ids.parameters,
            "seed": item_ids.seed,
            "added_tokens": list(item_ids.added_tokens),
            "counts": {"items": item_ids.num_items},
            **(details or {}),
            "vocabulary": {
                "file": vocabulary_file,
                "sha256": vocabulary.sha256,
                "size": vocabulary.size,
            },
            "files": {TABLE: artefacts.sha256_of_file(folder / TABLE)},
            "audit": list(audit),
        },
    )


def load(index_dir: artefacts.PathLike, *, verify: bool = True) -> ItemIds:
    """Reads the item ids of one dataset.

    Args:
        index_dir: a folder with `item_ids.parquet` and `index.json`, or the URL of one.
        verify: check the table against the manifest's checksum.

    Raises:
        UserError: no item ids there, another format version, or a damaged table.
    """
    folder = storage.local_copy(index_dir)
    manifest = read_manifest(folder)
    table_path = folder / TABLE
    if not table_path.exists():
        raise UserError(f"missing from the item ids. {_REMEDY}", file=str(table_path))
    if verify and artefacts.sha256_of_file(table_path) != manifest["files"][TABLE]:
        raise UserError(
            f"its checksum is not the manifest's: the file changed after it was written. {_REMEDY}",
            file=str(table_path),
        )
    table = pq.read_table(table_path, columns=["item_id", "title"])
    return ItemIds(
        texts=tuple(table["item_id"].to_pylist()),
        method=manifest["method"],
        parameters=manifest["parameters"],
        seed=manifest["seed"],
        added_tokens=tuple(manifest["added_tokens"]),
        dataset_name=manifest["dataset"]["name"],
        dataset_fingerprint=manifest["dataset"]["fingerprint"],
        titles=tuple(table["title"].to_pylist()),
    )


def load_vocabulary(index_dir: artefacts.PathLike) -> Vocabulary:
    """Reads the vocabulary that an index names (in a folder of several datasets, the shared one).

    Raises:
        UserError: it is missing, or is not the one the ids were checked with.
    """
    folder = storage.local_copy(index_dir)
    entry = read_manifest(folder)["vocabulary"]
    vocabulary = Vocabulary(folder / entry["file"])
    if vocabulary.sha256 != entry["sha256"]:
        raise UserError(
            f"is not the vocabulary these ids were checked with: its checksum differs. {_REMEDY}",
            file=str(folder / entry["file"]),
        )
    return vocabulary


def read_manifest(index_dir: artefacts.PathLike) -> dict[str, Any]:
    """The parsed `index.json`, its format version checked."""
    path = storage.local_copy(index_dir) / MANIFEST
    manifest = artefacts.read_json(
        path, wanted="the manifest of item ids that `genrec index` wrote", remedy=_REMEDY
    )
    artefacts.check_version(
        manifest.get("format_version"), FORMAT_VERSION, path=path, remedy=_REMEDY
    )
    return manifest
