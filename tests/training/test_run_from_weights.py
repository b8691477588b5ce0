"""A run's model goes out to Hugging Face, comes back by import-weights, and starts another run."""

import numpy as np

from genrec_jax.checkpoint import export, import_weights, restore
from genrec_jax.training import schedules
from genrec_jax.training.optimizers import Optimizer
from genrec_jax.training.run import train


def parameters(run_dir):
    params = export.named(restore.restore_params(run_dir, "latest"))
    return {name: np.array(array) for name, array in params.items()}


def test_out_to_hugging_face_and_back_into_a_run(make_config, tmp_path):
    still = Optimizer(learning_rate=schedules.LearningRate(peak=0.0))
    first = make_config(train_steps=1)
    train(first)
    export.export(first.model_dir, tmp_path / "hub", checkpoint="latest")
    weights = import_weights.import_weights(tmp_path / "hub", tmp_path / "weights")
    second = make_config(
        train_steps=1, seed=9, optimizer=still, initial_checkpoint=str(weights.path)
    )
    train(second)
    before, after = parameters(first.model_dir), parameters(second.model_dir)
    tokens = weights.model_config.vocab_size
    before["token_embedding"][tokens:] = 0
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
