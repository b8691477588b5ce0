"""Settings of another kind or out of range are refused where they are made, by their name."""

import math

import pytest

from genrec_jax import checks
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.errors import UserError
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.alignment import AlignmentSettings
from genrec_jax.training.adafactor import AdafactorConfig
from genrec_jax.training.adamw import AdamWConfig
from genrec_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    MeshConfig,
    TrainConfig,
    ValidationConfig,
)
from genrec_jax.training.losses import LossConfig
from genrec_jax.training.schedules import LearningRate
from tests.training.tiny import TINY

NEEDED = {
    DataConfig: {"datasets": ["data/a"], "mixture": "openp5", "batch_size": 8},
    T5Config: vars(TINY),
}
NEEDED[TrainConfig] = {
    "model_dir": "runs/a",
    "model": TINY,
    "data": DataConfig(**NEEDED[DataConfig]),
    "train_steps": 1,
}


@pytest.mark.parametrize(
    ("kind", "field", "wrong"),
    [
        (DataConfig, "cut", ["token"]),
        (DataConfig, "packing", ["False", 1, None]),
        (DataConfig, "templates_per_example", [0]),
        (DataConfig, "max_shapes", [0, None]),
        (DataConfig, "row_length", [-5, 0]),
        (DataConfig, "history", [2.5, 0, True]),
        (DataConfig, "num_candidates", [0, 1]),
        (DataConfig, "like_above", [math.nan, math.inf, "3"]),
        (AlignmentSettings, "like_above", [math.nan]),
        (ValidationConfig, "users", [-1, 2.5]),
        (CheckpointConfig, "keep_latest", [None]),
        (MeshConfig, "fsdp", [0]),
        (MeshConfig, "data", [0, -2]),
        (TrainConfig, "train_steps", [1.5]),
        (TrainConfig, "microbatches", [2.0]),
        (AdafactorConfig, "decay_rate", [-1, 5]),
        (AdafactorConfig, "clipping_threshold", [0, None]),
        (AdafactorConfig, "epsilon1", [-1, 0]),
        (AdafactorConfig, "multiply_by_parameter_scale", ["False"]),
        (AdamWConfig, "epsilon", [-1]),
        (AdamWConfig, "b2", [1.0]),
        (AdamWConfig, "clip_norm", [0]),
        (LearningRate, "peak", [math.inf, math.nan, None]),
        (LearningRate, "warmup_steps", [0.5]),
        (LearningRate, "total_steps", [-5]),
        (LearningRate, "final_share", [0.1]),  # its decay is constant
        (LearningRate, "decay", ["linaer"]),
        (LossConfig, "z_loss", [-1, math.nan]),
        (LossConfig, "normalizing_factor", [True, math.inf, None]),
        (EvaluateConfig, "num_beams", [2.5]),
        (EvaluateConfig, "length_penalty", [math.nan]),
        (EvaluateConfig, "exact", ["False"]),
        (BeamConfig, "length_penalty", [math.nan, -1.0]),
        (T5Config, "tied_head", ["False"]),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(kind, field, wrong):
    """Under pytest the constructors check types themselves, so what users meet is called alone."""
    for value in wrong:
        made = kind(**NEEDED.get(kind, {}))
        object.__setattr__(made, field, value)
        with pytest.raises(UserError, match=rf"{field} is .*wanted"):
            made.__post_init__()


@pytest.mark.parametrize("lengths", [{"inputs": -3, "targets": 8}, {"inputs": 8, "targets": 0}])
def test_lengths_of_features(lengths):
    with pytest.raises(UserError, match=r"TASK_FEATURE_LENGTHS\['(inputs|targets)'\] is (-3|0)"):
        DataConfig(**NEEDED[DataConfig], feature_lengths=lengths)


def test_bounds_are_said_and_kept():
    checks.check_number("share", 0, least=0, most=1)
    checks.check_number("share", 1, least=0, most=1)
    with pytest.raises(
        UserError, match="share is 1; wanted a finite number, at least 0 and below 1"
    ):
        checks.check_number("share", 1, least=0, below=1)
    with pytest.raises(UserError, match=r"share is 0; wanted a finite number, above 0$"):
        checks.check_number("share", 0, above=0)
