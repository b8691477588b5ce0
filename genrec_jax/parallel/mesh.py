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

    Of several TPU slices, which a slower network joins, `data` alone crosses from one to the next.

    Args:
        data: copies of the parameters; each works on its own rows. -1 takes all devices left over.
        fsdp: ways in which parameters and optimizer state are split, beside the rows.
        tensor: ways in which heads, feed-forward and vocabulary are split.
        devices: the devices; this job's, on all hosts, when not given.
        divisions: what the nearest mesh that an error names must divide too (`rules.divisions`).

    Raises:
        UserError: the axes do not multiply to the number of devices, or the slices do not divide `data`;
            it names the nearest that fit.
    """
    devices = jax.devices() if devices is None else devices
    wanted = {"data": data, "fsdp": fsdp, "tensor": tensor}
    if fsdp < 1 or tensor < 1 or (data < 1 and data != -1):
        raise UserError(f"mesh sizes are {wanted}; wanted at least 1 each (data may be -1)")
    if data == -1:
        wanted["data"] = max(1, len(devices) // (fsdp * tensor))
    sizes, slices = Sizes(**wanted), number_of_slices(devices)
    problem = None
    if math.prod(sizes) != len(devices):
        problem = f"multiply to {math.prod(sizes)}, but there are {len(devices)} devices"
    elif sizes.data % slices:
        problem = (
            f"do not divide `data` among {slices} slices, and it alone crosses from one to the next"
        )
    if problem is not None:
        raise UserError(
            f"mesh sizes {wanted} {problem};"
            f" the nearest mesh that fits is {nearest(sizes, len(devices), divisions or {}, slices)}"
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


def number_of_slices(devices: Iterable[Any]) -> int:
    """How many TPU slices devices belong to; 1 for other devices."""
    return len(_by_slice(devices))


def nearest(sizes: Sizes, devices: int, divisions: Divisions, slices: int = 1) -> Sizes:
    """The mesh of that many devices that fits and is nearest to the one asked for.

    Nearest is the least sum of the axes' ratios, as powers of two; of equally near ones the one that
    splits less over `tensor`, which costs the most communication. One that fits always exists, for
    `data` splits rows alone.

    Args:
        sizes: what was asked for.
        devices: the number of devices.
        divisions: what the model's dimensions must divide by (`rules.divisions`).
        slices: what must divide `data`.
    """

    def distance(candidate: Sizes) -> tuple[float, int, int]:
        ratios = (abs(math.log2(own / asked)) for own, asked in zip(candidate, sizes, strict=True))
        return round(sum(ratios), 6), candidate.tensor, candidate.fsdp

    candidates = (c for c in meshes_of(devices) if c.data % slices == 0)
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
    """Devices slice by slice along `data`, and within a slice in the order of a TPU's wiring.

    The order is as it comes where the wiring has no such mesh, or where hosts would not hold whole parts
    of rows in it.
    """
    slices = _by_slice(devices)
    plain = np.asarray([device for part in slices for device in part]).reshape(sizes)
    if devices[0].platform == "tpu" and len(devices) > 1:
        own = sizes._replace(data=sizes.data // len(slices))
        try:
            wired = np.concatenate([mesh_utils.create_device_mesh(own, part) for part in slices])
        except (NotImplementedError, ValueError, AssertionError):
            return plain
        if _are_even(sorted(set(_rows_of_processes(wired).values()))):
            return wired
    return plain


def _by_slice(devices: Iterable[Any]) -> list[list[Any]]:
    """The devices of each TPU slice; of other devices, all as one."""
    slices: dict[int, list[Any]] = {}
    for device in devices:
        number = getattr(device, "slice_index", 0) if device.platform == "tpu" else 0
        slices.setdefault(number, []).append(device)
    return [slices[number] for number in sorted(slices)]


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
