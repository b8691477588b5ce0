"""Ids made elsewhere, from the file to a recommendation: what was learned on them resolves to items."""

import json

import pytest

from genrec_jax.cli import main
from genrec_jax.decoding import recommender as recommenders
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.training import config, run
from tests.evaluation import tiny_run
from tests.training.tiny import TINY


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("GENREC_COMPILATION_CACHE", "")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return tiny_run.make_dataset(tmp_path_factory.mktemp("elsewhere"))


def write_codes(file, dataset):
    """Semantic ids of four levels, whose last tells twins apart, as an RQ-VAE and TIGER have them."""
    with file.open("w") as out:
        print("asin,c1,c2,c3,c4", file=out)
        for item, source in enumerate(dataset.item_source_ids):
            print(source, item % 4, item // 4 % 4, item // 16 % 4, item // 64, sep=",", file=out)


def write_texts(file, dataset):
    """Ids such as a language model writes."""
    with file.open("w") as out:
        print("asin,text", file=out)
        for item, source in enumerate(dataset.item_source_ids):
            print(source, f"{dataset.item_titles[item].lower()} no. {item}", sep=",", file=out)


@pytest.mark.parametrize(("write", "evaluated"), [(write_codes, True), (write_texts, False)])
def test_train_recommend_and_evaluate(shop, tmp_path, write, evaluated):
    file, index, folder = tmp_path / "ids.csv", tmp_path / "index", tmp_path / "run"
    write(file, shop)
    words = [
        "index",
        str(shop.path),
        "--method",
        "file",
        "--ids",
        str(file),
        "--output",
        str(index),
    ]
    assert main.main(words) == 0
    settings = config.TrainConfig(
        model_dir=str(folder),
        model=TINY,
        data=config.DataConfig(
            datasets=(str(shop.path),),
            index_dir=str(index),
            mixture="openp5_sequential",
            max_shapes=1,
            batch_size=16,
            feature_lengths={"inputs": 192, "targets": None},
            history=5,
        ),
        train_steps=3,
        validation=config.ValidationConfig(period=None),
        log_period=1,
    )
    summary = run.train(settings, mesh=mesh_lib.single_device_mesh(), show_progress=False)
    assert summary.step == 3

    recommender = recommenders.load(folder, num_beams=10)
    titles = shop.item_titles
    (found,) = recommender.recommend([[titles[3], shop.item_source_ids[5]]], k=10)
    assert [match.source_id for match in found.matches] == [shop.item_source_ids[i] for i in (3, 5)]
    assert len({one.source_id for one in found} & set(shop.item_source_ids)) == 10
    assert all(titles[shop.item_source_ids.index(one.source_id)] == one.title for one in found)
    if not evaluated:
        return
    small = ["--num-beams", "5", "--batch-size", "16", "--templates", "A1", "--max-users", "16"]
    assert main.main(["evaluate", str(folder), *small]) == 0
    (written,) = (folder / "eval").glob("*/metrics.json")
    metrics = json.loads(written.read_text())
    assert metrics["item_ids"]["method"] == "file"
    assert metrics["item_ids"]["parameters"]["file"] == "ids.csv"
    checks = {entry["check"]: entry["status"] for entry in metrics["audit"]}
    assert checks["item_ids_made_elsewhere"] == "warn"
    assert "fail" not in checks.values()
    assert main.main(["report", str(folder), "--output", str(tmp_path / "report.html")]) == 0
    assert "taken on trust" in (tmp_path / "report.html").read_text()
