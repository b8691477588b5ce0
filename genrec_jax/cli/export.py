"""`genrec export`: a run or imported weights -> Hugging Face folder or T5X checkpoint."""

import argparse
import sys

from genrec_jax.cli import run_flags

HELP = """Writes a trained model for Hugging Face transformers, or for T5X.

--to hugging_face makes a folder that transformers 4 and 5 load: safetensors, config.json,
generation_config.json and tokenizer files that hold the run's added tokens. --to t5x makes a folder with
checkpoint_0 in T5X's own format, parameters and a fresh Adafactor, and the vocabulary beside it."""

EPILOG = """
examples:
  genrec export runs/quickstart --output exports/quickstart
  genrec export runs/quickstart --to t5x --checkpoint latest --output exports/quickstart_t5x
"""

WHOLE_WORDS = """{output}: the model adds a whole-word embedding to its input (P5), which other T5s lack.
It is in whole_word_embedding.safetensors; without it their outputs differ. `genrec import-weights` reads it
back"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `genrec export`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a run dir, or imported weights")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--to",
        choices=("hugging_face", "t5x"),
        default="hugging_face",
        help="for whom (default: hugging_face)",
    )
    run_flags.add_checkpoint(parser)


def run(arguments: argparse.Namespace) -> None:
    """Exports, and says what was written."""
    from genrec_jax.checkpoint import export

    what = export.export(
        arguments.run_dir, arguments.output, to=arguments.to, checkpoint=arguments.checkpoint
    )
    if what.config.whole_word_embedding:
        print(WHOLE_WORDS.format(output=arguments.output), file=sys.stderr)
    size = sum(array.size for array in what.params.values())
    print(f"{size:,} parameters written to {arguments.output}")
