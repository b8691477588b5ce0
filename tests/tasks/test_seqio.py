"""Our tasks in SeqIO: the same examples, cached, evaluated. Needs TensorFlow and SeqIO."""

import collections
import importlib
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from genrec_jax.data import splits
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids
from genrec_jax.pipeline import (
    mixtures,
    openp5,
    seqio_cache,
    seqio_runtime,
    seqio_tasks,
)
from genrec_jax.prompts import templates
from tests.pipeline.pipeline_data import random_sequences, read_sequences

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "seqio.md"
# TensorFlow and SeqIO warn of their own dependencies' deprecations when imported.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shop(seqio, indexed, tmp_path_factory):
    """A small dataset, its index, and the names it is registered under."""
    path = tmp_path_factory.mktemp("shop")
    data, index = indexed(path, "Shop", random_sequences(24, 60, seed=3, longest=20))
    return data, index, seqio_tasks.register(data.path, index, name_prefix="t")


def _ours(data, index, task, ids, split="train", draws=None):
    """Our own examples, unshuffled, as lists of tokens."""
    words, texts = item_ids.load_vocabulary(index), item_ids.load(index).texts
    mixture = mixtures.build_mixture(
        f"openp5_{task}",
        [data],
        [texts],
        words,
        templates.load_templates(),
        shuffle=False,
        templates_per_example=draws,
    )
    source = mixture.sources[0]
    if split != "train":
        source = openp5.OpenP5Task(
            source.prompts,
            data,
            splits.leave_one_out(data).targets_U(split),
            task,
            ids,
            shuffle=False,
        )
    block = source.assemble(0, np.arange(source.num_examples))
    return list(zip(block.inputs.to_lists(), block.targets.to_lists(), strict=True))


def _theirs(seqio, name, split, count=None, **options):
    dataset = seqio.get_mixture_or_task(name).get_dataset(split=split, **options).take(count or -1)
    return [(e["inputs"].tolist(), e["targets"].tolist()) for e in dataset.as_numpy_iterator()]


def test_names_and_sizes(seqio, shop):
    data, _, names = shop
    assert names == (
        "t_Shop_sequential",
        "t_Shop_sequential_unseen",
        "t_Shop_straightforward",
        "t_Shop_straightforward_unseen",
        "t_Shop",
    )
    task = seqio.get_mixture_or_task("t_Shop_sequential")
    for split in ("train", "validation", "test"):
        count = len(_theirs(seqio, "t_Shop_sequential", split, shuffle=False))
        assert task.source.num_input_examples(split) == count
    assert count == data.num_users


def test_names_of_seqio_have_no_hyphen(seqio, indexed, tmp_path):
    data, index = indexed(tmp_path, "my-shop", random_sequences(4, 20, seed=3, longest=6))
    names = seqio_tasks.register(data.path, index, name_prefix="hyphen")
    assert names[0] == "hyphen_my_shop_sequential"
    assert names[-1] == "hyphen_my_shop"


@pytest.mark.parametrize("task", ["sequential", "straightforward"])
def test_unshuffled_examples_are_ours_one_by_one(seqio, shop, task):
    data, index, _ = shop
    letter = "A" if task == "sequential" else "B"
    name = f"t_Shop_{task}"
    assert _theirs(seqio, name, "train", shuffle=False) == _ours(data, index, task, None)
    for split in ("validation", "test"):
        for suffix, template in (("", f"{letter}1"), ("_unseen", f"{letter}11")):
            found = _theirs(seqio, name + suffix, split, shuffle=False)
            assert found == _ours(data, index, task, [template], split)


@pytest.mark.parametrize("count", [3000, pytest.param(None, marks=pytest.mark.long)])
def test_unshuffled_examples_of_lastfm_with_t5(seqio, indexed, shared, tmp_path, count):
    sequences = read_sequences(shared / "data" / "lastfm" / "user_sequence.txt")
    spiece = shared / "data" / "t5_vocabulary" / "spiece.model"
    data, index = indexed(tmp_path, "LastFM", sequences, vocabulary=spiece)
    prefix = f"first_{count}"
    seqio_tasks.register(data.path, index, name_prefix=prefix, templates_per_example=1)
    for task in ("sequential", "straightforward"):
        name = f"{prefix}_LastFM_{task}"
        found = _theirs(seqio, name, "train", count=count, shuffle=False)
        assert len(found) == (count or 52_551 - 3 * 1_090)
        assert found == _ours(data, index, task, None, draws=1)[:count]


def test_texts_users_and_items(seqio, shop):
    data, index, _ = shop
    words, texts = item_ids.load_vocabulary(index), item_ids.load(index).texts
    task = seqio.get_mixture_or_task("t_Shop_sequential")
    for example in task.get_dataset(split="test", shuffle=False).take(5).as_numpy_iterator():
        target = f"Shop {texts[example['item']]}"
        assert example["targets_pretokenized"].decode() == target
        assert words.decode(example["targets"].tolist()) == target
        assert f"Shop user_{example['user'] + 1} has" in example["inputs_pretokenized"].decode()
        assert example["item"] == data.sequence(int(example["user"]))[-1]


