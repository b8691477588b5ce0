"""`genrec train`: gin flags as T5X users type them, and errors that can be read."""

import json
import pathlib

import pytest

from genrec_jax.cli import main
from genrec_jax.training import run

FILES = ["--gin_file=gin_configs/models/t5_tiny.gin", "--gin_file=gin_configs/runs/train.gin"]
NEEDED = [
    *('--gin.MODEL_DIR="runs/a"', '--gin.DATA_DIR="data/a"', "--gin.TRAIN_STEPS=5"),
    *("--gin.BATCH_SIZE=8", '--gin.MIXTURE_OR_TASK_NAME="openp5"'),
]


@pytest.fixture
def trained(monkeypatch):
    """What `training.run.train` was called with, instead of training."""
    calls = []

    def train(settings, *, operative_config, profile):
        calls.append((settings, operative_config))
        return run.Summary(
            pathlib.Path(settings.model_dir), 5, "finished", 60.0, 40, "hr@10", 5, 0.25
        )

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setenv("GENREC_COMPILATION_CACHE", "")
    return calls


def fails(capsys, *flags: str) -> str:
    assert main.main(["train", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("genrec train: error: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_files_and_bindings_make_the_configuration(trained, capsys):
    flags = [*FILES, *NEEDED, "--gin.config.DataConfig.history=7", "--gin.RANDOM_SEED", "3"]
    assert main.main(["train", *flags]) == 0
    settings, text = trained[0]
    assert settings.model.embed_dim == 128
    assert settings.data.history == 7
    assert settings.seed == 3
    assert settings.data.datasets == ("data/a",)
    assert "RANDOM_SEED = 3" in text
    assert "genrec evaluate runs/a" in capsys.readouterr().out
    json.dumps(settings.to_json())


@pytest.mark.parametrize(("stopped", "code"), [("preempted", 75), ("finished", 0)])
@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_scheduler_can_tell_a_stopped_run(monkeypatch, trained, stopped, code, how):
    def train(settings, *, operative_config, profile):
        return run.Summary(pathlib.Path("a"), 5, stopped, 60.0, 40, "hr@10", None, None)

    monkeypatch.setattr(run, "train", train)
    flags = ["--stopped-code", "75"] if how == "flag" else []
    monkeypatch.setenv("GENREC_STOPPED_CODE", "75" if how == "environment" else "3")
    try:
        found = main.main(["train", *FILES, *NEEDED, *flags])
    except SystemExit as ended:
        found = ended.code
    assert found == code


def test_the_saved_configuration_makes_the_same_run(trained, tmp_path):
    assert main.main(["train", *FILES, *NEEDED, "--gin.LEARNING_RATE=0.5"]) == 0
    saved = tmp_path / "config.gin"
    saved.write_text(trained[0][1])
    assert main.main(["train", f"--gin_file={saved}"]) == 0
    assert trained[1][0] == trained[0][0]
    assert trained[1][0].optimizer.learning_rate.peak == 0.5


def test_later_files_and_then_flags_win(trained, tmp_path):
    first, second = tmp_path / "first.gin", tmp_path / "second.gin"
    first.write_text("BATCH_SIZE = 1\nTRAIN_STEPS = 1\n")
    second.write_text("BATCH_SIZE = 2\nTRAIN_STEPS = 2\n")
    flags = [*FILES, f"--gin_file={first}", f"--gin_file={second}"]
    assert main.main(["train", *flags, *NEEDED]) == 0
    assert trained[0][0].train_steps == 5
    needed = [flag for flag in NEEDED if "BATCH" not in flag]
    assert main.main(["train", *flags, *needed]) == 0
    assert trained[1][0].data.batch_size == 2


def test_the_current_folder_is_looked_in_before_search_paths_and_these_in_order(
    trained, tmp_path, monkeypatch, capsys
):
    for folder, text in (
        ("here", "RANDOM_SEED = 1"),
        ("first", "RANDOM_SEED = 2\nLEARNING_RATE = %ONLY_FIRST\nONLY_FIRST = 0.2"),
        ("second", "RANDOM_SEED = 3\nLEARNING_RATE = 0.3"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both.gin").write_text(text)
        if folder != "here":
            (tmp_path / folder / "searched.gin").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    paths = f"--gin_search_paths={tmp_path / 'first'},{tmp_path / 'second'}"
    flags = [*FILES, *NEEDED, "--gin_file=searched.gin", "--gin_file=both.gin", paths]
    assert main.main(["train", *flags]) == 0
    settings, _ = trained[0]
    assert (settings.seed, settings.optimizer.learning_rate.peak) == (1, 0.2)
    without = [flag for flag in flags if "searched" not in flag]
    assert "no such macro" in fails(capsys, *without, "--gin.ONLY_FIRST=6")


def test_search_paths_are_looked_in(trained, tmp_path):
    (tmp_path / "mine.gin").write_text("include 'gin_configs/runs/train.gin'\nRANDOM_SEED = 8\n")
    flags = [FILES[0], "--gin_file=mine.gin", f"--gin_search_paths=/nowhere,{tmp_path}"]
    assert main.main(["train", *flags, *NEEDED]) == 0
    assert trained[0][0].seed == 8


def test_missing_macros_are_listed_with_an_example(capsys, trained):
    message = fails(capsys, *FILES, '--gin.DATA_DIR="data/a"')
    assert "MODEL_DIR, MIXTURE_OR_TASK_NAME, TRAIN_STEPS, BATCH_SIZE must be set" in message
    assert '--gin.MODEL_DIR=\\"runs/beauty\\"' in message


def test_epochs_do_instead_of_steps(capsys, trained):
    needed = [flag for flag in NEEDED if "STEPS" not in flag]
    assert "(TRAIN_EPOCHS does instead of TRAIN_STEPS)" in fails(capsys, *FILES, *needed)
    assert main.main(["train", *FILES, *needed, "--gin.TRAIN_EPOCHS=2"]) == 0
    settings, _ = trained[0]
    assert (settings.train_steps, settings.train_epochs) == (None, 2)
    assert "--gin.TRAIN_STEPS=None" in fails(capsys, *FILES, *NEEDED, "--gin.TRAIN_EPOCHS=2")


def test_an_unknown_macro_gets_a_suggestion(capsys, trained):
    message = fails(capsys, *FILES, *NEEDED, "--gin.TRAIN_STEP=5")
    assert "--gin.TRAIN_STEP: there is no such macro. Did you mean TRAIN_STEPS?" in message


@pytest.mark.parametrize("macro", ["LEARNING_RAET", "learning_rate"])
def test_a_macro_of_a_file_that_nothing_uses_gets_a_suggestion(capsys, trained, tmp_path, macro):
    file = tmp_path / "mine.gin"
    file.write_text(f"# {macro}\n\n{macro} = 0.5\nRANDOM_SEED = 3\n")
    message = fails(capsys, *FILES, f"--gin_file={file}", *NEEDED)
    assert f"{file}:3: no parameter uses the macro {macro}." in message
    assert ("Did you mean LEARNING_RATE?" in message) == macro.isupper()
    flag = f"--gin.schedules.LearningRate.peak=%{macro}"
    assert main.main(["train", *FILES, f"--gin_file={file}", *NEEDED, flag]) == 0
    assert trained[0][0].optimizer.learning_rate.peak == 0.5


def test_an_unknown_parameter_is_named(capsys, trained):
    message = fails(capsys, *FILES, *NEEDED, "--gin.config.DataConfig.histori=5")
    assert "histori" in message


def test_a_string_without_quotes_gets_the_hint(capsys, trained):
    message = fails(capsys, *FILES, *NEEDED, "--gin.MODEL_DIR=runs/b")
    assert "runs/b is not a Python value; strings need quotes that survive the shell" in message
    assert '--gin.MODEL_DIR=\\"runs/b\\"' in message


def test_a_missing_file_says_where_it_was_looked_for(capsys, trained):
    message = fails(capsys, "--gin_file=gin_configs/runs/trian.gin")
    assert "gin_configs/runs/trian.gin: not found; looked in" in message


def test_no_file_at_all(capsys, trained):
    assert "wanted --gin_file" in fails(capsys)


def test_a_wrong_value_is_one_readable_line(capsys, trained):
    message = fails(capsys, *FILES, *NEEDED, "--gin.BATCH_SIZE=0")
    assert "DataConfig.batch_size is 0; wanted a whole number, 1 or more" in message


def test_help_lists_the_macros(capsys):
    with pytest.raises(SystemExit):
        main.main(["train", "--help"])
    text = capsys.readouterr().out
    for name in ("MODEL_DIR", "TASK_FEATURE_LENGTHS", "INITIAL_CHECKPOINT_PATH", "example"):
        assert name in text
