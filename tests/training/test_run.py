"""A whole tiny run through the Python API: what it leaves, how it resumes, what it refuses."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal

import chex
import jax
import numpy as np
import pytest

from genrec_jax.checkpoint import restore, run_dir, run_log
from genrec_jax.decoding import trie as tries
from genrec_jax.errors import UserError
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.pipeline import token_runs
from genrec_jax.training import (
    config,
    inputs,
    preemption,
    run,
    schedules,
    throughput,
)
from genrec_jax.training import step as step_lib
from genrec_jax.training.adafactor import AdafactorConfig
from genrec_jax.training.adamw import AdamWConfig
from genrec_jax.training.loop import NonFiniteLoss
from genrec_jax.training.losses import LossConfig
from genrec_jax.training.optimizers import Optimizer
from tests.training.tiny import TINY


def final_params(folder) -> list[bytes]:
    params = restore.restore_params(folder, "latest")
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]


def train(settings, **options) -> run.Summary:
    """On one device, since eight fake ones share the same cores."""
    mesh = mesh_lib.single_device_mesh()
    return run.train(settings, mesh=mesh, show_progress=False, **options)


@pytest.fixture(scope="module")
def finished(make_config):
    """The configuration of a finished run of 6 steps."""
    settings = make_config()
    train(settings)
    return settings


def test_a_run_leaves_everything_that_later_stages_need(make_config, toy_dataset):
    watched = config.ValidationConfig(
        period=3, loss_batches=1, users=16, num_beams=10, batch_size=16
    )
    settings = make_config(validation=watched)
    summary = train(settings, operative_config="# as gin had it\n")
    folder = pathlib.Path(settings.model_dir)
    assert (summary.step, summary.stopped, summary.examples) == (6, "finished", 96)
    assert {path.name for path in folder.iterdir()} == {
        *("run.json", "config.gin", "vocabulary.model", "item_ids.parquet", "index.json"),
        *("trie.npz", "checkpoints", "metrics.jsonl", "tensorboard", "finished.json", "train.lock"),
    }
    assert (folder / "config.gin").read_text() == "# as gin had it\n"
    opened = run_dir.RunDir.load(folder)
    assert opened.model_config.embed_dim == 16
    assert opened.model_config.vocab_size == opened.vocabulary.size
    assert opened.dataset().name == "toystore"
    assert opened.dataset().path == toy_dataset
    assert opened.item_ids().texts[0].startswith("item_")
    assert opened.templates[0].id == "A1"
    assert opened.settings["data"]["history"] == 5
    records = run_log.read_metrics(folder)
    assert [(r["step"], r["kind"]) for r in records] == [
        *[(2, "train"), (3, "validation"), (4, "train"), (6, "train"), (6, "validation")]
    ]
    assert {"loss", "hr@10", "ndcg@10", "hr@10/sequential/A1"} <= set(records[1])
    assert records[2]["loss"] < 8
    assert 0 <= records[1]["hr@10"] <= 1
    assert summary.best_step in (3, 6)
    assert restore.choose_step(opened, "best") == summary.best_step
    assert "genrec evaluate" in summary.text()


def test_a_run_of_several_tasks_says_what_each_is_of_the_loss(make_config, capsys):
    mesh = mesh_lib.single_device_mesh()
    run.train(make_config(train_steps=1, data={"mixture": "openp5"}), mesh=mesh)
    told = " ".join(capsys.readouterr().err.split())
    listed = "sequential 50.0% / 50.0%, straightforward 50.0% / 50.0%. Every target token weighs"
    assert f"share of the examples / of the target tokens: {listed}" in told


def test_a_run_says_the_shapes_that_its_batches_have(make_config, capsys):
    settings = make_config(train_steps=1, data={"max_shapes": 3})
    mesh = mesh_lib.single_device_mesh()
    run.train(settings, mesh=mesh, show_progress=True)
    told = " ".join(capsys.readouterr().err.split())
    assert "share of the examples" not in told  # of one task
    listed = re.findall(r"--rows x \(--input-length \+ --target-length\): ([\dx()+, ]+)", told)
    shapes = {tuple(map(int, re.findall(r"\d+", one))) for one in listed[0].split(",")}
    opened = inputs.open_inputs(settings.data, settings.seed, mesh)
    for step in range(20):
        batch = opened.batches.prepare(step).batch
        rows, length = batch.encoder_input_tokens_BL.shape
        assert (rows, length, batch.decoder_target_tokens_BT.shape[1]) in shapes
    assert len(shapes) == 3


def test_the_trie_is_that_of_the_targets_before_their_end_and_needs_no_lists(
    make_config, monkeypatch
):
    opened = inputs.open_inputs(make_config().data, 0, mesh_lib.single_device_mesh())
    targets = opened.tables[0].target_runs()
    shorn = token_runs.TokenRuns.from_lists([row[:-1] for row in targets.to_lists()])
    monkeypatch.setattr(token_runs.TokenRuns, "to_lists", None)  # slower than the trie itself
    words = opened.vocabulary
    wanted = tries.build_trie(shorn.values_P, shorn.offsets_E1, vocab_size=words.size)
    assert {words.eos_id} == set(targets.values_P[targets.offsets_E1[1:] - 1].tolist())
    chex.assert_trees_all_equal(opened.trie(0), wanted)


def test_utilisation_is_of_the_devices_that_train(make_config, monkeypatch):
    asked = []
    monkeypatch.setattr(throughput, "peak_flops", asked.append)
    train(make_config(train_steps=1))
    assert asked == [jax.local_devices()[:1]]


@pytest.mark.parametrize("left", ["nothing", "half a file"])
def test_a_trie_that_cannot_be_read_is_built_anew_as_its_error_says(finished, capsys, left):
    path = pathlib.Path(finished.model_dir, "trie.npz")
    whole = tries.load(path)
    kept = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    if left == "half a file":
        path.write_bytes(kept)
    with pytest.raises(UserError, match="genrec train"):
        tries.load(path)
    assert train(finished).step == 6
    assert "Building it now" in capsys.readouterr().err
    for old, new in zip(jax.tree.leaves(whole), jax.tree.leaves(tries.load(path)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(make_config, finished):
    halves = make_config()
    train(dataclasses.replace(halves, train_steps=3))
    summary = train(halves)
    assert (summary.step, summary.examples) == (6, 96)
    assert final_params(finished.model_dir) == final_params(halves.model_dir)
    left, right = (run_log.read_metrics(c.model_dir)[-1] for c in (finished, halves))
    for name in ("step", "loss", "grad_norm", "examples"):
        assert left[name] == right[name]


@pytest.mark.parametrize("ask", [5, 6, 7, 14], ids=["loss", "search", "next search", "last step"])
def test_a_signal_within_a_validation_is_heard_and_the_run_ends_as_one_left_alone(
    make_config, monkeypatch, ask
):
    """Each step asks once, each validation before 2 batches of the loss and 2 of the search."""
    watched = config.ValidationConfig(
        period=3, loss_batches=2, users=16, num_beams=10, batch_size=8
    )
    whole, stopped = (make_config(validation=watched, train_steps=6) for _ in range(2))
    train(whole)
    reached, asked = preemption.StopRequest.reached, []

    def signalled(stop):
        asked.append(1)
        if len(asked) == ask:
            os.kill(os.getpid(), signal.SIGTERM)
        return reached(stop)

    with monkeypatch.context() as patched:
        patched.setattr(preemption.StopRequest, "reached", signalled)
        summary = train(stopped)
    assert (summary.stopped, summary.step, len(asked)) == ("preempted", 6 if ask == 14 else 3, ask)
    folder = pathlib.Path(stopped.model_dir)
    assert not (folder / "finished.json").exists()
    assert train(stopped).stopped == "finished"
    assert final_params(whole.model_dir) == final_params(stopped.model_dir)
    left, right = (
        [
            {name: value for name, value in record.items() if name in ("step", "loss", "hr@10")}
            for record in run_log.read_metrics(place.model_dir)
        ]
        for place in (whole, stopped)
    )
    assert left == right
    opened = [run_dir.RunDir.load(place.model_dir) for place in (whole, stopped)]
    assert restore.choose_step(opened[0], "best") == restore.choose_step(opened[1], "best")


@pytest.mark.parametrize("rule", [AdafactorConfig(), AdamWConfig()], ids=["adafactor", "adamw"])
def test_an_update_that_overflows_ends_the_run_and_leaves_no_checkpoint(make_config, rule):
    """The step's loss and gradients are of the finite parameters before it; it is the only step."""
    rate = schedules.LearningRate(peak=3e38)
    settings = make_config(train_steps=1, optimizer=Optimizer(rule, rate))
    with pytest.raises(NonFiniteLoss, match=r"at step 1 param_norm became (inf|nan).*steps: none"):
        train(settings)
    folder = pathlib.Path(settings.model_dir)
    assert not list((folder / "checkpoints").glob("*"))
    assert not (folder / "finished.json").exists()


