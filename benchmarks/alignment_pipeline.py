"""Examples per second of the alignment system's mixtures, and the share of prompts that a limit cuts.

    PYTHONPATH=. python benchmarks/alignment_pipeline.py --dataset data/beauty

Workers are processes that make alternate steps, which random access by step allows. Prompts show
titles; negatives, masks and spans are drawn in the measured time. Without --dataset it makes a dataset
of Beauty's size, with titles of as many words, so that it runs anywhere.
"""

import argparse
import os
import pathlib
import sys
import tempfile
from typing import Any

from benchmarks import beauty_size, common, input_rate
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data.dataset import Dataset
from genrec_jax.errors import UserError
from genrec_jax.indexing import build, item_ids
from genrec_jax.pipeline import alignment_mixtures, mixtures
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.prompts import templates

MIXTURES = ("alignment_reat", "alignment_raat", "alignment_rpat", "alignment_ut", "alignment_ut_at")
LIMITS = (512, 1024, 1536)
EVERYTHING = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", help="a dataset dir; default: made up, of Beauty's size")
    parser.add_argument("--index", help="its index dir; default: <dataset>/index/short")
    parser.add_argument("--vocabulary", help="T5's spiece.model, for a made-up dataset's index")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured for each row")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    dataset, index = _open(options)
    rated = dataset.ratings_X is not None
    rows, speeds = [], []
    print(f"{dataset.name}: examples a second of batches of {options.batch_size}, packed")
    for name in MIXTURES:
        if "rating" in alignment_mixtures.MIXTURE_TASKS[name] and not rated:
            print(f"{name}: left out, {dataset.name} has no ratings", file=sys.stderr)
            continue
        mixture = _mixture(name, dataset, index, 1024)
        batches = TrainBatches(
            mixture, options.batch_size, packing=True, row_length=mixture.max_input_length
        )
        for workers in sorted({1, options.workers}):
            speed, per_cpu = input_rate.examples_per_second(batches, workers, options.seconds)
            print(
                f"{name:18} {workers} workers {speed:10,.0f}   per CPU second {per_cpu:10,.0f}",
                flush=True,
            )
            speeds.append(
                {
                    "mixture": name,
                    "workers": workers,
                    "examples_per_second": round(speed),
                    "examples_per_cpu_second": round(per_cpu),
                }
            )
    print("share of an epoch's prompts that lose items, by the inputs' limit")
    for limit in LIMITS:
        for task in templates.ALIGNMENT_TASKS:
            if task == "ie" or (task == "rating" and not rated):
                continue
            share = _cut_share(f"alignment_{task}", dataset, index, limit)
            print(
                f"{limit:5} {task:10} {'does not fit' if share is None else format(share, '.2%')}"
            )
            rows.append({"limit": limit, "task": task, "cut_share": share})
    path = common.write_result(
        "alignment_pipeline",
        {
            "dataset": dataset.name,
            "batch_size": options.batch_size,
            "load_average": os.getloadavg()[0],
            "speeds": speeds,
            "cut": rows,
        },
    )
    print(f"written to {path}", file=sys.stderr)


def _cut_share(name: str, dataset: Dataset, index: pathlib.Path, limit: int) -> float | None:
    """Over every example of an epoch; None where the question alone does not fit."""
    try:
        (share,) = [
            part.cut_share(max_examples=EVERYTHING)
            for source in _mixture(name, dataset, index, limit).sources
            for part in source.parts
        ]
    except UserError:
        return None
    return share


def _mixture(name: str, dataset: Dataset, index: pathlib.Path, limit: int) -> mixtures.Mixture:
    ids = item_ids.load(index)
    return mixtures.build_mixture(
        name,
        [dataset],
        [ids.texts],
        item_ids.load_vocabulary(index),
        templates.load_templates(templates.ALIGNMENT_TEMPLATES),
        titles=[ids.titles],
        max_input_length=limit,
    )


def _open(options: Any) -> tuple[Dataset, pathlib.Path]:
    if options.dataset is not None:
        folder = pathlib.Path(options.dataset)
        index = pathlib.Path(options.index or folder / "index" / "short")
        return dataset_lib.load(folder), index
    made_up = pathlib.Path(tempfile.mkdtemp()) / "made_up"
    dataset = beauty_size.made_up(made_up, titles=True, ratings=True)
    (built,) = build.build_index(
        [dataset.path],
        build.IndexConfig("short"),
        vocabulary=options.vocabulary,
        prompt_lines=[
            template.input.replace("{", " ").replace("}", " ")
            for template in templates.load_templates(templates.ALIGNMENT_TEMPLATES)
        ],
    )
    return dataset, built.path


if __name__ == "__main__":
    main()
