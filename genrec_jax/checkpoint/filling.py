"""Parameters created sharded: each device's part is filled on the device from a source of values."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from genrec_jax.checkpoint.weight_names import Index
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import rules

ALIGNMENT = 64  # bytes; XLA takes memory that is so aligned as it is

Fill = Callable[[str, Index, np.ndarray], None]


def make_params(config: T5Config, mesh: Mesh, fill: Fill) -> nnx.State:
    """Parameters whose every part is filled where it lives.

    On a CPU the filled memory becomes the parameter without another copy.

    Args:
        config: the network.
        mesh: where they live.
        fill: given a parameter's name, a part of it and memory, writes that part.

    Raises:
        UserError: the mesh does not divide the network's dimensions.
    """
    _, abstract = t5.abstract_graph_and_params(config)
    rules.check_mesh(abstract, mesh)
    filled = []
    for path, variable in nnx.to_flat_state(abstract):
        name, shape = "/".join(map(str, path)), tuple(variable.get_value().shape)
        sharding = rules.sharding_of(mesh, rules.axes_of(variable), shape)
        parts, first = [], {}
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            assert index is not None
            bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
            memory = _aligned(tuple(stop - start for start, stop in bounds))
            if bounds in first:  # the same part on another device
                np.copyto(memory, first[bounds])
            else:
                fill(name, tuple(slice(*one) for one in bounds), memory)
                first[bounds] = memory
            parts.append(jax.device_put(memory, device))
        array = jax.make_array_from_single_device_arrays(shape, sharding, parts)
        if jax.default_backend() != "cpu":
            array.block_until_ready()  # one array at a time in this host's memory
        filled.append((path, variable.replace(array)))
    return nnx.from_flat_state(filled)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Unset float32 memory that XLA's CPU client takes over without copying it."""
    size = 4 * int(np.prod(shape))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)