def test_shuffled_is_a_permutation_and_the_mixture_mixes(seqio, shop):
    shuffled = _theirs(seqio, "t_Shop_sequential", "train", shuffle=True, seed=1)
    plain = _theirs(seqio, "t_Shop_sequential", "train", shuffle=False)
    assert sorted(shuffled) == sorted(plain)
    assert shuffled != plain
    mixed = _theirs(seqio, "t_Shop", "train", shuffle=True, seed=1, num_epochs=1)
    known = {tuple(inputs) for inputs, _ in plain}
    share = np.mean([tuple(inputs) in known for inputs, _ in mixed[:2000]])
    assert abs(share - 0.5) < 0.06


def test_seqio_cuts_but_keeps_the_end_of_sequence(seqio, shop):
    lengths = {"inputs": 20, "targets": 10}
    rows = _theirs(seqio, "t_Shop_sequential", "test", shuffle=False, sequence_length=lengths)
    assert max(len(inputs) for inputs, _ in rows) == 20
    assert all(inputs[-1] == targets[-1] == 1 for inputs, targets in rows)


def test_the_cache_holds_the_same_examples(seqio, shop, tmp_path):
    name = "t_Shop_straightforward"
    seqio_cache.write_cache(name, tmp_path, num_shards=3)
    with pytest.raises(UserError, match="already exists"):
        seqio_cache.write_cache(name, tmp_path)
    seqio.add_global_cache_dirs([str(tmp_path)])
    task = seqio.get_mixture_or_task(name)
    for split in ("train", "test"):
        plain = _theirs(seqio, name, split, shuffle=False)
        cached = _theirs(seqio, name, split, shuffle=False, use_cached=True)
        assert collections.Counter(map(str, cached)) == collections.Counter(map(str, plain))
        stats = task.get_cached_stats(split)
        assert stats["examples"] == len(plain)
        assert stats["inputs_tokens"] == sum(len(inputs) - 1 for inputs, _ in plain)
        assert stats["targets_max_tokens"] == max(len(targets) - 1 for _, targets in plain)


def test_ranking_metrics_by_hand():
    targets = ["a", "b", "c", "d"]
    single = seqio_tasks.ranking_metrics(targets, ["a", "x", "c", "y"])
    assert single == {"hr@1": 0.5, "ndcg@1": 0.5, "mrr@1": 0.5}
    lists = [list("abcde"), list("xyzwb"), list("vwxyz"), list("xdyzw")]
    several = seqio_tasks.ranking_metrics(targets, lists)
    assert several["hr@5"] == 0.75
    assert several["hr@1"] == 0.25
    assert several["mrr@5"] == pytest.approx((1 + 1 / 5 + 1 / 2) / 4)
    assert several["ndcg@5"] == pytest.approx((1 + 1 / np.log2(6) + 1 / np.log2(3)) / 4)
    assert "hr@10" not in several


def test_seqio_evaluator(seqio, shop):
    evaluator = seqio.Evaluator(
        "t_Shop",
        seqio.EncDecFeatureConverter(pack=False),
        eval_split="test",
    )

    def right_every_second_time(examples):
        for number, features in examples.as_numpy_iterator():
            tokens = features["decoder_target_tokens"].tolist()
            yield int(number), tokens if number % 2 else [5] * len(tokens)

    def predict(examples):
        return list(right_every_second_time(examples))

    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    assert set(metrics.result()) == {"t_Shop_sequential", "t_Shop_straightforward"}
    for found in metrics.result().values():
        assert found["hr@1"] == pytest.approx(0.5)
    evaluator.close()


def test_registering_by_the_environment(seqio, shop, monkeypatch):
    data, index, _ = shop
    monkeypatch.setenv("GENREC_OPENP5", f"{data.path}={index}")
    monkeypatch.delitem(sys.modules, "tasks.openp5", raising=False)
    module = importlib.import_module("tasks.openp5")
    assert module.registered[-1] == "openp5_Shop"
    assert seqio.get_mixture_or_task("openp5_Shop_sequential_unseen").splits
    with pytest.raises(UserError, match="give this index its own name_prefix"):
        module.register(data.path, index)
    with pytest.raises(UserError, match="wanted DATASET_DIR=INDEX_DIR"):
        seqio_tasks.register_from_environment(str(data.path))


@pytest.mark.long
def test_every_command_of_the_page_runs(seqio, tmp_path):
    """The page's shell blocks in order, in one folder that holds its example module."""
    page = DOCS.read_text()
    (module,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "my_tasks" in b)
    (tmp_path / "my_tasks.py").write_text(module)
    for name in ("gin_configs", "tasks"):
        (tmp_path / name).symlink_to(DOCS.parent.parent / name)
    blocks = re.findall(r"```bash seqio\n(.*?)```", page, re.S)
    assert len(blocks) == 2
    done = subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + "\n".join(blocks)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "XLA_FLAGS": "",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "openp5_toystore_straightforward_unseen" in done.stdout
    assert "-> toystore item_" in done.stdout
    (metrics,) = (tmp_path / "runs" / "mine").glob("eval/test-*/metrics.json")
    assert "model/seqio/mine_toystore_sequential" in metrics.read_text()


def test_accelerators_are_hidden_from_tensorflow(seqio, monkeypatch):
    import tensorflow as tf

    hidden = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind))
    )
    assert seqio_runtime.import_seqio()[0] is seqio
    assert hidden == [([], "GPU"), ([], "TPU")]
