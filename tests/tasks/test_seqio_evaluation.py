"""Evaluating a run on a user's own SeqIO mixture: its tasks' prompts and targets, searched in the trie."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrec_jax.cli import main
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.evaluation import checkpoints, from_run, intervals, reference_ranks, report, results
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.evaluation.in_training import ValidationEvaluator
from genrec_jax.parallel import mesh as meshes
from tests.evaluation import tiny_run

# TensorFlow and SeqIO warn of their own dependencies' deprecations when imported.
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = EvaluateConfig(
    num_beams=6, batch_size=32, intervals=intervals.BootstrapConfig(resamples=200)
)
MODULE = """
import functools
import seqio
import tensorflow as tf
from genrec_jax.data import dataset, splits
from genrec_jax.indexing import item_ids
from tasks import openp5

DATASET, INDEX = {dataset!r}, {index!r}
data, texts = dataset.load(DATASET), item_ids.load(INDEX).texts
part = splits.leave_one_out(data)
path = str(item_ids.load_vocabulary(INDEX).path)
feature = seqio.Feature(seqio.SentencePieceVocabulary(path, extra_ids=0), add_eos=True)


def add(name, rows_of, has):
    def source(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(rows_of(split))

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(source, splits=has),
        preprocessors=[
            functools.partial(seqio.preprocessors.tokenize, with_eos=False),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={{"inputs": feature, "targets": feature}},
    )


def pairs(split):
    rows = [
        (f"After {{texts[a]}} comes", f"{{data.name}} {{texts[b]}}")
        for user in range(data.num_users)
        for a, b in [data.sequence(user)[:2]]
    ]
    return {{name: list(column) for name, column in zip(("inputs", "targets"), zip(*rows))}}


def nonsense(split):
    rows = pairs(split)
    rows["targets"][3] = f"{{data.name}} gift_card"
    return rows


def shifted(split):
    rows = pairs(split)
    rows["user"] = list(range(data.num_users))
    return rows


def half(split):
    users = list(range(0, data.num_users, 2))
    ends = part.targets_U(split)
    targets = [f"{{data.name}} {{texts[data.items_X[ends[user]]]}}" for user in users]
    return {{"inputs": ["What next?"] * len(users), "targets": targets, "user": users}}


add("pairs", pairs, ["train", "test"])
add("only_train", pairs, ["train"])
add("nonsense", nonsense, ["test"])
add("shifted", shifted, ["test"])
add("half", half, ["test"])
openp5.register(DATASET, INDEX, name_prefix="own", history={history}, max_input_length={length})
seqio.MixtureRegistry.add(
    "own_mixture", ["own_toystore_sequential", "pairs", "only_train"], default_rate=1.0
)
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    pytest.importorskip("seqio", reason="needs the extra genrec-jax[seqio]")
    return tiny_run.make_dataset(tmp_path_factory.mktemp("data"), num_users=40)


@pytest.fixture(scope="module")
def runs(toy, tmp_path_factory):
    """The same parameters as a run on OpenP5's prompts, and as one on the module's mixture."""
    folder = tmp_path_factory.mktemp("runs")
    plain = tiny_run.make_run(folder / "run", [toy.path])
    text = MODULE.format(
        dataset=str(toy.path),
        index=str(folder / "run-index"),
        history=tiny_run.HISTORY,
        length=tiny_run.MAX_INPUT_LENGTH,
    )
    (folder / "own_tasks.py").write_text(text)
    own = tiny_run.make_run(folder / "own", [toy.path])
    mixture = own.mixture | {"name": "own_mixture", "module": "own_tasks", "tasks": []}
    artefacts.write_json(folder / "own" / "run.json", own.manifest | {"mixture": mixture})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield plain, tiny_run.RunDir.load(folder / "own")


@pytest.fixture(scope="module")
def mesh():
    return meshes.single_device_mesh()


def reference(dataset, splits, split):
    """User u has rank u + 1."""
    ranks = np.arange(1, dataset.num_users + 1)
    return {"numbered": {"seen_kept": ranks, "seen_excluded": ranks}}


REFERENCE = reference_ranks.References(reference)


def evaluate(run, mesh, **fields):
    """From nothing: what was evaluated before would stand beside it."""
    shutil.rmtree(run.eval_dir, ignore_errors=True)
    config = dataclasses.replace(CONFIG, **fields)
    (found,) = checkpoints.evaluate_checkpoint(run, config=config, mesh=mesh, references=REFERENCE)
    rows = pq.read_table(found.folder / "predictions.parquet").to_pylist()
    return found.metrics, rows


@pytest.fixture(scope="module")
def written(runs, mesh):
    return evaluate(runs[1], mesh)


def test_openp5_through_seqio_is_openp5(runs, written, mesh):
    """The registered sequential task has template A1's prompts, so every figure is A1's."""
    plain, plain_rows = evaluate(runs[0], mesh, templates=("A1",))
    metrics, rows = written
    task, template = "model/seqio/own_toystore_sequential", "model/sequential/A1"
    assert metrics["systems"][task] == plain["systems"][template]
    assert metrics["systems"]["numbered"] == plain["systems"]["numbered"]
    assert metrics["lists"][task] == plain["lists"][template]
    assert {c["a"] for c in metrics["paired"]} == {task}
    assert [c | {"a": ""} for c in metrics["paired"]] == [c | {"a": ""} for c in plain["paired"]]

    def lists(rows, name):
        keys = ("user", "target", "rank", "rank_seen_excluded", "items")
        chosen = [[row[key] for key in keys] for row in rows if row["template"] == name]
        return sorted(chosen, key=lambda row: row[0])

    assert lists(rows, "own_toystore_sequential") == lists(plain_rows, "A1")
    checks = {entry["check"]: entry["status"] for entry in metrics["audit"]}
    assert checks["targets_are_held_out"] == "pass"
    assert metrics["oracle"] == plain["oracle"]


def test_examples_of_nobody_have_no_history_and_no_baseline(written, toy):
    metrics, rows = written
    found = metrics["systems"]["model/seqio/pairs"]
    assert list(found) == ["seen_kept"]
    rows = sorted((row for row in rows if row["template"] == "pairs"), key=lambda r: r["example"])
    assert [row["example"] for row in rows] == list(range(toy.num_users))
    assert [row["target"] for row in rows] == [toy.sequence(u)[1] for u in range(toy.num_users)]
    assert {row["user"] for row in rows} == {row["rank_seen_excluded"] for row in rows} == {None}
    hits = [row["target"] in row["items"][:5] for row in rows]
    assert found["seen_kept"]["hr@5"]["value"] == pytest.approx(np.mean(hits))
    for row in rows:
        place = row["items"].index(row["target"]) + 1 if row["target"] in row["items"] else 0
        assert row["rank"] == place
    assert metrics["lists"]["model/seqio/pairs"]["seen_share"] is None


def test_what_is_missing_is_said(written):
    metrics, _ = written
    assert metrics["remarks"] == [
        "only_train was not scored: it has no test split (it has train).",
        "pairs has no baselines and no figures without seen items: its examples carry no `user`.",
    ]
    assert metrics["protocol"] == "seqio_tasks"
    assert (metrics["users"], metrics["unit"]) == (80, "examples")
    assert metrics["interval"]["method"] == "percentile bootstrap over examples"
    assert metrics["templates"]["pairs"] == {"task": "seqio", "seen": None, "trained": None}
    assert json.loads(json.dumps(metrics)) == metrics


def test_tasks_by_name_and_groups_of_users(runs, mesh):
    """Tasks outside the mixture may be named; each group of users has references of its own."""
    names = ("own_toystore_sequential_unseen", "half", "shifted")
    metrics, rows = evaluate(runs[1], mesh, templates=names)
    assert {row["template"] for row in rows} == set(names)
    (remark,) = metrics["remarks"]
    assert remark.startswith("shifted has no baselines")
    assert "targets are not the test item of the example's `user`" in remark
    # The reference has ranks 1, 3, 5 for users 0, 2, 4 of the even ones.
    assert metrics["systems"]["numbered/half"]["seen_kept"]["hr@5"]["value"] == 3 / 20
    assert metrics["systems"]["numbered/own_toystore_sequential_unseen"]["seen_kept"]["hr@5"][
        "value"
    ] == pytest.approx(5 / 40)
    pairs = {(c["a"], c["b"]) for c in metrics["paired"]}
    assert pairs == {(f"model/seqio/{name}", f"numbered/{name}") for name in names[:2]}
    assert sorted(row["example"] for row in rows if row["template"] == "half") == list(range(20))
    assert all(row["user"] == 2 * row["example"] for row in rows if row["template"] == "half")


def test_a_sample_is_of_the_same_users_as_for_templates(runs, mesh):
    fields = {"max_users": 7, "seed": 3}
    _, plain = evaluate(runs[0], mesh, templates=("A1",), **fields)
    metrics, rows = evaluate(runs[1], mesh, **fields)
    users = [row["user"] for row in rows if row["user"] is not None]
    assert sorted(users) == sorted(row["user"] for row in plain)
    assert sum(row["template"] == "pairs" for row in rows) == 7
    assert metrics["users"] == 14


def test_exact_exclusion_searches_without_the_users_history(runs, mesh):
    names = {"exact_exclusion": True, "max_users": 12}
    plain, _ = evaluate(runs[0], mesh, templates=("A1",), **names)
    metrics, _ = evaluate(runs[1], mesh, **names)
    assert (
        metrics["systems"]["model/seqio/own_toystore_sequential"]
        == plain["systems"]["model/sequential/A1"]
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"templates": ("A1",)}, "only_train, own_toystore_sequential, pairs, or others"),
        ({"templates": ("pairs", "pairs")}, "each once"),
        ({"templates": ("pairs", "only_train")}, "only_train was not scored: it has no test split"),
        (
            {"templates": ("pairs",), "split": "validation"},
            "no validation split (it has train, test)",
        ),
        ({"templates": ("nonsense",)}, "example 3 of the test split of the SeqIO task 'nonsense'"),
    ],
)
def test_mistakes_are_named(runs, mesh, fields, said):
    with pytest.raises(UserError) as error:
        from_run.build(runs[1], dataclasses.replace(CONFIG, **fields), mesh)
    assert said in str(error.value)


