"""Meshes over the tests' eight fake devices."""

import collections
import itertools
import math

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.parallel import mesh
from genrec_jax.parallel.mesh import Sizes


def test_data_takes_the_devices_left_over():
    assert dict(mesh.make_mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(mesh.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "near"),
    [
        ((3, 1, 1), "data=8, fsdp=1, tensor=1"),
        ((-1, 3, 1), "data=2, fsdp=4, tensor=1"),
        ((8, 8, 1), "data=8, fsdp=1, tensor=1"),
        ((2, 2, 3), "data=2, fsdp=2, tensor=2"),
        ((1, 1, 16), "data=1, fsdp=1, tensor=8"),
    ],
)
def test_sizes_that_do_not_multiply_to_the_devices_get_the_nearest_that_do(sizes, near):
    with pytest.raises(UserError, match=f"8 devices; the nearest mesh that fits is {near}"):
        mesh.make_mesh(*sizes)


@pytest.mark.parametrize("sizes", [(-1, 0, 1), (0, 1, 1), (1, 1, -1)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(UserError, match="at least 1 each"):
        mesh.make_mesh(*sizes)


def test_every_mesh_of_twelve_devices():
    brute = {s for s in itertools.product(range(1, 13), repeat=3) if math.prod(s) == 12}
    assert set(mesh.meshes_of(12)) == brute
    assert len(mesh.meshes_of(12)) == len(brute) == 18


def test_the_nearest_mesh_also_divides_the_model():
    divisions = {("tensor",): [6, 128], ("fsdp",): [512]}
    assert mesh.nearest(Sizes(1, 1, 8), 8, {}) == (1, 1, 8)
    assert mesh.nearest(Sizes(1, 1, 8), 8, divisions) == (4, 1, 2)
    assert mesh.does_not_fit(Sizes(1, 1, 8), divisions) == [(("tensor",), 6)]
    # Nothing but `data` is left where dimensions are prime.
    assert mesh.nearest(Sizes(1, 8, 1), 8, {("fsdp",): [7], ("tensor",): [7]}) == (8, 1, 1)
    with pytest.raises(UserError, match="nearest mesh that fits is data=4, fsdp=1, tensor=2"):
        mesh.make_mesh(1, 1, 9, divisions=divisions | {("fsdp",): [7]})


Device = collections.namedtuple("Device", "id process_index")


def on_hosts(hosts: int, sizes: tuple[int, int, int]) -> np.ndarray:
    """The devices of several hosts, in their order."""
    count = math.prod(sizes)
    grid = np.empty(count, object)
    for number in range(count):
        grid[number] = Device(number, number * hosts // count)
    return grid.reshape(sizes)


@pytest.mark.parametrize(
    ("hosts", "sizes", "shares"),
    [
        (4, (2, 2, 1), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (4, (2, 1, 2), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (4, (1, 1, 4), [(0, 1)] * 4),
        (2, (4, 1, 2), [(0, 2), (1, 2)]),
        (2, (1, 1, 8), [(0, 1), (0, 1)]),
    ],
)
def test_hosts_that_share_a_tensor_split_hold_the_same_rows(hosts, sizes, shares):
    grid = on_hosts(hosts, sizes)
    assert [mesh.row_share_of(grid, process) for process in range(hosts)] == shares


def test_rows_that_hosts_hold_in_unequal_parts_are_refused():
    with pytest.raises(UserError, match=r"on the mesh data=2, fsdp=1, tensor=3 hosts hold"):
        mesh.row_share_of(on_hosts(3, (2, 1, 3)), 0)
