"""Seeds aggregated: means and spreads by hand, and refusals of what must not be averaged."""

import copy

import pytest

from genrec_jax.errors import UserError
from genrec_jax.evaluation import aggregate as aggregating


def manifest(seed, **settings):
    data = {"datasets": [f"/scratch/{seed}/beauty"], "history": 20}
    return {
        "model": {"embed_dim": 64},
        "mixture": {"name": "openp5", "seed": seed},
        "settings": {"seed": seed, "data": data, "train_steps": 300} | settings,
    }


def aggregate(found, manifests=None):
    """Of runs of one configuration whose seeds are 0, 1, ..."""
    return aggregating.aggregate(found, manifests or [manifest(n) for n in range(len(found))])


def result(seed, value):
    def metrics(v):
        return {"hr@10": {"value": v, "low": v, "high": v, "count": 50}}

    return {
        "run_dir": f"runs/seed{seed}",
        "step": 100,
        "parameters": f"checksum {seed}",
        "split": "test",
        "protocol": "leave_one_out",
        "num_beams": 20,
        "length_penalty": 0.0,
        "finish_within_beams": False,
        "exact_exclusion": False,
        "max_users": 50,
        "sample_seed": 0,
        "dtype": "float32",
        "item_ids": {"method": "sequential"},
        "users": 50,
        "dataset": {"name": "small", "fingerprint": "f"},
        "systems": {
            "model/sequential/A1": {"seen_kept": metrics(value), "seen_excluded": metrics(value)},
            "popularity": {"seen_kept": metrics(0.25), "seen_excluded": metrics(0.25)},
        },
    }


def test_mean_and_spread():
    combined = aggregate([result(0, 0.5), result(1, 0.75), result(2, 0.25)])
    model = combined["systems"]["model/sequential/A1"]["seen_kept"]["hr@10"]
    assert model == {
        "mean": 0.5,
        "standard_deviation": 0.25,
        "low": 0.25,
        "high": 0.75,
        "values": [0.5, 0.75, 0.25],
    }
    assert combined["systems"]["popularity"]["seen_kept"]["hr@10"]["standard_deviation"] == 0
    assert [run["run_dir"] for run in combined["runs"]] == [
        "runs/seed0",
        "runs/seed1",
        "runs/seed2",
    ]


def test_one_run_has_no_spread():
    combined = aggregate([result(0, 0.5)])
    model = combined["systems"]["model/sequential/A1"]["seen_kept"]["hr@10"]
    assert model["standard_deviation"] is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split", "validation"),
        ("num_beams", 10),
        ("finish_within_beams", True),
        ("exact_exclusion", True),
        ("users", 49),
        ("max_users", 100),
        ("sample_seed", 1),
        ("dtype", "bfloat16"),
        ("dataset fingerprint", "g"),
        ("indexing method", "random"),
    ],
)
def test_different_settings_are_refused(key, value):
    other = result(1, 0.5)
    if key == "dataset fingerprint":
        other["dataset"] = {"name": "small", "fingerprint": value}
    elif key == "indexing method":
        other["item_ids"] = {"method": value}
    else:
        other[key] = value
    with pytest.raises(UserError, match=f"{key} is .* runs/seed1 and .* runs/seed0"):
        aggregate([result(0, 0.5), other])


def test_the_same_run_twice_is_refused():
    with pytest.raises(UserError, match="twice"):
        aggregate([result(0, 0.5), copy.deepcopy(result(0, 0.5))])


def test_one_run_under_two_paths_is_refused():
    absolute = result(0, 0.5) | {"run_dir": "/home/me/runs/seed0"}
    with pytest.raises(UserError, match="runs/seed0 and /home/me/runs/seed0 have the same param"):
        aggregate([result(1, 0.25), result(0, 0.5), absolute])


def test_runs_of_one_name_on_three_machines_are_three():
    runs = [result(seed, 0.25 * seed) | {"run_dir": "runs/quickstart"} for seed in range(3)]
    combined = aggregate(runs)["systems"]["model/sequential/A1"]["seen_kept"]["hr@10"]
    assert combined["mean"] == 0.25 and combined["standard_deviation"] == 0.25


def test_without_checksums_path_and_step_tell_runs_apart():
    """Evaluations of before checksums were noted, or one of them."""
    old = result(0, 0.5)
    del old["parameters"]
    for other in (old, result(0, 0.5)):
        with pytest.raises(UserError, match=r"at one path and step.* evaluate them again"):
            aggregate([old, other])
    assert len(aggregate([old, result(1, 0.5)])["runs"]) == 2
    assert len(aggregate([old, old | {"step": 200}])["runs"]) == 2


def test_nothing_is_refused():
    with pytest.raises(UserError, match="no results"):
        aggregate([])


def test_runs_of_other_settings_are_refused_by_name():
    """300 and 1,600 steps used to be averaged as two seeds."""
    found = [result(0, 0.5), result(1, 0.75)]
    with pytest.raises(
        UserError, match=r"settings.train_steps is 1600 in runs/seed1 and 300 in runs/seed0"
    ):
        aggregate(found, [manifest(0), manifest(1, train_steps=1600)])


def test_runs_of_one_seed_are_refused():
    with pytest.raises(
        UserError, match="runs/seed0 and runs/seed1 were trained with the same seed"
    ):
        aggregate([result(0, 0.5), result(1, 0.75)], [manifest(0), manifest(0)])


def test_many_and_long_settings_are_told_in_short():
    many = {f"setting_{n}": n for n in range(9)} | {"aaa": "x" * 500}
    with pytest.raises(UserError) as refused:
        aggregate([result(0, 0.5), result(1, 0.75)], [manifest(0), manifest(1, **many)])
    assert "; and 4 more" in str(refused.value) and "x" * 60 not in str(refused.value)
