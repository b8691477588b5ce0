"""Lists of one trained run searched in float32 and in bfloat16: how much they overlap, and both hit ratios.

    PYTHONPATH=. python benchmarks/bfloat16_lists.py runs/quickstart --max-users 300

The parameters are the same float32 ones; only the activations' type differs. Writes
`benchmarks/results/bfloat16_lists.json`.
"""

import argparse
import dataclasses
from typing import Any

import numpy as np

from benchmarks import common
from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.evaluation import from_run, overlap
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.parallel import mesh as meshes


def lists_of(run_dir: RunDir, dtype: str, config: EvaluateConfig) -> tuple[np.ndarray, float]:
    """The list of every user under the first template, and the hit ratio at 10."""
    described = run_dir.manifest | {"model": run_dir.manifest["model"] | {"dtype": dtype}}
    mesh = meshes.make_mesh()
    evaluator = from_run.build(RunDir(run_dir.path, described), config, mesh)
    params = restore.restore_params(run_dir, mesh=mesh)
    blocks: list[np.ndarray] = []

    def keep(*block: Any) -> None:
        blocks.append(np.asarray(block[-2]))

    ranks = evaluator.rank(params, evaluator.templates[0], keep)
    return np.concatenate(blocks), ranks.histogram(evaluator.max_rank).mean("hr@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--max-users", type=int, default=None)
    arguments = parser.parse_args()
    run_dir = RunDir.load(arguments.run_dir)
    config = EvaluateConfig(max_users=arguments.max_users)
    (exact, exact_hits), (rounded, rounded_hits) = (
        lists_of(run_dir, dtype, config) for dtype in ("float32", "bfloat16")
    )
    found = {
        f"at_{cutoff}": dataclasses.asdict(overlap.compare(exact, rounded, cutoff))
        for cutoff in (1, 5, 10, 20)
    }
    payload = {
        "run": run_dir.path.name,
        "model": run_dir.manifest["model"],
        "users": len(exact),
        "overlap": found,
        "hit_ratio_at_10": {"float32": exact_hits, "bfloat16": rounded_hits},
    }
    print(common.write_result("bfloat16_lists", payload))
    for name, value in (*found.items(), ("hr@10", payload["hit_ratio_at_10"])):
        print(name, value)


if __name__ == "__main__":
    main()
