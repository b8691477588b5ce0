"""Evaluating real run dirs (random parameters): what is written, and what is refused."""

import dataclasses
import functools
import json
import math
import pathlib
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrec_jax.data import dataset as datasets
from genrec_jax.errors import UserError
from genrec_jax.evaluation import (
    checkpoints,
    from_run,
    in_training,
    intervals,
    ranking,
    reference_ranks,
    results,
)
from genrec_jax.evaluation.evaluator import EvaluateConfig, choose_templates
from genrec_jax.evaluation.in_training import ValidationEvaluator
from genrec_jax.parallel import mesh as meshes
from genrec_jax.prompts import templates as templates_lib
from tests.evaluation import tiny_run

CONFIG = EvaluateConfig(
    templates=("A1", "A11"),
    num_beams=6,
    batch_size=32,
    intervals=intervals.BootstrapConfig(resamples=200),
)


OWN = "-beams6-resamples200"
"""What CONFIG has of its own, in the names of folders."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return tiny_run.make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, toy):
    return tiny_run.make_run(tmp_path_factory.mktemp("runs") / "run", [toy.path], steps=(10, 20))


@pytest.fixture(scope="module")
def mesh():
    return meshes.single_device_mesh()


def rank_by_name(dataset, splits, split):
    """A reference whose ranks tell which user they belong to."""
    targets_U = splits.targets_U(split)
    users_E = np.flatnonzero(targets_U >= 0)
    return {"numbered": {"seen_kept": users_E + 1, "seen_excluded": users_E + 1}}


NUMBERED = reference_ranks.References(rank_by_name)


@pytest.fixture(scope="module")
def written(run_dir, mesh):
    (evaluation,) = checkpoints.evaluate_checkpoint(
        run_dir, config=CONFIG, mesh=mesh, references=NUMBERED
    )
    return evaluation


def test_best_is_evaluated_and_written_where_it_is_looked_for(written, run_dir):
    assert written.folder == run_dir.path / "eval" / f"test-10{OWN}"
    assert results.load(written.folder) == written.metrics
    assert written.metrics["step"] == 10
    assert sorted(path.name for path in (run_dir.path / "eval").iterdir()) == [f"test-10{OWN}"]


def test_metrics_follow_from_the_predictions_file(written, toy):
    """HR, NDCG and MRR from the lists alone, with the targets read from the dataset anew."""
    table = pq.read_table(written.folder / "predictions.parquet").to_pylist()
    assert len(table) == 2 * toy.num_users
    for template in ("A1", "A11"):
        rows = [row for row in table if row["template"] == template]
        assert sorted(row["user"] for row in rows) == list(range(toy.num_users))
        sums = {
            footing: dict.fromkeys(("hr@5", "ndcg@5", "mrr@5"), 0.0) for footing in results.FOOTINGS
        }
        for row in rows:
            sequence = toy.sequence(row["user"]).tolist()
            history, target = set(sequence[:-1]), sequence[-1]
            assert row["target"] == target
            assert len(set(row["items"])) == len(row["items"]) == 6
            assert all(np.diff(row["scores"]) <= 0)
            unseen = [item for item in row["items"] if item not in history]
            for footing, items in zip(results.FOOTINGS, (row["items"], unseen), strict=True):
                if target in items[:5] and target in unseen + list(history):
                    rank = items.index(target) + 1
                    sums[footing]["hr@5"] += 1
                    sums[footing]["ndcg@5"] += 1 / math.log2(rank + 1)
                    sums[footing]["mrr@5"] += 1 / rank
        for footing, metrics in sums.items():
            found = written.metrics["systems"][f"model/sequential/{template}"][footing]
            for name, total in metrics.items():
                assert found[name]["value"] == pytest.approx(total / toy.num_users)
                assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]


def test_the_baselines_ranks_are_written_user_by_user(run_dir, mesh, toy, tmp_path):
    """Their hit ratios from the file alone are metrics.json's; a later evaluation leaves them in place."""
    ranks_U = np.arange(toy.num_users, dtype=np.int64) % 9

    def references(dataset, splits, split):
        return {"turns": {"seen_kept": ranks_U, "seen_excluded": ranks_U // 2}}

    copy = shutil.copytree(run_dir.path, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    config = dataclasses.replace(CONFIG, max_users=13)
    evaluate = functools.partial(checkpoints.evaluate_checkpoint, copy, mesh=mesh)
    evaluate(config=config, references=reference_ranks.References(references))
    (after,) = evaluate(
        config=dataclasses.replace(config, templates=("A2",)), references=reference_ranks.NONE
    )
    rows = pq.read_table(pathlib.Path(after.folder) / "references.parquet").to_pylist()
    assert {row["template"] for row in rows} == {"A1", "A11"}
    for row in rows:
        assert row["system"] == "turns"
        assert row["rank"] == ranks_U[row["user"]]
        assert row["rank_seen_excluded"] == ranks_U[row["user"]] // 2
    of_first = [row["rank"] for row in rows if row["template"] == "A1"]
    assert len(of_first) == 13
    found = after.metrics["systems"]["turns"]["seen_kept"]["hr@5"]["value"]
    assert found == pytest.approx(np.mean([1 <= rank <= 5 for rank in of_first]))


def test_item_ids_are_those_of_the_run(written, run_dir):
    texts = run_dir.item_ids().texts
    for row in pq.read_table(written.folder / "predictions.parquet").to_pylist():
        assert row["item_ids"] == [texts[item] for item in row["items"]]


def test_metrics_say_how_they_were_made(written, toy):
    metrics = written.metrics
    assert metrics["protocol"] == "leave_one_out"
    assert metrics["num_beams"] == 6
    assert metrics["dataset"]["fingerprint"] == toy.fingerprint
    assert metrics["templates"] == {
        "A1": {"task": "sequential", "seen": True, "trained": True},
        "A11": {"task": "sequential", "seen": False, "trained": True},
    }
    assert "hr@10" not in metrics["systems"]["model/sequential/A1"]["seen_kept"]
    assert metrics["oracle"] == toy.manifest["oracle"]
    assert "cut at 6 items" in metrics["notes"][0]
    assert not re.search(r"[a-z]_[a-z]", " ".join(metrics["notes"])), "names of the code's own"
    checks = {entry["check"]: entry["status"] for entry in metrics["audit"]}
    assert checks["targets_are_held_out"] == "pass"
    assert "order_in_time" in checks
    assert json.loads(json.dumps(metrics)) == metrics


def test_references_stand_beside_the_model_and_are_compared(written, toy):
    metrics = written.metrics
    # Users 0 to 4 have ranks 1 to 5 in the reference; everybody else is beyond its list.
    reference = metrics["systems"]["numbered"]["seen_kept"]
    assert reference["hr@5"]["value"] == pytest.approx(5 / toy.num_users)
    assert reference["hr@1"]["value"] == pytest.approx(1 / toy.num_users)
    pairs = {(c["a"], c["b"], c["footing"], c["metric"]): c for c in metrics["paired"]}
    compared = pairs["model/sequential/A1", "numbered", "seen_kept", "hr@5"]
    model = metrics["systems"]["model/sequential/A1"]["seen_kept"]["hr@5"]["value"]
    assert compared["difference"] == pytest.approx(model - 5 / toy.num_users)


def test_references_are_cut_to_the_users_that_were_scored(run_dir, mesh, toy):
    config = dataclasses.replace(CONFIG, max_users=7, seed=3, templates=("A1",))
    evaluation = checkpoints.RunEvaluation(run_dir, config, mesh=mesh, references=NUMBERED)
    evaluator = evaluation._evaluators["toystore"]
    chosen = ranking.choose_users(toy, evaluator.splits, "test", 7, 3)
    (group,) = evaluation._groups["toystore"]
    ranks = group.systems["numbered"]["seen_kept"]
    assert ranks.tolist() == (chosen + 1).tolist()


def test_a_narrower_evaluation_adds_to_what_there_is(run_dir, mesh, written, tmp_path, toy):
    copy = tiny_run.RunDir.load(shutil.copytree(run_dir.path, tmp_path / "run"))
    narrow = dataclasses.replace(CONFIG, templates=("A11", "A5"))
    (both,) = checkpoints.evaluate_checkpoint(
        copy, config=narrow, mesh=mesh, references=reference_ranks.NONE
    )
    assert both.folder.name == written.folder.name
    before, after = written.metrics, results.load(both.folder)
    assert after == both.metrics
    assert list(after["systems"]) == [
        *(f"model/sequential/{template}" for template in ("A1", "A5", "A11")),
        "numbered",
    ]
    for name in before["systems"]:  # A11, measured again, is what it was
        assert after["systems"][name] == before["systems"][name]
    assert {pair["a"] for pair in after["paired"]} == {
        "model/sequential/A1",
        "model/sequential/A11",
    }
    assert list(after["templates"]) == ["A1", "A5", "A11"]

    def rows(folder, templates):
        table = pq.read_table(folder / "predictions.parquet").to_pylist()
        return sorted(str(row) for row in table if row["template"] in templates)

    old = ("A1", "A11")
    assert rows(both.folder, old) == rows(written.folder, old)
    assert len(rows(both.folder, ("A5",))) == toy.num_users


def test_another_search_has_a_folder_of_its_own(run_dir, mesh, written, tmp_path):
    copy = tiny_run.RunDir.load(shutil.copytree(run_dir.path, tmp_path / "run"))
    before = (written.folder / "metrics.json").read_bytes()
    other = dataclasses.replace(CONFIG, templates=("A1",), num_beams=5, max_users=9, seed=2)
    (apart,) = checkpoints.evaluate_checkpoint(
        copy, config=other, mesh=mesh, references=reference_ranks.NONE
    )
    assert apart.folder.name == "test-10-sample9-seed2-beams5-resamples200"
    assert list(apart.metrics["systems"]) == ["model/sequential/A1"]
    assert (copy.eval_dir / written.folder.name / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "test-7"),
        ({"templates": ("A1",), "exact": True, "batch_size": 3}, "test-7"),
        ({"split": "validation", "max_users": 5}, "validation-7-sample5"),
        ({"seed": 3}, "test-7"),
        (
            {"num_beams": 10, "length_penalty": 1.0, "finish_within_beams": True},
            "test-7-beams10-penalty1-within-beams",
        ),
        ({"exact_exclusion": True}, "test-7-exact-exclusion"),
        (
            {"intervals": intervals.BootstrapConfig(level=0.9, seed=4)},
            "test-7-level0.9-bootstrap4",
        ),
    ],
)
def test_the_folder_says_what_a_search_has_of_its_own(fields, name):
    assert EvaluateConfig(**fields).folder(7) == name


def test_several_devices_give_the_same_lists(run_dir, written, tmp_path):
    """Rows, parameters and vocabulary split over eight devices; 30 rows are rounded up to 32."""
    copy = tiny_run.RunDir.load(shutil.copytree(run_dir.path, tmp_path / "run"))
    config = dataclasses.replace(CONFIG, batch_size=30)
    (spread,) = checkpoints.evaluate_checkpoint(copy, 10, config, mesh=meshes.make_mesh(2, 2, 2))
    columns = ["user", "template", "rank", "items"]

    def rows(folder):
        table = pq.read_table(folder / "predictions.parquet", columns=columns)
        return sorted(map(str, table.to_pylist()))

    assert rows(spread.folder) == rows(written.folder)


def test_prompts_of_all_templates_share_few_shapes(run_dir, mesh):
    evaluator = from_run.build(run_dir, dataclasses.replace(CONFIG, templates=None), mesh)
    assert [t.id for t in evaluator.templates] == ["A1", "A11", "B1", "B11"]
    shapes = {
        batch.encoder_input_tokens_BL.shape
        for template in evaluator.templates
        for batch in evaluator._prompts(template.id)
    }
    assert len(shapes) <= 4
    assert {length for _, length in shapes} <= set(from_run.LENGTHS)


def test_users_come_in_pieces_without_changing_anything(run_dir, mesh, monkeypatch):
    evaluator = from_run.build(run_dir, CONFIG, mesh)
    whole = {int(u): b for b in evaluator._prompts("A1") for u in b.users_B if u >= 0}
    monkeypatch.setattr(from_run, "USERS_AT_A_TIME", 7)
    users = [int(u) for b in evaluator._prompts("A1") for u in b.users_B if u >= 0]
    assert sorted(users) == sorted(whole)


def test_validation_while_training_equals_validation_afterwards(run_dir, mesh):
    config = dataclasses.replace(CONFIG, split="validation", templates=("A1", "B1"), max_users=25)
    evaluation = checkpoints.RunEvaluation(run_dir, config, mesh=mesh)
    (after,) = evaluation.evaluate(20)
    asked = ValidationEvaluator(run_dir, mesh, max_users=25, num_beams=6, batch_size=32)
    params = checkpoints.restore.restore_params(run_dir, 20, mesh=mesh)
    measured = asked.metrics(params)
    assert measured == asked.metrics(params)
    histograms = {}
    for name in ("sequential/A1", "straightforward/B1"):
        ranks = [
            row["rank"]
            for row in pq.read_table(after.folder / "predictions.parquet").to_pylist()
            if row["template"] == name.rpartition("/")[2]
        ]
        histograms[name] = sum(rank > 0 for rank in ranks) / 25
        assert measured[f"hr@6/{name}"] == pytest.approx(histograms[name])
    assert measured["hr@6"] == pytest.approx(sum(histograms.values()) / 2)


def test_validation_while_training_asks_before_each_batch_and_ends_where_told(run_dir, mesh):
    asked = []

    def before_batch():
        asked.append(1)
        if len(asked) == 7:
            raise InterruptedError

    evaluator = ValidationEvaluator(
        run_dir,
        mesh,
        max_users=25,
        num_beams=6,
        batch_size=8,
        templates=("A1",),
        before_batch=before_batch,
    )
    params = checkpoints.restore.restore_params(run_dir, 20, mesh=mesh)
    measured = evaluator.metrics(params)
    assert len(asked) == 4
    with pytest.raises(InterruptedError):
        evaluator.metrics(params)
    assert evaluator.metrics(params) == measured


def test_other_data_than_the_trained_is_refused_with_both_fingerprints(
    run_dir, mesh, tmp_path, toy
):
    other = tiny_run.make_dataset(tmp_path, num_users=50)
    with pytest.raises(UserError) as error:
        checkpoints.evaluate_checkpoint(
            run_dir, config=CONFIG, mesh=mesh, data={"toystore": other.path}
        )
    assert toy.fingerprint in str(error.value)
    assert other.fingerprint in str(error.value)


def test_a_dataset_that_moved_is_found_by_data(run_dir, mesh, tmp_path, toy):
    moved = shutil.copytree(toy.path, tmp_path / "elsewhere")
    assert (
        from_run.build(run_dir, CONFIG, mesh, data={"toystore": moved}).num_users == toy.num_users
    )
    entry = dataclasses.replace(run_dir.dataset(), path=tmp_path / "gone")
    with pytest.raises(UserError, match="--data"):
        from_run.open_dataset(entry, {})


def test_an_interrupted_evaluation_leaves_the_old_one(run_dir, mesh, written, monkeypatch):
    before = (written.folder / "metrics.json").read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    evaluation = checkpoints.RunEvaluation(run_dir, CONFIG, mesh=mesh)
    monkeypatch.setattr(checkpoints, "_systems", fail)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(10)
    assert (written.folder / "metrics.json").read_bytes() == before
    names = {path.name for path in (run_dir.path / "eval").iterdir()}
    assert names <= {f"test-10{OWN}", "validation-20-sample25-beams6-resamples200"}


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (("A1", "Z1"), "this run has no template Z1; wanted one or several of A1, A2"),
        (("A1", "A1"), "template A1 is named twice; wanted"),
        ((), "no template is named; wanted"),
    ],
)
def test_unknown_templates_are_refused(run_dir, mesh, templates, said):
    with pytest.raises(UserError, match=said):
        from_run.build(run_dir, dataclasses.replace(CONFIG, templates=templates), mesh)


