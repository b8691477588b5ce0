"""`genrec export`: a run or imported weights -> Hugging Face folder, T5X checkpoint or JAX programs."""

import argparse
import sys

from genrec_jax import storage
from genrec_jax.cli import numeric_flags, run_flags
from genrec_jax.errors import UserError

HELP = """Writes a trained model for Hugging Face transformers, for T5X, or for JAX alone.

--to hugging_face makes a folder that transformers 4 and 5 load: safetensors, config.json,
generation_config.json and tokenizer files that hold the run's added tokens. --to t5x makes a folder with
checkpoint_0 in T5X's own format, parameters and a fresh Adafactor, and the vocabulary beside it. --to jax
makes a folder of compiled-down programs (StableHLO) that do the whole of recommending, encoder, search and
trie, where JAX and NumPy are all there is: one program for each pair of --rows and --lengths, with the
parameters and the trie as arguments beside it, and a load.py that runs them."""

EPILOG = """
examples:
  genrec export runs/quickstart --output exports/quickstart
  genrec export runs/quickstart --to t5x --checkpoint latest --output exports/quickstart_t5x
  genrec export runs/quickstart --to jax --rows 1 8 --lengths 64 -k 10 --output exports/quickstart_jax
"""

FOR_JAX = {
    "rows": [1],
    "lengths": [128],
    "k": 10,
    "num_beams": 20,
    "platforms": None,
    "room": 0,
    "dataset": None,
}

WHOLE_WORDS = """{output}: the model adds a whole-word embedding to its input (P5), which other T5s lack.
It is in whole_word_embedding.safetensors; without it their outputs differ. `genrec import-weights` reads it
back"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `genrec export`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a run dir, or imported weights")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--to",
        choices=("hugging_face", "t5x", "jax"),
        default="hugging_face",
        help="for whom (default: hugging_face)",
    )
    run_flags.add_checkpoint(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export of the same --to"
    )
    only = parser.add_argument_group("with --to jax")
    only.add_argument(
        "--rows", type=numeric_flags.COUNT, nargs="+", metavar="N", help="requests of a batch (1)"
    )
    only.add_argument(
        "--lengths",
        type=numeric_flags.COUNT,
        nargs="+",
        metavar="N",
        help="tokens of a prompt at most (128)",
    )
    only.add_argument(
        "-k", type=numeric_flags.COUNT, metavar="K", help="items of a list at most (10)"
    )
    only.add_argument("--num-beams", type=numeric_flags.COUNT, metavar="N", help="beams (20)")
    only.add_argument(
        "--platforms",
        nargs="+",
        metavar="NAME",
        help="cpu, cuda, rocm, tpu: where it will run (default: what this machine has)",
    )
    only.add_argument(
        "--room",
        type=numeric_flags.COUNT,
        metavar="N",
        help="items that later catalogues may have more than this one (0)",
    )
    only.add_argument(
        "--dataset", metavar="NAME", help="which dataset, where the run was trained on several"
    )


def run(arguments: argparse.Namespace) -> None:
    """Exports, and says what was written."""
    storage.refuse_remote(arguments.output, "an export")
    given = {name: getattr(arguments, name) for name in FOR_JAX}
    if arguments.to == "jax":
        _export_programs(arguments, {n: FOR_JAX[n] if v is None else v for n, v in given.items()})
        return
    for name, value in given.items():
        if value is not None:
            flag = "-k" if name == "k" else f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} means nothing to --to {arguments.to}; it is for --to jax")
    from genrec_jax.checkpoint import export

    what = export.export(
        arguments.run_dir,
        arguments.output,
        to=arguments.to,
        checkpoint=arguments.checkpoint,
        overwrite=arguments.overwrite,
    )
    if what.config.whole_word_embedding:
        print(WHOLE_WORDS.format(output=arguments.output), file=sys.stderr)
    size = sum(array.size for array in what.params.values())
    print(f"{size:,} parameters written to {arguments.output}")


def _export_programs(arguments: argparse.Namespace, settings: dict) -> None:
    from genrec_jax.decoding import recommender as recommenders

    recommender = recommenders.load(
        arguments.run_dir,
        checkpoint=arguments.checkpoint,
        dataset=settings["dataset"],
        num_beams=settings["num_beams"],
        max_k=max(settings["k"], recommenders.MAX_K),
        room=settings["room"],
    )
    names = ("rows", "lengths", "k", "platforms")
    chosen = {name: settings[name] for name in names}
    folder = recommender.export(arguments.output, overwrite=arguments.overwrite, **chosen)
    shapes = len(settings["rows"]) * len(settings["lengths"])
    print(
        f"step {recommender.step} written to {folder}: {shapes} program{'s' * (shapes > 1)};"
        f" {folder / 'load.py'} says how to run {'them' if shapes > 1 else 'it'}"
    )
