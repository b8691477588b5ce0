"""A user's own SeqIO mixture in training: batches, resuming, validation, mistakes."""

import dataclasses
import pathlib
import re
import sys

import numpy as np
import pytest

from genrec_jax.checkpoint import run_dir, run_log
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.pipeline import (
    mixtures,
    packing,
    seqio_reader,
    seqio_tasks,
)
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.prompts import templates
from genrec_jax.training import config, inputs, run, schedules, state, validation
from genrec_jax.training.optimizers import Optimizer
from tests.pipeline.pipeline_data import random_sequences

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "seqio.md"
# TensorFlow and SeqIO warn of their own dependencies' deprecations when imported.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shop(seqio, indexed, tmp_path_factory):
    """A small dataset, its index, and the names it is registered under."""
    path = tmp_path_factory.mktemp("shop")
    data, index = indexed(path, "Shop", random_sequences(24, 60, seed=3, longest=20))
    return data, index, seqio_tasks.register(data.path, index, name_prefix="r")


@pytest.fixture(scope="module")
def my_tasks(seqio, shop, tmp_path_factory):
    """The example module of docs/seqio.md, on the path."""
    data, index, _ = shop
    (text,) = (
        b for b in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "my_tasks" in b
    )
    folder = tmp_path_factory.mktemp("modules")
    (folder / "my_tasks.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_DATASET", str(data.path))
        patch.setenv("MY_INDEX", str(index))
        patch.syspath_prepend(str(folder))
        yield "my_tasks"


TINY = T5Config(1, 16, 2, 8, 32, 1, 1, max_whole_words=64)


LENGTHS = {"inputs": 192, "targets": 24}


def mine(shop, my_tasks, **changes) -> config.DataConfig:
    """Batches of four from the docs' own mixture."""
    data, index, _ = shop
    settings = config.DataConfig(
        datasets=[str(data.path)],
        index_dir=str(index),
        mixture="my_mixture",
        mixture_module=my_tasks,
        batch_size=4,
        feature_lengths={"inputs": 160, "targets": 24},
    )
    return dataclasses.replace(settings, **changes)


@pytest.mark.parametrize("packing", [False, True])
def test_the_docs_own_mixture_gives_batches_by_step(shop, my_tasks, packing):
    _, index, _ = shop
    options = {"module": my_tasks, "feature_lengths": LENGTHS, "packing": packing}
    batches = seqio_reader.SeqIOBatches("my_mixture", 8, **options)
    in_order = [batches.batch(step) for step in range(4)]
    assert batches.vocabulary.sha256 == item_ids.load_vocabulary(index).sha256
    resumed = seqio_reader.SeqIOBatches("my_mixture", 8, **options)
    for step in (2, 3, 1):
        again = resumed.batch(step)
        for field, rows in vars(in_order[step]).items():
            assert np.array_equal(getattr(again, field), rows), field
    hosts = [
        seqio_reader.SeqIOBatches("my_mixture", 8, host=h, num_hosts=2, **options) for h in range(2)
    ]
    halves = [host.batch(1) for host in hosts]
    for field, rows in vars(in_order[1]).items():
        assert np.array_equal(np.concatenate([getattr(half, field) for half in halves]), rows), (
            field
        )
    words = batches.vocabulary
    texts = [
        words.decode(row[row > 0].tolist()) for b in in_order for row in b.encoder_input_tokens_BL
    ]
    assert any("After item_" in text for text in texts)
    assert any("Shop user_" in text for text in texts)


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_of_ours_through_seqio_is_ours(shop, packing):
    """The same unshuffled examples: tokens, words, segments and positions as `TrainBatches` has them."""
    data, index, _ = shop
    reader = seqio_reader.SeqIOBatches(
        "r_Shop_sequential", 4, feature_lengths=LENGTHS, packing=packing, shuffle=False
    )
    batch = reader.batch(0)
    mixture = mixtures.build_mixture(
        "openp5_sequential",
        [data],
        [item_ids.load(index).texts],
        reader.vocabulary,
        templates.load_templates(),
        shuffle=False,
    )
    count = int((batch.encoder_positions_BL == 0)[batch.encoder_segment_ids_BL > 0].sum())
    assert packing == (count > 4)
    ours = TrainBatches(mixture, count).batch(0)

    def examples(rows):
        found = []
        for r in range(len(rows.encoder_input_tokens_BL)):
            for segment in range(1, rows.encoder_segment_ids_BL[r].max() + 1):
                at = rows.encoder_segment_ids_BL[r] == segment
                to = rows.decoder_segment_ids_BT[r] == segment
                found.append(
                    [
                        getattr(rows, field)[r][at if field.endswith("BL") else to].tolist()
                        for field in vars(rows)
                        if "segment" not in field
                    ]
                )
        return found

    assert examples(batch) == examples(ours)


