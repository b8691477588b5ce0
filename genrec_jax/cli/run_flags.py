"""Flags that several subcommands on run dirs share."""

import argparse

from genrec_jax import storage
from genrec_jax.data import dataset as datasets


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Declares `--checkpoint`."""
    parser.add_argument(
        "--checkpoint",
        default="best",
        type=_checkpoint,
        help="best on validation (default), latest, or a step",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declares `--data`, which `data_paths` reads."""
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        type=storage.argument,
        metavar="DIR",
        help="the dataset dir, where it has moved since training; once for each dataset",
    )


def data_paths(arguments: argparse.Namespace) -> dict[str, storage.PathLike]:
    """Where the dataset of each name is, as far as `--data` says it."""
    return {datasets.load(path, verify=False).name: path for path in arguments.data}


def _checkpoint(text: str) -> str | int:
    if text in ("best", "latest"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted best, latest or a step")
    return int(text)
