"""The audit across tasks, and artefacts that must fail it."""

import numpy as np

from genrec_jax.data import splits as splits_lib
from genrec_jax.data.audit_tasks import audit_tasks
from tests.pipeline.pipeline_data import random_sequences, write_dataset


def make(tmp_path):
    data = write_dataset(tmp_path / "shop", "Shop", random_sequences(50, 60, seed=5, longest=20))
    splits = splits_lib.leave_one_out(data)
    held = np.concatenate([splits.validation_U, splits.test_U])
    targets = np.flatnonzero(splits.in_training_X(data))
    begin = np.maximum(targets - 20, data.offsets_U1[data.users_X[targets]])
    return data, held, (begin, targets + 1)


def test_one_split_for_all_tasks_passes(tmp_path):
    data, held, ranges = make(tmp_path)
    result = audit_tasks(
        data, {"retrieval": ranges, "rating": ranges}, {"retrieval": held, "rating": held}
    )
    assert result.status == "pass"
    assert "retrieval, rating" in result.detail


def test_p5s_random_rating_split_fails(tmp_path):
    """P5: sequential prompts leave one out, ratings are split 80/10/10 at random. Each is clean alone."""
    data, held, ranges = make(tmp_path)
    order = np.random.default_rng(0).permutation(data.num_interactions)
    cut = int(0.8 * len(order))
    rated = order[:cut]
    rating = (rated, rated + 1)
    for alone in (
        audit_tasks(data, {"sequential": ranges}, {"sequential": held}),
        audit_tasks(data, {"rating": rating}, {"rating": order[cut:]}),
    ):
        assert alone.status == "pass"
    both = audit_tasks(
        data, {"sequential": ranges, "rating": rating}, {"sequential": held, "rating": order[cut:]}
    )
    assert both.status == "fail"
    assert "Shop" not in both.detail
    assert "that rating holds out are in the training examples of sequential" in both.detail or (
        "that sequential holds out are in the training examples of rating" in both.detail
    )


def test_a_single_position_is_found(tmp_path):
    data, held, (begin, end) = make(tmp_path)
    end = end.copy()
    worst = int(np.argmax(end))
    end[worst] += 1  # the last user's validation item
    result = audit_tasks(data, {"mim": (begin, end)}, {"retrieval": held})
    assert result.status == "fail"
    assert "1 of the 100 interactions that retrieval holds out" in result.detail
    assert f"user {data.num_users - 1}'s" in result.detail
