"""A unified model of the alignment system (random parameters): three questions in one evaluation."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrec_jax.baselines import history, popularity
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.cli import main
from genrec_jax.data import artefacts
from genrec_jax.data import splits as splits_lib
from genrec_jax.decoding import trie as tries
from genrec_jax.errors import UserError
from genrec_jax.evaluation import (
    auc,
    checkpoints,
    from_run,
    in_training,
    report,
    results,
    table,
)
from genrec_jax.evaluation.alignment import AlignmentEvaluator, Ratings
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.evaluation.in_training import ValidationEvaluator
from genrec_jax.indexing import build
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel.profiling import TracedBatches
from genrec_jax.pipeline import alignment_eval
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from genrec_jax.prompts import templates as templates_lib
from tests.evaluation import tiny_run

CANDIDATES, USERS = 12, 16
WORDING = {"ranking": ["ranking"], "rating": ["rating", "rating_likes", "rating_dislikes"]}


MORE_WORDINGS = """
[[template]]
id = "ranking_second"
task = "ranking"
seen = true
input = "second {history} qqq {candidates}."
target = "{target}"
[[template]]
id = "ranking_unseen"
task = "ranking"
seen = false
input = "zzz {history} qqq {candidates}."
target = "{target}"
"""
MORE_RATINGS = """
[[template]]
id = "rating_unseen"
task = "rating"
seen = false
input = "zzz {likes} qqq {dislikes} www {item}"
target = "{answer}"
[[template]]
id = "rating_unseen_likes"
task = "rating"
seen = false
input = "zzz {likes} www {item}"
target = "{answer}"
[[template]]
id = "rating_unseen_dislikes"
task = "rating"
seen = false
input = "zzz {dislikes} www {item}"
target = "{answer}"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("alignment"))


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """As `made`, with a second seen wording of ranking and an unseen one of ranking and of rating."""
    return make(tmp_path_factory.mktemp("worded"), MORE_WORDINGS + MORE_RATINGS)


def make(folder, more_templates=""):
    dataset = tiny_run.make_dataset(folder)
    path = folder / "templates.toml"
    path.write_text(templates_lib.ALIGNMENT_TEMPLATES.read_text("utf-8") + more_templates, "utf-8")
    index = folder / "index"
    (built,) = build.build_index([dataset.path], build.IndexConfig("short"), output=index)
    vocabulary = Vocabulary(index / item_ids_lib.VOCABULARY)
    ids = built.item_ids
    assembler = PromptAssembler(
        vocabulary,
        ids.texts,
        templates_lib.load_templates(path),
        dataset.name,
        5,
        max_input_length=512,
        titles=ids.titles,
    )

    def write_trie(number, target):
        runs = assembler.target_runs()
        trie = tries.build_trie(runs.values_P, runs.offsets_E1, vocab_size=vocabulary.size)
        tries.save(trie, target)

    run = RunDir.create(
        folder / "run",
        model_config=tiny_run.model_config(vocabulary.size),
        mixture={
            "name": "alignment_ut_at",
            "tasks": ["retrieval", "ranking", "rating", "mim", "mlm"],
            "history": 5,
            "max_input_length": 512,
            "cut": "items",
            "num_candidates": CANDIDATES,
            "like_above": 3.0,
            "seed": 5,
        },
        datasets=[dataset],
        index_dirs=[built.path],
        vocabulary=vocabulary,
        templates_text=path.read_text(encoding="utf-8"),
        write_trie=write_trie,
        selection={"metric": "hr@10", "mode": "max"},
        settings={},
    )
    tiny_run.add_checkpoint(run, 10)
    return run, dataset, assembler


@pytest.fixture(scope="module")
def written(made):
    run, _, _ = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_COMPILATION_CACHE", "")
        assert main.main(["evaluate", str(run.path), "--max-users", str(USERS)]) == 0
    (folder,) = (run.path / "eval").iterdir()
    return folder, results.load(folder)


def trained_on(made, folder, *tasks):
    """The same run, as if it had been trained on other tasks."""
    run = made[0]
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("eval"))
    manifest = dict(run.manifest) | {"mixture": run.mixture | {"tasks": list(tasks)}}
    artefacts.write_json(folder / "run.json", manifest)
    return RunDir.load(folder)


