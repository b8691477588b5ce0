"""`genrec evaluate` as it is typed: on real run dirs with random parameters."""

import functools
import gzip
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrec_jax.baselines import popularity, transition
from genrec_jax.cli import evaluate, evaluate_several, main
from genrec_jax.data import artefacts
from genrec_jax.data import splits as splitting
from genrec_jax.evaluation import checkpoints
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.parallel import mesh as meshes
from tests.evaluation import tiny_run

ENDLESS = ["--watch", "--watch-poll", "0.01", "--watch-timeout", "0.1"]
QUICK = ["--templates", "A1", "--num-beams", "6", "--batch-size", "32"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return tiny_run.make_dataset(tmp_path_factory.mktemp("data"), num_users=40)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("runs")
    return [
        tiny_run.make_run(folder / f"seed{seed}", [toy.path], steps=(seed,), seed=seed).path
        for seed in (10, 11)
    ]


@pytest.fixture(autouse=True)
def no_compilation_cache(monkeypatch):
    monkeypatch.setenv("GENREC_COMPILATION_CACHE", "")


def run(*words):
    return main.main(["evaluate", *map(str, words)])


def test_evaluates_and_prints_a_table_with_the_baselines(runs, toy, capsys):
    assert run(runs[0], *QUICK) == 0
    printed = capsys.readouterr().out
    folder = runs[0] / "eval" / "test-10-beams6"
    metrics = json.loads((folder / "metrics.json").read_text())
    for word in ("model/sequential/A1", "popularity", "transition", "best possible", "HR@5"):
        assert word in printed
    assert str(folder / "metrics.json") in printed
    assert f"{metrics['systems']['transition']['seen_kept']['hr@5']['value']:.4f}" in printed
    splits = splitting.leave_one_out(toy)
    rankings = {
        "popularity": popularity.rank_targets,
        "transition": transition.rank_targets,
        "transition_2": functools.partial(transition.rank_targets, lag=2),
    }
    for name, rank_targets in rankings.items():
        for footing, exclude_seen in (("seen_kept", False), ("seen_excluded", True)):
            ranks = rank_targets(toy, splits, "test", exclude_seen=exclude_seen)
            value = metrics["systems"][name][footing]["hr@5"]["value"]
            assert value == pytest.approx(np.mean((ranks >= 1) & (ranks <= 5)))
    compared = {(c["a"], c["b"]) for c in metrics["paired"]}
    assert compared == {("model/sequential/A1", b) for b in rankings}


def test_python_measures_what_the_command_measures(runs, tmp_path, capsys):
    """By default too: the baselines are there unless somebody leaves them out."""
    typed, called = (tmp_path / name / "run" for name in ("typed", "called"))
    for copy in (typed, called):
        shutil.copytree(runs[0], copy, ignore=shutil.ignore_patterns("eval"))
    assert run(typed, *QUICK) == 0
    config = EvaluateConfig(templates=("A1",), num_beams=6, batch_size=32)
    (found,) = checkpoints.evaluate_checkpoint(called, config=config)
    wanted = json.loads((typed / "eval" / "test-10-beams6" / "metrics.json").read_text())
    assert {"popularity", "transition", "transition_2"} <= set(wanted["systems"])
    for part in ("systems", "paired", "tie_orders", "checkpoint"):
        assert found.metrics[part] == wanted[part]


def test_a_sample_of_users_is_called_one(runs, capsys):
    assert run(runs[0], *QUICK, "--max-users", 7, "--split", "validation", "--no-baselines") == 0
    assert "validation, step 10, 7 of 40 users, 6 beams" in capsys.readouterr().out
    file = runs[0] / "eval" / "validation-10-sample7-beams6" / "metrics.json"
    metrics = json.loads(file.read_text())
    assert (metrics["max_users"], metrics["sample_seed"], metrics["users"]) == (7, 0, 7)


def test_profile_traces_the_first_batches_and_scores_them_once(runs, capsys):
    words = ["--exact", "--split", "validation", "--no-baselines", "--profile"]
    assert run(runs[0], *QUICK, *words) == 0
    captured = capsys.readouterr()
    folder = runs[0].absolute() / "tensorboard"
    assert f"trace of 2 batches: tensorboard --logdir {folder}" in captured.err
    (file,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    with gzip.open(file) as opened:
        events = json.load(opened)["traceEvents"]
    assert {e["args"]["step_num"] for e in events if e.get("name") == "evaluate"} == {"0", "1"}
    metrics = json.loads((runs[0] / "eval" / "validation-10-beams6" / "metrics.json").read_text())
    assert metrics["exact"]["model/sequential/A1"]["ranks"]["seen_kept"]["count"] == 40


def test_aggregates_seeds(runs, tmp_path, capsys):
    file = tmp_path / "seeds.json"
    assert run(*runs, *QUICK, "--aggregate", file) == 0
    combined = json.loads(file.read_text())
    spread = combined["systems"]["model/sequential/A1"]["seen_kept"]["hr@5"]
    values = [
        json.loads((path / "eval" / f"test-{step}-beams6" / "metrics.json").read_text())["systems"][
            "model/sequential/A1"
        ]["seen_kept"]["hr@5"]["value"]
        for path, step in zip(runs, (10, 11), strict=True)
    ]
    assert spread["values"] == values
    assert spread["mean"] == pytest.approx(sum(values) / 2)
    assert "mean and standard deviation of 2 runs" in capsys.readouterr().out


def test_runs_on_different_datasets_are_not_averaged(runs, toy, tmp_path, capsys):
    """They used to make an aggregate of one run for each; nothing is evaluated before they are refused."""
    other = tiny_run.make_dataset(tmp_path, name="other", num_users=20)
    file = tmp_path / "seeds.json"
    for name, dataset_dirs in (("one", [other.path]), ("two", [toy.path, other.path])):
        folder = tiny_run.make_run(tmp_path / name, dataset_dirs, steps=()).path
        assert run(runs[0], folder, "--aggregate", file) == 2
        named = "other" if name == "one" else "other, toystore"
        said = f"{folder} was trained on {named} and {runs[0]} on toystore; --aggregate wants"
        assert said in capsys.readouterr().err
        assert not (folder / "eval").exists()
    assert not file.exists()


def test_a_run_dir_that_looks_like_markup_is_shown_as_it_is(runs, tmp_path, capsys):
    folder = tmp_path / "a[/x]" / ":smile:[b]"
    shutil.copytree(runs[0], folder, ignore=shutil.ignore_patterns("eval"))
    file = tmp_path / "[red]seeds.json"
    assert run(folder, *QUICK, "--no-baselines", "--aggregate", file) == 0
    printed = capsys.readouterr().out
    assert f"wrote {folder / 'eval' / 'test-10-beams6' / 'metrics.json'}\n" in printed
    assert f"wrote {file}\n" in printed
    assert "[dim]" not in printed and "seen wording" in printed


def test_two_runs_are_compared_user_by_user(runs, tmp_path, capsys):
    file = tmp_path / "pairs.json"
    words = [*QUICK, "--max-users", 30, "--seed", 3, "--no-baselines", "--compare", file]
    assert run(*runs, *words) == 0
    printed = capsys.readouterr().out
    assert "with 95% intervals" in printed
    said = f"toystore, model/sequential/A1, 30 users: {runs[0]} less {runs[1]}"
    assert said in printed
    rows = [line.split("│") for line in printed.partition(said)[2].splitlines() if "│" in line]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:4]] for row in rows}
    for place, footing in enumerate(("seen_kept", "seen_excluded")):
        one, other = (
            json.loads((path / f"eval/test-{step}-sample30-seed3-beams6/metrics.json").read_text())
            for path, step in zip(runs, (10, 11), strict=True)
        )
        for metric in ("hr@1", "hr@5", "ndcg@5", "mrr@5"):
            a, b = (
                m["systems"]["model/sequential/A1"][footing][metric]["value"] for m in (one, other)
            )
            difference = float(cells[metric.upper()][place].split()[0])
            assert difference == pytest.approx(a - b, abs=6e-5)
            (entry,) = (
                entry
                for entry in json.loads(file.read_text())["paired"]
                if (entry["footing"], entry["metric"]) == (footing, metric)
            )
            assert entry["difference"] == pytest.approx(a - b)
            assert (entry["dataset"], entry["system"]) == ("toystore", "model/sequential/A1")
            assert (entry["a"], entry["b"], entry["count"]) == (*map(str, runs), 30)
        content = json.loads(file.read_text())
        for place, metrics in enumerate((one, other)):
            for key in ("run_dir", "step", "parameters"):
                assert content["runs"][place][key] == metrics[key]
        assert content["sample_seed"] == 3 and content["interval"] == one["interval"]
    assert run(*runs, *words) == 0  # an earlier file is replaced


