"""Arrays in files of other frameworks, read slice by slice: safetensors, T5X's zarr and Orbax's.

Nothing is ever unpickled. Names of T5X's arrays are '/'-joined, below its `target`.
"""

import contextlib
import json
import math
import mmap
import pathlib
import shlex
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
import tensorstore

from genrec_jax.checkpoint.weight_names import Index
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
T5X_FILE = "checkpoint"
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}
MAX_HEADER = 100_000_000
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


@runtime_checkable
class TensorSource(Protocol):
    """Named arrays, read in part."""

    shapes: dict[str, tuple[int, ...]]

    def read(self, name: str, index: Index) -> np.ndarray:
        """A part of an array, in the type it is stored in; possibly a view of the file."""
        ...


class Safetensors:
    """The arrays of one or several safetensors files, as views of the mapped files.

    Attributes:
        shapes: name -> shape.
    """

    def __init__(self, files: list[pathlib.Path]):
        """Reads the headers.

        Raises:
            UserError: a file is missing, cut short or no safetensors file, or holds numbers other than
                float32, float64, float16 and bfloat16.
        """
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._arrays: dict[str, np.ndarray] = {}
        for file in files:
            for name, array in _map_safetensors(file).items():
                self._arrays[name] = array
                self.shapes[name] = array.shape

    def read(self, name: str, index: Index) -> np.ndarray:
        """A view of a part of an array."""
        return self._arrays[name][index]


def open_hugging_face(folder: pathlib.Path) -> Safetensors:
    """The weights of a Hugging Face folder, in one file or in shards.

    Raises:
        UserError: there are none, or only pickled ones, which are never read.
    """
    single, index = folder / SAFETENSORS, folder / SAFETENSORS_INDEX
    if single.is_file():
        return Safetensors([single])
    if index.is_file():
        weight_map = artefacts.read_json(
            index, wanted="the list of shards", remedy="Download it again"
        ).get("weight_map", {})
        files = [folder / name for name in sorted(set(weight_map.values()))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise UserError(
                f"names shards that are not there: {', '.join(absent)}. Download them",
                file=str(index),
            )
        source = Safetensors(files)
        lost = sorted(weight_map.keys() - source.shapes.keys())
        if lost:
            raise UserError(
                f"names arrays that no shard holds: {', '.join(lost)}. Download the shards again",
                file=str(index),
            )
        return source
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise UserError(
            f"holds its weights as a pickle ({pickled[0]}), {_never_read(folder)}", file=str(folder)
        )
    raise UserError(
        f"holds no weights; wanted {SAFETENSORS}, or shards with {SAFETENSORS_INDEX}",
        file=str(folder),
    )


def refuse_file(file: pathlib.Path) -> None:
    """Raises the error for a file in place of a folder; for a pickle it says how to convert it.

    Raises:
        UserError: `file` is one.
    """
    if not file.is_file():
        return
    if file.suffix in PICKLED:
        raise UserError(f"is a pickle, {_never_read(file.parent)}", file=str(file))
    raise UserError(
        f"is a file; wanted the folder of a Hugging Face model or a T5X checkpoint: {file.parent}, if the"
        " rest of it lies there",
        file=str(file),
    )


def _never_read(folder: pathlib.Path) -> str:
    """Why a pickle in a folder is refused, and the commands that convert it."""
    new = folder.parent / f"{folder.resolve().name}_safetensors"
    program = (
        "from transformers import T5ForConditionalGeneration as T5;"
        f" T5.from_pretrained({json.dumps(str(folder))}).save_pretrained({json.dumps(str(new))})"
    )
    old, made = shlex.quote(str(folder)), shlex.quote(str(new))
    return (
        f"which can run any code and is never read; wanted {SAFETENSORS}. To make it, convert the folder"
        " (config.json with pytorch_model.bin) once where PyTorch is installed, and copy the tokenizer's"
        f" files, which that leaves out: python -c {shlex.quote(program)} && cp {old}/spiece.model"
        f" {old}/*token*.json {made}"
    )


def read_one(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of one safetensors file, as views of the mapped file."""
    return _map_safetensors(file)


def write_safetensors(
    file: pathlib.Path, arrays: Mapping[str, tuple[int, ...]], values: Callable[[str], np.ndarray]
) -> None:
    """Writes float32 arrays, one in memory at a time.

    Args:
        file: where.
        arrays: name -> shape.
        values: gives each array when its turn comes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(arrays):
        size = 4 * math.prod(arrays[name])
        header[name] = {
            "dtype": "F32",
            "shape": list(arrays[name]),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with artefacts.disk_errors(file), file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(arrays):
            array = np.ascontiguousarray(values(name), "<f4")
            assert array.shape == tuple(arrays[name]), name
            out.write(array.data if array.ndim else array.tobytes())


def _map_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    broken = "Download it again"
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > min(MAX_HEADER, size - 8):
                raise ValueError(f"its header claims {length} bytes of {size}")
            header = json.loads(opened.read(length))
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror}); wanted a safetensors file", file=str(file)
        ) from error
    except (struct.error, ValueError) as error:
        raise UserError(f"is not a safetensors file ({error}). {broken}", file=str(file)) from error
    arrays = {}
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{name} holds numbers of type {entry['dtype']}; wanted {', '.join(DTYPES)}",
                file=str(file),
            )
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        if stop > size or stop - start != dtype.itemsize * math.prod(shape):
            raise UserError(
                f"is cut short or broken: {name} should lie at bytes {start} to {stop} of {size}. {broken}",
                file=str(file),
            )
        flat = np.frombuffer(mapped, dtype, math.prod(shape), start)
        arrays[name] = flat.reshape(shape)
    return arrays


