"""T5X itself: its models decode through our trie, and it loads what we export. Skipped without T5X."""

import asyncio
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import flax
import jax
import numpy as np
import pytest
from flax import traverse_util

from genrec_jax.checkpoint import export, weight_names
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.decoding import t5x_search
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.indexing import build, item_ids
from genrec_jax.model import t5
from genrec_jax.pipeline import seqio_tasks
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.pipeline.token_runs import TokenRuns
from genrec_jax.prompts import templates
from tests.checkpoint import foreign
from tests.model import fixture_params
from tests.pipeline.pipeline_data import random_sequences, write_dataset

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# T5X's own dependencies warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")
EOS, TARGET_LENGTH = 1, 6
IDS = (
    *((9, 5, 20), (9, 5, 20, 30), (9, 5, 31), (9, 5, 40, 41, 42), (9, 5, 40, 41), (9, 5, 7)),
    *((9, 5, 60), (9, 5, 61), (9, 5, 60, 3, 3), (9, 5, 199), (9, 5, 8, 8)),
)
# 8 heads: T5X's mesh on this CPU splits them over the 8 fake devices.
CONFIGS = {
    "t5_1_1": dataclasses.replace(foreign.T5_1_1, num_heads=8),
    "t5_1_0": dataclasses.replace(foreign.T5_1_0, num_heads=8),
    "scanned": dataclasses.replace(foreign.T5_1_1, num_heads=8, relative_bias_per_layer=True),
}


@pytest.fixture(scope="module")
def t5x():
    pytest.importorskip("seqio", reason="needs the extra genrec-jax[seqio]")
    package = pytest.importorskip(
        "t5x", reason="needs T5X, which is installed from its repository: docs/t5x.md"
    )
    with jax.numpy_rank_promotion("allow"):
        yield package


@pytest.fixture(scope="module", params=CONFIGS)
def weights(request):
    """Numbers under T5X's names, of the size that a trained network's have."""
    config = dataclasses.replace(CONFIGS[request.param], dropout_rate=0.0)
    format = "t5x_scanned" if config.relative_bias_per_layer else "t5x"
    values = {name: 0.4 * array for name, array in foreign.arrays(format, config).items()}
    return fixture_params.in_memory(fixture_params.Arrays(values), format, config)


def t5x_model(config, decode_fn=None):
    """T5X's model of our network; `scalable_t5` is its scanned one."""
    import seqio
    from t5x import adafactor, decoding, models

    if config.relative_bias_per_layer:
        from t5x.examples.scalable_t5 import network
    else:
        from t5x.examples.t5 import network
    settings = network.T5Config(
        vocab_size=config.vocab_size,
        dtype="float32",
        emb_dim=config.embed_dim,
        num_heads=config.num_heads,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        head_dim=config.head_dim,
        mlp_dim=config.mlp_dim,
        mlp_activations=config.mlp_activations,
        dropout_rate=0.0,
        logits_via_embedding=config.tied_head,
    )
    vocabulary = seqio.PassThroughVocabulary(config.vocab_size, eos_id=EOS)
    return models.EncoderDecoderModel(
        module=network.Transformer(settings),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=adafactor.Adafactor(
            decay_rate=0.8,
            step_offset=0,
            logical_factor_rules=adafactor.standard_logical_factor_rules(),
        ),
        decode_fn=decode_fn or decoding.beam_search,
    )


def tree_of(values):
    return traverse_util.unflatten_dict(
        {tuple(name.split("/")): value for name, value in values.items()}
    )


def flat_of(tree):
    leaves = traverse_util.flatten_dict(flax.core.unfreeze(tree))
    return {"/".join(path): np.asarray(leaf) for path, leaf in leaves.items()}


def prompts():
    """Three prompts of different lengths."""
    random = np.random.default_rng(5)
    tokens_BL = random.integers(2, 200, (3, 9)).astype(np.int32)
    for row, length in enumerate((9, 6, 3)):
        tokens_BL[row, length - 1] = EOS
        tokens_BL[row, length:] = 0
    return tokens_BL


def scores_by_t5x(model, params, tokens_BL):
    """T5X's own score of every item for every prompt, teacher-forced."""
    targets_IT = np.zeros((len(IDS), TARGET_LENGTH), np.int32)
    for item, tokens in enumerate(IDS):
        targets_IT[item, : len(tokens) + 1] = (*tokens, EOS)
    shifted_IT = np.pad(targets_IT, ((0, 0), (1, 0)))[:, :-1]
    score = jax.jit(model.score_batch)
    return np.stack(
        [
            score(
                params,
                {
                    "encoder_input_tokens": np.repeat(row[None], len(IDS), axis=0),
                    "decoder_input_tokens": shifted_IT,
                    "decoder_target_tokens": targets_IT,
                    "decoder_loss_weights": (targets_IT > 0).astype(np.float32),
                },
            )
            for row in tokens_BL
        ]
    )