def examples_of(made, task):
    _, dataset, assembler = made
    part = splits_lib.leave_one_out(dataset)
    source = alignment_eval.EvaluationSource(
        assembler, dataset, part, "test", task, WORDING[task], num_candidates=CANDIDATES
    )
    return source.examples(), dataset, part


def test_ranking_is_over_each_users_own_candidates(made, written):
    folder, metrics = written
    examples, dataset, part = examples_of(made, "ranking")
    assert examples.candidates_EC is not None
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    rows = [row for row in rows if row["template"] == "ranking"]
    assert len(rows) == USERS
    for row in rows:
        place = examples.users_E.tolist().index(row["user"])
        # 20 beams find all of 12 candidates, and nothing else.
        assert sorted(row["items"]) == sorted(examples.candidates_EC[place].tolist())
        assert row["target"] == examples.targets_E[place]
        assert row["items"][row["rank"] - 1] == row["target"]
    assert metrics["candidates"] == {"number": CANDIDATES, "seed": 0}
    systems = metrics["systems"]
    beams, exact = systems["model/ranking/ranking"], systems["exact/ranking/ranking"]
    assert {n: e["value"] for n, e in beams["seen_kept"].items()} == pytest.approx(
        {n: e["value"] for n, e in exact["seen_kept"].items()}
    )
    whole = metrics["exact"]["model/ranking/ranking"]
    assert whole["items"] == CANDIDATES and whole["beam"]["10"]["miss_rate"] == 0.0
    places = np.searchsorted(examples.users_E, sorted(row["user"] for row in rows))
    ranks_E = popularity.rank_among(
        dataset, part, examples.targets_E[places], examples.candidates_EC[places]
    )
    assert systems["popularity/ranking"]["seen_kept"]["hr@5"]["value"] == (ranks_E <= 5).mean()


def test_all_three_stand_in_one_result(written):
    _, metrics = written
    assert metrics["candidates"] == {"number": CANDIDATES, "seed": 0}
    assert list(metrics["systems"]) == [
        "model/retrieval/retrieval",
        "model/ranking/ranking",
        "exact/ranking/ranking",
        "popularity",
        "transition",
        "transition_2",
        "popularity/ranking",
    ]
    pairs = {(c["a"], c["b"]) for c in metrics["paired"]}
    assert ("model/ranking/ranking", "popularity/ranking") in pairs
    assert ("model/ranking/ranking", "popularity") not in pairs
    assert list(metrics["ratings"]["systems"]) == ["model/rating/rating", "history"]
    titles = [title for title, _ in table.tables(metrics)]
    assert ["history kept" in titles[0], "history struck" in titles[1]] == [True, True]
    assert "each user's own candidates" in titles[2] and "rating prediction" in titles[3]
    assert "AUC-ROC" in table.rating_lines(metrics)[0]


def test_ratings_beside_the_history(made, written):
    examples, dataset, part = examples_of(made, "rating")
    run = made[0]
    config = EvaluateConfig(max_users=USERS)
    evaluator = from_run.build(run, config, meshes.single_device_mesh())
    assert isinstance(evaluator, AlignmentEvaluator) and evaluator.question is not None
    assert examples.labels_E is not None
    users_E = evaluator.question.users_E
    labels_E = examples.labels_E[np.searchsorted(examples.users_E, users_E)]
    ratings = written[1]["ratings"]
    assert ratings["users"] == len(users_E) and ratings["liked"] == labels_E.mean()
    liked_E = history.liked_shares(dataset, part, users_E)
    found = ratings["systems"]["history"]["auc_roc"]["value"]
    assert found == pytest.approx(auc.auc_roc(liked_E, labels_E), nan_ok=True)


