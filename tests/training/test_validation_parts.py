"""The validation loss: the same however its rows are split, and never over more rows than a step takes."""

import dataclasses

import pytest

from genrec_jax.parallel import mesh as meshes
from genrec_jax.training import inputs, state, step, validation


@pytest.fixture
def forwards(monkeypatch):
    """The shapes of inputs that the loss was computed over, one batch after another."""
    seen = []
    make = step.jit_eval_step

    def watched(*args):
        eval_step = make(*args)

        def run(params, batch):
            seen.append(batch.encoder_input_tokens_BL.shape)
            return eval_step(params, batch)

        return run

    monkeypatch.setattr(step, "jit_eval_step", watched)
    return seen


def loss_of(settings, mesh) -> float:
    opened = inputs.open_inputs(settings.data, settings.seed, mesh, settings.microbatches)
    settings = settings.resolved(steps=6, vocab_size=opened.vocabulary.size)
    fresh = state.create_state(settings.model, settings.optimizer, mesh, 0)
    return validation.make_loss(settings, opened, mesh)(fresh.params)


def test_the_loss_is_read_in_as_many_parts_as_a_step_is_worked_on(make_config, forwards):
    """Sixty users: of 16 rows three batches and 12 rows, in quarters or rounded up to eight devices."""
    one = meshes.single_device_mesh()
    settings = make_config()
    whole = loss_of(settings, one)
    (length,) = {length for _, length in forwards}
    assert forwards == [(16, length)] * 4
    forwards.clear()
    quarters = dataclasses.replace(settings, microbatches=4)
    assert loss_of(quarters, one) == pytest.approx(whole, rel=1e-6)
    assert forwards == [(4, length)] * 15
    forwards.clear()
    assert loss_of(quarters, meshes.make_mesh(4, 2, 1)) == pytest.approx(whole, rel=1e-5)
    assert forwards == [(8, length)] * 8


def test_a_few_batches_hold_the_same_users_in_parts(make_config, forwards):
    one = meshes.single_device_mesh()
    settings = make_config()
    few = dataclasses.replace(settings.validation, loss_batches=2)
    settings = dataclasses.replace(settings, validation=few)
    whole = loss_of(settings, one)
    thirds = dataclasses.replace(settings, microbatches=3)
    assert loss_of(thirds, one) == pytest.approx(whole, rel=1e-6)
    assert [rows for rows, _ in forwards] == [16, 16, *[6] * 6]