def test_t5x_decodes_through_the_trie_with_its_own_exact_scores(t5x, weights):
    runs = TokenRuns.from_lists([(*tokens, EOS) for tokens in IDS])
    decode_fn = t5x_search.from_targets(runs, vocab_size=weights.config.vocab_size)
    model = t5x_model(weights.config, decode_fn)
    params, tokens_BL = tree_of(foreign.all_of(weights.source)), prompts()
    batch = {
        "encoder_input_tokens": tokens_BL,
        "decoder_input_tokens": np.zeros((3, TARGET_LENGTH), np.int32),
    }
    exact = scores_by_t5x(model, params, tokens_BL)
    graphdef = t5.abstract_graph_and_params(weights.config)[0]
    none_B = np.full(3, -1, np.int32)
    ours = PromptBatch(tokens_BL, np.zeros_like(tokens_BL), none_B, none_B)
    whole = [(*tokens, EOS) for tokens in IDS]
    for beams in (len(IDS), 3):
        predict = functools.partial(
            model.predict_batch_with_aux, num_decodes=beams, return_all_decodes=True
        )
        decodes, aux = jax.jit(lambda params, batch, predict=predict: predict(params, batch))(
            params, batch
        )
        items = [
            [whole.index(tuple(token for token in one if token)) for one in row[::-1]]
            for row in np.asarray(decodes).tolist()
        ]
        scores = np.asarray(aux["scores"])[:, ::-1]
        for row in range(3):
            np.testing.assert_allclose(scores[row], exact[row][items[row]], atol=2e-5)
            if beams == len(IDS):
                assert items[row] == np.argsort(-exact[row]).tolist()
        # The same numbers in our network, by our own search.
        recommend = make_recommend_step(graphdef, BeamConfig(beams, beams))
        found = recommend(weights.params(), ours, decode_fn.trie)
        assert np.asarray(found.items_BR).tolist() == items
        np.testing.assert_allclose(found.scores_BR, scores, atol=2e-5)


def test_the_best_item_is_what_t5x_returns_alone(t5x, weights):
    runs = TokenRuns.from_lists([(*tokens, EOS) for tokens in IDS])
    model = t5x_model(weights.config, t5x_search.from_targets(runs, vocab_size=200))
    params, tokens_BL = tree_of(foreign.all_of(weights.source)), prompts()
    best = scores_by_t5x(model, params, tokens_BL).argmax(axis=1)
    batch = {
        "encoder_input_tokens": tokens_BL,
        "decoder_input_tokens": np.zeros((3, TARGET_LENGTH), np.int32),
    }
    one = jax.jit(functools.partial(model.predict_batch_with_aux, num_decodes=len(IDS)))
    decodes, _ = one(params, batch)
    wanted = [[*IDS[item], EOS] for item in best]
    assert [[t for t in row if t] for row in np.asarray(decodes).tolist()] == wanted