def test_a_run_goes_on_with_less_memory(make_config):
    """What a step keeps, how many rows, layers and positions it takes at once is not what it computes."""
    model = dataclasses.replace(TINY, dropout_rate=0.0, num_decoder_layers=2)
    whole, halves = make_config(model=model), make_config(model=model)
    train(whole)
    train(dataclasses.replace(halves, train_steps=4))
    thrifty = dataclasses.replace(
        halves,
        microbatches=2,
        model=dataclasses.replace(model, remat="full", scan_layers=False),
        loss=LossConfig(positions_at_a_time=3),
    )
    assert train(thrifty).step == 6
    params = [
        jax.tree.leaves(restore.restore_params(place.model_dir, "latest"))
        for place in (whole, halves)
    ]
    for one, other in zip(*params, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_another_seed_gives_other_dropout(make_config, monkeypatch):
    """Of the step's dropout key alone: parameters and batches depend on the seed as well."""
    keys = []
    jit_train_step = step_lib.jit_train_step

    def recorded(*args, **options):
        jitted = jit_train_step(*args, **options)

        def train_step(state, batch, dropout_key):
            keys.append(tuple(jax.random.key_data(dropout_key).tolist()))
            return jitted(state, batch, dropout_key)

        return train_step

    monkeypatch.setattr(step_lib, "jit_train_step", recorded)
    for seed in (0, 1, 1):
        train(make_config(seed=seed, train_steps=1))
    assert keys[0] != keys[1] == keys[2]


def test_damage_to_every_checkpoint_does_not_start_a_run_over(make_config, capsys):
    settings = make_config(train_steps=1)
    train(settings)
    folder = pathlib.Path(settings.model_dir) / "checkpoints/1"
    manifest = json.loads((folder / "manifest.json").read_text())
    torn = folder / next(iter(manifest["files"]))
    torn.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"every checkpoint here is damaged .steps: 1."):
        train(settings)
    assert torn.read_bytes() == b"torn"
    assert "passing over checkpoint" in capsys.readouterr().err
    # One without a manifest never was complete: such a run begins again.
    (folder / "manifest.json").unlink()
    assert train(settings).step == 1


