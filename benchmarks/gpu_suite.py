"""What `bash benchmarks/gpu.sh` runs: the measurements that need a GPU, in under ten minutes.

    bash benchmarks/gpu.sh                           # results to benchmarks/results/
    bash benchmarks/gpu.sh --results FOLDER
    bash benchmarks/gpu.sh --data FOLDER             # Beauty, prepared and indexed elsewhere
    bash benchmarks/gpu.sh --only gpu_decode gpu_beauty     # and the others in a second call
    JAX_PLATFORMS=cpu bash benchmarks/gpu.sh --smoke --results /tmp/smoke     # tiny sizes, on a CPU

It needs JAX, Flax, Optax, Orbax, pyarrow, sentencepiece and rich, and neither TensorFlow, SeqIO, gin nor
Polars. FOLDER of --data is a dataset dir that holds its item ids in index/sequential, as these commands
leave it on a machine that has the whole installation:

    genrec prepare sequences --input ../shared/data/amazon_beauty --output beauty --name Beauty
    genrec index beauty --method sequential --vocabulary ../shared/data/t5_vocabulary/spiece.model
"""

import argparse
import importlib.util
import os
import pathlib
import sys
import tempfile

from benchmarks import common, suite
from benchmarks.beauty_size import DATA_VARIABLE
from benchmarks.suite import Step

SMOKE = ("--smoke",)
STATIC_SMOKE = (
    *("--items", "500", "--kinds", "uniform", "--batches", "1", "--beams", "4"),
    *("--vocab", "64", "--length", "4", "--repeats", "2", "--name", "gpu_trie_step"),
)
STEPS = (
    Step("gpu_decode", "gpu_decode", 110, (), SMOKE, peer="torch"),
    Step("gpu_beauty", "gpu_beauty", 100, smoke=SMOKE),
    *(
        Step(f"gpu_mfu_{model}", "gpu_mfu", seconds, ("--model", model), ("--model", model, *SMOKE))
        for model, seconds in (("t5_small", 65), ("t5_base", 65), ("t5_xl", 120))
    ),
    Step(
        "gpu_trie_step",
        "trie_step",
        75,
        (
            *("--items", "1000000", "12000", "--batches", "64", "1"),
            *("--kinds", "uniform", "--name", "gpu_trie_step"),
        ),
        STATIC_SMOKE,
        peer="static",
    ),
    Step("gpu_attention", "gpu_attention", 55, smoke=SMOKE),
)
"""What matters most comes first. Each of them, too, measures that first, and writes as it goes."""

TOTAL_SECONDS = 590
"""Of all of them together. A step that needs longer than its limit may take what others left over."""


def torch_there(peer: str) -> bool:
    """Whether a peer is installed; PyTorch and transformers may also be this Python's own."""
    if peer == "torch" and all(map(importlib.util.find_spec, ("torch", "transformers"))):
        return True
    if peer == "static" and importlib.util.find_spec("static_decoding"):
        return True
    return suite.installed(peer)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", help="folder for the JSON files (benchmarks/results)")
    parser.add_argument("--data", help="a prepared dataset dir; one of Beauty's size is made up")
    parser.add_argument("--only", nargs="+", choices=[s.result for s in STEPS], metavar="RESULT")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it all still run?")
    arguments = parser.parse_args()
    if arguments.results or arguments.smoke:  # a trial's figures never go among the real ones
        common.use_results(arguments.results or tempfile.mkdtemp(prefix="smoke-"))
    if arguments.data:
        os.environ[DATA_VARIABLE] = str(pathlib.Path(arguments.data).absolute())
    steps = [step for step in STEPS if not arguments.only or step.result in arguments.only]
    return min(
        1,
        suite.run(
            "gpu",
            steps,
            smoke=arguments.smoke,
            total_seconds=None if arguments.smoke else TOTAL_SECONDS,
            lend=True,
            peer_there=torch_there,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