def test_t5x_restores_an_export_bit_for_bit_and_computes_the_same(t5x, weights, tmp_path):
    from t5x import checkpoints, partitioning, utils

    config = weights.config
    what = export.Exportable(config, export.named(weights.params()), None)
    export.write_t5x(tmp_path / "checkpoint_0", what)
    values = foreign.all_of(weights.source)
    loaded = checkpoints.load_t5x_checkpoint(str(tmp_path / "checkpoint_0"))
    flat = flat_of(loaded["target"])
    foreign.assert_same(flat, values)
    model = t5x_model(config)
    # A whole training state, which its training resumes.
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={"encoder_input_tokens": (8, 9), "decoder_input_tokens": (8, 6)},
        partitioner=(partitioner := partitioning.PjitPartitioner(num_partitions=1)),
    )
    fresh = initializer.from_scratch(jax.random.PRNGKey(0))
    checkpointer = checkpoints.Checkpointer(fresh, partitioner, str(tmp_path))
    opened = asyncio.get_event_loop()  # by T5X, which leaves it open
    restored = checkpointer.restore(path=str(tmp_path / "checkpoint_0"))
    opened.close()
    assert int(restored.step) == 0
    flat = flat_of(restored.params)
    foreign.assert_same(flat, values)
    shapes = jax.tree.map(np.shape, restored.param_states)
    assert shapes == jax.tree.map(np.shape, fresh.param_states)
    tokens_BL = prompts()
    targets_BT = np.asarray(
        [[9, 5, 20, 1, 0, 0], [9, 5, 40, 41, 42, 1], [9, 1, 0, 0, 0, 0]], np.int32
    )
    features = {
        "encoder_input_tokens": tokens_BL,
        "decoder_input_tokens": np.pad(targets_BT, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets_BT,
        "decoder_loss_weights": (targets_BT > 0).astype(np.float32),
    }
    theirs = jax.jit(model._compute_logits)(tree_of(flat), features)
    graphdef = t5.abstract_graph_and_params(config)[0]
    batch = fixture_params.batch_of(features)
    ours = fixture_params.run(graphdef, weights.params(), lambda model, batch: model(batch), batch)
    np.testing.assert_allclose(
        np.asarray(ours)[..., : config.vocab_size], theirs, atol=5e-5, rtol=0
    )


@pytest.mark.long
def test_t5x_trains_our_mixture_by_gin_and_evaluates_it_through_the_trie(t5x, tmp_path):
    """Its train.py starts from our export; its checkpoint comes back in, and our search finds its lists."""
    import seqio

    data = write_dataset(tmp_path / "Shop", "Shop", random_sequences(24, 60, seed=3, longest=20))
    index = tmp_path / "index"
    lines = [re.sub(r"\S*\{\w+\}", "", template.input) for template in templates.load_templates()]
    build.build_index([data.path], build.IndexConfig("random"), output=index, prompt_lines=lines)
    words, ids = item_ids.load_vocabulary(index), item_ids.load(index)
    rows = -(-words.size // 128) * 128
    config = dataclasses.replace(foreign.T5_1_1, vocab_size=rows, dropout_rate=0.0)
    values = {name: 0.2 * array for name, array in foreign.arrays("t5x", config).items()}
    made = fixture_params.in_memory(fixture_params.Arrays(values), "t5x", config)
    what = export.Exportable(config, export.named(made.params()), None)
    export.write_t5x(tmp_path / "start/checkpoint_0", what)
    (tmp_path / "run.gin").write_text(
        f"""
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import utils
from t5x.examples.t5 import network
include "t5x/examples/t5/t5_1_1/tiny.gin"
include "t5x/configs/runs/finetune.gin"
include "{ROOT}/gin_configs/t5x/trie.gin"
MIXTURE_OR_TASK_NAME = "openp5_Shop_sequential"
MIXTURE_OR_TASK_MODULE = "tasks.openp5"
TASK_FEATURE_LENGTHS = {{"inputs": 128, "targets": 16}}
INDEX_DIR = "{index}"
MODEL_DIR = "{tmp_path}/run"
INITIAL_CHECKPOINT_PATH = "{tmp_path}/start/checkpoint_0"
TRAIN_STEPS = 4
EVAL_PERIOD = 4
EVAL_STEPS = 1
BATCH_SIZE = 8
NUM_BEAMS = 10
utils.SaveCheckpointConfig.period = 4
network.T5Config:
  vocab_size = {rows}
  dtype = "float32"
  emb_dim = {config.embed_dim}
  num_heads = {config.num_heads}
  head_dim = {config.head_dim}
  mlp_dim = {config.mlp_dim}
  num_encoder_layers = {config.num_encoder_layers}
  num_decoder_layers = {config.num_decoder_layers}
"""
    )
    folder = pathlib.Path(t5x.__file__).parent.parent
    subprocess.run(
        [
            *(sys.executable, "-m", "t5x.train"),
            *(f"--gin_search_paths={folder}", f"--gin_file={tmp_path}/run.gin"),
        ],
        check=True,
        cwd=ROOT,
        env=os.environ | {"GENREC_OPENP5": f"{data.path}={index}", "XLA_FLAGS": ""},
    )
    folder = tmp_path / "run/inference_eval"
    lines = (folder / "openp5_Shop_sequential-metrics.jsonl").read_text().splitlines()
    metrics = json.loads(lines[-1])
    assert metrics["step"] == 4 and 0 <= metrics["hr@1"] <= metrics["hr@10"] <= 1
    written = [
        json.loads(line)
        for line in (folder / "openp5_Shop_sequential-000004.jsonl").read_text().splitlines()
    ]
    assert len(written) == data.num_users
    known = {f"Shop {text}" for text in ids.texts}
    for one in written:
        assert len(set(one["prediction"])) == 10 and set(one["prediction"]) <= known
    back = ForeignWeights.open(tmp_path / "run/checkpoint_4")
    assert back.format == "t5x"
    assert set(back.source.shapes) == set(weight_names.their_shapes("t5x", config))
    # What T5X trained, read back, recommends the same lists here.
    trie = t5x_search.from_index(index).trie
    step = make_recommend_step(t5.abstract_graph_and_params(back.config)[0], BeamConfig(10, 10))
    seqio_tasks.register(data.path, index, name_prefix="t5x")
    task = seqio.get_mixture_or_task("t5x_Shop_sequential")
    tokens_BL = np.zeros((len(written), 128), np.int32)
    examples = task.get_dataset(split="validation", shuffle=False).as_numpy_iterator()
    for row, example in enumerate(examples):
        tokens_BL[row, : len(example["inputs"])] = example["inputs"]
        text = example["inputs_pretokenized"].decode()
        assert text == written[row]["input"]["inputs_pretokenized"]
    none_B = np.full(len(written), -1, np.int32)
    batch = PromptBatch(tokens_BL, np.zeros_like(tokens_BL), none_B, none_B)
    found = np.asarray(step(back.params(), batch, trie).items_BR)
    lists = [[f"Shop {ids.texts[item]}" for item in row] for row in found]
    assert len({tuple(row) for row in lists}) > 1
    assert lists == [one["prediction"] for one in written]
