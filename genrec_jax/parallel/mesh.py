"""The one device mesh that training, evaluation and recommendation run over."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from genrec_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# Mesh axes -> what must divide among their product: one entry of `rules.divisions`.
Divisions = Mapping[tuple[str, ...], Iterable[int]]


class Sizes(NamedTuple):
    """Sizes of the three axes."""

    data: int
    fsdp: int
    tensor: int

    def __str__(self) -> str:
        return ", ".join(f"{axis}={size}" for axis, size in self._asdict().items())


class RowShare(NamedTuple):
    """Which part of a batch's rows a host makes.

    Attributes:
        index: the part, from 0; hosts that hold the same rows have the same one.
        count: parts.
    """

    index: int
    count: int


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
    divisions: Divisions | None = None,
) -> Mesh:
    """A mesh with axes `data`, `fsdp` and `tensor`.

    Args:
        data: copies of the parameters; each works on its own rows. -1 takes all devices left over.
        fsdp: ways in which parameters and optimizer state are split, beside the rows.
        tensor: ways in which heads, feed-forward and vocabulary are split.
        devices: the devices; this job's, on all hosts, when not given.
        divisions: what the nearest mesh that an error names must divide too (`rules.divisions`).

    Raises:
        UserError: the axes do not multiply to the number of devices; it names the nearest that do.
    """
    devices = jax.devices() if devices is None else devices
    wanted = {"data": data, "fsdp": fsdp, "tensor": tensor}
    if fsdp < 1 or tensor < 1 or (data < 1 and data != -1):
        raise UserError(f"mesh sizes are {wanted}; wanted at least 1 each (data may be -1)")
    if data == -1:
        wanted["data"] = max(1, len(devices) // (fsdp * tensor))
    sizes = Sizes(**wanted)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh sizes {wanted} multiply to {math.prod(sizes)}, but there are {len(devices)} devices;"
            f" the nearest mesh that fits is {nearest(sizes, len(devices), divisions or {})}"
        )
    return Mesh(_grid(devices, sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def single_device_mesh() -> Mesh:
    """A mesh of this host's first device alone, for evaluation and recommendation on one device."""
    return make_mesh(1, 1, 1, jax.local_devices()[:1])


def sizes_of(mesh: Mesh) -> Sizes:
    """The sizes of a mesh's axes."""
    return Sizes(*(mesh.shape[axis] for axis in MESH_AXES))


def row_share(mesh: Mesh) -> RowShare:
    """Which part of a batch's rows this host makes.

    Raises:
        UserError: hosts hold parts of different sizes, or parts that overlap.
    """
    return row_share_of(mesh.devices, jax.process_index())


def row_share_of(grid: np.ndarray, process: int) -> RowShare:
    """Which part of a batch's rows a host's devices hold; hosts that share a split of `tensor`, the same.

    Args:
        grid: the devices along `data`, `fsdp` and `tensor`.
        process: the host.

    Raises:
        UserError: hosts hold parts of different sizes, or parts that overlap.
    """
    rows = _rows_of_processes(grid)
    parts = sorted(set(rows.values()))
    if not _are_even(parts):
        raise UserError(
            f"on the mesh {Sizes(*grid.shape)} hosts hold the parts {parts} of a batch's rows, which differ"
            " in size or overlap; choose `tensor` so that it divides a host's devices, or they it"
        )
    return RowShare(parts.index(rows[process]), len(parts))


def does_not_fit(sizes: Sizes, divisions: Divisions) -> list[tuple[tuple[str, ...], int]]:
    """The divisions that fail: pairs of mesh axes and a number that their product does not divide."""
    named = sizes._asdict()
    return [
        (axes, number)
        for axes, numbers in divisions.items()
        for number in sorted(set(numbers))
        if number % math.prod(named[axis] for axis in axes)
    ]


def nearest(sizes: Sizes, devices: int, divisions: Divisions) -> Sizes:
    """The mesh of that many devices that fits and is nearest to the one asked for.

    Nearest is the least sum of the axes' ratios, as powers of two; of equally near ones the one that
    splits less over `tensor`, which costs the most communication. One that fits always exists, for
    `data` splits rows alone.

    Args:
        sizes: what was asked for.
        devices: the number of devices.
        divisions: what the model's dimensions must divide by (`rules.divisions`).
    """

    def distance(candidate: Sizes) -> tuple[float, int, int]:
        ratios = (abs(math.log2(own / asked)) for own, asked in zip(candidate, sizes, strict=True))
        return round(sum(ratios), 6), candidate.tensor, candidate.fsdp

    candidates = meshes_of(devices)
    return min((c for c in candidates if not does_not_fit(c, divisions)), key=distance)


def meshes_of(devices: int) -> list[Sizes]:
    """Every mesh of that many devices."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    return [
        Sizes(devices // (fsdp * tensor), fsdp, tensor)
        for fsdp, tensor in itertools.product(divisors, divisors)
        if devices % (fsdp * tensor) == 0
    ]


def _grid(devices: Sequence[Any], sizes: Sizes) -> np.ndarray:
    """Devices in the order of their wiring on a TPU, where hosts then still hold whole parts of rows."""
    plain = np.asarray(devices).reshape(sizes)
    if devices[0].platform == "tpu" and len(devices) > 1:
        try:
            wired = mesh_utils.create_device_mesh(sizes, devices)
        except (NotImplementedError, ValueError):  # a slice whose wiring has no such mesh
            return plain
        if _are_even(sorted(set(_rows_of_processes(wired).values()))):
            return wired
    return plain


def _rows_of_processes(grid: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Process -> the parts of the batch (one for each place on `data` x `fsdp`) that its devices hold."""
    rows: dict[int, set[int]] = {}
    flat = grid.reshape(-1, grid.shape[2])
    for place, along_tensor in enumerate(flat):
        for device in along_tensor:
            rows.setdefault(device.process_index, set()).add(place)
    return {process: tuple(sorted(places)) for process, places in rows.items()}


def _are_even(parts: Sequence[tuple[int, ...]]) -> bool:
    """Whether different parts are equally large and share nothing."""
    places = [place for part in parts for place in part]
    return len({len(part) for part in parts}) <= 1 and len(set(places)) == len(places)