@pytest.mark.parametrize(
    ("place", "words", "said"),
    [
        ("notes.json", (), "exists and was not written by"),
        ("folder.json", ("--overwrite",), "is a folder"),
        (
            "notes.json/below.json",
            ("--overwrite",),
            "notes.json is no folder that you may write to",
        ),
    ],
)
@pytest.mark.parametrize("flag", ["--aggregate", "--compare"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_evaluated(
    runs, flag, place, words, said, tmp_path, capsys
):
    notes = tmp_path / "notes.json"
    notes.write_text('{"runs": ["mine"]}')
    (tmp_path / "folder.json").mkdir()
    checkpointless = [tmp_path / "no_run", runs[0]]  # not looked at: the file comes first
    assert run(*checkpointless, flag, tmp_path / place, *words) == 2
    assert said in capsys.readouterr().err
    assert notes.read_text() == '{"runs": ["mine"]}'


def test_an_earlier_file_or_any_with_overwrite_is_replaced(tmp_path):
    parser = main.build_parser("evaluate")
    file = tmp_path / "seeds.json"
    for content, more in (
        ('{"runs": [], "systems": {}}', []),
        ('{"datasets": {"Toys": {"runs": [], "systems": {}}}}', []),
        ("no JSON", ["--overwrite"]),
    ):
        file.write_text(content)
        words = ["evaluate", "run", "--aggregate", str(file), *more]
        evaluate_several.check_files(parser.parse_args(words))


def test_run_dirs_are_not_taken_for_the_file_of_compare(runs, capsys):
    with pytest.raises(SystemExit):
        run("--compare", *runs)
    assert "wanted a file to write, whose name ends in .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"dtype": "bfloat16"}}, "dtype is 'float32' and 'bfloat16'"),
        ({"mixture": {"tasks": ["straightforward"]}}, "share no prompt"),
        ({"mixture": {"name": "mine", "module": "mine"}}, "and 'seqio_tasks'"),
    ],
)
def test_runs_without_a_row_to_compare_are_refused_before_anything_is_evaluated(
    toy, tmp_path, changes, said, capsys
):
    made = [
        tiny_run.make_run(tmp_path / name, [toy.path], steps=(), tasks=("sequential",))
        for name in ("one", "other")
    ]
    manifest = {**made[1].manifest}
    for part, entries in changes.items():
        manifest[part] = manifest[part] | entries
    artefacts.write_json(made[1].path / "run.json", manifest)
    assert run(*(one.path for one in made), "--compare") == 2
    assert said in capsys.readouterr().err


