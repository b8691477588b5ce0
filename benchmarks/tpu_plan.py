"""The table of docs/tpu.md: `genrec plan --suggest` for four models on six topologies, by libtpu.

    PYTHONPATH=. python benchmarks/tpu_plan.py          # every cell that is not in the results yet
    PYTHONPATH=. python benchmarks/tpu_plan.py --models t5_small --topologies v5e-8 --again
    PYTHONPATH=. python benchmarks/tpu_plan.py --table-only   # rewrites the table from the results

Each cell is a process of its own, one at a time; results are kept after each, so that it may be stopped.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import common
from genrec_jax.data import artefacts
from genrec_jax.parallel import collectives, topology
from genrec_jax.progress import duration
from genrec_jax.training.plan_text import size

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = common.RESULTS / "tpu_plan.json"
PAGE = ROOT / "docs" / "tpu.md"
BEGIN, END = "<!-- table: benchmarks/tpu_plan.py -->", "<!-- end of table -->"

MODELS = {
    "t5_small": "T5-small",
    "t5_base": "T5-base",
    "flan_t5_xl": "FLAN-T5-XL",
    "flan_t5_xxl": "FLAN-T5-XXL",
}
TOPOLOGIES = ("v5e-8", "v5e-16", "v4-32", "v5p-64", "v5p-128", "v6e-256")
ROWS, PROMPTS = 256, 256


def plan(model: str, cluster: str) -> dict[str, Any]:
    """One cell: what the command says, or why it could not."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "plan.json"
        words = [
            "plan",
            *("--topology", cluster),
            "--suggest",
            f"--gin_file=gin_configs/models/{model}.gin",
            "--gin_file=gin_configs/runs/train.gin",
            f"--gin.BATCH_SIZE={ROWS}",
            *("--prompts", str(PROMPTS)),
            *("--json", str(file)),
        ]
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "genrec_jax.cli.main", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        cell = {
            "command": "genrec " + " ".join(words[:-2]),
            "seconds": round(time.monotonic() - began, 1),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": common.git_commit(),
            "jax": importlib.metadata.version("jax"),
            "libtpu": importlib.metadata.version("libtpu"),
        }
        if ran.returncode == 0:
            return cell | {"plan": json.loads(file.read_text())}
        errors = [line for line in ran.stderr.splitlines() if line.startswith("genrec plan: error")]
        if not errors:
            raise SystemExit(ran.stderr)
        return cell | {"error": errors[-1]}


def table(cells: dict[str, dict[str, Any]]) -> str:
    """The cells as a Markdown table, in the order of models and topologies."""
    lines = [
        "| model | topology | chips | mesh (data, fsdp, tensor) | remat | microbatches | training, memory a"
        " chip | TFLOP a step | step at 40% to 50% | collectives a chip | on its links, at least |"
        " decoding, memory a chip | TFLOP | collectives a chip |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, title in MODELS.items():
        for cluster in TOPOLOGIES:
            cell = cells.get(f"{model} {cluster}")
            if cell is not None:
                lines.append(_row(title, cluster, cell))
    return "\n".join(lines)


def _row(title: str, cluster: str, cell: dict[str, Any]) -> str:
    if "plan" not in cell:
        return f"| {title} | {cluster} | nothing fits |" + " |" * 11
    found = cell["plan"]
    choice, train, search = found["choice"], found["train"], found["recommend"]
    slow, fast = train["seconds"]
    columns = [
        title,
        cluster,
        str(found["devices"]),
        ", ".join(map(str, choice["mesh"].values())),
        choice["remat"],
        str(choice["microbatches"]),
        size(train["total"]),
        f"{train['flops'] / 1e12:,.0f}",
        f"{duration(slow)} to {duration(fast)}",
        _moved(train),
        _on_links(train, cluster, choice["mesh"]),
        size(search["total"]),
        f"{search['flops'] / 1e12:,.0f}",
        _moved(search),
    ]
    return "| " + " | ".join(columns) + " |"


def _moved(step: dict[str, Any]) -> str:
    found = step["compiled"]["collectives"]
    return "not readable" if found is None else size(sum(one["bytes"] for one in found))


def _on_links(step: dict[str, Any], name: str, mesh: dict[str, int]) -> str:
    """The least time of a step's collectives, from what is kept of them."""
    found = step["compiled"]["collectives"]
    if found is None:
        return "not known"
    listed = [
        collectives.Collective(one["kind"], tuple(one["axes"]), one["count"], one["bytes"])
        for one in found
    ]
    wires = topology.parse(name).chip.wires
    assert wires is not None, "all of the table are TPUs"
    return duration(collectives.sent_bytes(listed, mesh) / wires)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES))
    parser.add_argument("--again", action="store_true", help="also cells that are there")
    parser.add_argument("--table-only", action="store_true", help="plan nothing")
    arguments = parser.parse_args()
    cells: dict[str, dict[str, Any]] = {}
    if RESULTS.exists():
        cells = json.loads(RESULTS.read_text())["cells"]
    for cluster in arguments.topologies:
        for model in arguments.models:
            name = f"{model} {cluster}"
            if arguments.table_only or (name in cells and not arguments.again):
                continue
            cells[name] = plan(model, cluster)
            artefacts.write_json(RESULTS, {"name": "tpu_plan", "cells": cells})
            print(name, "in", cells[name]["seconds"], "s", flush=True)
    common.write_between(PAGE, BEGIN, END, table(cells))


if __name__ == "__main__":
    main()
