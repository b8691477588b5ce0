import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.decoding import selection


def rows(seed, count, values):
    """Rows of scores, few different ones so that many tie, with empty places."""
    rng = np.random.default_rng(seed)
    scores_BC = rng.integers(0, values, (4, count)).astype(np.float32)
    scores_BC[rng.random((4, count)) < 0.2] = -np.inf
    scores_BC[3, 3:] = -np.inf
    return scores_BC, np.stack([rng.permutation(count) for _ in range(4)]).astype(np.int32)


@pytest.mark.parametrize("count, keep", [(5, 9), (9, 9), (300, 20), (4096, 20), (6000, 70)])
@pytest.mark.parametrize("values", [1, 7, 1 << 20])
def test_highest_scores_and_what_was_lost(count, keep, values):
    scores_BC, _ = rows(0, count, values)
    found = jax.device_get(jax.jit(selection.top, static_argnums=1)(scores_BC, keep))
    for row, scores_C in enumerate(scores_BC):
        wanted = np.sort(scores_C)[::-1][:keep]
        wanted = np.pad(wanted, (0, keep - len(wanted)), constant_values=-np.inf)
        assert np.array_equal(found.scores_BR[row], wanted)
        real = wanted > -np.inf
        assert np.array_equal(scores_C[found.indices_BR[row][real]], wanted[real])
        assert len(set(found.indices_BR[row][real].tolist())) == real.sum()
        left_out = wanted[-1] > -np.inf and (scores_C >= wanted[-1]).sum() > keep
        assert found.lost_B[row] == (wanted[-1] if left_out else -np.inf)


@pytest.mark.parametrize("count, keep", [(5, 9), (300, 20), (4096, 20)])
@pytest.mark.parametrize("values", [1, 7])
def test_ties_go_to_the_smallest_items(count, keep, values):
    scores_BC, items_BC = rows(1, count, values)
    scores_BR, indices_BR = selection.top_of_ties(
        jnp.asarray(scores_BC), jnp.asarray(items_BC), keep
    )
    for row in range(4):
        pairs = sorted(zip(-scores_BC[row], items_BC[row], strict=True))
        wanted = [pair for pair in pairs[:keep] if pair[0] < np.inf]
        real = np.asarray(scores_BR[row]) > -np.inf
        places = np.asarray(indices_BR[row])[real]
        found = zip(-scores_BC[row, places], items_BC[row, places], strict=True)
        assert sorted(found) == wanted


def test_large_item_numbers_keep_their_order():
    items = np.asarray([0, 1, 2, 1 << 24, (1 << 24) + 1, (1 << 31) - (1 << 24)], np.int32)
    floats = np.asarray(selection._descending(jnp.asarray(items)))
    assert np.all(np.diff(floats) < 0) and np.all(floats > 0) and np.all(np.isfinite(floats))