def test_a_run_that_goes_on_under_new_settings_says_so_and_keeps_the_old(make_config):
    settings = make_config(train_steps=2, log_period=3)
    folder = pathlib.Path(settings.model_dir)
    train(settings, operative_config="# first\n")
    first = run_dir.RunDir.load(folder)
    train(settings, operative_config="# first\n")
    assert run_dir.RunDir.load(folder).manifest == first.manifest, "nothing is new"
    longer = dataclasses.replace(
        settings,
        train_steps=4,
        model=dataclasses.replace(settings.model, remat="full"),
        initial_checkpoint="not looked at any more",
    )
    train(longer, operative_config="# second\n")
    opened = run_dir.RunDir.load(folder)
    assert (folder / "config.gin").read_text() == "# second\n"
    assert opened.settings["train_steps"] == 4
    assert opened.settings["initial_checkpoint"] is None
    assert opened.model_config.remat == "full"
    (restart,) = opened.manifest["restarts"]
    assert restart["step"] == 2
    assert restart["config_before"] == "# first\n"
    assert restart["changed"] == {
        "settings.model.remat": ["'none'", "'full'"],
        "settings.train_steps": ["2", "4"],
    }
    same = {"created", "mixture", "datasets", "vocabulary", "selection", "templates"}
    assert {name: opened.manifest[name] for name in same} == {
        name: first.manifest[name] for name in same
    }


