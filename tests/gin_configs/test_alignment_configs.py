"""The alignment system's experiments: one for every fine-tuned row, with the paper's data and settings."""

import csv
import pathlib
import re

import gin
import pytest

from genrec_jax.cli import gin_setup
from genrec_jax.errors import UserError
from genrec_jax.pipeline import alignment_mixtures
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.training import config

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EVERY = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "gin_configs/alignment").glob("*.gin")
)
ZERO_SHOT = [file for file in EVERY if "zero_shot" in file]
ON_CPU = [file for file in EVERY if "/cpu_" in file]
FILES = [file for file in EVERY if file not in ZERO_SHOT + ON_CPU]
DATASETS = ("toys", "beauty", "sports")
# The paper's text (sections 4.1 and 4.3), in its own words: what each model is tuned on.
MODELS = {
    "ReAT": {"retrieval", "mlm", "mim"},
    "RaAT": {"ranking", "mlm", "mim", "bpr"},
    "RpAT": {"rating", "mlm", "mim"},
    "UT": {"retrieval", "ranking", "rating"},
    "UT+AT": {"retrieval", "ranking", "rating", "mim", "mlm"},
    "UT+IE": {"retrieval", "ranking", "rating", "ie"},
}
STEPS = {
    "retrieval": "retrieval",
    "ranking": "ranking",
    "rating-prediction": "rating",
    "MLM": "mlm",
    "MIM": "mim",
    "BPR": "bpr",
}


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config(clear_constants=False)