@pytest.mark.parametrize("packing", [False, True])
def test_targets_are_never_cut(shop, packing):
    reader = seqio_reader.SeqIOBatches(
        "r_Shop_sequential", 4, feature_lengths=LENGTHS, packing=packing, shuffle=False
    )
    segments_BT = reader.batch(0).decoder_segment_ids_BT
    longest = max(int((segments_BT == n).sum(axis=1).max()) for n in (1, 2, 3))
    options = {"packing": packing, "shuffle": False}
    cut = {**LENGTHS, "targets": longest - 1}
    short = seqio_reader.SeqIOBatches("r_Shop_sequential", 4, feature_lengths=cut, **options)
    with pytest.raises(UserError, match=rf"has {longest} tokens.*limit is {longest - 1}"):
        short.batch(0)


def test_training_on_the_docs_own_mixture(shop, my_tasks, tmp_path):
    """Two steps of `train`, then one more, for which the stream's place is found again."""
    for steps in (2, 3):
        settings = config.TrainConfig(
            model_dir=str(tmp_path / "run"),
            model=TINY,
            data=mine(shop, my_tasks),
            optimizer=Optimizer(learning_rate=schedules.LearningRate(peak=0.01)),
            train_steps=steps,
            validation=config.ValidationConfig(
                period=3, metric="loss", users=6, num_beams=4, loss_batches=2
            ),
            log_period=1,
        )
        mesh = mesh_lib.single_device_mesh()
        assert run.train(settings, mesh=mesh, show_progress=False).step == steps
    kept = run_dir.RunDir.load(settings.model_dir).mixture
    assert not {"audit", "cut_shares"} & set(kept)  # nobody knows them
    records = run_log.read_metrics(settings.model_dir)
    examples = [record["examples"] for record in records if record["kind"] == "train"]
    reader = inputs.seqio_batches(
        item_ids.load_vocabulary(shop[1]), settings.data, settings.seed, mesh
    )
    counts = [
        int(((rows.decoder_segment_ids_BT > 0) & (rows.decoder_positions_BT == 0)).sum())
        for rows in map(reader.batch, range(3))
    ]
    assert examples == np.cumsum(counts).tolist()
    assert sum(counts) > 3 * settings.data.batch_size
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert len(losses) == 3
    assert all(2 < loss < 10 for loss in losses)
    validations = [record for record in records if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [2, 3]  # the last step of each start
    for record in validations:
        assert 2 < record["loss"] < 10
        assert record["hr@4"] == record["hr@4/seqio/mine_Shop_sequential"]
    with pytest.raises(UserError, match="set TRAIN_STEPS, not TRAIN_EPOCHS"):
        dataclasses.replace(settings, train_steps=None, train_epochs=1.0).steps(0)


@pytest.mark.parametrize("packing", [False, True])
def test_the_validation_loss_of_a_mixture_is_the_same_in_parts(shop, my_tasks, packing):
    settings = config.TrainConfig(
        model_dir="unused",
        model=TINY,
        data=mine(shop, my_tasks, packing=packing),
        train_steps=1,
        validation=config.ValidationConfig(loss_batches=3),
    )
    mesh = mesh_lib.single_device_mesh()
    opened = inputs.open_inputs(settings.data, 0, mesh)
    settings = settings.resolved(steps=1, vocab_size=opened.vocabulary.size)
    params = state.create_state(settings.model, settings.optimizer, mesh, 0).params
    whole = validation.make_loss(settings, opened, mesh)(params)
    halves = dataclasses.replace(settings, microbatches=2)
    assert validation.make_loss(halves, opened, mesh)(params) == pytest.approx(whole, rel=1e-6)
    fewer = dataclasses.replace(
        settings, validation=dataclasses.replace(settings.validation, loss_batches=2)
    )
    assert validation.make_loss(fewer, opened, mesh)(params) != pytest.approx(whole, rel=1e-6)


def test_a_task_that_only_trains_cannot_be_validated_on(shop, my_tasks):
    options = {"module": my_tasks, "feature_lengths": LENGTHS, "split": "validation"}
    with pytest.raises(UserError, match=r"no validation split \(it has train\).*EVAL_PERIOD=None"):
        seqio_reader.SeqIOBatches("what_comes_next", 4, **options)


def test_a_module_that_fails_is_named(monkeypatch, tmp_path):
    (tmp_path / "needs_environment.py").write_text("import os\nos.environ['NO_SUCH_VARIABLE']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"'needs_environment'.*KeyError: 'NO_SUCH_VARIABLE'"):
        seqio_reader.open_mixture("any", "needs_environment")


def test_lengths_are_those_of_the_mixture_not_of_openp5s_prompts(shop, my_tasks):
    mesh = mesh_lib.single_device_mesh()
    lengths = {"inputs": 12, "targets": 24}  # OpenP5's question with one item takes more
    settings = mine(shop, my_tasks, mixture="what_comes_next", feature_lengths=lengths)
    opened = inputs.open_inputs(settings, 0, mesh)
    assert opened.shapes == (packing.Shape(4, 12, 24),)
    longest = int(opened.tables[0].target_runs().lengths_E.max())
    short = dataclasses.replace(settings, feature_lengths={"inputs": 12, "targets": longest - 1})
    with pytest.raises(UserError, match=rf"has {longest} tokens.*limit is {longest - 1}"):
        inputs.open_inputs(short, 0, mesh)


def test_a_mixture_on_another_vocabulary_is_refused(shop, my_tasks, shared):
    other = Vocabulary(shared / "data" / "t5_vocabulary" / "spiece.model")
    settings = mine(shop, my_tasks, feature_lengths=LENGTHS)
    with pytest.raises(UserError, match="tokenises with another vocabulary"):
        inputs.seqio_batches(other, settings, 0, mesh_lib.single_device_mesh())


def test_without_seqio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    with pytest.raises(UserError, match=r"pip install 'genrec-jax\[seqio\]'"):
        seqio_reader.SeqIOBatches("any", 8, feature_lengths=LENGTHS)


def test_mistakes_of_the_reader(shop, my_tasks, monkeypatch):
    options = {"feature_lengths": LENGTHS}
    with pytest.raises(UserError, match="cannot be imported"):
        seqio_reader.SeqIOBatches("my_mixture", 8, module="no_such_module", **options)
    with pytest.raises(UserError, match="knows no mixture or task 'other'"):
        seqio_reader.SeqIOBatches("other", 8, module=my_tasks, **options)
    with pytest.raises(UserError, match="must be a multiple of 4"):
        seqio_reader.SeqIOBatches("r_Shop", 6, rows_multiple=4, **options)
    with pytest.raises(UserError, match="needs a length"):
        seqio_reader.SeqIOBatches("r_Shop", 8, feature_lengths={"inputs": 8})
