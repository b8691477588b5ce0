"""Runs that start from another's parameters: as they are, by way of Hugging Face, with more tokens."""

import dataclasses
import gc
import sys

import jax
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

from genrec_jax.checkpoint import export, import_weights, initial, restore, run_dir
from genrec_jax.checkpoint.new_tokens import NewTokens
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.training import run, schedules, state
from genrec_jax.training.adamw import AdamWConfig
from genrec_jax.training.optimizers import Optimizer
from genrec_jax.training.run import train
from tests.checkpoint import foreign
from tests.training.tiny import TINY


@pytest.fixture(scope="module")
def first(make_config):
    """The configuration of a finished run of one step."""
    settings = make_config(train_steps=1)
    train(settings)
    return settings


def parameters(folder):
    params = export.named(restore.restore_params(folder, "latest"))
    return {name: np.array(array) for name, array in params.items()}


def test_out_to_hugging_face_and_back_into_a_run(make_config, first, tmp_path):
    still = Optimizer(learning_rate=schedules.LearningRate(peak=0.0))
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


def live_bytes():
    return sum(array.nbytes for array in jax.live_arrays())


def watched(function, peaks):
    """`function`; the most bytes of arrays that it adds, looked at in each call of the package's own."""

    def watching(*args):
        gc.collect()
        before, seen = live_bytes(), []

        def look(frame, event, _):
            if event in ("call", "return") and "genrec_jax" in frame.f_code.co_filename:
                seen.append(live_bytes() - before)

        sys.setprofile(look)
        try:
            return function(*args)
        finally:
            sys.setprofile(None)
            peaks.append(max(seen))

    return watching


def test_a_start_draws_what_is_lacking_and_never_holds_two_states(make_config, monkeypatch):
    """What a fresh run of the same seed would draw, beside the other run's parameters."""
    rule = AdamWConfig(weight_decay=0.0)
    still = Optimizer(rule, schedules.LearningRate(peak=0.0))
    without = dataclasses.replace(TINY, whole_word_embedding=False)
    first = make_config(train_steps=1, model=without)
    train(first)
    second = make_config(train_steps=1, seed=9, optimizer=still, initial_checkpoint=first.model_dir)
    peaks: list[int] = []
    monkeypatch.setattr(run, "_start", watched(run._start, peaks))
    train(second)
    model = run_dir.RunDir.load(second.model_dir).model_config
    fresh = state.create_state(model, still, mesh_lib.single_device_mesh(), 9)
    expected = parameters(first.model_dir) | {
        "whole_word_embedding": foreign.flat(fresh.params)["whole_word_embedding"]
    }
    found = parameters(second.model_dir)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(fresh))
    assert whole <= peaks[0] < 1.1 * whole


def start_from(settings, vocabulary):
    """The parameters of a run for a network with another vocabulary, and what was said."""
    model = run_dir.RunDir.load(settings.model_dir).model_config
    model = dataclasses.replace(model, vocab_size=vocabulary.size)
    notices: list[str] = []
    params = initial.initial_params(
        settings.model_dir,
        "latest",
        model,
        vocabulary=vocabulary,
        options=NewTokens(reinitialise="numbers"),
        seed=0,
        mesh=mesh_lib.single_device_mesh(),
        notify=notices.append,
    )
    return {name: np.array(array) for name, array in export.named(params).items()}, notices


def test_a_run_with_other_tokens_of_the_same_number_is_no_start(first):
    own = run_dir.RunDir.load(first.model_dir).vocabulary
    swapped = sentencepiece_model_pb2.ModelProto.FromString(own.serialized)
    one, other = swapped.pieces[200], swapped.pieces[201]
    one.piece, other.piece = other.piece, one.piece
    with pytest.raises(UserError, match=r"other tokens .* number 200 is .*INDEX_DIR may name"):
        start_from(first, Vocabulary(swapped.SerializeToString()))


def test_a_run_gets_rows_for_tokens_that_it_lacks_and_keeps_what_it_learnt(first):
    own = run_dir.RunDir.load(first.model_dir).vocabulary
    after, notices = start_from(first, foreign.add_tokens(own, ["<CI0>", "<CI1>"]))
    before = parameters(first.model_dir)
    tables = [params.pop("token_embedding") for params in (before, after)]
    np.testing.assert_array_equal(tables[0][: own.size], tables[1][: own.size])
    assert tables[1][own.size : own.size + 2].any(axis=1).all()
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert "2 tokens are new to the weights" in notices[0]
    assert item_ids.load_vocabulary(first.model_dir).sha256 == own.sha256  # as INDEX_DIR


def test_a_checkpoint_of_a_run_is_a_start_by_its_path(first):
    found = run_dir.RunDir.load(first.model_dir)

    def started(step: restore.Which, number: int = 1):
        return initial.initial_params(
            f"{first.model_dir}/checkpoints/{number}/",
            step,
            found.model_config,
            vocabulary=found.vocabulary,
            options=NewTokens(),
            seed=0,
            mesh=mesh_lib.single_device_mesh(),
        )

    wanted = restore.restore_params(first.model_dir, 1)
    for one, other in zip(jax.tree.leaves(started("best")), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(
        UserError, match=r"is the checkpoint of step 1, but initial_step is 'latest'"
    ):
        started("latest")
    with pytest.raises(UserError, match=r"\b1\b"):  # the steps that there are
        started("best", 7)


def test_a_run_of_another_network_is_no_start_though_all_shapes_are_the_same(first):
    found = run_dir.RunDir.load(first.model_dir)
    model = dataclasses.replace(found.model_config, scale_head_input=False)
    with pytest.raises(UserError, match="scale_head_input is False, the weights have True"):
        initial.initial_params(
            first.model_dir,
            "latest",
            model,
            vocabulary=found.vocabulary,
            options=NewTokens(),
            seed=0,
            mesh=mesh_lib.single_device_mesh(),
        )