def test_ratings_that_are_all_likes_have_null_for_an_area():
    users_E, odds_E = np.arange(3), np.asarray([0.5, -1.0, 2.0])
    odds = {"model/rating/rating": odds_E}
    summary = Ratings(users_E, np.ones(3, bool), odds).summary({"history": odds_E}, level=0.95)
    json.dumps(summary, allow_nan=False)
    assert summary["liked"] == 1.0
    for found in summary["systems"].values():
        assert found["auc_roc"] == {"value": None, "low": None, "high": None, "count": 3}
    one_dislike = Ratings(users_E, odds_E > 0, odds).summary({}, level=0.95)
    (found,) = one_dislike["systems"].values()
    assert found["auc_roc"] == {"value": 1.0, "low": None, "high": None, "count": 3}


def test_ratings_are_traced_and_stay_what_they_are(made, tmp_path):
    run = made[0]
    config = EvaluateConfig(max_users=USERS, batch_size=4)
    evaluator = from_run.build(run, config, meshes.single_device_mesh())
    params, said = from_run_params(run), []
    plain = evaluator.rate(params)
    evaluator.tracer = TracedBatches(tmp_path, say=said.append, count=2)
    traced = evaluator.rate(params)
    for name, odds_E in plain.odds.items():
        np.testing.assert_array_equal(odds_E, traced.odds[name])
    assert said == [f"trace of 2 batches: tensorboard --logdir {tmp_path}"]


def texts_of(run, batches):
    rows = [row for batch in batches for row in np.asarray(batch.encoder_input_tokens_BL)]
    return [run.vocabulary.decode([int(token) for token in row if token > 1]) for row in rows]


def test_each_row_is_asked_in_its_own_wording(worded):
    run = worded[0]
    config = EvaluateConfig(
        templates=["ranking", "ranking_second", "ranking_unseen", "rating", "rating_unseen"],
        max_users=USERS,
        batch_size=USERS,
    )
    evaluator = from_run.build(run, config, meshes.single_device_mesh())
    assert isinstance(evaluator, AlignmentEvaluator) and evaluator.question is not None
    shown = {}
    for name, begins in (
        ("ranking", "A user"),
        ("ranking_second", "sec"),
        ("ranking_unseen", "zzz"),
    ):
        texts = texts_of(run, evaluator._prompts(name))
        assert texts and all(text.startswith(begins) for text in texts)
        shown[name] = evaluator.choices.items_UC.copy()
    assert (shown["ranking"] == shown["ranking_unseen"]).all()  # the same candidates
    for wording, begins in zip(evaluator.question.wordings, ("A user", "zzz"), strict=True):
        texts = texts_of(run, [batch for batch, _ in evaluator.question.batches(wording[0])])
        assert texts and all(text.startswith(begins) for text in texts)


def test_unseen_wordings_have_rows_of_their_own(worded):
    run = worded[0]
    for templates in (None, ["rating_unseen_likes"]):  # the second one leaves what it does not ask
        config = EvaluateConfig(max_users=USERS, templates=templates)
        (evaluation,) = checkpoints.evaluate_checkpoint(run, config=config)
        metrics = evaluation.metrics
        assert {"model/ranking/ranking", "model/ranking/ranking_unseen"} < set(metrics["systems"])
        found = metrics["ratings"]["systems"]
        assert list(found) == ["model/rating/rating", "model/rating/rating_unseen", "history"]
        areas = [area["auc_roc"]["value"] for area in found.values()]
        assert areas[0] != areas[1]
        assert {(pair["a"], pair["b"]) for pair in metrics["ratings"]["paired"]} == {
            ("model/rating/rating", "history"),
            ("model/rating/rating_unseen", "history"),
        }
        said = {name: entry["seen"] for name, entry in metrics["templates"].items()}
        assert said["rating_likes"] and said["rating_unseen_likes"] is False
        *_, (_, printed) = table.tables(metrics)
        assert "unseen wording" in str(list(printed.columns[0].cells)[1])


def test_an_unseen_rating_prompt_without_its_companions_is_not_scored(tmp_path):
    run, _, _ = make(tmp_path, MORE_RATINGS.replace("{dislikes} www", "{likes} www"))
    config = EvaluateConfig(max_users=USERS)
    evaluator = from_run.build(run, config, meshes.single_device_mesh())
    assert evaluator.remarks[0].startswith("Not scored: rating template rating_unseen has no place")
    config = EvaluateConfig(max_users=USERS, templates=["rating_unseen"])
    with pytest.raises(UserError, match=r"rating_unseen has no place.*one with \{dislikes\} alone"):
        from_run.build(run, config, meshes.single_device_mesh())


