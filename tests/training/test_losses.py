"""Losses against T5X's own numbers, and by hand where T5X has none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.training import losses
from tests.model import draws, fixture_params

KEYS = {
    "loss": (0.0, 0.0, "NONE"),
    "loss_zloss1e-4": (1e-4, 0.0, "NONE"),
    "loss_ls0.1": (0.0, 0.1, "NONE"),
    "loss_zloss1e-4_num_real_target_tokens": (1e-4, 0.0, "NUM_REAL_TARGET_TOKENS"),
    "loss_zloss1e-4_average_per_sequence": (1e-4, 0.0, "AVERAGE_PER_SEQUENCE"),
}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("t5x_t511", "io.npz"),
        ("t5x_t50", "io.npz"),
        ("t5x_t511_scanned", "io.npz"),
        ("t5x_t511", "io_packed.npz"),
        ("t5x_t50", "io_packed.npz"),
    ],
)
def test_every_loss_equals_t5x(shared, name, file):
    fixture = shared / "fixtures" / name
    _, graphdef, params = fixture_params.load(fixture)
    io = dict(np.load(fixture / file))
    batch = fixture_params.batch_of(io)
    logits_BTV = fixture_params.run(graphdef, params, lambda model, batch: model(batch), batch)
    for key, (z_loss, smoothing, factor) in KEYS.items():
        cross_entropy_BT, z_loss_BT = losses.token_losses(
            logits_BTV,
            jnp.asarray(batch.decoder_target_tokens_BT),
            vocab_size=1152,
            z_loss=z_loss,
            label_smoothing=smoothing,
        )
        weights_BT, divisor = losses.weights_and_factor(batch, factor)
        loss = jnp.sum((cross_entropy_BT + z_loss_BT) * weights_BT) / divisor
        np.testing.assert_allclose(loss, io[key], rtol=1e-6, err_msg=key)


def test_smoothed_loss_of_the_smoothed_target_is_zero():
    """The best prediction under smoothing costs nothing, also with masked rows beyond the vocabulary."""
    probabilities = np.full(4, 0.1 / 3)
    probabilities[2] = 0.9
    logits_BTV = np.full((1, 1, 6), -1e10, np.float32)
    logits_BTV[0, 0, :4] = np.log(probabilities)
    cross_entropy_BT, _ = losses.token_losses(
        jnp.asarray(logits_BTV), jnp.asarray([[2]]), vocab_size=4, label_smoothing=0.1
    )
    np.testing.assert_allclose(cross_entropy_BT, 0.0, atol=1e-6)


def test_normalising_factors_by_hand():
    """Rows of five positions: one of examples of 2 and 1 tokens, an empty one, one of an example of 4."""
    segments_BT = np.array([[1, 1, 2, 0, 0], [0] * 5, [1, 1, 1, 1, 0]], np.int32)
    batch = dataclasses.replace(
        draws.batch(3, 4, 5),
        decoder_segment_ids_BT=segments_BT,
        decoder_loss_weights_BT=(segments_BT > 0).astype(np.float32),
    )
    expected = {
        "NUM_REAL_TARGET_TOKENS": 7,
        "NUM_TOTAL_TARGET_TOKENS": 10,
        "AVERAGE_PER_SEQUENCE": 3,
        "NONE": 1,
        40: 40,
    }
    for normalizer, factor in expected.items():
        assert losses.weights_and_factor(batch, normalizer)[1] == factor, normalizer


@pytest.mark.parametrize("factor", ["NUM_TOKENS", 0])
def test_config_says_what_is_wanted(factor):
    with pytest.raises(UserError, match="NUM_REAL_TARGET_TOKENS"):
        losses.LossConfig(normalizing_factor=factor)


@pytest.mark.parametrize(
    ("rows", "ways", "positions"),
    [
        (128, (1, 1), 64),  # 128 x 64 x 8192 x 4 bytes are 256 MiB
        (129, (1, 1), 32),
        (129, (1, 2), 64),
        (1024, (1, 1), 8),
        (1024, (1, 4), 32),
        (900, (1, 1), 8),
        (10**6, (1, 1), 1),
        (1024, (8, 1), 64),  # rows are split
    ],
)
def test_what_is_kept_of_the_logits_by_hand(rows, ways, positions):
    sizes = {"row_ways": ways[0], "vocab_ways": ways[1]}
    kept = losses.positions_at_once(losses.LossConfig(), rows, 64, 8192, **sizes)
    assert kept == positions
    for asked, wanted in ((0, 64), (5, 5), (100, 64)):
        config = losses.LossConfig(positions_at_a_time=asked)
        assert losses.positions_at_once(config, rows, 64, 8192, **sizes) == wanted


@pytest.mark.parametrize("positions", [1, 3, 7, None])
def test_losses_of_a_few_positions_at_a_time_are_the_same(positions, monkeypatch):
    """Also where the positions do not divide, and by themselves; in losses and in gradients."""
    if positions is None:
        monkeypatch.setattr(losses, "MAX_LOGITS_BYTES", 4 * 3 * 4 * 11)
        assert losses.positions_at_once(losses.LossConfig(), 4, 7, 11) == 3
    random = np.random.default_rng(0)
    hidden_BTD = jnp.asarray(random.normal(size=(4, 7, 5)), jnp.float32)
    head_VD = jnp.asarray(random.normal(size=(11, 5)), jnp.float32)
    targets_BT = jnp.asarray(random.integers(0, 11, (4, 7)))
    weights_BT = jnp.asarray(random.random((4, 7)), jnp.float32)

    def loss(hidden_BTD, head_VD, config):
        cross_entropy_BT, z_loss_BT = losses.token_losses_of_hidden(
            hidden_BTD, targets_BT, lambda h: h @ head_VD.T, config, vocab_size=11
        )
        return jnp.sum((cross_entropy_BT + z_loss_BT) * weights_BT)

    whole = losses.LossConfig(z_loss=1e-2, label_smoothing=0.1, positions_at_a_time=0)
    parts = dataclasses.replace(whole, positions_at_a_time=positions)
    with_gradient = jax.value_and_grad(loss, argnums=(0, 1))
    expected, expected_gradients = with_gradient(hidden_BTD, head_VD, whole)
    actual, gradients = with_gradient(hidden_BTD, head_VD, parts)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    for left, right in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_a_position_at_a_time_never_holds_all_logits(monkeypatch):
    rows, length, width, vocab = 8, 16, 4, 4096
    head_VD = jnp.ones((vocab, width))
    targets_BT = jnp.zeros((rows, length), jnp.int32)

    def temporary_bytes(positions):
        config = losses.LossConfig(positions_at_a_time=positions)

        def loss(hidden_BTD):
            cross_entropy_BT, _ = losses.token_losses_of_hidden(
                hidden_BTD, targets_BT, lambda h: h @ head_VD.T, config, vocab_size=vocab
            )
            return jnp.sum(cross_entropy_BT)

        lowered = jax.jit(jax.grad(loss)).lower(jnp.ones((rows, length, width)))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    whole = rows * length * vocab * 4
    assert temporary_bytes(0) >= whole
    assert temporary_bytes(None) >= whole, "it fits"
    assert temporary_bytes(1) < whole / 4
    monkeypatch.setattr(losses, "MAX_LOGITS_BYTES", whole // 8)
    assert temporary_bytes(None) < whole / 3, "two of 16 positions, and their gradient"


def test_positions_at_a_time_must_be_some():
    with pytest.raises(UserError, match="positions_at_a_time is -1; wanted a whole number, 0"):
        losses.LossConfig(positions_at_a_time=-1)