class T5XCheckpoint:
    """The parameters of a T5X checkpoint: its own format (msgpack and zarr), or Orbax's.

    Attributes:
        shapes: name -> shape.
    """

    def __init__(self, folder: pathlib.Path):
        """Reads the list of arrays.

        Raises:
            UserError: the folder is no T5X checkpoint, or part of it is missing.
        """
        self._folder = folder
        self._inline: dict[str, np.ndarray] = {}
        self._stores: dict[str, Any] = {}
        if (folder / T5X_FILE).is_file():
            self._open_native()
        else:
            self._open_orbax()
        self.shapes: dict[str, tuple[int, ...]] = {
            **{name: array.shape for name, array in self._inline.items()},
            **{name: tuple(store.shape) for name, store in self._stores.items()},
        }

    @staticmethod
    def is_one(folder: pathlib.Path) -> bool:
        """Whether a folder looks like a T5X checkpoint."""
        return (folder / T5X_FILE).is_file() or _orbax_item(folder) is not None

    def read(self, name: str, index: Index) -> np.ndarray:
        """A part of an array; only the chunks that hold it are read."""
        if name in self._inline:
            return self._inline[name][index]
        with self._explained(name):
            return self._stores[name][index].read().result()

    def _open_native(self) -> None:
        from flax import serialization

        file = self._folder / T5X_FILE
        try:
            content: Any = serialization.msgpack_restore(file.read_bytes())
            target = content["optimizer"]["target"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"is not the `checkpoint` file of T5X ({type(error).__name__}: {error}); wanted one of"
                " version 3, with `optimizer/target`. Download it again",
                file=str(file),
            ) from error
        for name, leaf in _leaves(target):
            if isinstance(leaf, Mapping):
                path = self._folder / pathlib.PurePosixPath(leaf["kvstore"]["path"]).name
                spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/"}}
                self._open(name, spec)
            else:
                self._inline[name] = np.asarray(leaf)

    def _open_orbax(self) -> None:
        item = _orbax_item(self._folder)
        if item is None:
            raise UserError(
                "is not a T5X checkpoint: it holds neither a `checkpoint` file nor an Orbax item `state`."
                " Name the folder `checkpoint_<step>` itself",
                file=str(self._folder),
            )
        metadata = artefacts.read_json(
            item / "_METADATA", wanted="Orbax's list of arrays", remedy="Download it again"
        )
        ocdbt = (item / "manifest.ocdbt").is_file()
        for entry in metadata["tree_metadata"].values():
            keys = [str(part["key"]) for part in entry["key_metadata"]]
            if keys[0] != "target":
                continue
            place = f"file://{item.absolute()}"
            if ocdbt:
                kvstore = {"driver": "ocdbt", "base": f"{place}/", "path": ".".join(keys) + "/"}
            else:
                kvstore = f"{place}/{'.'.join(keys)}/"
            driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
            self._open("/".join(keys[1:]), {"driver": driver, "kvstore": kvstore})

    def _open(self, name: str, spec: dict[str, Any]) -> None:
        with self._explained(name):
            self._stores[name] = tensorstore.open(spec, open=True, read=True).result()

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise UserError(
                f"its array {name} cannot be read ({str(error).splitlines()[0]}). Download the checkpoint"
                " again",
                file=str(self._folder),
            ) from error


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of T5X's nested names; an array kept apart is a mapping with a `kvstore`."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and "kvstore" not in value:
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _orbax_item(folder: pathlib.Path) -> pathlib.Path | None:
    """Where Orbax's list of arrays is: the item `state`, or the folder itself."""
    for item in (folder / "state", folder):
        if (item / "_METADATA").is_file():
            return item
    return None
