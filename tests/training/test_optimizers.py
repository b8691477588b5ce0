"""AdamW against PyTorch's formula in NumPy; learning rates by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.errors import UserError
from genrec_jax.training import adamw, optimizers
from genrec_jax.training.schedules import LearningRate


def numpy_adamw(params, grads_by_step, rates, decays):
    """The published algorithm in float64, with global clipping to 1 first."""
    first = {name: np.zeros_like(array) for name, array in params.items()}
    second = {name: np.zeros_like(array) for name, array in params.items()}
    for step, (grads, rate) in enumerate(zip(grads_by_step, rates, strict=True), start=1):
        norm = np.sqrt(sum((grad**2).sum() for grad in grads.values()))
        for name, grad in grads.items():
            grad = grad / max(1.0, norm)
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.999 * second[name] + 0.001 * grad**2
            direction = (first[name] / (1 - 0.9**step)) / (
                np.sqrt(second[name] / (1 - 0.999**step)) + 1e-6
            )
            decay = 0.01 * params[name] if decays[name] else 0.0
            params = params | {name: params[name] - rate * (direction + decay)}
    return params


@pytest.mark.parametrize("undecayed", [("norm_embed", "relpos_buckets"), ("relpos_buckets",), ()])
def test_adamw_decays_and_clips(undecayed):
    random = np.random.default_rng(0)
    axes = {
        "matrix": ("embed", "mlp"),
        "norm": ("layers", "norm_embed"),
        "bias": ("heads", "relpos_buckets"),
    }
    shapes = {"matrix": (4, 6), "norm": (2, 4), "bias": (2, 5)}
    start = {name: random.normal(size=shape) for name, shape in shapes.items()}
    scales = [10.0, 0.01, 1.0]
    grads = [
        {name: scale * random.normal(size=shape) for name, shape in shapes.items()}
        for scale in scales
    ]

    def state_of(values):
        return nnx.State(
            {
                name: nnx.Param(jnp.asarray(value, jnp.float32), axes=axes[name])
                for name, value in values.items()
            }
        )

    schedule = LearningRate(0.1, "linear", warmup_share=0.4, total_steps=5)
    optimizer = optimizers.Optimizer(adamw.AdamWConfig(undecayed=undecayed), schedule)
    params = state_of(start)
    opt_state = optimizer.init(params)
    for gradient in grads:
        params, opt_state = optimizer.apply(state_of(gradient), opt_state, params)
    decays = {name: not set(axes[name]) & set(undecayed) for name in axes}
    assert decays["matrix"]
    expected = numpy_adamw(start, grads, [0.0, 0.05, 0.1], decays)
    for name, value in expected.items():
        np.testing.assert_allclose(params[name].get_value(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LearningRate(2.0), {0: 2.0, 1000: 2.0}),
        (LearningRate(2.0, warmup_steps=4), {0: 0.0, 1: 0.5, 4: 2.0, 99: 2.0}),
        (LearningRate(0.01, "rsqrt", warmup_steps=100), {0: 0.01, 100: 0.01, 400: 0.005}),
        (
            LearningRate(1.0, "linear", warmup_share=0.05, total_steps=100),
            {0: 0.0, 1: 0.2, 5: 1.0, 24: 0.8, 100: 0.0, 120: 0.0},
        ),
        (
            LearningRate(1.0, "cosine", total_steps=100, final_share=0.1),
            {0: 1.0, 50: 0.55, 100: 0.1},
        ),
    ],
)
def test_learning_rates(schedule, expected):
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-5, atol=1e-7)


def test_learning_rate_needs_the_length_of_the_run():
    with pytest.raises(UserError, match="total_steps"):
        LearningRate(1.0, "linear")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"peak": -1e-3}, "peak is -0.001; wanted a finite number, at least 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        (
            {"warmup_share": 5.0, "total_steps": 100},
            "warmup_share is 5.0; wanted .* at least 0 and at most 1",
        ),
        ({"decay": "linear", "total_steps": 9, "final_share": 2.0}, "final_share is 2.0"),
    ],
)
def test_learning_rates_that_are_none_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        LearningRate(**wrong)
