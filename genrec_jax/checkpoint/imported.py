"""The folder that `genrec import-weights` writes: parameters as a run has them, and a vocabulary.

weights.json          what network, from what kind of folder; written last
vocabulary.model      the vocabulary, where one was found
checkpoints/0/        the parameters, as a run's checkpoint has them
"""

import dataclasses
import datetime
import functools
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh

from genrec_jax.checkpoint import manifest, restore, store
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as mesh_lib

FORMAT_VERSION = 1
MANIFEST = "weights.json"
VOCABULARY = "vocabulary.model"
CHECKPOINT = pathlib.PurePosixPath("checkpoints/0")
REMEDY = "Run `genrec import-weights` again"
# Orbax copies what it is about to write; this much at a time, in GiB.
SAVED_AT_ONCE = 1


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
        return (pathlib.Path(path) / MANIFEST).is_file()

    @classmethod
    def load(cls, path: artefacts.PathLike) -> "ImportedWeights":
        """Opens a folder.

        Raises:
            UserError: there is none, or one of another format version.
        """
        folder = pathlib.Path(path)
        found = artefacts.read_json(
            folder / MANIFEST, wanted="the description of imported weights", remedy=REMEDY
        )
        artefacts.check_version(
            found.get("format_version"), FORMAT_VERSION, path=folder / MANIFEST, remedy=REMEDY
        )
        return cls(folder, found)

    @functools.cached_property
    def model_config(self) -> T5Config:
        """The network."""
        fields = dict(self.manifest["model"])
        fields["mlp_activations"] = tuple(fields["mlp_activations"])
        return T5Config(**fields)

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

        Args:
            mesh: where they go; this host's first device when not given.

        Raises:
            UserError: the checkpoint is damaged.
        """
        folder = self.path.absolute() / CHECKPOINT
        problem = manifest.damage(folder, only=store.PARAMS)
        if problem is not None:
            raise UserError(f"is damaged: {problem}. {REMEDY}", file=str(folder))
        return restore.restore_folder(
            folder, self.model_config, mesh or mesh_lib.single_device_mesh()
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
    named = store.name_leaves({store.PARAMS: params})
    checkpoint = folder.absolute() / CHECKPOINT
    params_handler: Any = ocp.PyTreeCheckpointHandler(save_concurrent_gb=SAVED_AT_ONCE)
    handlers = {store.PARAMS: params_handler}
    handler = ocp.CompositeCheckpointHandler(**handlers)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(
            checkpoint, args=ocp.args.Composite(**{store.PARAMS: ocp.args.PyTreeSave(named)})
        )
    if jax.process_index() == 0:
        manifest.write(checkpoint, step=0, metrics={}, progress={})
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