def test_a_target_that_is_no_item_shows_how_items_are_written(runs, mesh):
    with pytest.raises(UserError, match=r"'toystore gift_card'.*such as 'toystore item_\d+'"):
        from_run.build(runs[1], dataclasses.replace(CONFIG, templates=("nonsense",)), mesh)


def test_validation_in_training_asks_the_tasks_that_have_the_split(runs, mesh):
    params = checkpoints.restore.restore_params(runs[1], 10, mesh=mesh)
    ask = functools.partial(ValidationEvaluator, mesh=mesh, num_beams=6, batch_size=32)
    own = ask(runs[1]).metrics(params)
    plain = ask(runs[0], templates=["A1"]).metrics(params)
    assert own["hr@6/seqio/own_toystore_sequential"] == plain["hr@6/sequential/A1"] == own["hr@6"]


def test_the_command_and_the_report(runs, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GENREC_COMPILATION_CACHE", "")
    assert main.main(["evaluate", str(runs[1].path), "--num-beams=6", "--batch-size=32"]) == 0
    printed = capsys.readouterr().out
    for words in ("model/seqio/pairs", "only_train was not scored", "80 examples", "popularity"):
        assert words in printed
    page = report.write_report([runs[1].path], tmp_path / "report.html").read_text()
    for words in (
        "Model, seqio, own_toystore_sequential",
        "Model, seqio, pairs",
        "only_train was not scored",
        "of 40 examples",
        "not checked: the run was trained on the SeqIO mixture own_mixture",
    ):
        assert words in page, words
    assert results.load(runs[1].path / "eval" / "test-10-beams6")["unit"] == "examples"


def test_a_task_scored_later_stands_beside_the_others(runs, mesh):
    """Its references are on its own users, so they take no other's place."""
    first, _ = evaluate(runs[1], mesh)
    config = dataclasses.replace(CONFIG, templates=("half",))
    (found,) = checkpoints.evaluate_checkpoint(
        runs[1], config=config, mesh=mesh, references=REFERENCE
    )
    systems = found.metrics["systems"]
    assert systems["numbered"] == first["systems"]["numbered"]
    assert systems["numbered/half"]["seen_kept"]["hr@5"]["value"] == 3 / 20
    assert ("model/seqio/half", "numbered/half") in {
        (pair["a"], pair["b"]) for pair in found.metrics["paired"]
    }
    assert found.metrics["users"] == first["users"] + 20


def test_a_report_of_examples_of_nobody(runs, mesh, tmp_path):
    evaluate(runs[1], mesh, templates=("pairs",))
    page = report.write_report([runs[1].path], tmp_path / "report.html").read_text()
    assert "Example <span>" in page
    assert "Items of the user&#x27;s history struck" not in page
