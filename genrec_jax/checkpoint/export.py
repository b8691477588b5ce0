"""Parameters of a run or of imported weights -> a Hugging Face folder, or a T5X checkpoint."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import tensorstore
from flax import nnx, serialization
from jax.sharding import Mesh

from genrec_jax.checkpoint import foreign_config, hf_tokenizer, restore, tensor_files, weight_names
from genrec_jax.checkpoint.import_weights import WHOLE_WORDS, WHOLE_WORDS_FILE
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.checkpoint.weight_names import Format
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as mesh_lib

Target = Literal["hugging_face", "t5x"]
SHARD_BYTES = 5_000_000_000
MARK = "genrec_export.json"
"""The file that says that a folder was written here, so that `overwrite` replaces no other."""
MIN_FACTORED = 128  # T5X's Adafactor factors a matrix whose both sides are at least this


@dataclasses.dataclass(frozen=True)
class Exportable:
    """The model to be exported.

    Attributes:
        config: the network.
        params: its parameters, by '/'-joined name; of those on an accelerator, each is brought to this host
            when it is asked for.
        vocabulary: its vocabulary; None where imported weights came without one.
    """

    config: T5Config
    params: Mapping[str, jax.Array]
    vocabulary: Vocabulary | None


def load(path: artefacts.PathLike, checkpoint: restore.Which = "best") -> Exportable:
    """Opens what to export, in this host's memory: a network may not fit one accelerator.

    Args:
        path: a run dir, or what `genrec import-weights` wrote.
        checkpoint: which of a run's: `best` on validation, `latest`, or a step.

    Raises:
        UserError: it is neither, or has no such checkpoint.
    """
    if ImportedWeights.exists(path):
        weights = ImportedWeights.load(path)
        params = weights.restore_params(_host_mesh())
        return Exportable(weights.model_config, named(params), weights.vocabulary)
    run_dir = RunDir.load(path)
    params = restore.restore_params(run_dir, checkpoint, mesh=_host_mesh())
    return Exportable(run_dir.model_config, named(params), run_dir.vocabulary)


def _host_mesh() -> Mesh:
    try:
        return mesh_lib.make_mesh(1, 1, 1, jax.local_devices(backend="cpu")[:1])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return mesh_lib.single_device_mesh()


def named(params: nnx.State) -> dict[str, jax.Array]:
    """Parameters by '/'-joined name."""
    flat = nnx.to_flat_state(params)
    return {"/".join(map(str, path)): variable.get_value() for path, variable in flat}


def export(
    path: artefacts.PathLike,
    output: artefacts.PathLike,
    *,
    to: Target = "hugging_face",
    checkpoint: restore.Which = "best",
    overwrite: bool = False,
) -> Exportable:
    """Writes what `path` holds for another framework.

    Args:
        path: a run dir, or what `genrec import-weights` wrote.
        output: the folder to write. For T5X, `checkpoint_0` goes into it.
        to: `hugging_face` or `t5x`.
        checkpoint: which of a run's checkpoints.
        overwrite: replace an earlier export.

    Raises:
        UserError: as `load`; the network is none that the other framework has; or a folder in the way.
    """
    ours = (pathlib.Path(output) / MARK).is_file()
    kind = "an export for Hugging Face or T5X"
    artefacts.check_output(output, overwrite=overwrite, ours=ours, kind=kind)
    what = load(path, checkpoint)
    with artefacts.atomic_directory(output, overwrite=overwrite) as folder:
        artefacts.write_json(folder / MARK, {"to": to})
        if to == "hugging_face":
            write_hugging_face(folder, what)
        else:
            write_t5x(folder / "checkpoint_0", what)
            if what.vocabulary is not None:
                what.vocabulary.save(folder / "vocabulary.model")
    return what


def write_hugging_face(
    folder: pathlib.Path, what: Exportable, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes safetensors, configuration, generation configuration and tokenizer files.

    Rows that only pad the vocabulary are left out. A tied head whose input is not scaled becomes an
    `lm_head.weight` of its own that equals the embedding: so says the reading rule.

    Args:
        folder: an empty folder.
        what: what to write.
        shard_bytes: a file grows no larger than this, unless one array alone is.
    """
    config = what.config
    content = foreign_config.to_hugging_face(config)
    shapes = weight_names.their_shapes("hugging_face", config)
    if config.tied_head and not config.scale_head_input:
        shapes["lm_head.weight"] = shapes["shared.weight"]
    values = _Values("hugging_face", what)
    shards = _shards(shapes, shard_bytes)
    if len(shards) == 1:
        tensor_files.write_safetensors(folder / tensor_files.SAFETENSORS, shapes, values)
    else:
        weight_map = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            part = {name: shapes[name] for name in names}
            tensor_files.write_safetensors(folder / file, part, values)
            weight_map |= dict.fromkeys(names, file)
        size = sum(4 * math.prod(shape) for shape in shapes.values())
        artefacts.write_json(
            folder / tensor_files.SAFETENSORS_INDEX,
            {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))},
        )
    artefacts.write_json(folder / foreign_config.HF_CONFIG, content)
    artefacts.write_json(
        folder / "generation_config.json",
        {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    )
    if what.vocabulary is not None:
        hf_tokenizer.write(folder, what.vocabulary)
    _write_whole_words(folder, what)


def write_t5x(folder: pathlib.Path, what: Exportable) -> None:
    """Writes a checkpoint of T5X's own format: `checkpoint` (msgpack) and a zarr folder for each array.

    It is the state of a run at step 0, with an Adafactor that has seen nothing (factored as T5X's
    `standard_logical_factor_rules` say), so that T5X's training restores it whole.

    Args:
        folder: `checkpoint_0`; made here.
        what: what to write.

    Raises:
        UserError: T5X has no such network.
    """
    config = what.config
    if config.tied_head != config.scale_head_input:
        raise UserError(
            "T5X scales the input of a tied head, and of no other; this network has tied_head"
            f" {config.tied_head} and scale_head_input {config.scale_head_input}"
        )
    fixed = {"norm_epsilon": 1e-6, "relative_max_distance": 128}
    for field, wanted in fixed.items():
        if getattr(config, field) != wanted:
            raise UserError(
                f"T5X fixes {field} at {wanted}; this network has {getattr(config, field)}"
            )
    format: Format = "t5x_scanned" if config.relative_bias_per_layer else "t5x"
    shapes, values = weight_names.their_shapes(format, config), _Values(format, what)
    with artefacts.disk_errors(folder):
        folder.mkdir(parents=True)
        target, states = {}, {}
        for name, shape in shapes.items():
            target[name] = _write_zarr(folder, f"target.{name.replace('/', '.')}", values(name))
            states[name] = _fresh_statistics(folder, name, values.axes(name), shape)
        content = {
            "version": 3,
            "optimizer": {
                "target": _nested(target),
                "state": {"step": np.int32(0), "param_states": _nested(states)},
            },
        }
        (folder / tensor_files.T5X_FILE).write_bytes(serialization.msgpack_serialize(content))
    _write_whole_words(folder, what)


class _Values:
    """Gives the arrays of theirs by name, each brought to this host when its turn comes."""

    def __init__(self, format: Format, what: Exportable):
        self._what = what
        self._lines = {}
        for line in weight_names.table_of(format, what.config):
            layers = weight_names.layers_of(line, what.config)
            for number in range(layers if line.per_layer else 1):
                self._lines[line.theirs.format(n=number)] = (line, number)

    def __call__(self, theirs: str) -> np.ndarray:
        if theirs == "lm_head.weight" and self._what.config.tied_head:
            theirs = "shared.weight"
        line, number = self._lines[theirs]
        array = self._what.params[line.ours]
        if line.per_layer:
            array = jax.lax.dynamic_slice_in_dim(array, np.int32(number), 1)
        ((_, value),) = weight_names.to_theirs(line, np.asarray(array), self._what.config)
        return value

    def axes(self, theirs: str) -> list[str]:
        """The order of dimensions there."""
        return self._lines[theirs][0].axes.split()


def _shards(shapes: Mapping[str, tuple[int, ...]], limit: int) -> list[list[str]]:
    """Names in order, cut where the next array would not fit."""
    shards: list[list[str]] = [[]]
    used = 0
    for name in sorted(shapes):
        size = 4 * math.prod(shapes[name])
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _write_zarr(folder: pathlib.Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes one array as zarr; what T5X's msgpack file says of it."""
    metadata = {
        "shape": list(array.shape),
        "chunks": list(array.shape),
        "compressor": {"id": "gzip", "level": 1},
    }
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder.absolute() / name}/"},
        "metadata": metadata | {"dtype": "<f4"},
    }
    opened = tensorstore.open(spec, create=True).result()
    opened.write(np.asarray(array, np.float32)).result()
    return {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "file", "path": f"{name}/"},
        "metadata": metadata,
    }


