"""A temporal split after `prepare`: what training reads, what is scored, what the report says."""

import json

import numpy as np
import pytest

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.cli import main
from genrec_jax.data import prepare, splits, toystore
from genrec_jax.evaluation import from_run
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.pipeline import prompt_batches
from genrec_jax.training import config, inputs
from tests.evaluation import tiny_run

SMALL = ["--num-beams", "5", "--batch-size", "32", "--templates", "A1"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("temporal") / "shop"
    return prepare.prepare(
        toystore.generate(num_users=80), path, name="shop", split=prepare.SplitBy("temporal")
    )


@pytest.fixture(scope="module")
def run(shop):
    """A run dir with random parameters, and the evaluation of its test split."""
    made = tiny_run.make_run(shop.path.parent / "run", [shop.path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_COMPILATION_CACHE", "")
        assert main.main(["evaluate", str(made.path), *SMALL]) == 0
    return made.path


def test_only_what_comes_before_the_date_trains(shop, run):
    settings = config.DataConfig(
        datasets=(str(shop.path),),
        index_dir=str(run.with_name("run-index")),
        mixture="openp5",
        batch_size=8,
    )
    opened = inputs.open_inputs(settings, 0, mesh_lib.single_device_mesh())
    assert [part.protocol for part in opened.splits] == ["temporal"]
    date = shop.manifest["split"]["validation_from"]
    for source in opened.mixture.sources:
        _, end_E = source.positions_read(0, np.arange(source.num_examples))
        assert (shop.timestamps_X[end_E - 1] < date).all()
        assert len(np.unique(end_E)) > len(shop.items_X) / 2


def test_users_with_a_target_after_the_date_are_scored(shop, run):
    (file,) = (run / "eval").glob("*/metrics.json")
    metrics = json.loads(file.read_text())
    count = splits.count_targets(shop, splits.of(shop))["test"].users
    assert 0 < count < shop.num_users
    assert (metrics["protocol"], metrics["users"]) == ("temporal", count)
    assert metrics["dataset"]["split"] == shop.manifest["split"]
    assert metrics["oracle"] is None
    assert {check["status"] for check in metrics["audit"]} <= {"pass", "warn"}
    assert {"popularity", "transition"} < set(metrics["systems"])


def test_the_report_names_the_dates(shop, run, tmp_path):
    assert main.main(["report", str(run), "--output", str(tmp_path / "report.html")]) == 0
    assert splits.describe(shop.manifest["split"]) in (tmp_path / "report.html").read_text()


def test_the_same_log_split_otherwise_is_refused(run, tmp_path, capsys):
    """A run is scored on the split that it was trained on, or not at all."""
    prepare.prepare(toystore.generate(num_users=80), tmp_path / "shop", name="shop")
    words = ["evaluate", str(run), *SMALL, "--data", str(tmp_path / "shop")]
    assert main.main(words) == 2
    assert "is not the data that was trained on" in capsys.readouterr().err


def test_users_whom_training_never_saw_are_new_ones(shop, run):
    part = splits.of(shop)
    new_U = ~part.trained_U(shop)
    assert (new_U & (part.test_U >= 0)).any()
    opened = RunDir.load(run)
    assembler = from_run._assembler(opened, opened.dataset(None))
    for batch in prompt_batches.prompt_batches(assembler, shop, part, "test", "B1", 8):
        for user, row in zip(batch.users_B, batch.encoder_input_tokens_BL, strict=True):
            if user >= 0:
                text = opened.vocabulary.decode([int(token) for token in row if token])
                assert f"user_{0 if new_U[user] else user + 1} " in text
