"""Meshes over the tests' eight fake devices."""

import pytest

from genrec_jax.errors import UserError
from genrec_jax.parallel import mesh


def test_data_takes_the_devices_left_over():
    assert dict(mesh.make_mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(mesh.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (8, 8, 1), (-1, 0, 1), (0, 1, 1)])
def test_sizes_must_multiply_to_the_devices(sizes):
    with pytest.raises(UserError, match="mesh sizes"):
        mesh.make_mesh(*sizes)