def _fresh_statistics(
    folder: pathlib.Path, name: str, axes: list[str], shape: tuple[int, ...]
) -> dict[str, Any]:
    """The statistics of an Adafactor that has seen nothing: a row and a column of zeros, or all zeros."""
    none = np.zeros(1, np.float32)
    statistics: dict[str, Any] = dict.fromkeys(("m", "v", "v_row", "v_col"), none)
    factors = _factors(axes, shape)
    if factors is None:
        place = f"state.param_states.{name.replace('/', '.')}.v"
        statistics["v"] = _write_zarr(folder, place, np.zeros(shape, np.float32))
    else:
        rows, columns = factors
        statistics["v_row"] = np.zeros(np.delete(shape, columns), np.float32)
        statistics["v_col"] = np.zeros(np.delete(shape, rows), np.float32)
    return statistics


def _factors(
    axes: list[str], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The row's and the column's dimensions where T5X's Adafactor factors an array.

    An array with a dimension of layers goes by T5X's rules, whatever its size: the residual stream is the
    row, what it is projected to is the column, and every layer has its own. Any other array goes by size.
    """
    if "N" in axes:
        rows = tuple(place for place, axis in enumerate(axes) if axis == "D")
        columns = tuple(place for place, axis in enumerate(axes) if axis in ("F", "H", "K"))
        return (rows, columns) if rows and columns else None
    if len(shape) == 2 and min(shape) >= MIN_FACTORED:
        smaller, larger = (int(place) for place in np.argsort(shape, stable=True))
        return (smaller,), (larger,)
    return None


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def _write_whole_words(folder: pathlib.Path, what: Exportable) -> None:
    if what.config.whole_word_embedding:
        table_WD = np.asarray(what.params[WHOLE_WORDS])
        shapes = {WHOLE_WORDS: table_WD.shape}
        tensor_files.write_safetensors(folder / WHOLE_WORDS_FILE, shapes, lambda _: table_WD)
