"""The flags of gin, without gin: `--gin_file`, `--gin.NAME=VALUE` and `--gin_search_paths`, as in T5X.

`cli/gin_setup.py` acts on them; a box without gin can still use commands that only offer them.
"""

import argparse
import sys
from collections.abc import Sequence

# Macro -> (what it sets, an example). The names are T5X's where T5X has one.
MACROS: dict[str, tuple[str, str]] = {
    "MODEL_DIR": (
        "the run dir or its URL: checkpoints, logs, what later stages need",
        '"runs/beauty"',
    ),
    "DATA_DIR": ("dataset dir from `genrec prepare`; a list of several for SP5", '"data/beauty"'),
    "INDEX_DIR": ("item ids from `genrec index`; None: <DATA_DIR>/index/<INDEX_METHOD>", "None"),
    "INDEX_METHOD": (
        "sequential, random, collaborative, independent, short or file",
        '"collaborative"',
    ),
    "MIXTURE_OR_TASK_NAME": (
        "openp5, openp5_sequential, openp5_straightforward, alignment_reat and so on (docs/alignment.md),"
        " or a SeqIO mixture",
        '"openp5"',
    ),
    "MIXTURE_RATES": (
        "alignment: examples of each task in one round",
        '{"retrieval": 1, "mlm": 1, "mim": 1}',
    ),
    "MIXTURE_OR_TASK_MODULE": ("module that registers your SeqIO mixture", '"my_package.tasks"'),
    "TASK_FEATURE_LENGTHS": ("tokens of prompts and targets", '{"inputs": 512, "targets": 32}'),
    "TRAIN_STEPS": ("training steps in all; 0: the initial parameters as they are", "10000"),
    "TRAIN_EPOCHS": (
        "passes over the data instead; where a file sets TRAIN_STEPS, with TRAIN_STEPS=None",
        "20",
    ),
    "INITIAL_CHECKPOINT_PATH": (
        "whose parameters are the start: a run dir (its best checkpoint), RUN/checkpoints/STEP, or what"
        " `genrec import-weights` wrote",
        '"weights/t5_small"',
    ),
    "REINITIALISED_TOKENS": (
        "imported weights: none, or numbers, whose tokens get new embeddings as in OpenP5",
        '"numbers"',
    ),
    "BATCH_SIZE": ("examples of one step, over all devices", "256"),
    "PACKING": ("several examples in a row", "True"),
    "LEARNING_RATE": ("the highest, after the warm-up", "0.001"),
    "DROPOUT_RATE": ("dropout in training", "0.1"),
    "LOSS_NORMALIZING_FACTOR": (
        "what the loss of a step's tokens is divided by: a number, or a name as in T5X",
        '"NUM_REAL_TARGET_TOKENS"',
    ),
    "EVAL_PERIOD": ("steps between validations; None: never", "1000"),
    "CHECKPOINT_PERIOD": ("steps between checkpoints", "1000"),
    "RANDOM_SEED": ("of every draw", "0"),
}
# Required macro -> the one that may be set in its place.
INSTEAD = {"TRAIN_STEPS": "TRAIN_EPOCHS"}
GIN_FLAG = "--gin.NAME=VALUE"


def macro_help() -> str:
    """The list of macros for `--help`."""
    width = max(map(len, MACROS))
    return "\n".join(f"  {name:<{width}}  {text}" for name, (text, _) in MACROS.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the gin flags, and has `parser` rewrite `--gin.NAME=VALUE` to fit one of them."""
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a .gin file; repeatable, later ones win",
    )
    parser.add_argument(
        GIN_FLAG,
        dest="gin_bindings",
        action="append",
        default=[],
        metavar="",
        help='sets a macro (--gin.TRAIN_STEPS=500, --gin.MODEL_DIR=\\"runs/a\\") or a parameter'
        " (--gin.config.DataConfig.history=10); repeatable, wins over the files",
    )
    parser.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="DIRS",
        help="comma-separated folders in which .gin files are looked for, after the current one and the"
        " library's",
    )
    parse_known_args = parser.parse_known_args

    def parse_rewritten(args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        return parse_known_args(rewrite_arguments(words), namespace)

    # argparse has no flags with a name that varies; `parse_args` goes through this method.
    parser.parse_known_args = parse_rewritten  # type: ignore[method-assign]


def rewrite_arguments(words: Sequence[str]) -> list[str]:
    """Turns `--gin.NAME=VALUE` and `--gin.NAME VALUE` into what `argparse` can declare."""
    rewritten: list[str] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("--gin.") and word != GIN_FLAG:
            name, equals, value = word.removeprefix("--gin.").partition("=")
            if not equals:
                value = next(rest, "")
            rewritten += [GIN_FLAG, f"{name}={value}"]
        else:
            rewritten.append(word)
    return rewritten
