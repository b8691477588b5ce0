"""Every .gin file parses and makes a configuration; headers, layers and settings are as promised."""

import csv
import dataclasses
import pathlib
import re
import tomllib

import gin
import pytest

from genrec_jax.cli import gin_setup
from genrec_jax.errors import UserError
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.training import config
from genrec_jax.training.adamw import AdamWConfig
from genrec_jax.training.state import number_of_parameters

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "gin_configs"
FILES = sorted(str(path.relative_to(ROOT)) for path in FOLDER.rglob("*.gin"))
EXPERIMENTS = [f for f in FILES if f.count("/") == 1 or f.startswith("gin_configs/openp5/")]
ON_CPU = [f for f in EXPERIMENTS if pathlib.Path(f).stem.startswith("cpu_")]
OUR_MODELS = ("t5_mini", "t5_tiny")
MODELS = [f for f in FILES if "/models/" in f]
REQUIRED = {
    "gin_configs/runs/train.gin": [
        *("MODEL_DIR", "DATA_DIR", "MIXTURE_OR_TASK_NAME", "TRAIN_STEPS", "BATCH_SIZE")
    ],
}
DATASETS = [
    *("beauty", "cds", "clothing", "electronics", "lastfm"),
    *("ml100k", "ml1m", "movies", "taobao", "yelp"),
]
METHODS = ("random", "sequential", "collaborative")


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config(clear_constants=False)


def experiment(file: str, *bindings: str) -> config.TrainConfig:
    gin_setup.parse([file], ['MODEL_DIR="runs/test"', *bindings])
    return gin_setup.configure(config.TrainConfig)


def test_all_of_them_are_installed_with_the_library():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "gin_configs*" in settings["packages"]["find"]["include"]
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix[:3] != ".py"]
    assert {f"*{path.suffix}" for path in files} <= set(settings["package-data"]["*"])
    assert all((path.parent / "__init__.py").is_file() for path in files)  # else gin fails on them


def test_they_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiment("gin_configs/openp5/beauty_random.gin").data.history == 20


def test_there_is_a_file_for_every_dataset_and_method():
    wanted = {
        f"gin_configs/openp5/{prefix}{dataset}_{method}.gin"
        for prefix in ("", "parity_")
        for dataset in [*DATASETS, "sp5"]
        for method in METHODS
    }
    assert wanted == {f for f in FILES if f.startswith("gin_configs/openp5/")} - set(ON_CPU)
    assert len(FILES) > 80


@pytest.mark.parametrize("file", EXPERIMENTS)
def test_an_experiment_makes_a_run_once_its_run_dir_is_named(file):
    with pytest.raises(UserError, match=r"^MODEL_DIR must be set. For example: --gin.MODEL_DIR="):
        gin_setup.parse([file], [])
    settings = experiment(file)
    assert settings.model_dir == "runs/test"
    assert settings.data.datasets
    assert f"genrec train --gin_file={file} " in (ROOT / file).read_text().replace("\\\n#", "")


@pytest.mark.parametrize("file", EXPERIMENTS)
def test_an_experiment_opens_with_command_hardware_duration_and_metric(file):
    head = (ROOT / file).read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "genrec evaluate" in head
    assert "ardware" in head
    assert re.search("not measured|minutes", head)


def test_the_required_macros_of_the_train_run_stand_first_and_are_all_named():
    text = (FOLDER / "runs" / "train.gin").read_text()
    macros = re.findall(r"^([A-Z_]+) = (.*)$", text, re.MULTILINE)
    names = REQUIRED["gin_configs/runs/train.gin"]
    assert [name for name, value in macros[: len(names)]] == names
    assert {value for _, value in macros[: len(names)]} == {"%gin.REQUIRED"}
    assert not any(value == "%gin.REQUIRED" for _, value in macros[len(names) :])
    with pytest.raises(UserError) as caught:
        gin_setup.parse(["gin_configs/models/t5_tiny.gin", "gin_configs/runs/train.gin"], [])
    assert str(caught.value).startswith(", ".join(names) + " must be set")


@pytest.mark.parametrize(
    ("files", "warmup"),
    [
        (["models/t5_tiny", "runs/train"], 30),
        (["quickstart"], 100),
        (["openp5/cpu_ml100k_random"], 100),
        (["alignment/cpu_ml100k_reat"], 100),
        (["alignment/beauty_reat"], 1000),
        (["openp5/parity_beauty_random"], 15),
    ],
)
def test_the_default_warm_up_is_a_tenth_and_recipes_keep_theirs(files, warmup):
    needed = ['MODEL_DIR="a"', 'DATA_DIR="b"', 'MIXTURE_OR_TASK_NAME="openp5"', "BATCH_SIZE=1"]
    steps = ["TRAIN_STEPS=300", "TRAIN_EPOCHS=None"]
    gin_setup.parse([f"gin_configs/{file}.gin" for file in files], [*needed, *steps])
    settings = gin_setup.configure(config.TrainConfig).resolved(steps=300, vocab_size=9)
    assert settings.optimizer.learning_rate.warmup() == warmup


