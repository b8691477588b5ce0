"""Adafactor against T5X's own steps, factored and not, stacked and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.errors import UserError
from genrec_jax.training import adafactor, optimizers, schedules
from tests.model import fixture_params


def test_unit_arrays_equal_t5x(shared):
    """Both orientations, squares, vectors, the scale floor, and arrays with a `layers` axis."""
    fixture = shared / "fixtures" / "t5x_t511"
    about = fixture_params.config_json(fixture)["adafactor_unit"]
    arrays = dict(np.load(fixture / "adafactor_unit.npz"))

    def group(prefix):
        return nnx.State(
            {
                name: nnx.Param(jnp.asarray(arrays[f"{prefix}/{name}"]), axes=tuple(axes))
                for name, axes in about["axes"].items()
            }
        )

    optimizer = optimizers.Optimizer(
        adafactor.AdafactorConfig(min_dim_size_to_factor=8),
        schedules.LearningRate(peak=about["learning_rate"]),
    )
    params = group("params0")
    state = optimizer.init(params)
    apply = jax.jit(optimizer.apply)
    for step in range(3):
        params, state = apply(group(f"grads{step}"), state, params)
        for name in about["axes"]:
            expected = arrays[f"params{step + 1}/{name}"]
            got = params[name].get_value()
            np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7, err_msg=name)
    slots = {"full": "v", "row": "v_row", "column": "v_col"}
    compared = 0
    for name, moments in state.moments.items():
        for kind, moment in moments.items():
            expected = arrays[f"state3/{name}/{slots[kind]}"]
            np.testing.assert_allclose(moment.get_value(), expected, rtol=2e-6, err_msg=name)
            compared += 1
    assert compared == 17  # 6 of the 11 arrays are factored


def test_layers_never_mix():
    """A stacked matrix moves exactly as its layers would on their own."""
    random = np.random.default_rng(0)
    stacked = random.normal(size=(3, 8, 12)).astype(np.float32) * np.asarray([1, 5, 0.01])[
        :, None, None
    ].astype(np.float32)
    grads = random.normal(size=(2, 3, 8, 12)).astype(np.float32)
    optimizer = optimizers.Optimizer(adafactor.AdafactorConfig(min_dim_size_to_factor=4))

    def two_steps(array, grads, axes):
        params = nnx.State({"w": nnx.Param(jnp.asarray(array), axes=axes)})
        state = optimizer.init(params)
        for grad in grads:
            gradient = nnx.State({"w": nnx.Param(jnp.asarray(grad), axes=axes)})
            params, state = optimizer.apply(gradient, state, params)
        return params["w"].get_value()

    together = two_steps(stacked, grads, ("layers", "embed", "mlp"))
    alone = [two_steps(stacked[n], grads[:, n], ("embed", "mlp")) for n in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-6)
    assert np.abs(together - stacked).max() > 1e-3


@pytest.mark.parametrize("offset", [1000, -1])
def test_an_offset_of_the_steps_is_refused_for_they_begin_at_0(offset):
    with pytest.raises(UserError, match=rf"step_offset is {offset}; wanted 0"):
        adafactor.AdafactorConfig(step_offset=offset)
    assert adafactor.AdafactorConfig(step_offset=0) == adafactor.AdafactorConfig()


@pytest.mark.parametrize(
    ("shape", "row", "column"),
    [
        ((2, 200, 130), 2, 1),
        ((2, 130, 200), 1, 2),
        ((2, 150, 150), 1, 2),
        ((2, 200, 100), None, None),
    ],
)
def test_rows_are_the_shorter_side(shape, row, column):
    layout = adafactor.layout_of(("layers", "embed", "mlp"), shape, 128)
    assert (layout.row, layout.column) == (row, column)
