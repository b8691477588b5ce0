"""A GPU's loss and gradients are the CPU's, in float32 at the highest precision, with dropout.

benchmarks/README.md has the command.
"""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from benchmarks.train_step import packed_batch
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.training import losses, step

pytestmark = pytest.mark.gpu
CONFIG = T5Config(
    vocab_size=200,
    embed_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
)


@pytest.fixture
def gpu() -> jax.Device:
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")
    return jax.devices()[0]


def loss_and_gradients(device: jax.Device, loss: losses.LossConfig):
    """Of seven examples packed by two, all put on one device: the last row is half padding."""
    graphdef, params = t5.graph_and_params(t5.T5(CONFIG, rngs=nnx.Rngs(0)))
    batch = packed_batch(CONFIG, 7, row_length=24, length=12, target=6)

    def total(params, batch, key):
        weights_BT, factor = losses.weights_and_factor(batch, loss.normalizing_factor)
        summed, _ = step.loss_and_sums(
            params, batch, weights_BT, key, graphdef=graphdef, loss_config=loss
        )
        return summed / factor

    arguments = jax.device_put((params, batch, jax.random.key(1)), device)
    with jax.default_matmul_precision("highest"):
        value, grads = jax.jit(jax.value_and_grad(total))(*arguments)
    assert value.devices() == {device}
    return jax.device_get(value), jax.device_get(grads)


@pytest.mark.parametrize("positions", [0, 4])
def test_loss_and_gradients_are_the_cpus(gpu, positions):
    loss = losses.LossConfig(positions_at_a_time=positions)
    ours, wanted = (loss_and_gradients(device, loss) for device in (gpu, jax.devices("cpu")[0]))
    assert ours[0] == pytest.approx(wanted[0], rel=1e-5)
    pairs = zip(jax.tree.leaves(ours[1]), jax.tree.leaves(wanted[1]), strict=True)
    for found, right in pairs:
        assert np.any(right != 0)
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4 * np.abs(right).max())


def test_fused_attention_is_the_written_out_one(gpu):
    """In bfloat16, with dropout and packed rows: cuDNN's kernel, and what it does to the gradients."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16", embed_dim=64, head_dim=64)
    batch = packed_batch(config, 64, row_length=128, length=32, target=8)

    def of(kind: str):
        graphdef, params = t5.graph_and_params(
            t5.T5(dataclasses.replace(config, attention=kind), rngs=nnx.Rngs(0))
        )

        def total(params):
            logits_BTV = nnx.merge(graphdef, params)(batch, jax.random.key(1))
            weights_BT = batch.decoder_loss_weights_BT
            return (jax.nn.logsumexp(logits_BTV, axis=-1) * weights_BT).sum() / weights_BT.sum()

        return jax.device_get(jax.jit(jax.value_and_grad(total))(params))

    (ours, our_grads), (theirs, their_grads) = of("own"), of("cudnn")
    assert theirs == pytest.approx(ours, rel=5e-3)
    for found, right in zip(jax.tree.leaves(their_grads), jax.tree.leaves(our_grads), strict=True):
        error = np.linalg.norm(np.subtract(found, right)) / np.linalg.norm(right)
        assert error < 0.05, error