def test_the_best_checkpoint_is_chosen_by_retrieval(made):
    run = made[0]
    values = ValidationEvaluator(run, meshes.single_device_mesh(), max_users=USERS).metrics(
        from_run_params(run)
    )
    chosen = in_training.choose_templates(run.templates, run.mixture["tasks"], None)
    assert sorted(values) == sorted(in_training.metric_names({"toystore": chosen}, 20))
    assert values["hr@10"] == values["hr@10/retrieval/retrieval"]
    assert 0 <= values["hr@10/ranking/ranking"] <= 1 and "auc" in values


def test_tasks_that_only_train_are_not_scored(made, capsys):
    assert main.main(["evaluate", str(made[0].path), "--templates", "mim"]) == 2
    said = "mim, which only trains and .* wanted templates of .*retrieval, ranking, rating"
    assert re.search(said, capsys.readouterr().err)


def test_without_retrieval_it_is_chosen_by_rankings_or_by_ratings(made, tmp_path):
    mesh, params = meshes.single_device_mesh(), from_run_params(made[0])
    ranking = trained_on(made, tmp_path / "raat", "ranking", "mlm", "mim", "bpr")
    asked = ValidationEvaluator(ranking, mesh, max_users=USERS)
    values = asked.metrics(params)
    assert values["hr@10"] == values["hr@10/ranking/ranking"] > 0 and "auc" not in values
    (evaluator,) = asked.evaluators.values()
    assert evaluator.comparison(evaluator.templates[0]) is None  # no exact scores while training
    rating = trained_on(made, tmp_path / "rpat", "rating", "mlm", "mim")
    assert set(ValidationEvaluator(rating, mesh, max_users=USERS).metrics(params)) == {"auc"}


def test_ratings_alone_are_printed_and_reported(made, tmp_path, capsys):
    run = trained_on(made, tmp_path / "rpat", "rating", "mlm", "mim")
    assert main.main(["evaluate", str(run.path), "--max-users", "40", "--batch-size", "40"]) == 0
    printed = capsys.readouterr().out
    metrics = results.load(run.path / "eval/test-10-sample40")
    assert metrics["systems"] == {} and metrics["notes"] == []
    areas = {name: found["auc_roc"] for name, found in metrics["ratings"]["systems"].items()}
    for name, area in areas.items():
        assert f"{name}" in printed and f"{area['value']:.4f}" in printed
        assert f"{area['low']:.4f}-{area['high']:.4f}" in printed
    assert "model/rating/rating against history: AUC-ROC" in printed
    page = report.write_report([run.path], tmp_path / "report.html").read_text()
    for area in areas.values():
        assert f"{area['value']:.4f}" in page
    assert "of all pairs: AUC-ROC" in page and "the user&#x27;s history" in page
    assert "beams" not in page.partition("Settings</h2>")[0]


def test_the_mesh_gives_one_devices_answers(made, written, tmp_path):
    """Candidates and ratings too, with rows, parameters and vocabulary split over eight devices."""
    copy = shutil.copytree(made[0].path, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    config = EvaluateConfig(max_users=USERS)
    (spread,) = checkpoints.evaluate_checkpoint(copy, config=config, mesh=meshes.make_mesh(2, 2, 2))

    def rows(folder):
        columns = ["user", "template", "rank", "items"]
        table = pq.read_table(folder / "predictions.parquet", columns=columns)
        return sorted(map(str, table.to_pylist()))

    assert rows(spread.folder) == rows(written[0])
    mine, one = (
        found["ratings"]["systems"]["model/rating/rating"]["auc_roc"]
        for found in (spread.metrics, written[1])
    )
    assert mine == pytest.approx(one, nan_ok=True)
    for name in ("model/ranking/ranking", "exact/ranking/ranking"):
        assert spread.metrics["systems"][name] == written[1]["systems"][name]


def from_run_params(run):
    from genrec_jax.checkpoint import restore

    return restore.restore_params(run, 10)