def test_the_macros_are_those_of_the_design():
    text = (FOLDER / "runs" / "train.gin").read_text()
    for name in (
        *("MODEL_DIR", "MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE", "TASK_FEATURE_LENGTHS"),
        *("TRAIN_STEPS", "INITIAL_CHECKPOINT_PATH", "BATCH_SIZE", "DROPOUT_RATE"),
        *("LOSS_NORMALIZING_FACTOR", "EVAL_PERIOD", "CHECKPOINT_PERIOD", "RANDOM_SEED", "DATA_DIR"),
    ):
        assert re.search(rf"^{name} = ", text, re.MULTILINE), name
        assert f"%{name}\n" in text, f"{name} is bound to nothing"


@pytest.mark.parametrize("file", ["evaluate", "evaluate_openp5"])
def test_the_evaluation_runs_parse(file):
    gin_setup.parse([f"gin_configs/runs/{file}.gin"], ['MODEL_DIR="runs/test"'])
    settings = gin_setup.configure(EvaluateConfig)
    parity = file == "evaluate_openp5"
    assert (settings.num_beams, settings.length_penalty, settings.finish_within_beams) == (
        (10, 1.0, True) if parity else (20, 0.0, False)
    )


# Parameters with 32,128 embedding rows, as Hugging Face's model cards and T5's paper count them.
PUBLISHED = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "flan_t5_small": 76_961_152,
    "flan_t5_base": 247_577_856,
    "flan_t5_large": 783_150_080,
    "flan_t5_xl": 2_849_757_184,
    "flan_t5_xxl": 11_135_332_352,
}


@pytest.mark.parametrize("file", MODELS)
def test_the_models_have_the_published_numbers_of_parameters(file):
    gin_setup.parse([file], [])
    model = dataclasses.replace(gin_setup.configure(T5Config), whole_word_embedding=False)
    name = pathlib.Path(file).stem
    if name not in OUR_MODELS:
        _, params = t5.abstract_graph_and_params(model)
        assert number_of_parameters(params) == PUBLISHED[name]
    assert model.vocab_size == 32128


def test_parity_settings_are_those_of_the_table(shared):
    with (shared / "figures" / "openp5_settings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 33
    for row in rows:
        name = f"gin_configs/openp5/parity_{row['dataset'].lower()}_{row['indexing']}.gin"
        settings = experiment(name)
        data = settings.data
        assert data.batch_size == int(row["batch_size_per_device"]) * int(row["devices"])
        assert settings.train_epochs == float(row["epochs"])
        assert settings.train_steps is None
        assert data.history == int(row["history"])
        drawn = row["templates_sampled_per_example_and_task"]
        assert data.templates_per_example == (None if drawn.startswith("all") else int(drawn))
        both = row["tasks"] == "sequential straightforward"
        assert data.mixture == ("openp5" if both else f"openp5_{row['tasks']}")
        rate = settings.optimizer.learning_rate
        assert (rate.peak, rate.decay, rate.warmup_share) == (
            float(row["learning_rate"]),
            "linear",
            0.05,
        )
        assert settings.optimizer.rule == AdamWConfig(
            epsilon=1e-6, weight_decay=0.01, clip_norm=1.0, undecayed=("relpos_buckets",)
        )
        assert settings.loss.normalizing_factor == "AVERAGE_PER_SEQUENCE"
        assert settings.loss.z_loss == 0 and not data.packing
        assert settings.model.dropout_rate == 0.1
        assert settings.model.whole_word_embedding
        assert (data.max_input_length, data.cut) == (512, "tokens")
        assert settings.validation.period is None
        if row["indexing"] == "collaborative":
            flags = f"--clusters {row['N']} --max-cluster {row['k']} "
            assert flags in (ROOT / name).read_text()


def test_openp5_starts_from_t5s_weights_and_small_runs_from_scratch():
    for file in EXPERIMENTS:
        settings = experiment(file)
        scratch = file in ON_CPU or "quickstart" in file
        weights = None if scratch else "weights/t5_small"
        assert settings.initial_checkpoint == weights, file
        assert settings.new_tokens.reinitialise == ("none" if scratch else "numbers")
        said = "genrec import-weights downloads/t5-small --output weights/t5_small\n"
        assert (said in (ROOT / file).read_text()) != scratch, file


def test_the_figures_in_the_headers_are_the_papers(shared):
    with (shared / "figures" / "paper_results.csv").open() as file:
        known = {
            (f"{float(row['value']):.4f}", row["table"], row["task"])
            for row in csv.DictReader(file)
            if row["paper"] == "OpenP5" and row["metric"] == "hr@10"
        }
    quoted = [
        found
        for file in EXPERIMENTS
        for found in re.findall(r"HR@10 ([\d.]+) \(Table (\d), (\w+),", (ROOT / file).read_text())
    ]
    assert len(quoted) == 3 * 3 * 2 * 2 + 3 * 6 * 2
    assert set(quoted) <= known


def test_ours_are_20_beams_and_the_best_on_validation():
    for file in EXPERIMENTS:
        if "parity" in file:
            continue
        settings = experiment(file)
        assert settings.validation.period is not None
        chosen_by = "hr@10/sequential/A1" if file in ON_CPU else "hr@10"
        assert settings.validation.metric == chosen_by
        quick = "quickstart" in file or file in ON_CPU
        assert settings.validation.num_beams == (10 if quick else 20)
