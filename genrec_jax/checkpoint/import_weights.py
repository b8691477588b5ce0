"""Weights of Hugging Face and T5X -> our parameters, array by array; each device gets only its part.

A host reads no more of the files than its devices' parts. A part is filled straight from the mapped file,
one layer at a time; on a CPU the filled memory becomes the parameter without another copy.
"""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from genrec_jax import storage
from genrec_jax.checkpoint import filling, foreign_config, imported, tensor_files, weight_names
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.checkpoint.tensor_files import T5XCheckpoint, TensorSource
from genrec_jax.checkpoint.weight_names import Format, Index, Line
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.indexing import t5_vocabulary
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import hosts
from genrec_jax.parallel import mesh as mesh_lib

SPIECE = "spiece.model"
ADDED_TOKENS, TOKENIZER_CONFIG = "added_tokens.json", "tokenizer_config.json"
WHOLE_WORDS_FILE = "whole_word_embedding.safetensors"
WHOLE_WORDS = "whole_word_embedding"


@dataclasses.dataclass(frozen=True)
class ForeignWeights:
    """An opened folder of another framework's weights, checked against the table of names.

    Attributes:
        folder: the folder.
        format: whose names it has.
        config: the network.
        source: its arrays.
        lines: parameter of ours -> line of the table.
        whole_words: the whole-word embedding, where our own export put one beside the weights.
    """

    folder: pathlib.Path
    format: Format
    config: T5Config
    source: TensorSource
    lines: dict[str, Line]
    whole_words: np.ndarray | None

    @classmethod
    def open(cls, folder: artefacts.PathLike) -> "ForeignWeights":
        """Opens a folder; no array is read yet.

        Args:
            folder: a Hugging Face folder (safetensors, in one file or sharded) or a T5X checkpoint
                (`checkpoint_<step>`, native or Orbax).

        Raises:
            UserError: it is neither, is damaged, or its arrays are not exactly those of a T5; the message
                lists every array too many, too few or of another shape.
        """
        if storage.is_remote(folder):
            raise UserError(
                "is a URL; weights are read from a folder. Copy it here first: `gcloud storage cp -r"
                f" {folder} .`",
                file=str(folder),
            )
        path = pathlib.Path(folder)
        tensor_files.refuse_file(path)
        if not path.is_dir():
            raise UserError(
                "is not a folder; wanted a Hugging Face folder or a T5X checkpoint", file=str(path)
            )
        if T5XCheckpoint.is_one(path):
            source: TensorSource = T5XCheckpoint(path)
            format, config = foreign_config.t5x_config(source.shapes, file=str(path))
            foreign_config.check_t5x_activations(path, config)
        else:
            source = tensor_files.open_hugging_face(path)
            format, config = "hugging_face", foreign_config.hugging_face_config(path, source)
        found = dict(source.shapes)
        if format == "hugging_face" and config.tied_head:
            found.pop("lm_head.weight", None)  # a copy of the embedding
        weight_names.check(format, config, found, file=str(path))
        whole_words = None
        if (path / WHOLE_WORDS_FILE).is_file():
            whole_words = tensor_files.read_one(path / WHOLE_WORDS_FILE)[WHOLE_WORDS]
            config = dataclasses.replace(
                config, whole_word_embedding=True, max_whole_words=len(whole_words)
            )
        lines = {line.ours: line for line in weight_names.table_of(format, config)}
        return cls(path, format, config, source, lines, whole_words)

    def fill(self, name: str, index: Index, out: np.ndarray) -> None:
        """Fills a part of one parameter; rows beyond the real tokens are zero.

        Args:
            name: the parameter.
            index: which part, every slice with start and stop.
            out: where to; float32 of the part's shape.
        """
        if name == WHOLE_WORDS:
            assert self.whole_words is not None
            out[...] = self.whole_words[index]
            return
        line = self.lines[name]
        if line.our_axes[0] == "V":
            rows = slice(index[0].start, min(index[0].stop, self.config.vocab_size))
            out[max(0, rows.stop - rows.start) :] = 0
            if rows.stop > rows.start:
                self._copy(line, line.theirs, (rows, *index[1:]), out[: rows.stop - rows.start])
        elif line.per_layer:
            for place, layer in enumerate(range(index[0].start, index[0].stop)):
                self._copy(line, line.theirs.format(n=layer), index[1:], out[place])
        else:
            self._copy(line, line.theirs, index, out)

    def _copy(self, line: Line, theirs: str, index: Index, out: np.ndarray) -> None:
        part, joined = weight_names.their_index(line, index, self.config.head_dim)
        np.copyto(out, weight_names.to_ours(line, self.source.read(theirs, part), joined=joined))

    def params(self, mesh: Mesh | None = None) -> nnx.State:
        """The parameters, born sharded; this host's first device when no mesh is given."""
        return filling.make_params(self.config, mesh or mesh_lib.single_device_mesh(), self.fill)


