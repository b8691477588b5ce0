"""The alignment tasks in SeqIO: the same examples, token for token. Needs TensorFlow and SeqIO."""

import importlib

import numpy as np
import pytest

from genrec_jax.data import splits as splits_lib
from genrec_jax.errors import UserError
from genrec_jax.indexing import build, item_ids
from genrec_jax.pipeline import alignment_mixtures, seqio_alignment
from genrec_jax.pipeline.alignment import AlignmentSettings
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.prompts import templates
from tests.pipeline import alignment_data

# TensorFlow and SeqIO warn of their own dependencies' deprecations when imported.
pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS = {"num_candidates": 20, "validation_users": 25}


@pytest.fixture(scope="module")
def shop(seqio, shared, tmp_path_factory):
    """A dataset with ratings and titles, its index, and the names it is registered under."""
    path = tmp_path_factory.mktemp("alignment")
    data = alignment_data.write_shop(path / "shop", users=40)
    build.build_index(
        [data.path],
        build.IndexConfig("short"),
        output=path / "index",
        vocabulary=shared / "data" / "t5_vocabulary" / "spiece.model",
    )
    names = seqio_alignment.register(data.path, path / "index", name_prefix="a", **OPTIONS)
    return data, path / "index", names


def ours(data, index, task, split):
    ids = item_ids.load(index)
    tables = PromptTables(
        item_ids.load_vocabulary(index),
        data.name,
        ids.texts,
        templates.load_templates(templates.ALIGNMENT_TEMPLATES),
        ids.titles,
    )
    splits = splits_lib.leave_one_out(data)
    settings = AlignmentSettings(num_candidates=20, shuffle=False)
    (made,) = alignment_mixtures.build_tasks(tables, data, splits, [task], settings)
    if split != "train":
        count = 25 if split == "validation" else None
        (made,) = made.held_out(splits, split, max_examples=count)
    block = made.assemble(0, np.arange(made.num_examples))
    return list(zip(block.inputs.to_lists(), block.targets.to_lists(), strict=True))


def theirs(seqio, name, split):
    dataset = seqio.get_mixture_or_task(name).get_dataset(split=split, shuffle=False)
    return [(e["inputs"].tolist(), e["targets"].tolist()) for e in dataset.as_numpy_iterator()]


def test_names(shop):
    assert shop[2] == tuple(
        f"a_Shop_{name}"
        for name in (
            *templates.ALIGNMENT_TASKS,
            *("reat", "raat", "rpat", "ut", "ut_at", "ut_ie"),
            *("retrieval_mlm", "ranking_mlm", "ranking_mlm_mim", "rating_mlm"),
        )
    )


@pytest.mark.parametrize("task", templates.ALIGNMENT_TASKS)
def test_unshuffled_examples_are_ours_one_by_one(seqio, shop, task):
    data, index, _ = shop
    source = seqio.get_mixture_or_task(f"a_Shop_{task}").source
    evaluated = task in templates.EVALUATED_TASKS
    assert source.splits == (("train", "validation", "test") if evaluated else ("train",))
    for split in source.splits:
        found = theirs(seqio, f"a_Shop_{task}", split)
        assert found == ours(data, index, task, split)
        assert source.num_input_examples(split) == len(found)


def test_mixtures_have_their_tasks_at_equal_rates(seqio, shop):
    for name, tasks in alignment_mixtures.MIXTURE_TASKS.items():
        if len(tasks) > 1:
            mixture = seqio.get_mixture_or_task(f"a_Shop_{name.removeprefix('alignment_')}")
            assert {task.name for task in mixture.tasks} == {f"a_Shop_{task}" for task in tasks}
            assert {mixture.get_rate(task) for task in mixture.tasks} == {1.0}
    mixed = seqio.get_mixture_or_task("a_Shop_ut_at").get_dataset(
        {"inputs": 1024, "targets": 256}, split="train", shuffle=False, num_epochs=1
    )
    assert sum(1 for _ in mixed.take(60).as_numpy_iterator()) == 60


def test_metrics(seqio, shop):
    assert seqio_alignment.label_metrics(["yes", "no"], ["yes", ["yes", "no"]]) == {"accuracy": 0.5}


def test_what_a_dataset_lacks_is_left_out(seqio, shared, make_bare):
    data, index = make_bare
    names = seqio_alignment.register(data.path, index, name_prefix="bare", num_candidates=2)
    assert "bare_Bare_retrieval" in names
    assert not any("rating" in name or "ut" in name or "_ie" in name for name in names)


@pytest.fixture
def make_bare(shared, tmp_path):
    from tests.pipeline.pipeline_data import random_sequences, write_dataset

    data = write_dataset(tmp_path / "Bare", "Bare", random_sequences(8, 30, seed=2, longest=9))
    build.build_index(
        [data.path],
        build.IndexConfig("short"),
        output=tmp_path / "index",
        vocabulary=shared / "data" / "t5_vocabulary" / "spiece.model",
    )
    return data, tmp_path / "index"


def test_registering_by_the_environment(seqio, shop, monkeypatch):
    data, index, _ = shop
    monkeypatch.delenv("GENREC_ALIGNMENT", raising=False)
    tasks = importlib.import_module("tasks.alignment")
    assert tasks.registered == ()
    monkeypatch.setenv("GENREC_ALIGNMENT", f"{data.path}={index}")
    again = importlib.reload(tasks)
    assert again.registered[0] == "alignment_Shop_retrieval"
    with pytest.raises(UserError, match="already; give this index its own name_prefix"):
        again.register(data.path, index)
