"""Model FLOPs utilisation: the formula against the trace of the real step, and against a device's peak."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from genrec_jax.training import plan_programs, throughput
from tests.training import small_plan, test_step

SHAPES = dataclasses.replace(small_plan.SHAPES, input_length=40, target_length=8)


@pytest.mark.parametrize("activations", [("relu",), ("gelu", "linear")])
def test_the_formula_counts_what_the_traced_step_multiplies(activations):
    model = dataclasses.replace(
        small_plan.CONFIG.model,
        embed_dim=32,
        num_heads=2,
        head_dim=8,
        num_encoder_layers=3,
        mlp_activations=activations,
        tied_head=activations == ("relu",),
        dropout_rate=0.0,
    )
    traced = plan_programs.train_flops(dataclasses.replace(small_plan.CONFIG, model=model), SHAPES)
    # The trace also has the position biases' products with one-hot vectors, forwards and for the table.
    lengths = SHAPES.input_length**2 + SHAPES.target_length**2
    biases = 2 * 2 * model.num_heads * model.relative_buckets * lengths
    counted = throughput.model_flops(model, SHAPES.rows, SHAPES.input_length, SHAPES.target_length)
    assert counted == traced - biases


def test_a_batch_is_counted_by_its_shapes():
    batch = test_step.packed_batch(0, rows=8)
    config = small_plan.CONFIG.model
    counted = throughput.Utilisation(config, jax.devices()).flops(jax.tree.map(np.asarray, batch))
    assert counted == throughput.model_flops(config, 8, 12, 8)


def test_devices_whose_peak_is_not_listed_have_no_share():
    assert throughput.peak_flops(jax.devices()) is None
    assert throughput.Utilisation(small_plan.CONFIG.model, jax.devices()).share(1e12, 1.0) is None


def test_a_share_is_of_all_devices_that_train():
    two = [types.SimpleNamespace(device_kind="NVIDIA H200")] * 2
    share = throughput.Utilisation(small_plan.CONFIG.model, two).share(989e12, 2.0)
    assert share == pytest.approx(0.25)
