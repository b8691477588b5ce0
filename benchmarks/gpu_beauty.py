"""Beauty's whole test set: 22,363 users, each searched over 12,101 items with 20 beams of a T5-small.

    PYTHONPATH=. python benchmarks/gpu_beauty.py
    BENCHMARK_DATA=beauty PYTHONPATH=. python benchmarks/gpu_beauty.py --batches 256

What is timed is `genrec evaluate`'s own scoring of one template, prompts and ranks included: `first` with
every shape compiled on the way, `seconds` when all are. The first is written down as soon as it is known,
`seconds` being none; with the second the row is whole. Without data laid beside it (BENCHMARK_DATA, see
gpu_suite.py) users and items are made up in the same numbers, with a vocabulary trained on the prompts, and
the result says so. Parameters are random, the head has T5's 32,128 rows.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import beam_search, beauty_size, common, random_run
from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts
from genrec_jax.data import dataset as datasets
from genrec_jax.data.dataset import Dataset
from genrec_jax.evaluation import from_run
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.indexing import item_ids
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes

ROWS_OF_HEAD = 32_128
GOAL_SECONDS = 15.0


def opened(work: pathlib.Path, users: int, items: int) -> tuple[Dataset, artefacts.PathLike, str]:
    """The dataset, its item ids, and where they come from."""
    folder = beauty_size.laid_beside()
    if folder is None:
        dataset = beauty_size.made_up(work / "data", users=users, items=items)
        return dataset, random_run.make_index(dataset, work / "index"), "made up"
    dataset = datasets.load(folder)
    indices = sorted(path.parent for path in folder.glob(f"index/*/{item_ids.MANIFEST}"))
    if indices:
        return dataset, indices[0], f"{dataset.name}, ids {indices[0].name}"
    return dataset, random_run.make_index(dataset, work / "index"), f"{dataset.name}, ids made here"


def score(run: RunDir, config: EvaluateConfig) -> Iterator[dict[str, Any]]:
    """Seconds of scoring everybody under one template: with compiling, and then without it too."""
    mesh = meshes.make_mesh()
    began = time.perf_counter()
    evaluator = from_run.build(run, config, mesh)
    ready = time.perf_counter() - began
    _, abstract = t5.abstract_graph_and_params(run.model_config)
    params = jax.tree.map(
        lambda leaf, wanted: jax.device_put(leaf, wanted.sharding),
        random_run.random_params(run.model_config),
        restore.with_shardings(abstract, mesh),
    )
    (template,) = evaluator.templates
    began = time.perf_counter()
    ranks = evaluator.rank(params, template)
    users = len(ranks.users_E)
    row: dict[str, Any] = {
        "batch": config.batch_size,
        "users": users,
        "seconds": None,
        "first_s": time.perf_counter() - began,  # compiling on the way
        "open_s": ready,
        "users_per_s": None,
        "empty_share": ranks.empty_share,
    }
    yield row
    began = time.perf_counter()
    evaluator.rank(params, template)
    warm = time.perf_counter() - began
    yield row | {"seconds": warm, "users_per_s": users / warm}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[256])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--template", default="A1")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    model, users, items = "t5_small", beauty_size.USERS, beauty_size.ITEMS
    if arguments.smoke:
        model, users, items = "tiny", 24, 50
        arguments.batches, arguments.beams = [8], 4

    def config_of(vocabulary: int) -> T5Config:
        config = beam_search.config_of(
            model, max(vocabulary, 0 if arguments.smoke else ROWS_OF_HEAD)
        )
        return dataclasses.replace(config, dtype=arguments.dtype)

    payload: dict[str, Any] = {
        "settings": vars(arguments) | {"model": model},
        "goal": {"users": beauty_size.USERS, "seconds": GOAL_SECONDS},
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        dataset, index, source = opened(work, users, items)
        payload["data"] = {
            "source": source,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "interactions": dataset.num_interactions,
        }
        run = random_run.make_run(work / "run", dataset, index, config_of)
        for batch in arguments.batches:
            config = EvaluateConfig(
                templates=(arguments.template,), num_beams=arguments.beams, batch_size=batch
            )
            done = payload["rows"]
            for row in score(run, config):
                payload["rows"] = [*done, row]
                path = common.write_result("gpu_beauty", payload)
    table = Table(title=f"{source}: {dataset.num_users:,} users, {arguments.beams} beams")
    for column in ("batch", "users", "seconds", "users/s", "first s", "open s"):
        table.add_column(column, justify="right")
    for row in payload["rows"]:
        table.add_row(
            str(row["batch"]),
            f"{row['users']:,}",
            f"{row['seconds']:.2f}",
            f"{row['users_per_s']:,.0f}",
            f"{row['first_s']:.1f}",
            f"{row['open_s']:.1f}",
        )
    Console(width=120).print(table)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