def test_runs_on_other_data_are_not_compared(runs, tmp_path, capsys):
    other = tiny_run.make_dataset(tmp_path, num_users=20)
    folder = tiny_run.make_run(tmp_path / "run", [other.path]).path
    assert run(runs[0], folder, "--compare") == 2
    said = capsys.readouterr().err
    assert "--compare wants runs on the same prepared data" in said and other.fingerprint in said
    assert run(runs[0], "--compare") == 2
    assert "wants two run dirs" in capsys.readouterr().err


def test_one_seed_twice_is_refused_before_anything_is_evaluated(runs, tmp_path, capsys):
    copy = shutil.copytree(runs[0], tmp_path / "copy", ignore=shutil.ignore_patterns("eval"))
    assert run(runs[0], copy, *QUICK, "--aggregate", tmp_path / "seeds.json") == 2
    assert "were trained with the same seed" in capsys.readouterr().err
    assert not (copy / "eval").exists()


def test_a_dataset_that_is_not_the_runs_is_refused_whatever_its_name(runs, toy, tmp_path, capsys):
    """It used to be left aside: the old dataset's figures, and all was well."""
    other = tiny_run.make_dataset(tmp_path, name="ts2", num_users=20)
    for command in ("evaluate", "report"):
        assert main.main([command, str(runs[0]), "--data", str(other.path)]) == 2
        said = capsys.readouterr().err
        assert f"holds the dataset 'ts2', fingerprint {other.fingerprint}" in said
        assert f"wanted 'toystore', fingerprint {toy.fingerprint}" in said


def test_a_moved_dataset_is_known_by_its_fingerprint(tmp_path, capsys):
    shop = tiny_run.make_dataset(tmp_path, num_users=20)
    folder = tiny_run.make_run(tmp_path / "run", [shop.path]).path
    shutil.rmtree(shop.path)
    again = tiny_run.make_dataset(tmp_path / "again", name="same_but_its_name", num_users=20)
    assert again.fingerprint == shop.fingerprint
    assert run(folder, *QUICK, "--data", again.path) == 0
    assert "toystore, test, step 10" in capsys.readouterr().out
    output = tmp_path / "report.html"
    words = [folder, "--data", again.path, "--output", output]
    assert main.main(["report", *map(str, words)]) == 0
    assert "Made anew for this report" in output.read_text(encoding="utf-8")