def test_other_code_and_a_dataset_that_moved_are_written_down_too(
    make_config, toy_dataset, tmp_path
):
    settings = make_config(train_steps=1)
    folder = pathlib.Path(settings.model_dir)
    train(settings)
    manifest = json.loads((folder / "run.json").read_text())
    now = manifest["versions"]["jax"]
    manifest["versions"]["jax"] = "0.0.1"
    (folder / "run.json").write_text(json.dumps(manifest))
    moved = shutil.copytree(toy_dataset, tmp_path / "toystore")
    data = dataclasses.replace(settings.data, datasets=[str(moved)])
    train(dataclasses.replace(settings, data=data))
    opened = run_dir.RunDir.load(folder)
    assert opened.dataset().path == moved
    assert opened.manifest["versions"]["jax"] == now
    (restart,) = opened.manifest["restarts"]
    assert restart["changed"]["versions.jax"] == ["'0.0.1'", repr(now)]
    assert set(restart["changed"]) == {"versions.jax", "settings.data.datasets"}


def test_a_warm_up_that_follows_the_steps_is_told_and_keeps_its_length(make_config, capsys):
    rate = schedules.LearningRate(peak=0.01, warmup_share=1.0, total_steps=0)
    settings = make_config(train_steps=2, optimizer=Optimizer(learning_rate=rate))
    run.train(settings, mesh=mesh_lib.single_device_mesh(), show_progress=True)
    assert "still warming up when this run ends" in " ".join(capsys.readouterr().err.split())
    assert train(dataclasses.replace(settings, train_steps=4)).step == 4
    opened = run_dir.RunDir.load(settings.model_dir)
    assert opened.settings["optimizer"]["learning_rate"]["warmup_steps"] == 2
    for change, said in (
        ({"warmup_steps": 1}, "2 there, 1"),
        ({"warmup_share": 0.5}, "1.0 there, 0.5"),
    ):
        changed = Optimizer(learning_rate=dataclasses.replace(rate, **change))
        with pytest.raises(UserError, match=said):
            train(dataclasses.replace(settings, optimizer=changed))


def test_a_rate_that_follows_the_steps_says_why_they_may_not_change(make_config):
    rate = schedules.LearningRate(peak=0.01, decay="linear", warmup_steps=1, total_steps=0)
    settings = make_config(train_steps=2, optimizer=Optimizer(learning_rate=rate))
    train(settings)
    with pytest.raises(
        UserError,
        match=r"total_steps: 2 there, 3 now .the learning rate follows TRAIN_STEPS: keep it",
    ):
        train(dataclasses.replace(settings, train_steps=3))


def test_other_settings_are_refused_with_the_difference(finished):
    changed = dataclasses.replace(
        finished,
        data=dataclasses.replace(finished.data, batch_size=32, history=4),
        optimizer=Optimizer(learning_rate=schedules.LearningRate(peak=0.02)),
        log_period=50,
    )
    with pytest.raises(UserError) as caught:
        train(changed)
    message = str(caught.value)
    assert "data.batch_size: 16 there, 32 now" in message
    assert "data.history: 5 there, 4 now" in message
    assert "optimizer.learning_rate.peak: 0.01 there, 0.02 now" in message
    assert "log_period" not in message


