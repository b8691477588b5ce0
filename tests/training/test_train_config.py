"""What a training run's configuration may say, checked before anything is opened."""

import pathlib

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.training import config, schedules, validation
from genrec_jax.training.optimizers import Optimizer


def test_epochs_become_steps_and_reach_the_schedule(make_config):
    rate = schedules.LearningRate(decay="linear", warmup_share=0.05, total_steps=0)
    settings = make_config(
        train_steps=None, train_epochs=2.5, optimizer=Optimizer(learning_rate=rate)
    )
    assert settings.steps(40) == 100
    resolved = settings.resolved(steps=100, vocab_size=77)
    assert resolved.optimizer.learning_rate.total_steps == 100
    assert resolved.model.vocab_size == 77


def test_a_constant_rate_does_not_record_the_steps_so_that_a_run_can_go_on_longer(make_config):
    resolved = make_config().resolved(steps=100, vocab_size=77)
    assert resolved.optimizer.learning_rate.total_steps is None


def test_one_dataset_needs_no_list_and_paths_are_recorded_as_text(make_config):
    for given in ("data/tiny", [pathlib.Path("data/tiny")]):
        recorded = make_config(data={"datasets": given}).to_json()
        assert recorded["data"]["datasets"] == ["data/tiny"]


@pytest.mark.parametrize(("own", "warmup"), [({}, 30), ({"warmup_steps": 0}, 0)])
def test_a_warm_up_follows_the_steps_unless_its_length_is_given(make_config, own, warmup):
    rate = schedules.LearningRate(warmup_share=0.1, total_steps=0, **own)
    settings = make_config(train_steps=300, optimizer=Optimizer(learning_rate=rate))
    resolved = settings.resolved(steps=300, vocab_size=77).optimizer.learning_rate
    assert (resolved.warmup(), resolved.warmup_steps, resolved.total_steps) == (
        warmup,
        warmup,
        None,
    )
    assert resolved.notice(300) is None


def test_settings_are_recorded_whatever_library_their_numbers_are_of(make_config):
    settings = make_config()
    object.__setattr__(
        settings.data, "batch_size", np.int64(8)
    )  # the tests' types refuse it earlier
    assert settings.to_json()["data"]["batch_size"] == 8


def test_a_run_that_ends_within_its_warm_up_is_told():
    rate = schedules.LearningRate(warmup_steps=1000)
    assert "1,000 steps of warm-up, 100 steps in all" in str(rate.notice(100))
    assert rate.notice(1001) is None
    assert schedules.LearningRate(decay="rsqrt", warmup_steps=1000).notice(100) is None


def test_exactly_one_of_steps_and_epochs(make_config):
    with pytest.raises(UserError, match="exactly one"):
        make_config(train_epochs=2.0)


@pytest.mark.parametrize(
    "steps",
    [
        {"train_steps": 0},
        {"train_steps": -1, "initial_checkpoint": "weights"},
        {"train_steps": None, "train_epochs": 0},
    ],
)
def test_a_run_has_a_step_at_least(make_config, steps):
    with pytest.raises(UserError, match=r"train_(steps|epochs) is (0|-1); wanted"):
        make_config(**steps)


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_no_key_can_be_made_of(make_config, seed):
    with pytest.raises(
        UserError, match=rf"RANDOM_SEED is {seed}; wanted a whole number, 0 to 4294967295"
    ):
        make_config(seed=seed)


def test_periods_are_at_least_1_or_none():
    with pytest.raises(
        UserError,
        match=r"ValidationConfig.period is 0; wanted a whole number, 1 or more .None: never",
    ):
        config.ValidationConfig(period=0)
    with pytest.raises(UserError, match=r"CheckpointConfig.period is -5"):
        config.CheckpointConfig(period=-5)
    config.CheckpointConfig(period=None)


@pytest.mark.parametrize(
    ("tasks", "settings", "said"),
    [
        ("ranking mlm", {"metric": "hr@10"}, None),
        ("ranking mlm", {"metric": "hr@10/ranking/ranking"}, None),
        (
            "ranking mlm",
            {"metric": "hr@10/rankin"},
            r"wanted hr@10, ndcg@10, hr@10/ranking/ranking",
        ),
        ("ranking mlm", {"metric": "auc"}, r"wanted hr@10, ndcg@10, .* or loss"),
        ("retrieval rating", {"metric": "hr@10"}, None),
        ("retrieval rating", {"metric": "auc"}, None),
        (
            "retrieval rating",
            {"metric": "auc", "templates": ("retrieval",)},
            "wanted hr@10, .* or loss",
        ),
        (
            "retrieval rating",
            {"metric": "hr@10", "templates": ("mim",)},
            "of the task mim, which only",
        ),
        ("retrieval rating", {"metric": "auc", "users": 0}, r"wanted loss .no users"),
        ("rating mlm", {"metric": "auc"}, None),
        ("rating mlm", {"metric": "hr@10"}, "wanted auc or loss"),
        ("mim mlm", {"metric": "loss"}, r"mim, mlm only train .* set EVAL_PERIOD=None"),
        ("mim mlm", {"metric": "loss", "users": 0}, "set EVAL_PERIOD=None"),
        ("retrieval", {"metric": "Beauty/hr@10", "datasets": ["Beauty", "Toys"]}, None),
        (
            "retrieval",
            {"metric": "Toys/ndcg@10/retrieval/retrieval", "datasets": ["Beauty", "Toys"]},
            None,
        ),
        (
            "retrieval",
            {"metric": "hr@10/retrieval/retrieval", "datasets": ["Beauty", "Toys"]},
            "not measured",
        ),
        ("retrieval", {"metric": "Beauty/hr@10"}, "not measured"),
    ],
)
def test_what_is_measured_depends_on_tasks_templates_and_datasets(tasks, settings, said):
    templates = templates_lib.load_templates(templates_lib.ALIGNMENT_TEMPLATES)
    settings = dict(settings)
    datasets = settings.pop("datasets", ["Beauty"])
    given = config.ValidationConfig(**settings)
    if said is None:
        validation.check_metric(given, tasks.split(), templates, datasets)
    else:
        with pytest.raises(UserError, match=said):
            validation.check_metric(given, tasks.split(), templates, datasets)


def test_too_few_beams_for_the_metric_are_refused_before_anything_is_trained():
    with pytest.raises(UserError, match=r"chosen by hr@10, but 4 beams"):
        config.ValidationConfig(num_beams=4)
    config.ValidationConfig(num_beams=4, metric="loss")
