"""Weights as they are, evaluated without training: `genrec train` of 0 steps, then `genrec evaluate`."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from sentencepiece import sentencepiece_model_pb2

from genrec_jax.checkpoint import export, imported, new_tokens, restore
from genrec_jax.cli import main
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.t5 import T5
from tests.evaluation import tiny_run

NETWORK = {
    "embed_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
}


@pytest.fixture(scope="module", autouse=True)
def no_compilation_cache():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_COMPILATION_CACHE", "")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset with short ids, which are plain text."""
    folder = tiny_run.make_dataset(tmp_path_factory.mktemp("data")).path
    assert main.main(["index", str(folder), "--method", "short"]) == 0
    return folder


def make_weights(folder, vocabulary):
    """As `genrec import-weights` writes them, with random values."""
    config = dataclasses.replace(tiny_run.model_config(vocabulary.size), whole_word_embedding=False)
    params = nnx.state(T5(config, rngs=nnx.Rngs(7)), nnx.Param)
    folder.mkdir()
    imported.write(folder, params, config, vocabulary=vocabulary, source={"format": "test"})
    return folder


@pytest.fixture(scope="module")
def vocabulary(data):
    return Vocabulary(data / "index/short/vocabulary.model")


@pytest.fixture(scope="module")
def weights(vocabulary, tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "weights", vocabulary)


def train(data, weights, run_dir, *bindings):
    words = ["--gin_file=gin_configs/models/flan_t5_small.gin"]
    words += ["--gin_file=gin_configs/runs/zero_shot_alignment.gin"]
    words += [f"--gin.model_config.T5Config.{name}={value}" for name, value in NETWORK.items()]
    words += [f'--gin.DATA_DIR="{data}"', f'--gin.INITIAL_CHECKPOINT_PATH="{weights}"']
    words += [f'--gin.MODEL_DIR="{run_dir}"', "--gin.config.DataConfig.num_candidates=12"]
    return main.main(["train", *words, *(f"--gin.{binding}" for binding in bindings)])


@pytest.fixture(scope="module")
def run_dir(data, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "zero_shot"
    assert train(data, weights, folder) == 0
    return folder


def named(params):
    return {name: np.array(array) for name, array in export.named(params).items()}


def test_the_run_has_the_weights_bit_for_bit(run_dir, weights):
    loaded = imported.ImportedWeights.load(weights)
    before, after = named(loaded.restore_params()), named(restore.restore_params(run_dir))
    for table in new_tokens.TABLES:  # rows that pad it, masked out of the softmax
        before[table][loaded.model_config.vocab_size :] = 0
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.tobytes() == after[name].tobytes(), name
    assert json.loads((run_dir / "finished.json").read_text())["step"] == 0


def test_all_three_questions_are_asked_of_them(run_dir, capsys):
    words = ["--max-users", "12", "--num-beams", "5", "--batch-size", "16"]
    assert main.main(["evaluate", str(run_dir), *words]) == 0
    (file,) = (run_dir / "eval").glob("*/metrics.json")
    metrics = json.loads(file.read_text())
    assert metrics["step"] == 0
    assert {"model/retrieval/retrieval", "model/ranking/ranking"} <= set(metrics["systems"])
    assert set(metrics["ratings"]["systems"]) == {"model/rating/rating", "history"}
    assert "step 0" in capsys.readouterr().out


def test_the_same_command_again_changes_nothing(run_dir, data, weights, capsys):
    before = sorted((run_dir / "checkpoints/0").rglob("*"))
    stamps = [path.stat().st_mtime_ns for path in before]
    assert train(data, weights, run_dir) == 0
    assert "no training: the parameters are those given" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in before] == stamps


def test_tokens_that_would_need_training_are_refused(data, vocabulary, tmp_path, capsys):
    fewer = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.serialized)
    del fewer.pieces[-3:]
    weights = make_weights(tmp_path / "weights", Vocabulary(fewer.SerializeToString()))
    assert train(data, weights, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "lacks 3 tokens of the run's vocabulary" in error
    assert f"--method short --vocabulary {weights / 'vocabulary.model'}" in error


def test_a_whole_word_embedding_that_the_weights_lack_is_refused(data, weights, tmp_path, capsys):
    binding = "model_config.T5Config.whole_word_embedding=True"
    assert train(data, weights, tmp_path / "run", binding) == 2
    assert "--gin.model_config.T5Config.whole_word_embedding=False" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("INITIAL_CHECKPOINT_PATH=None", "wanted at least 1, or 0 with INITIAL_CHECKPOINT_PATH"),
        ('REINITIALISED_TOKENS="numbers"', "embeddings would be drawn and never trained"),
    ],
)
def test_nothing_else_may_be_left_untrained(data, weights, tmp_path, binding, said, capsys):
    assert train(data, weights, tmp_path / "run", binding) == 2
    assert said in capsys.readouterr().err


def test_another_runs_model_is_asked_what_it_was_not_trained_on(run_dir, data, tmp_path):
    """A run dir is a start like any other; its parameters come through on a mesh as well."""
    assert jax.device_count() == 8
    words = ["config.MeshConfig.fsdp=2", "config.MeshConfig.tensor=2", "MIXTURE_RATES=None"]
    second = tmp_path / "second"
    assert train(data, run_dir, second, 'MIXTURE_OR_TASK_NAME="alignment_ranking"', *words) == 0
    before, after = named(restore.restore_params(run_dir)), named(restore.restore_params(second))
    assert all(array.tobytes() == after[name].tobytes() for name, array in before.items())
