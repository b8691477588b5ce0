"""Meshes over the tests' eight fake devices."""

import collections
import itertools
import math

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.parallel import mesh, topology
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


@pytest.fixture(scope="module")
def two_slices():
    """The 32 chips, of 8 hosts, of two slices."""
    if not topology.has_libtpu():
        pytest.skip("needs libtpu, which compiles for TPUs: pip install 'genrec-jax[tpu-plan]'")
    from jax.experimental import topologies

    assert topology.devices_of(topology.parse("v5e-16"))  # libtpu is loaded
    return topologies.get_topology_desc(
        platform="tpu", topology_name="v5e:4x4", num_slices=2
    ).devices


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ((-1, 16, 1), (1, 8)),
        ((-1, 4, 1), (1, 8)),
        ((32, 1, 1), (1, 8)),
        ((2, 1, 16), (0, 2)),
        ((2, 8, 2), (1, 8)),  # the wiring of 4x4 chips has no such mesh
    ],
)
def test_data_alone_crosses_from_slice_to_slice(two_slices, sizes, rows):
    made = mesh.make_mesh(*sizes, devices=two_slices)
    of_slice = np.vectorize(lambda device: device.slice_index)(made.devices)
    half = made.shape["data"] // 2
    assert set(of_slice[:half].flat) == {0}
    assert set(of_slice[half:].flat) == {1}
    assert mesh.row_share_of(made.devices, 1) == rows


def test_a_mesh_that_would_split_over_slices_is_refused(two_slices):
    wanted = "among 2 slices.*nearest mesh that fits is data=2, fsdp=16, tensor=1"
    with pytest.raises(UserError, match=wanted):
        mesh.make_mesh(1, 32, 1, two_slices)
    with pytest.raises(UserError, match=r"multiply to 64.*is data=2, fsdp=16, tensor=1"):
        mesh.make_mesh(1, 64, 1, two_slices)
