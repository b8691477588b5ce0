"""The folder that `genrec import-weights` writes: a network's parameters, and its vocabulary.

weights.json          what network, from what kind of folder; written last
vocabulary.model      the vocabulary, where one was found
parameters/           the parameters in pieces (`checkpoint.pieces`), and a manifest of checksums
"""

import dataclasses
import datetime
import functools
import pathlib
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from genrec_jax import storage
from genrec_jax.checkpoint import filling, manifest, pieces
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import hosts
from genrec_jax.parallel import mesh as mesh_lib

FORMAT_VERSION = 2
MANIFEST = "weights.json"
VOCABULARY = "vocabulary.model"
PARAMETERS = "parameters"
REMEDY = "Run `genrec import-weights` again"


@dataclasses.dataclass(frozen=True)
class ImportedWeights:
    """An opened folder of imported weights.

    Attributes:
        path: the folder.
        manifest: the parsed `weights.json`.
    """

    path: pathlib.Path
    manifest: dict[str, Any]

    @classmethod
    def exists(cls, path: artefacts.PathLike) -> bool:
        """Whether `path` is a complete folder of imported weights."""
        return storage.exists(storage.join(path, MANIFEST))

    @classmethod
    def load(cls, path: artefacts.PathLike) -> "ImportedWeights":
        """Opens a folder.

        Raises:
            UserError: there is none, or one of another format version.
        """
        folder, file = storage.local_copy(path), storage.join(path, MANIFEST)
        found = artefacts.read_json(
            folder / MANIFEST,
            wanted="the description of imported weights",
            remedy=REMEDY,
            shown=file,
        )
        artefacts.check_version(
            found.get("format_version"), FORMAT_VERSION, path=file, remedy=REMEDY
        )
        return cls(folder, found)

    @functools.cached_property
    def model_config(self) -> T5Config:
        """The network."""
        return T5Config.from_json(self.manifest["model"])

    @functools.cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary, its checksum checked; None where none was found."""
        entry = self.manifest["vocabulary"]
        if entry is None:
            return None
        found = Vocabulary(self.path / VOCABULARY)
        if found.sha256 != entry["sha256"]:
            raise UserError(
                f"is not the vocabulary that was imported: its checksum differs. {REMEDY}",
                file=str(self.path / VOCABULARY),
            )
        return found

    def restore_params(self, mesh: Mesh | None = None) -> nnx.State:
        """The parameters, bit for bit, each array straight onto its devices.

        On several hosts each of them calls it. Host 0 looks at the checksums; each reads its own parts.

        Args:
            mesh: where they go; this host's first device when not given.

        Raises:
            UserError: the parameters are damaged.
        """
        folder = self.path / PARAMETERS
        problem = hosts.from_first(lambda: manifest.damage(folder))
        if problem is not None:
            raise UserError(f"is damaged: {problem}. {REMEDY}", file=str(folder))
        return filling.make_params(
            self.model_config, mesh or mesh_lib.single_device_mesh(), pieces.Pieces(folder).fill
        )


def write(
    folder: pathlib.Path,
    params: nnx.State,
    config: T5Config,
    *,
    vocabulary: Vocabulary | None,
    source: dict[str, Any],
) -> None:
    """Writes a folder of imported weights; on several hosts each of them calls it.

    Args:
        folder: an empty folder that all hosts see.
        params: the parameters.
        config: the network.
        vocabulary: its vocabulary, where there is one.
        source: where the weights came from, for `weights.json`.
    """
    parameters = folder / PARAMETERS
    parameters.mkdir(exist_ok=True)
    pieces.write(parameters, params)
    hosts.barrier()
    if jax.process_index() == 0:
        manifest.write(parameters, step=0, metrics={}, progress={})
        entry = None
        if vocabulary is not None:
            vocabulary.save(folder / VOCABULARY)
            entry = {"file": VOCABULARY, "sha256": vocabulary.sha256, "size": vocabulary.size}
        content = {
            "format_version": FORMAT_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "source": source,
            "model": dataclasses.asdict(config),
            "vocabulary": entry,
        }
        artefacts.write_json(folder / MANIFEST, content)
