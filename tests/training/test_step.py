"""The training step: T5X's three steps, the same losses on every mesh, one compilation per shape."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.pipeline.batch import Batch
from genrec_jax.training import adafactor, losses, optimizers, schedules, state, step
from tests.model import draws, fixture_params

CONFIG = T5Config(
    vocab_size=200,
    embed_dim=16,
    num_heads=4,
    head_dim=4,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_whole_words=32,
    dropout_rate=0.1,
)
OPTIMIZER = optimizers.Optimizer(
    adafactor.AdafactorConfig(min_dim_size_to_factor=8), schedules.LearningRate(peak=0.01)
)
LOSS = losses.LossConfig()


def packed_batch(seed: int, rows: int = 8, length: int = 12, target_length: int = 8) -> Batch:
    """Two examples a row, with padding behind them."""
    random = np.random.default_rng(seed)

    def side(length, first, second):
        segments = np.zeros((rows, length), np.int32)
        segments[:, :first], segments[:, first : first + second] = 1, 2
        tokens = random.integers(2, 200, (rows, length)).astype(np.int32) * (segments > 0)
        ramp = np.concatenate([np.arange(first), np.arange(second)]).astype(np.int32)
        positions = np.zeros((rows, length), np.int32)
        positions[:, : first + second] = ramp
        return tokens, segments, positions

    inputs, input_segments, input_positions = side(length, 5, 4)
    targets, target_segments, target_positions = side(target_length, 3, 3)
    shifted = np.roll(targets, 1, axis=1) * (target_positions > 0)
    return Batch(
        encoder_input_tokens_BL=inputs,
        decoder_target_tokens_BT=targets,
        decoder_input_tokens_BT=shifted.astype(np.int32),
        decoder_loss_weights_BT=(target_segments > 0).astype(np.float32),
        encoder_segment_ids_BL=input_segments,
        decoder_segment_ids_BT=target_segments,
        encoder_positions_BL=input_positions,
        decoder_positions_BT=target_positions,
        encoder_whole_word_ids_BL=input_positions // 2 + 1,
    )


def run_steps(config, mesh, *, steps=10, microbatches=1, dropout=True):
    """Losses of some steps on the same batches, from the same seed."""
    train_state = state.create_state(config, OPTIMIZER, mesh, 0)
    train_step = step.jit_train_step(config, OPTIMIZER, LOSS, mesh, microbatches=microbatches)
    key = jax.random.key(1) if dropout else None
    seen = []
    for number in range(steps):
        train_state, metrics = train_step(train_state, packed_batch(number % 3), key)
        values = jax.device_get(metrics)
        seen.append([values["loss_sum"] / values["target_tokens"], values["grad_norm"]])
    assert int(train_state.step) == steps
    return np.asarray(seen), train_state


@pytest.fixture(scope="module")
def one_device():
    return run_steps(CONFIG, meshes.single_device_mesh())


# Every dimension divides by 8, so that every mesh of 8 devices fits.
EIGHT_HEADS = dataclasses.replace(CONFIG, num_heads=8, num_encoder_layers=1, num_decoder_layers=1)


@pytest.fixture(scope="module")
def three_steps_on_one_device():
    seen, trained = run_steps(EIGHT_HEADS, meshes.single_device_mesh(), steps=3)
    return seen, fixture_params.flatten(trained.params)


@pytest.mark.parametrize("sizes", meshes.meshes_of(8), ids=str)
def test_every_mesh_gives_one_devices_losses_and_parameters(three_steps_on_one_device, sizes):
    losses_, params = three_steps_on_one_device
    seen, trained = run_steps(EIGHT_HEADS, meshes.make_mesh(*sizes), steps=3)
    np.testing.assert_allclose(seen, losses_, rtol=1e-5)
    for name, array in fixture_params.flatten(trained.params).items():
        np.testing.assert_allclose(array, params[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("sizes", "kept"), [((1, 1, 1), 3), ((1, 1, 8), 8), ((2, 2, 2), 8)], ids=str
)
def test_logits_that_do_not_fit_at_once_change_nothing(
    three_steps_on_one_device, monkeypatch, sizes, kept
):
    """Room for three of eight positions on a device: a mesh that splits the vocabulary holds all."""
    monkeypatch.setattr(losses, "MAX_LOGITS_BYTES", 4 * 8 * 3 * EIGHT_HEADS.padded_vocab_size)
    found, positions_at_once = [], losses.positions_at_once

    def watched(*args, **kwargs):
        found.append(positions_at_once(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(losses, "positions_at_once", watched)
    seen, trained = run_steps(
        EIGHT_HEADS, meshes.make_mesh(*sizes, jax.devices()[: np.prod(sizes)]), steps=3
    )
    assert set(found) == {kept}
    expected, params = three_steps_on_one_device
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    for name, array in fixture_params.flatten(trained.params).items():
        np.testing.assert_allclose(array, params[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_training_lowers_the_loss(one_device):
    assert one_device[0][9, 0] < one_device[0][0, 0] - 0.2


@pytest.mark.parametrize("changes", [{"scan_layers": False}, {"remat": "full"}, {"remat": "dots"}])
def test_unrolling_and_remat_change_nothing(one_device, changes):
    """Dropout included: every layer has its own key, whichever way layers are run."""
    config = dataclasses.replace(CONFIG, **changes)
    seen, _ = run_steps(config, meshes.single_device_mesh(), steps=3)
    np.testing.assert_allclose(seen, one_device[0][:3], rtol=1e-5)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_microbatches_change_nothing_without_dropout(sizes):
    """On a mesh the parts of a step are spread over the same devices as the whole."""
    mesh = meshes.single_device_mesh()
    whole, trained = run_steps(CONFIG, mesh, steps=3, dropout=False)
    if sizes != (1, 1, 1):
        mesh = meshes.make_mesh(*sizes)
    parts, in_parts = run_steps(CONFIG, mesh, steps=3, dropout=False, microbatches=2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    expected = fixture_params.flatten(trained.params)
    for name, array in fixture_params.flatten(in_parts.params).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("factor", [*losses.NORMALIZERS, 40])
def test_empty_rows_change_nothing_not_even_dropout(factor):
    """What a batch is filled up with for a larger mesh; draws depend on the row, not on their number."""
    loss = losses.LossConfig(normalizing_factor=factor)
    mesh = meshes.single_device_mesh()
    fresh = state.create_state(EIGHT_HEADS, OPTIMIZER, mesh, 0)
    batch = packed_batch(0)
    filled = jax.tree.map(lambda array: np.concatenate([array, np.zeros_like(array)]), batch)
    graphdef, _ = t5.abstract_graph_and_params(EIGHT_HEADS)
    arguments = {"graphdef": graphdef, "optimizer": OPTIMIZER, "loss_config": loss}
    train_step = jax.jit(
        lambda batch: step.train_step(fresh, batch, jax.random.key(1), **arguments)
    )
    (one, metrics), (other, filled_metrics) = train_step(batch), train_step(filled)
    for name, value in metrics.items():
        np.testing.assert_allclose(filled_metrics[name], value, rtol=1e-5, err_msg=name)
    for expected, found in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_changes_with_the_step_and_the_key(one_device):
    graphdef, _ = t5.abstract_graph_and_params(CONFIG)
    _, trained = one_device
    batch = packed_batch(0)
    arguments = {"graphdef": graphdef, "optimizer": OPTIMIZER, "loss_config": LOSS}
    train_step = jax.jit(lambda s, key: step.train_step(s, batch, key, **arguments)[1]["loss_sum"])
    later = dataclasses.replace(trained, step=trained.step + 1)
    first = [train_step(trained, jax.random.key(1)) for _ in range(2)]
    assert first[0] == first[1]
    assert train_step(later, jax.random.key(1)) != first[0]
    assert train_step(trained, jax.random.key(2)) != first[0]


def test_no_two_steps_or_microbatches_share_a_draw_of_dropout(monkeypatch):
    """24 places: ends of both stacks, 4 in each of 2 encoder layers, 6 in each of 2 decoder layers."""
    places = 4 + 2 * 4 + 2 * 6
    mesh = meshes.single_device_mesh()
    train_state = state.create_state(CONFIG, OPTIMIZER, mesh, 0)
    drawn = draws.record(monkeypatch)
    train_step = step.jit_train_step(CONFIG, OPTIMIZER, LOSS, mesh, microbatches=2)
    seen = set()
    for steps in (1, 2):
        train_state, _ = train_step(train_state, packed_batch(0), jax.random.key(1))
        jax.block_until_ready(train_state)
        jax.effects_barrier()
        seen |= {draw.key for draw in drawn}
        assert {draw.shape[0] for draw in drawn} == {4}
        assert len(seen) == 2 * places * steps


def test_one_compilation_per_shape_and_donation():
    mesh = meshes.single_device_mesh()
    traces = []
    original = step.loss_and_sums

    def counted(*args, **kwargs):
        traces.append(args[1].encoder_input_tokens_BL.shape)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "loss_and_sums", counted)
        train_step = step.jit_train_step(CONFIG, OPTIMIZER, LOSS, mesh)
        train_state = state.create_state(CONFIG, OPTIMIZER, mesh, 0)
        for rows in (8, 16, 8, 16, 8):
            before = train_state
            train_state, _ = train_step(train_state, packed_batch(rows, rows), None)
            # The state passed in is taken over.
            assert before.params["token_embedding"].get_value().is_deleted()
            assert not train_state.params["token_embedding"].get_value().is_deleted()
    assert traces == [(8, 12), (16, 12)]


@pytest.mark.parametrize("name", ["t5x_t511", "t5x_t50"])
def test_three_adafactor_steps_equal_t5x(shared, name):
    fixture = shared / "fixtures" / name
    config, _, params = fixture_params.load(fixture)
    train3 = dict(np.load(fixture / "train3.npz"))
    optimizer = optimizers.Optimizer(
        adafactor.AdafactorConfig(),
        schedules.LearningRate(peak=float(train3["learning_rate"].ravel()[0])),
    )
    loss_config = losses.LossConfig(z_loss=1e-4, normalizing_factor="NONE")
    mesh = meshes.single_device_mesh()
    train_state = state.state_from_params(config, optimizer, mesh, params)
    train_step = step.jit_train_step(config, optimizer, loss_config, mesh)
    for number in range(3):
        batch = fixture_params.batch_of(train3, f"batch{number}/")
        train_state, metrics = train_step(train_state, batch, None)
        loss = metrics["loss_sum"] + metrics["z_loss_sum"]
        np.testing.assert_allclose(loss, train3["loss"][number], rtol=1e-6)
        np.testing.assert_allclose(metrics["z_loss_sum"], train3["z_loss_term"][number], rtol=2e-6)
        np.testing.assert_allclose(metrics["grad_norm"], train3["grad_norm"][number], rtol=1e-5)
    prefix = "params_after_3/"
    theirs = {k.removeprefix(prefix): v for k, v in train3.items() if k.startswith(prefix)}
    expected = fixture_params.from_t5x(theirs, config)
    ours = fixture_params.flatten(train_state.params)
    assert set(ours) == set(expected)
    for path, array in expected.items():
        np.testing.assert_allclose(ours[path], array, atol=2e-6, rtol=1e-5, err_msg=path)
    squares = sum(np.sum(np.square(array, dtype=np.float64)) for array in expected.values())
    np.testing.assert_allclose(metrics["param_norm"], np.sqrt(squares), rtol=1e-5)


def test_padded_vocabulary_is_never_predicted(one_device):
    """200 tokens, 256 rows: the rows beyond get no probability and, untied, never move."""
    graphdef, params = t5.abstract_graph_and_params(CONFIG)
    _, trained = one_device
    fresh = state.create_state(CONFIG, OPTIMIZER, meshes.single_device_mesh(), 0)
    for name in ("head", "token_embedding"):
        before, after = fresh.params[name].get_value(), trained.params[name].get_value()
        np.testing.assert_array_equal(before[200:], after[200:])
        assert np.abs(before[:200] - after[:200]).max() > 1e-3
    logits = fixture_params.run(
        graphdef, trained.params, lambda model, batch: model(batch), packed_batch(0)
    )
    assert float(jax.nn.softmax(logits)[:, :, 200:].max()) == 0.0
    assert jax.tree.structure(params) == jax.tree.structure(trained.params)


def test_eval_step_sums(one_device):
    mesh = meshes.make_mesh(2, 2, 2)
    eval_step = step.jit_eval_step(CONFIG, LOSS, mesh)
    fresh = state.create_state(CONFIG, OPTIMIZER, mesh, 0)
    batch = packed_batch(0)
    sums = eval_step(fresh.params, batch)
    assert float(sums["target_tokens"]) == 8 * 6
    graphdef, _ = t5.abstract_graph_and_params(CONFIG)
    logits = fixture_params.run(graphdef, fresh.params, lambda model, batch: model(batch), batch)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    picked = np.take_along_axis(log_probs, batch.decoder_target_tokens_BT[..., None], -1)[..., 0]
    expected = -(picked * np.asarray(batch.decoder_loss_weights_BT)).sum()
    np.testing.assert_allclose(sums["loss_sum"], expected, rtol=1e-5)


def test_bfloat16_compute_keeps_float32_parameters():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    seen, trained = run_steps(config, meshes.single_device_mesh(), steps=5, dropout=False)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(trained.params))
    assert np.isfinite(seen).all() and seen[4, 0] < seen[0, 0]
