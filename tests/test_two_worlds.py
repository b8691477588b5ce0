"""Raw logs to a recommendation where TensorFlow, SeqIO and gin cannot be imported."""

import os
import subprocess
import sys
import textwrap

SCRIPT = textwrap.dedent(
    """
    import json, pathlib, sys

    ABSENT = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "gin", "t5x"}

    class Hiding:
        # Finds what another finder finds, but for the absent packages.

        def __init__(self, finder):
            self.finder = finder

        def __getattr__(self, name):
            return getattr(self.finder, name)

        def find_spec(self, name, path=None, target=None):
            absent = name.split(".")[0] in ABSENT
            return None if absent else self.finder.find_spec(name, path, target)

    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

    from genrec_jax.cli import main

    def genrec(*words):
        assert main.main(list(words)) == 0, words

    genrec("prepare", "toystore", "--num-users", "60", "--output", "data")
    genrec("index", "data", "--method", "collaborative")

    from genrec_jax.model.config import T5Config
    from genrec_jax.training import config, run

    summary = run.train(
        config.TrainConfig(
            model_dir="run",
            model=T5Config(
                vocab_size=1, embed_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
                num_encoder_layers=1, num_decoder_layers=1, mlp_activations=("relu",), tied_head=True,
            ),
            data=config.DataConfig(
                datasets=["data"], mixture="openp5_sequential", index_method="collaborative",
                batch_size=16, history=4,
            ),
            train_steps=2,
            validation=config.ValidationConfig(period=None),
        ),
        show_progress=False,
    )
    assert summary.step == 2
    genrec("evaluate", "run", "--max-users", "20", "--num-beams", "5", "--templates", "A1")
    genrec("recommend", "run", "--history", "Tiny Space Plush Friend", "-k", "3", "--json")
    (metrics,) = pathlib.Path("run/eval").glob("test-*/metrics.json")
    systems = json.loads(metrics.read_text())["systems"]
    assert {"popularity", "transition", "model/sequential/A1"} <= set(systems)

    import genrec_jax

    recommender = genrec_jax.load("run")
    lists = recommender.recommend([[recommender.catalogue.titles[0]]], k=3)
    assert len(lists[0]) == 3 and all(item.title for item in lists[0])
    assert not ABSENT & {name.split(".")[0] for name in sys.modules}
    print("recommended without TensorFlow")
    """
)


def test_prepare_to_recommend_without_tensorflow_seqio_and_gin(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert "recommended without TensorFlow" in run.stdout


def test_an_indexed_dataset_is_trained_on_and_served_where_polars_is_missing():
    """Polars reads raw logs and tables; machines with accelerators often have none."""
    modules = (
        "genrec_jax.indexing.build",
        "genrec_jax.training.run",
        "genrec_jax.evaluation.evaluator",
        "genrec_jax.decoding.recommender",
        "genrec_jax.decoding.exported_program",
    )
    script = f"import sys; sys.modules['polars'] = None; import {', '.join(modules)}"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
