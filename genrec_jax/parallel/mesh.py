"""The one device mesh that training, evaluation and recommendation run over."""

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from genrec_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh with axes `data`, `fsdp` and `tensor` over this job's devices.

    Args:
        data: copies of the parameters; each works on its own rows. -1 takes all devices left over.
        fsdp: ways in which parameters and optimizer state are split, beside the rows.
        tensor: ways in which heads, feed-forward and vocabulary are split.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices()
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    if fsdp < 1 or tensor < 1 or (data < 1 and data != -1):
        raise UserError(f"mesh sizes are {sizes}; wanted at least 1 each (data may be -1)")
    if data == -1:
        sizes["data"] = max(1, len(devices) // (fsdp * tensor))
    if math.prod(sizes.values()) != len(devices):
        raise UserError(
            f"mesh sizes {sizes} multiply to {math.prod(sizes.values())}, but there are"
            f" {len(devices)} devices; choose sizes that multiply to it, or data=-1 for the rest"
        )
    grid = np.asarray(devices).reshape([sizes[axis] for axis in MESH_AXES])
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def single_device_mesh() -> Mesh:
    """A mesh of this host's first device alone, for evaluation and recommendation on one device."""
    grid = np.asarray(jax.local_devices()[:1]).reshape(1, 1, 1)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
