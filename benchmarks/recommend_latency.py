"""Latency of `recommender.recommend` from Python: p50 and p99 by batch, and what compiling costs.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONPATH=. python benchmarks/recommend_latency.py
    PYTHONPATH=. python benchmarks/recommend_latency.py --run runs/quickstart

Without --run, a T5-small of random parameters over Beauty's items (or, where the data is absent, over
a generated shop's) stands in: what it recommends means nothing, how long it takes does. A call is
timed whole: looking titles up, writing and tokenising prompts, encoding, searching, naming items.
`compile` is the first call for a shape with an empty cache, `again` the same in a recommender that
finds the compiled program in the persistent cache.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import genrec_jax
from benchmarks import beam_search, common, random_run
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import prepare_run
from genrec_jax.data.dataset import Dataset
from genrec_jax.decoding.recommender import Recommender


def prepared(work: pathlib.Path) -> tuple[Dataset, pathlib.Path | None]:
    """Beauty and T5's vocabulary where they lie beside the checkout, else a generated shop."""
    if not common.BEAUTY.is_dir():
        options = {"num_users": 2000}
        return prepare_run.prepare_from(
            "toystore", None, work / "data", name="toystore", reader_options=options
        ), None
    dataset = prepare_run.prepare_from("sequences", common.BEAUTY, work / "data", name="Beauty")
    return dataset, common.VOCABULARY


def random_run_dir(work: pathlib.Path, model: str) -> RunDir:
    """A run dir of random parameters."""
    dataset, base = prepared(work)
    index = random_run.make_index(dataset, work / "index", base)
    run_dir = random_run.make_run(
        work / "run", dataset, index, lambda size: beam_search.config_of(model, size)
    )
    random_run.add_checkpoint(run_dir)
    return run_dir


def histories_of(recommender: Recommender, count: int, items: int, seed: int) -> list[list[str]]:
    """Random histories, by source id."""
    random = np.random.default_rng(seed)
    ids = recommender.catalogue.source_ids
    return [[ids[i] for i in random.integers(0, len(ids), items)] for _ in range(count)]


def measure(recommender: Recommender, rows: int, calls: int, arguments) -> dict[str, float]:
    """Seconds of single calls, each with histories of its own."""
    seconds, processor = [], time.process_time()
    for call in range(calls):
        asked = histories_of(recommender, rows, arguments.history, seed=call)
        started = time.perf_counter()
        lists = recommender.recommend(asked, k=arguments.k)
        seconds.append(time.perf_counter() - started)
        assert len(lists) == rows
    p50, p99 = np.percentile(seconds, [50, 99])
    used = (time.process_time() - processor) / calls
    return {"batch": rows, "calls": calls, "p50_s": p50, "p99_s": p99, "cpu_s": used}


def length_of(recommender: Recommender, items: int) -> int:
    """The longest of some prompts with as many items."""
    lists = histories_of(recommender, 64, items, seed=0)
    numbers = {name: i for i, name in enumerate(recommender.catalogue.source_ids)}
    histories = [np.asarray([numbers[name] for name in listed]) for listed in lists]
    template = recommender.template_for(True)
    prompts = recommender._stock.assembler.assemble(template, None, histories)
    return int(prompts.inputs.lengths_E.max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", help="a run dir; a random one by default")
    parser.add_argument("--model", choices=beam_search.MODELS, default="t5_small")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--calls", type=int, nargs="+", default=[200, 50, 20])
    parser.add_argument("--history", type=int, default=10, help="items of a history (10)")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--beams", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        jax.config.update("jax_compilation_cache_dir", str(work / "compiled"))
        run = arguments.run or str(random_run_dir(work, arguments.model).path)
        recommender = genrec_jax.load(run, num_beams=arguments.beams)
        length = length_of(recommender, arguments.history)
        cold = recommender.warm_up(arguments.batches, [length], k=arguments.k)
        recommender = genrec_jax.load(run, num_beams=arguments.beams)
        again = recommender.warm_up(arguments.batches, [length], k=arguments.k)
        rows = []
        for batch, calls in zip(arguments.batches, arguments.calls, strict=True):
            row = measure(recommender, batch, calls, arguments)
            shape = next(shape for shape in cold if shape[0] >= batch)
            row |= {"compile_s": cold[shape], "again_s": again[shape]}
            rows.append(row)
    table = Table(title=f"recommend, prompts of up to {length} tokens, {arguments.beams} beams")
    for column in ("batch", "p50 ms", "p99 ms", "p50 ms/user", "compile s", "again s", "calls"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["batch"]),
            f"{row['p50_s'] * 1e3:.1f}",
            f"{row['p99_s'] * 1e3:.1f}",
            f"{row['p50_s'] * 1e3 / row['batch']:.1f}",
            f"{row['compile_s']:.1f}",
            f"{row['again_s']:.1f}",
            str(row["calls"]),
        )
    Console(width=120).print(table)
    names = ("model", "history", "k", "beams")
    settings = {name: getattr(arguments, name) for name in names} | {"prompt_length": length}
    settings["random_run"] = arguments.run is None
    settings["huge_pages"] = common.huge_pages()
    print(f"wrote {common.write_result('recommend_latency', {'settings': settings, 'rows': rows})}")


if __name__ == "__main__":
    main()
