"""The table from logical axes to mesh axes: collisions, sizes that do not divide, placement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel import rules


def test_specs():
    assert rules.spec_of(("layers", "embed", "joined_kv")) == PartitionSpec(None, "fsdp", "tensor")
    assert rules.spec_of(("batch", "length")) == PartitionSpec(("data", "fsdp"), None)


def test_collisions_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="used twice"):
        rules.spec_of(("mlp", "vocab"))
    with pytest.raises(ValueError, match="MESH_AXES_OF"):
        rules.spec_of(("embed", "colour"))


def test_a_size_that_does_not_divide_is_a_readable_error():
    mesh = meshes.make_mesh(2, 2, 2)
    with pytest.raises(UserError, match=r"`mlp`.*size 7.*tensor = 2"):
        rules.sharding_of(mesh, ("embed", "mlp"), (4, 7))


def test_a_mesh_that_does_not_divide_the_model_gets_the_nearest_that_does():
    config = T5Config(200, 24, 6, 4, 40, 1, 1)
    _, params = t5.abstract_graph_and_params(config)
    assert rules.divisions(params) == {("tensor",): {256, 6, 24, 40}, ("fsdp",): {24}}
    wanted = (
        "the mesh data=1, fsdp=1, tensor=8 does not divide this model's dimensions: 6 by tensor=8. The"
        " nearest mesh of 8 devices that fits is data=4, fsdp=1, tensor=2"
    )
    with pytest.raises(UserError) as error:
        rules.tree_shardings(params, meshes.make_mesh(1, 1, 8))
    assert str(error.value) == wanted
    rules.check_mesh(params, meshes.make_mesh(2, 2, 2))


@pytest.mark.parametrize("per_layer", [True, False])
def test_every_parameter_names_its_axes(per_layer):
    config = T5Config(200, 16, 4, 4, 32, 2, 3, relative_bias_per_layer=per_layer)
    _, params = t5.abstract_graph_and_params(config)
    variables = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert len(variables) > 20
    for variable in variables:
        axes = rules.axes_of(variable)
        assert len(axes) == len(variable.get_value().shape)
        rules.spec_of(axes)
    cross = params["decoder"]["layers"]["cross_attention"]["out"]
    assert rules.axes_of(cross) == ("layers", "joined_kv", "embed")
    assert cross.get_value().shape == (3, 16, 16)


def test_constrain_is_silent_without_a_mesh_and_binds_with_one():
    array = jnp.arange(16.0).reshape(8, 2)
    np.testing.assert_array_equal(rules.constrain(array, ("batch", "length")), array)
    with jax.set_mesh(meshes.make_mesh(4, 2, 1)):
        placed = jax.jit(lambda a: rules.constrain(a, ("batch", "length")))(array)
    assert placed.sharding.spec == PartitionSpec(("data", "fsdp"))