def test_prompts_of_a_task_that_was_not_trained_on_are_not_called_seen(toy, tmp_path, capsys):
    folder = tiny_run.make_run(tmp_path / "run", [toy.path], tasks=("sequential",)).path
    words = ["--templates", "A1,A11,B1", "--num-beams", "6", "--no-baselines"]
    assert run(folder, *words) == 0
    printed = capsys.readouterr().out.partition("struck")[0]
    said = [line.split("│")[1].strip() for line in printed.splitlines() if "│" in line]
    assert said[said.index("model/sequential/A1") + 1] == "seen wording"
    assert said[said.index("model/sequential/A11") + 1] == "unseen wording"
    assert said[said.index("model/straightforward/B1") + 1] == "task not trained on"
    output = tmp_path / "report.html"
    assert main.main(["report", str(folder), "--output", str(output)]) == 0
    assert "straightforward, B1 (task not trained on)" in output.read_text(encoding="utf-8")


def test_gin_says_what_flags_may_override(runs, capsys):
    words = ["--gin_file=gin_configs/runs/evaluate.gin", f'--gin.MODEL_DIR="{runs[0]}"']
    words += ['--gin.SPLIT="validation"', '--gin.TEMPLATES=["A1"]', "--gin.NUM_BEAMS=9"]
    assert run(*words, "--num-beams=6", "--gin.BATCH_SIZE=32", "--no-baselines") == 0
    metrics = json.loads((runs[0] / "eval" / "validation-10-beams6" / "metrics.json").read_text())
    assert (metrics["split"], metrics["num_beams"]) == ("validation", 6)
    # With what `--profile` measured there before, of the whole catalogue.
    assert list(metrics["systems"]) == ["model/sequential/A1", "exact/sequential/A1"]
    assert metrics["oracle"] is None


def test_watching_a_finished_run_evaluates_validation_and_ends(runs, capsys):
    (runs[1] / "finished.json").write_text("{}")
    assert run(runs[1], *QUICK, "--watch", "--watch-poll", "0.01") == 0
    assert (runs[1] / "eval" / "validation-11-beams6" / "metrics.json").exists()


def test_a_mesh_of_devices_gives_one_devices_lists(runs, tmp_path, capsys):
    """The fake devices as data 2, fsdp 2, tensor 2: rows, parameters and vocabulary are split."""
    single, spread = (tmp_path / name / "run" for name in ("single", "spread"))
    for copy in (single, spread):
        shutil.copytree(runs[1], copy, ignore=shutil.ignore_patterns("eval"))
    config = EvaluateConfig(templates=("A1",), num_beams=6, batch_size=32)
    checkpoints.evaluate_checkpoint(single, config=config, mesh=meshes.single_device_mesh())
    assert run(spread, *QUICK, "--fsdp", 2, "--tensor", 2, "--no-baselines") == 0

    def read(copy):
        (file,) = (copy / "eval").glob("*/predictions.parquet")
        rows = pq.read_table(file).to_pylist()
        return {row["user"]: (row["rank"], row["items"], row["scores"]) for row in rows}

    expected, found = read(single), read(spread)
    assert expected.keys() == found.keys() and len(found) == 40
    for user, (rank, items, scores) in expected.items():
        assert found[user][:2] == (rank, items)
        np.testing.assert_allclose(found[user][2], scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "12"], "no checkpoint to restore"),
        (["--templates", "Z1"], "this run has no template Z1; wanted one or several of A1"),
        (["--exact", "--length-penalty", "1"], "length_penalty is 1.0 and exact is asked for"),
        (["--watch", "--aggregate", "x.json"], "--watch takes one run dir"),
        ([*ENDLESS, "--checkpoint", "999"], "--watch evaluates every checkpoint"),
        ([*ENDLESS, "--checkpoint", "best"], "--watch evaluates every checkpoint"),
        (["--fsdp", "3"], "there are 8 devices; the nearest mesh that fits is"),
        (["--tensor", "4"], "does not divide this model's dimensions: 2 by tensor=4"),
    ],
)
def test_mistakes_are_one_line(runs, words, message, capsys):
    assert run(runs[0], *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_no_run_dir(tmp_path, capsys):
    assert run() == 2
    assert "got no run dir" in capsys.readouterr().err
    assert run(tmp_path) == 2
    assert "genrec train" in capsys.readouterr().err
    assert run("--gin_file=gin_configs/runs/evaluate.gin") == 2
    assert "MODEL_DIR" in capsys.readouterr().err


def test_flags_left_out_keep_the_defaults():
    parser = main.build_parser("evaluate")
    config, run_dirs = evaluate._configure(parser.parse_args(["a", "b", "a"]))
    assert config == type(config)()
    assert run_dirs == ["a", "b"]