def find_vocabulary(folder: pathlib.Path) -> Vocabulary | None:
    """The vocabulary beside some weights: `spiece.model`, with T5's sentinels and what was added to it.

    Raises:
        UserError: tokens were added at numbers that do not follow on.
    """
    file = folder / SPIECE
    if not file.is_file():
        return None
    base = Vocabulary(file)
    return extend_vocabulary(base, added_tokens(folder), file=str(folder))


def extend_vocabulary(
    base: Vocabulary, added: dict[int, str], *, file: str | None = None
) -> Vocabulary:
    """T5's bare pieces with the sentinels and with tokens added at the numbers that they say."""
    extended = t5_vocabulary.extend(base, ()) if base.size == t5_vocabulary.PIECES else base
    new = {number: token for number, token in sorted(added.items()) if number >= extended.size}
    if not new:
        return extended
    wanted = list(range(extended.size, extended.size + len(new)))
    if list(new) != wanted:
        raise UserError(
            f"adds tokens at the numbers {list(new)[:4]}...; wanted them to follow on the {extended.size}"
            " pieces of its spiece.model without a gap",
            file=file,
        )
    return t5_vocabulary.extend(extended, list(new.values()))


def added_tokens(folder: pathlib.Path) -> dict[int, str]:
    """Number -> token of the tokens that a Hugging Face folder adds to its `spiece.model`."""
    found: dict[int, str] = {}
    remedy = "Download it again, or remove it"
    if (folder / ADDED_TOKENS).is_file():
        content = artefacts.read_json(
            folder / ADDED_TOKENS, wanted="the added tokens", remedy=remedy
        )
        found |= {int(number): token for token, number in content.items()}
    if (folder / TOKENIZER_CONFIG).is_file():
        content = artefacts.read_json(
            folder / TOKENIZER_CONFIG, wanted="the tokenizer's settings", remedy=remedy
        )
        decoder = content.get("added_tokens_decoder", {})
        found |= {int(number): entry["content"] for number, entry in decoder.items()}
    return found


def import_weights(
    folder: artefacts.PathLike,
    output: artefacts.PathLike,
    *,
    vocabulary: artefacts.PathLike | None = None,
    overwrite: bool = False,
) -> ImportedWeights:
    """Turns a folder of weights into one that `INITIAL_CHECKPOINT_PATH` takes.

    On several hosts each of them calls it. All devices of the job share each parameter meanwhile, and
    each host reads only what its devices hold.

    Args:
        folder: a Hugging Face folder or a T5X checkpoint.
        output: the folder to write.
        vocabulary: the `spiece.model` that the weights were trained with; the one in `folder` when not
            given.
        overwrite: replace an earlier import.

    Raises:
        UserError: as `ForeignWeights.open`; `output` is a URL, exists or cannot be written; the
            vocabulary has more tokens than the embedding has rows.
    """
    if storage.is_remote(output):
        url, local = str(output).rstrip("/"), f"weights/{storage.last_name(output)}"
        raise UserError(
            f"is a URL; weights are imported into a local folder. Import them to one (--output {local}) and"
            f" copy it to the bucket (`gcloud storage cp -r {local}/* {url}/`); INITIAL_CHECKPOINT_PATH may"
            " then be this URL",
            file=str(output),
        )
    target = pathlib.Path(output).absolute()
    ours = ImportedWeights.exists(target)
    artefacts.check_output(target, overwrite=overwrite, ours=ours, kind="imported weights")
    weights = ForeignWeights.open(folder)
    words = find_vocabulary(weights.folder)
    if vocabulary is not None:
        words = extend_vocabulary(Vocabulary(vocabulary), added_tokens(weights.folder))
    if words is not None and words.size > weights.config.vocab_size:
        raise UserError(
            f"the vocabulary has {words.size} tokens and the embedding {weights.config.vocab_size} rows;"
            " wanted the vocabulary that the weights were trained with",
            file=str(words.path or weights.folder),
        )
    params = weights.params(mesh_lib.make_mesh(1, jax.device_count(), 1))
    # Host 0 makes up the name, which no other import has, also one into the same folder.
    temporary = pathlib.Path(hosts.from_first(lambda: _temporary(target)))
    try:
        about = {"folder": weights.folder.name, "format": weights.format}
        with artefacts.disk_errors(target):
            imported.write(temporary, params, weights.config, vocabulary=words, source=about)
        hosts.from_first(lambda: _put_in_place(temporary, target, overwrite))
    finally:
        if jax.process_index() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
    return ImportedWeights.load(target)


def _temporary(target: pathlib.Path) -> str:
    with artefacts.disk_errors(target):
        return str(artefacts.temporary_folder(target))


def _put_in_place(temporary: pathlib.Path, target: pathlib.Path, overwrite: bool) -> None:
    with artefacts.disk_errors(target):
        if overwrite:
            artefacts.replace_folder(temporary, target)
            return
        try:
            temporary.rename(target)
        except OSError as error:
            if not target.exists():
                raise
            raise UserError(
                "is there now: somebody else wrote it while these weights were imported, and it is left as"
                " it is. Use it, or choose another --output",
                file=str(target),
            ) from error