def test_starting_from_another_run_takes_its_parameters_only(make_config, finished):
    still = Optimizer(learning_rate=schedules.LearningRate(peak=0.0))
    second = make_config(
        initial_checkpoint=finished.model_dir, optimizer=still, seed=9, train_steps=1
    )
    assert train(second).step == 1
    assert final_params(second.model_dir) == final_params(finished.model_dir)


def test_parameters_are_restored_bit_for_bit_onto_any_mesh(finished):
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    spread = restore.restore_params(finished.model_dir, 6, mesh=mesh)
    leaves = jax.tree.leaves(spread)
    assert any(not leaf.sharding.is_fully_replicated for leaf in leaves)
    assert [np.asarray(leaf).tobytes() for leaf in leaves] == final_params(finished.model_dir)


def test_a_step_that_is_not_there_lists_those_that_are(finished):
    with pytest.raises(
        UserError, match=r"no checkpoint to restore: there is none. Steps there: 4, 6"
    ):
        restore.restore_params(finished.model_dir, 5)


def test_a_batch_is_described_by_epoch_task_and_numbers(finished):
    mesh = mesh_lib.single_device_mesh()
    opened = inputs.open_inputs(finished.data, 0, mesh)
    per_epoch = opened.mixture.num_examples
    step = per_epoch // 16 + 1
    first = step * 16 - per_epoch
    assert opened.batches.describe(0) == (
        "epoch 0, task toystore/sequential, examples 0 to 15 of the epoch's order"
    )
    assert f"epoch 1, task toystore/sequential, examples {first} to {first + 15}" in (
        opened.batches.describe(step)
    )


def test_item_ids_that_are_not_there_name_the_command(make_config):
    with pytest.raises(UserError, match=r"genrec index .* --method collaborative"):
        train(make_config(data={"index_method": "collaborative"}))


def test_a_metric_that_is_not_measured_is_refused_before_the_first_step(make_config):
    with pytest.raises(UserError, match=r"chosen by 'hr@20'.* hr@10, ndcg@10, .* or loss"):
        train(make_config(validation=config.ValidationConfig(metric="hr@20")))
    without_search = config.ValidationConfig(users=0)
    with pytest.raises(UserError, match=r"chosen by 'hr@10'.* wanted loss"):
        train(make_config(validation=without_search))
    by_area = config.ValidationConfig(metric="auc")
    refused = make_config(validation=by_area)
    with pytest.raises(UserError, match=r"chosen by 'auc'.* hr@10, ndcg@10, .* or loss"):
        train(refused)
    assert not pathlib.Path(refused.model_dir).exists()


def test_a_run_dir_without_a_checkpoint_may_start_anew_with_other_settings(
    make_config, monkeypatch, capsys
):
    settings = make_config()

    def broken(*args, **options):
        raise RuntimeError("out of memory")

    closed, close = [], run.MetricsLog.close
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="out of memory"):
        patched.setattr(step_lib, "jit_train_step", broken)
        patched.setattr(run.MetricsLog, "close", lambda log: closed.append(close(log)))
        train(settings)
    assert closed == [None]
    assert train(dataclasses.replace(settings, seed=5)).step == 6
    assert "never got to a checkpoint" in capsys.readouterr().err
    assert run_dir.RunDir.load(settings.model_dir).settings["seed"] == 5


def test_a_run_is_not_put_into_a_dataset_dir_or_an_index(make_config, toy_dataset):
    for folder, kind in (
        (toy_dataset, "a dataset dir"),
        (toy_dataset / "index/sequential", "an index"),
    ):
        with pytest.raises(UserError, match=f"is {kind} .* Set MODEL_DIR to another"):
            train(make_config(model_dir=str(folder)))
        assert not (folder / "run.json").exists()
