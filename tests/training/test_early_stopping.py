"""The best so far: strictly better counts, patience counts validations."""

import pytest

from genrec_jax.training.early_stopping import BestSoFar


def run(values, mode="max"):
    best = BestSoFar()
    for step, value in enumerate(values, start=1):
        best = best.update(value, step, mode)
    return best


def test_the_first_of_equals_is_best():
    assert run([0.1, 0.3, 0.3, 0.2]) == BestSoFar(value=0.3, step=2, waited=2)
    assert run([3.0, 1.0, 2.0], "min") == BestSoFar(value=1.0, step=2, waited=1)


def test_nan_is_never_best():
    assert run([0.1, float("nan")]) == BestSoFar(value=0.1, step=1, waited=1)
    assert run([float("nan")]).value is None


def test_infinity_is_never_best():
    """A loss that overflowed must not be beaten by none; JSON could not say it either."""
    assert run([float("inf")], "min").value is None
    assert run([float("inf"), 0.5]) == BestSoFar(value=0.5, step=2, waited=0)


@pytest.mark.parametrize(("patience", "stop"), [(None, False), (1, True), (2, True), (3, False)])
def test_patience(patience, stop):
    assert run([0.5, 0.4, 0.3]).should_stop(patience) is stop


def test_it_survives_json():
    best = run([0.5, 0.4])
    assert BestSoFar(**best.to_json()) == best
