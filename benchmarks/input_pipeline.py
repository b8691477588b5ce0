"""Examples per second and padding of the input pipeline, on two cores.

    PYTHONPATH=. python benchmarks/input_pipeline.py --dataset data/beauty --index data/beauty/index/random

Workers are processes that make alternate steps, which random access by step allows. Without
--dataset it makes a dataset of Beauty's size and trains a small vocabulary, so that it runs anywhere.
"""

import argparse
import os
import pathlib
import sys
import tempfile

import numpy as np

from benchmarks import beauty_size, common, input_rate
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.indexing import item_ids, unigram_vocabulary
from genrec_jax.pipeline import mixtures
from genrec_jax.pipeline.batch import Batch
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.prompts import templates


def _padding_share(batch: Batch) -> float:
    """The share of a batch's input and target positions that hold padding."""
    tokens = (batch.encoder_input_tokens_BL, batch.decoder_target_tokens_BT)
    return float(1 - sum(map(np.count_nonzero, tokens)) / sum(array.size for array in tokens))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", help="a dataset dir; default: made up, of Beauty's size")
    parser.add_argument("--index", help="its index dir, with the vocabulary")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=3.0, help="measured for each row")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    mixture, name, tokens = _mixture(options.dataset, options.index)
    rows = []
    print(f"{name}: {mixture.num_examples:,} examples an epoch, vocabulary of {tokens:,} tokens")
    print(
        "packing  batch  workers   examples/s  per CPU s  padding sequential  straightforward  shapes"
    )
    for packing in (False, True):
        for batch_size in options.batch_sizes:
            batches = TrainBatches(mixture, batch_size, packing=packing)
            padding = [
                float(np.mean([_padding_share(batches.batch(s)) for s in range(task, 100, 2)]))
                for task in range(2)
            ]
            shapes = len({batches.shape(step) for step in range(200)})
            for workers in sorted({1, options.workers}):
                speed, per_cpu = input_rate.examples_per_second(batches, workers, options.seconds)
                print(
                    f"{packing!s:7}  {batch_size:5}  {workers:7}  {speed:11,.0f}  {per_cpu:9,.0f}"
                    f"  {padding[0]:18.1%}  {padding[1]:15.1%}  {shapes:6}",
                    flush=True,
                )
                rows.append(
                    {
                        "packing": packing,
                        "batch_size": batch_size,
                        "workers": workers,
                        "examples_per_second": round(speed),
                        "examples_per_cpu_second": round(per_cpu),
                        "padding_share_sequential": padding[0],
                        "padding_share_straightforward": padding[1],
                        "shapes_used": shapes,
                    }
                )
    path = common.write_result(
        "input_pipeline",
        {"dataset": name, "vocabulary": tokens, "load_average": os.getloadavg()[0], "rows": rows},
    )
    print(f"written to {path}", file=sys.stderr)


def _mixture(path: str | None, index: str | None) -> tuple[mixtures.Mixture, str, int]:
    chosen = templates.load_templates()
    if path is None:
        dataset = beauty_size.made_up(pathlib.Path(tempfile.mkdtemp()) / "made_up")
        lines = [template.input.replace("{", " ").replace("}", " ") for template in chosen]
        words = unigram_vocabulary.train(lines, words=[dataset.name])
        texts = [f"item_{1001 + item}" for item in range(dataset.num_items)]
    else:
        dataset = dataset_lib.load(path)
        folder = pathlib.Path(index or pathlib.Path(path) / "index" / "sequential")
        words = item_ids.load_vocabulary(folder)
        texts = item_ids.load(folder).texts
    mixture = mixtures.build_mixture(
        "openp5", [dataset], [texts], words, chosen, templates_per_example=3
    )
    return mixture, dataset.name, words.size


if __name__ == "__main__":
    main()
