import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.evaluation import exact
from genrec_jax.pipeline.batch import PromptBatch


def batch_of(users, targets):
    tokens_BL = np.ones((len(users), 4), np.int32)
    return PromptBatch(
        tokens_BL,
        np.zeros_like(tokens_BL),
        np.asarray(users, np.int32),
        np.asarray(targets, np.int32),
    )


def test_by_hand():
    # Best first: user 1: 2, 0, 3, 1 (0 and 3 tie); user 0: 3, 2, 1, 0.
    scores_BI = jnp.asarray([[-2.0, -9.0, -1.0, -2.0], [-4.0, -3.0, -2.0, -1.0], [0.0] * 4])
    histories = {1: [2, 0], 0: [1, 3], -1: []}

    def histories_of(users_B):
        return np.asarray(
            [histories[u] + [-1] * (3 - len(histories[u])) for u in users_B.tolist()], np.int32
        )

    comparison = exact.ExactComparison(lambda params, batch: scores_BI, histories_of, (1, 2))
    lists_BR = np.asarray([[0, 2], [3, -1], [-1, -1]], np.int32)
    comparison.add(None, batch_of([1, 0, -1], [3, 3, -1]), lists_BR, known=True)
    found = comparison.take(known=True)
    assert found.users_E.tolist() == [0, 1]
    assert found.kept_E.tolist() == [1, 3]
    # User 0's target is in the history; without 2 and 0, user 1's stands first.
    assert found.excluded_E is not None and found.excluded_E.tolist() == [0, 1]
    # At 1, user 0's list is right and user 1's wrong; at 2 user 0's lacks one, user 1's none.
    assert found.shared_EK.tolist() == [[1, 1], [0, 2]]
    summary = found.summary()
    assert summary["ranks"]["seen_kept"] == pytest.approx(
        {"mrr": (1 + 1 / 3) / 2, "mean_rank": 2.0, "median_rank": 2.0, "count": 2}
    )
    assert summary["ranks"]["seen_excluded"]["mrr"] == 0.5
    assert summary["beam"]["1"]["miss_rate"] == 0.5
    assert summary["beam"]["2"]["miss_rate"] == 0.25
    assert summary["beam"]["2"] | {"miss_rate": 0} == {
        "miss_rate": 0,
        "target_miss_rate": 0.0,
        "targets": 1,
    }


def test_a_target_that_the_beam_lost():
    scores_BI = jnp.asarray([[0.0, -1.0, -2.0]] * 2)
    nothing = lambda users_B: np.full((len(users_B), 1), -1, np.int32)  # noqa: E731
    comparison = exact.ExactComparison(lambda params, batch: scores_BI, nothing, (2, 5))
    lists_BR = np.asarray([[2, 0], [1, 2]], np.int32)
    comparison.add(None, batch_of([0, 1], [1, 1]), lists_BR, known=False)
    found = comparison.take(known=False)
    assert found.excluded_E is None and list(found.footings()) == ["seen_kept"]
    summary = found.summary()["beam"]
    assert summary["2"] == {"miss_rate": 0.5, "target_miss_rate": 0.5, "targets": 2}
    # Of a catalogue of 3 there are no 5 best; the beam's list holds two of the three.
    assert summary["5"]["miss_rate"] == pytest.approx(1 / 3)


def test_ranks_equal_sorting():
    rng = np.random.default_rng(0)
    scores_BI = np.round(rng.normal(0, 1, (40, 30)), 1).astype(np.float32)  # with ties
    targets_B = rng.integers(0, 30, 40)
    histories_BW = np.stack([rng.permutation(30)[:6] for _ in range(40)])
    histories_BW[:, 4:] = -1
    ranks_B, excluded_B, best_BR = exact.rank_all(
        jnp.asarray(scores_BI), jnp.asarray(targets_B), jnp.asarray(histories_BW), 7
    )
    for row in range(40):
        order = sorted(range(30), key=lambda item: (-scores_BI[row, item], item))
        assert best_BR[row].tolist() == order[:7]
        assert ranks_B[row] == order.index(targets_B[row]) + 1
        left = [item for item in order if item not in histories_BW[row]]
        wanted = left.index(targets_B[row]) + 1 if targets_B[row] in left else 0
        assert excluded_B[row] == wanted
