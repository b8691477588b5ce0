"""A tiny dataset with item ids, and the configuration of a run on it that takes seconds."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import pytest

from genrec_jax.data import prepare, toystore
from genrec_jax.indexing import build
from genrec_jax.prompts import templates
from genrec_jax.training import config, schedules
from genrec_jax.training.optimizers import Optimizer
from tests.training.tiny import TINY

MakeConfig = Callable[..., config.TrainConfig]


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory) -> pathlib.Path:
    """60 users of the toy store, with sequential item ids."""
    folder = tmp_path_factory.mktemp("toy") / "toystore"
    log = toystore.generate(seed=3, num_users=60)
    prepare.prepare(log, folder, name="toystore", filters=prepare.Filters(3, 1))
    lines = [text for t in templates.load_templates() for text in (t.input, t.target)]
    build.build_index([folder], build.IndexConfig(method="sequential"), prompt_lines=lines)
    return folder


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """Programs that several tests compile are compiled once."""
    folder = tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield folder
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def make_config(toy_dataset, tmp_path_factory, compiled_once) -> MakeConfig:
    """Makes the configuration of a short run in a new folder; keywords change it, data ones too."""

    def make(*, data: dict | None = None, **changes) -> config.TrainConfig:
        settings = config.TrainConfig(
            model_dir=str(tmp_path_factory.mktemp("run") / "run"),
            model=TINY,
            data=config.DataConfig(
                **{
                    "datasets": [str(toy_dataset)],
                    "mixture": "openp5_sequential",
                    "max_shapes": 1,
                    "batch_size": 16,
                    "feature_lengths": {"inputs": 96, "targets": None},
                    "history": 5,
                    **(data or {}),
                }
            ),
            optimizer=Optimizer(learning_rate=schedules.LearningRate(peak=0.01)),
            train_steps=6,
            validation=config.ValidationConfig(period=None),
            checkpoints=config.CheckpointConfig(period=2),
            log_period=2,
        )
        return dataclasses.replace(settings, **changes)

    return make
