"""Parameters on disk in pieces: each host writes and reads only its devices' parts.

On a CPU nothing is copied to be written, and elsewhere a block at a time is; each device's memory is
filled straight from the mapped files. So neither way takes memory beyond the parameters themselves,
and a host reads no more than its parts, however the mesh that wrote them was cut.

    part-00000.safetensors    what process 0 wrote: `<parameter>@<where it begins>` -> a block of it
"""

import math
import pathlib
import re

import jax
import numpy as np
from flax import nnx

from genrec_jax.checkpoint import tensor_files
from genrec_jax.checkpoint.weight_names import Index
from genrec_jax.errors import UserError

BLOCK_BYTES = 1 << 26
KEY = re.compile(r"(.+)@([\d,]*)")


def write(folder: pathlib.Path, params: nnx.State) -> None:
    """Writes this process's share of the parameters; on several hosts each of them calls it.

    Args:
        folder: where; all hosts see it.
        params: float32 arrays, sharded in any way. Of equal parts on several devices one is written.
    """
    blocks: dict[str, tuple[jax.Array, int, int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, variable in nnx.to_flat_state(params):
        name, array = "/".join(map(str, path)), variable.get_value()
        for shard in array.addressable_shards:
            if shard.replica_id != 0:
                continue
            starts = [part.start or 0 for part in shard.index]
            rows, *rest = shard.data.shape
            step = max(1, BLOCK_BYTES // max(4 * math.prod(rest), 1))
            for first in range(0, rows, step):
                last = min(first + step, rows)
                begins = ",".join(map(str, [starts[0] + first, *starts[1:]]))
                blocks[f"{name}@{begins}"] = (shard.data, first, last)
                shapes[f"{name}@{begins}"] = (last - first, *rest)
    file = folder / f"part-{jax.process_index():05}.safetensors"
    tensor_files.write_safetensors(file, shapes, lambda key: _on_host(*blocks[key]))


class Pieces:
    """The parameters in a folder that `write` filled, read in part."""

    def __init__(self, folder: pathlib.Path):
        """Reads the lists of pieces, and no piece.

        Raises:
            UserError: a file is damaged, or no such file.
        """
        self._folder = folder
        self._pieces: dict[str, list[tuple[tuple[int, ...], np.ndarray]]] = {}
        for file in sorted(folder.glob("part-*.safetensors")):
            for key, array in tensor_files.read_one(file).items():
                found = KEY.fullmatch(key)
                if found is None:
                    raise UserError(f"names a piece {key!r}; wanted NAME@START,...", file=str(file))
                begins = tuple(int(number) for number in found[2].split(","))
                self._pieces.setdefault(found[1], []).append((begins, array))

    def fill(self, name: str, index: Index, out: np.ndarray) -> None:
        """Copies a part of a parameter; only the pieces that hold some of it are read.

        Args:
            name: the parameter.
            index: which part, every slice with start and stop.
            out: where to; float32 of the part's shape.

        Raises:
            UserError: no piece holds some of that part.
        """
        filled = 0
        for begins, array in self._pieces.get(name, []):
            to, source = [], []
            for wanted, begin, size in zip(index, begins, array.shape, strict=True):
                first, last = max(wanted.start, begin), min(wanted.stop, begin + size)
                to.append(slice(first - wanted.start, max(first, last) - wanted.start))
                source.append(slice(first - begin, max(first, last) - begin))
            part = out[tuple(to)]
            if part.size:
                np.copyto(part, array[tuple(source)])
                filled += part.size
        if filled != out.size:
            raise UserError(
                f"holds {filled:,} of the {out.size:,} numbers asked for of {name}; a file is missing",
                file=str(self._folder),
            )


def _on_host(data: jax.Array, first: int, last: int) -> np.ndarray:
    """Rows `first` to `last` of a device's part: a view on a CPU, a copy of these rows elsewhere."""
    if data.device.platform == "cpu":
        return np.asarray(data)[first:last]
    return np.asarray(jax.lax.slice_in_dim(data, first, last))