@pytest.fixture(scope="module")
def paper(shared) -> list[dict[str, str]]:
    with (shared / "figures" / "paper_results.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["paper"] == "Alignment"]


def experiment(file: str) -> config.TrainConfig:
    gin_setup.parse([file], ['MODEL_DIR="runs/test"'])
    return gin_setup.configure(config.TrainConfig)


def tasks_of_row(method: str) -> tuple[set[str], bool] | None:
    """Tasks, and whether the model is Base; None for a row that nobody fine-tuned here."""
    if method in MODELS:
        return MODELS[method], False
    size, *steps = method.split("+")
    if size in ("FLAN-T5-XL", "FLAN-T5-Base") and steps:
        return {STEPS[step] for step in steps}, size.endswith("Base")
    return None


def test_there_is_a_file_for_every_fine_tuned_row_and_no_other(paper):
    wanted = {
        (row["dataset"], frozenset(found[0]), found[1])
        for row in paper
        if (found := tasks_of_row(row["method"])) is not None
    }
    made = {}
    for file in FILES:
        settings = experiment(file)
        tasks = alignment_mixtures.MIXTURE_TASKS[settings.data.mixture]
        assert len(tasks) == len(set(tasks))
        base = settings.model.num_encoder_layers == 12
        made[pathlib.Path(settings.data.datasets[0]).name, frozenset(tasks), base] = file
    assert len(made) == len(FILES) == 33
    assert set(made) == wanted
    assert {row["method"] for row in paper} & {"P5-XL"}  # fine-tuned too; its families come later
    with pytest.raises(UserError, match="P5's five task families, which are not implemented yet"):
        alignment_mixtures.tasks_of("alignment_p5_xl")


@pytest.mark.parametrize("file", FILES)
def test_settings_are_the_papers(file):
    settings = experiment(file)
    base = "_base_" in file
    data = settings.data
    assert (data.batch_size, settings.train_steps) == ((64, 10_000) if base else (16, 70_000))
    assert settings.model.embed_dim == (768 if base else 2048)
    assert not settings.model.whole_word_embedding
    assert settings.initial_checkpoint == f"weights/flan_t5_{'base' if base else 'xl'}"
    assert (data.history, data.num_candidates, data.like_above) == (20, 100, 3)
    assert (data.index_method, data.cut) == ("short", "items")
    assert data.rates == dict.fromkeys(alignment_mixtures.MIXTURE_TASKS[data.mixture], 1)
    rate = settings.optimizer.learning_rate
    assert (rate.peak, rate.warmup_steps, rate.decay) == (0.001, 1000, "constant")
    lists = {"retrieval", "ranking"} & set(data.rates)
    assert settings.validation.metric == ("hr@10" if lists else "auc")
    assert settings.validation.users == 3000
    assert settings.validation.num_beams == 20


def test_there_is_a_file_for_every_zero_shot_row(paper):
    rows = {(r["dataset"], r["method"]) for r in paper if r["table"] in ("1", "2", "3")}
    wanted = {(d, m == "FLAN-T5-Base") for d, m in rows if m in ("FLAN-T5-Base", "FLAN-T5-XL")}
    made = {
        (pathlib.Path(e.data.datasets[0]).name, e.model.num_encoder_layers == 12)
        for e in map(experiment, ZERO_SHOT)
    }
    assert made == wanted and len(ZERO_SHOT) == len(wanted) == 6


@pytest.mark.parametrize("file", ZERO_SHOT)
def test_a_zero_shot_run_takes_the_weights_as_they_are(file):
    settings = experiment(file)
    assert settings.train_steps == 0 and settings.validation.period is None
    size = "base" if "_base_" in file else "xl"
    assert settings.initial_checkpoint == f"weights/flan_t5_{size}"
    assert not settings.model.whole_word_embedding
    data = settings.data
    assert (data.index_method, data.history, data.num_candidates) == ("short", 20, 100)
    assert alignment_mixtures.MIXTURE_TASKS[data.mixture] == ("retrieval", "ranking", "rating")


@pytest.mark.parametrize("file", FILES + ZERO_SHOT)
def test_the_header_has_command_hardware_and_the_papers_figures(file, paper):
    text = (ROOT / file).read_text()
    head = text.split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"genrec train --gin_file={file} " in head
    assert "genrec evaluate" in head
    assert "Hardware, duration and metric: not measured; the paper:" in head
    dataset = pathlib.Path(experiment(file).data.datasets[0]).name
    quoted = re.findall(r"#   (\w+): (HR@10|AUC-ROC) ([\d.]+) \(Table (\d), (.+)\)", head)
    evaluated = set(experiment(file).data.rates or ()) & {"retrieval", "ranking", "rating"}
    if "ut_ie" not in file:  # Table 9 has its retrieval alone
        assert {task for task, *_ in quoted} == evaluated
    for _, metric, value, table, method in quoted:
        name = {"HR@10": "hr@10", "AUC-ROC": "auc-roc-percent"}[metric]
        (row,) = [
            row
            for row in paper
            if (row["table"], row["dataset"], row["method"], row["metric"])
            == (table, dataset, method, name)
        ]
        assert float(row["value"]) == float(value)


def test_every_mixture_of_a_row_is_an_experiment():
    used = {experiment(file).data.mixture for file in FILES}
    alone = {f"alignment_{task}" for task in ("mim", "mlm", "bpr", "ie")}
    assert used == set(alignment_mixtures.MIXTURE_TASKS) - alone - {"alignment_p5_xl"}


@pytest.mark.parametrize("file", ON_CPU)
def test_a_run_on_a_cpu_is_a_row_of_the_paper_on_films_and_names_its_commands(file):
    settings = experiment(file)
    data = settings.data
    tasks = alignment_mixtures.tasks_of(data.mixture)
    assert data.rates == dict.fromkeys(tasks, 1)
    assert (data.index_method, data.num_candidates) == ("short", 100)
    assert data.like_above == (6 if "movietweetings" in data.datasets[0] else 3)
    assert settings.initial_checkpoint is None
    lists = {"retrieval", "ranking"} & set(tasks)
    assert settings.validation.metric == ("hr@10" if lists else "auc")
    assert settings.validation.users == 1000
    templates_lib.load_templates(ROOT / data.templates_file)
    head = (ROOT / file).read_text().split("\n\n")[0]
    for command in (
        "genrec prepare ",
        f"--templates {data.templates_file}",
        "genrec evaluate runs/",
    ):
        assert command in head
    assert f"genrec train --gin_file={file} " in head
    assert re.search("not measured|minutes", head)


def test_every_row_of_the_paper_is_run_on_a_cpu_on_two_datasets():
    ablation = {"ranking_mlm", "ranking_mlm_mim"}  # the paper's Table 5, on one of them
    rows = {"retrieval", "reat", "ranking", "raat", "rating", "rpat", "ut", "ut_at"}
    made = {tuple(pathlib.Path(file).stem.split("_", 2)[1:]) for file in ON_CPU}
    assert made == {
        *(("ml100k", row) for row in rows | ablation),
        *(("movietweetings", row) for row in rows),
    }


@pytest.mark.parametrize(
    ("dataset", "steps"),
    [
        ("ml100k", ("ranking", "ranking_mlm", "ranking_mlm_mim", "raat")),
        ("movietweetings", ("ranking", "raat")),
    ],
)
def test_the_steps_of_the_ranking_ablation_see_as_many_rankings(dataset, steps):
    runs = [experiment(f"gin_configs/alignment/cpu_{dataset}_{step}.gin") for step in steps]
    rankings = {run.train_steps * run.data.batch_size // len(run.data.rates) for run in runs}
    assert len(rankings) == 1, rankings
