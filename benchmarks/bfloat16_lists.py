"""Lists of trained runs searched in float32 and in bfloat16: how much they overlap, and both hit ratios.

    PYTHONPATH=. python benchmarks/bfloat16_lists.py runs/quickstart runs/ml100k --max-users 300

The parameters are the same float32 ones; only the activations' type differs. Writes
`benchmarks/results/bfloat16_lists.json` and the table of docs/tpu.md.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import common
from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.evaluation import from_run, overlap
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.parallel import mesh as meshes

PAGE = common.ROOT / "docs" / "tpu.md"
BEGIN, END = "<!-- table: benchmarks/bfloat16_lists.py -->", "<!-- end of lists -->"
CUTOFFS = (1, 5, 10, 20)


def lists_of(
    run_dir: RunDir, dtype: str, config: EvaluateConfig
) -> tuple[np.ndarray, dict[str, float]]:
    """The list of every user under the first template, and the hit ratios at 5 and 10."""
    described = run_dir.manifest | {"model": run_dir.manifest["model"] | {"dtype": dtype}}
    mesh = meshes.make_mesh()
    evaluator = from_run.build(RunDir(run_dir.path, described), config, mesh)
    params = restore.restore_params(run_dir, mesh=mesh)
    blocks: list[np.ndarray] = []

    def keep(*block: Any) -> None:
        blocks.append(np.asarray(block[-2]))

    ranks = evaluator.rank(params, evaluator.templates[0], keep)
    histogram = ranks.histogram(evaluator.max_rank)
    return np.concatenate(blocks), {name: histogram.mean(name) for name in ("hr@5", "hr@10")}


def compare(path: str, config: EvaluateConfig) -> dict[str, Any]:
    """One run in both types."""
    run_dir = RunDir.load(path)
    (exact, exact_hits), (rounded, rounded_hits) = (
        lists_of(run_dir, dtype, config) for dtype in ("float32", "bfloat16")
    )
    return {
        "run": run_dir.path.name,
        "data": run_dir.datasets[0].name,
        "step": restore.choose_step(run_dir),
        "model": run_dir.manifest["model"],
        "users": len(exact),
        "overlap": {
            f"at_{cutoff}": dataclasses.asdict(overlap.compare(exact, rounded, cutoff))
            for cutoff in CUTOFFS
        },
        "hit_ratios": {"float32": exact_hits, "bfloat16": rounded_hits},
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The runs as a Markdown table."""
    lines = [
        "| run | users | same first item | shared of 10 | shared of 20 | HR@10 in float32 | in bfloat16 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in runs:
        found, hits = one["overlap"], one["hit_ratios"]
        columns = [
            f"{one['data']}, `{one['run']}`",
            f"{one['users']:,}",
            f"{found['at_1']['first']:.1%}",
            f"{found['at_10']['shared']:.1%}",
            f"{found['at_20']['shared']:.1%}",
            f"{hits['float32']['hr@10']:.4f}",
            f"{hits['bfloat16']['hr@10']:.4f}",
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    parser.add_argument("--max-users", type=int, default=None)
    arguments = parser.parse_args()
    config = EvaluateConfig(max_users=arguments.max_users)
    runs = []
    for path in arguments.run_dirs:
        runs.append(compare(path, config))
        print(common.write_result("bfloat16_lists", {"runs": runs}), flush=True)
        print(table(runs[-1:]), flush=True)
    common.write_between(PAGE, BEGIN, END, table(runs))


if __name__ == "__main__":
    main()
