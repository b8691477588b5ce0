"""The training state is born sharded, the same on every mesh, and its optimizer state is placed too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.training import adafactor, adamw, optimizers, state

CONFIG = T5Config(
    vocab_size=200,
    embed_dim=16,
    num_heads=4,
    head_dim=4,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_whole_words=32,
)
ADAFACTOR = optimizers.Optimizer(adafactor.AdafactorConfig(min_dim_size_to_factor=8))


@pytest.fixture(scope="module")
def on_one_device():
    return state.create_state(CONFIG, ADAFACTOR, meshes.single_device_mesh(), 7)


@pytest.fixture(scope="module")
def on_eight_devices():
    return state.create_state(CONFIG, ADAFACTOR, meshes.make_mesh(2, 2, 2), 7)


def test_values_do_not_depend_on_the_mesh(on_one_device, on_eight_devices):
    sharded = on_eight_devices
    assert jax.tree.structure(sharded) == jax.tree.structure(on_one_device)
    for ours, theirs in zip(jax.tree.leaves(sharded), jax.tree.leaves(on_one_device), strict=True):
        np.testing.assert_array_equal(jax.device_get(ours), jax.device_get(theirs))


def test_leaves_are_placed_by_their_axes(on_eight_devices):
    born = on_eight_devices
    kernel = born.params["encoder"]["layers"]["mlp"]["wi_0"].get_value()
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (2, 8, 16)
    moments = born.opt_state.moments["encoder/layers/mlp/wi_0"]
    assert moments["row"].get_value().sharding.spec == PartitionSpec(None, "fsdp")
    assert moments["column"].get_value().sharding.spec == PartitionSpec(None, "tensor")
    embedding = born.params["token_embedding"].get_value()
    assert embedding.shape == (256, 16)
    assert embedding.sharding.spec == PartitionSpec("tensor", "fsdp")


def test_abstract_state_has_the_real_structure():
    optimizer = optimizers.Optimizer(adamw.AdamWConfig())
    mesh = meshes.make_mesh(4, 2, 1)
    abstract = state.abstract_state(CONFIG, optimizer, mesh)
    real = state.create_state(CONFIG, optimizer, mesh, 0)
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    for wanted, got in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
        assert (wanted.shape, wanted.dtype) == (got.shape, got.dtype)
        assert got.sharding.is_equivalent_to(wanted.sharding, got.ndim)


def test_seeds_give_different_parameters(on_one_device):
    other = state.create_state(CONFIG, ADAFACTOR, meshes.single_device_mesh(), 8)
    ours = on_one_device.params["token_embedding"].get_value()
    assert np.abs(ours - other.params["token_embedding"].get_value()).mean() > 0.1


def test_initial_parameters_have_t5_scales(on_one_device):
    """The reported deviations of mesh-tensorflow's T5, measured on the drawn numbers."""
    params = on_one_device.params
    layers = params["decoder"]["layers"]
    expected = {
        1.0: params["token_embedding"],
        1 / 16**0.5: layers["mlp"]["wi_0"],
        1 / 32**0.5: layers["mlp"]["wo"],
        1 / (16 * 4) ** 0.5: layers["self_attention"]["query"],
    }
    for deviation, leaf in expected.items():
        assert np.std(leaf.get_value()) == pytest.approx(deviation, rel=0.1)
    assert np.all(np.asarray(params["encoder"]["final_norm"]["scale"].get_value()) == 1)


def test_given_parameters_start_a_fresh_run(on_one_device):
    doubled = jax.tree.map(lambda array: 2 * array, on_one_device.params)
    moved = state.state_from_params(CONFIG, ADAFACTOR, meshes.single_device_mesh(), doubled)
    assert jax.tree.structure(moved) == jax.tree.structure(on_one_device)
    assert int(moved.step) == 0
    assert isinstance(moved.params, nnx.State)
    np.testing.assert_array_equal(
        moved.params["token_embedding"].get_value(),
        2 * on_one_device.params["token_embedding"].get_value(),
    )
    assert all(float(jnp.sum(jnp.abs(leaf))) == 0 for leaf in jax.tree.leaves(moved.opt_state))
