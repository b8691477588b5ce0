"""Distinct values against Python's sets."""

import numpy as np
import pytest

from genrec_jax.data.distinct import distinct


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_each_value_once_in_order(count, dtype):
    values_N = np.random.default_rng(0).integers(-300, 300, count).astype(dtype)
    before = values_N.copy()
    found = distinct(values_N)
    assert found.dtype == dtype
    assert found.tolist() == sorted(set(values_N.tolist()))
    assert np.array_equal(values_N, before)