def test_default_templates_are_the_first_seen_and_unseen_of_each_trained_task():
    every = templates_lib.load_templates()
    assert [t.id for t in choose_templates(every, ("sequential",), None)] == ["A1", "A11"]
    both = choose_templates(every, ("sequential", "straightforward"), None)
    assert [t.id for t in both] == ["A1", "A11", "B1", "B11"]


@pytest.mark.parametrize("fields", [{"num_beams": 0}, {"batch_size": 0}, {"max_users": 0}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(UserError, match="wanted"):
        EvaluateConfig(**fields)


def test_references_that_answer_in_another_form_are_refused_before_anything_is_searched(
    run_dir, mesh
):
    references = reference_ranks.References(lambda *_: {"my/bad": {}})
    with pytest.raises(UserError, match="called 'my/bad'"):
        checkpoints.RunEvaluation(run_dir, CONFIG, mesh=mesh, references=references)


def test_several_datasets_get_a_folder_each(tmp_path, mesh):
    first = tiny_run.make_dataset(tmp_path, "north", num_users=20)
    second = tiny_run.make_dataset(tmp_path, "south", num_users=30)
    run_dir = tiny_run.make_run(tmp_path / "run", [first.path, second.path])
    config = dataclasses.replace(CONFIG, templates=("A1",))
    north, south = checkpoints.evaluate_checkpoint(run_dir, config=config, mesh=mesh)
    assert north.folder == run_dir.path / "eval" / f"test-10{OWN}" / "north"
    assert (results.load(north.folder)["users"], results.load(south.folder)["users"]) == (20, 30)
    measured = ValidationEvaluator(run_dir, mesh, num_beams=6, templates=["A1"]).metrics(
        checkpoints.restore.restore_params(run_dir, 10, mesh=mesh)
    )
    assert measured["hr@6"] == pytest.approx((measured["north/hr@6"] + measured["south/hr@6"]) / 2)
    (chosen,) = in_training.choose_templates(run_dir.templates, ("sequential",), ["A1"])
    both = {"north": [chosen], "south": [chosen]}
    assert sorted(measured) == sorted(in_training.metric_names(both, 6))


def test_dataset_fixture_is_what_the_run_records(run_dir, toy):
    assert run_dir.dataset().fingerprint == datasets.load(toy.path).fingerprint


def test_exact_exclusion_fills_the_list_with_unseen_items(run_dir, mesh, toy):
    """With as many beams as items the search is exhaustive, so both ways must rank alike."""
    wide = dataclasses.replace(CONFIG, templates=("A1",), num_beams=toy.num_items, max_users=12)
    exact = dataclasses.replace(wide, exact_exclusion=True)
    params = checkpoints.restore.restore_params(run_dir, 10, mesh=mesh)
    ranks = []
    for config in (wide, exact):
        evaluator = from_run.build(run_dir, config, mesh)
        ranks.append(evaluator.rank(params, evaluator.templates[0]))
    users_E = ranks[0].users_E
    assert (ranks[0].kept_U == ranks[1].kept_U).all()
    assert (ranks[0].excluded_U == ranks[1].excluded_U).all()
    repeated = [u for u in users_E if toy.sequence(int(u))[-1] in toy.sequence(int(u))[:-1]]
    assert (ranks[1].excluded_U[repeated] == 0).all()
    assert (ranks[1].excluded_U[users_E] < ranks[1].kept_U[users_E]).any()
