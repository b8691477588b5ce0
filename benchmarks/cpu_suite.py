"""What `make bench` runs: every CPU benchmark, at sizes that end in under 20 minutes on 2 quiet cores.

    make bench
    PYTHONPATH=. python -m benchmarks.cpu_suite --only decode_vs_hf trie_step

Each writes its JSON to benchmarks/results/, `suite_cpu.json` says how each ended, and then
`benchmarks/plots.py` draws docs/performance.md anew. Peers are not installed here: run
`bash benchmarks/install_peers.sh` before. A ratio whose peer is absent is named as not measured.
"""

import argparse
import pathlib
import sys

from benchmarks import common, suite
from benchmarks.suite import Step

TOTAL_SECONDS = 1_200

STEPS = (
    Step(
        "decode_vs_hf",
        "decode_vs_hf",
        130,
        ("--repeats", "3"),
        peer="torch",
        needs=common.BEAUTY,
    ),
    Step(
        "decode_parts_one_core",
        "decode_vs_hf",
        70,
        ("--no-peer", "--repeats", "2", "--result", "decode_parts_one_core"),
        one_core=True,
        needs=common.BEAUTY,
    ),
    Step(
        "decode_wide",
        "decode_vs_hf",
        60,
        ("--batches", "1", "--beams", "200", "--repeats", "2", "--result", "decode_wide"),
        peer="torch",
        needs=common.BEAUTY,
    ),
    Step(
        "train_vs_hf",
        "train_vs_hf",
        270,
        ("--steps", "1", "--repeats", "2"),
        peer="torch",
        needs=common.BEAUTY,
    ),
    Step("recommend_latency", "recommend_latency", 110, ("--calls", "50", "20", "5")),
    Step(
        "trie_step",
        "trie_step",
        100,
        ("--items", "12000", "1000000", "--kinds", "uniform", "--repeats", "10"),
        peer="static",
    ),
    Step(
        "trie_build",
        "trie_build",
        70,
        ("--items", "12101", "1000000"),
        peer="static",
    ),
    Step("constraints", "constraints", 70, ("--repeats", "3")),
    Step("beam_search", "beam_search", 80, ("--catalogues", "12101", "--repeats", "3")),
    Step("input_pipeline", "input_pipeline", 40, ("--seconds", "1")),
    Step("alignment_pipeline", "alignment_pipeline", 80, ("--seconds", "1")),
    Step("train_step", "train_step", 50, ("--row-lengths", "64", "256", "--repeats", "3")),
    Step(
        "collaborative_indexing", "collaborative_indexing", 40, ("--sklearn",), needs=common.BEAUTY
    ),
    Step("prepare_scale_5m", "prepare_scale", 30, ("--rows", "5000000")),
)
"""The limits add up to the suite's time, so that one slow benchmark never costs another its turn."""

LEFT_OUT = (
    ("prepare_scale.py", "on 50 million rows: 3 minutes and 5 GiB; the suite takes 5 million"),
    (
        "collaborative_indexing.py DATASET --name collaborative_vs_sklearn",
        "beside scikit-learn: minutes",
    ),
    ("trie_build.py --items 20000000 --name trie_build_20m", "minutes of building, and 8 GiB"),
    (
        "trie_step.py --items 12000 20000000 --kinds uniform --name trie_step_20m",
        "likewise, and the smallest beside it",
    ),
    ("trie_step.py --kinds zipf one_parent --name trie_step_skewed", "the skewed catalogues"),
    ("import_weights.py", "imports an 11.4 GB folder"),
    ("tpu_plan.py", "compiles for TPUs by libtpu, and times nothing of this machine"),
    ("bfloat16_lists.py", "needs a trained run, and times nothing"),
    ("train_vs_t5x.py", "T5X is installed from its repository, with TensorFlow"),
    ("evaluate_memory.py", "evaluates up to a million users, for memory and not for time"),
)
"""What the suite does not run at full size, or at all, and why."""


def left_out() -> str:
    """What the suite does not run, as a list for benchmarks/README.md."""
    return "\n".join(f"* `{name}` {why}" for name, why in LEFT_OUT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[s.result for s in STEPS], metavar="RESULT")
    parser.add_argument("--results", type=pathlib.Path, help="folder (benchmarks/results)")
    arguments = parser.parse_args()
    if arguments.results:
        common.use_results(arguments.results)
    steps = [step for step in STEPS if not arguments.only or step.result in arguments.only]
    return min(1, suite.run("cpu", steps, total_seconds=TOTAL_SECONDS))


if __name__ == "__main__":
    sys.exit(main())
