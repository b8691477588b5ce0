"""Flags that several subcommands on run dirs share."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genrec_jax import storage
from genrec_jax.data import dataset as datasets
from genrec_jax.errors import UserError

if TYPE_CHECKING:
    from genrec_jax.checkpoint.run_dir import RunDir


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


def data_paths(
    arguments: argparse.Namespace, runs: "Sequence[RunDir]"
) -> dict[str, storage.PathLike]:
    """Where the dataset of each fingerprint is, as far as `--data` says it.

    Args:
        arguments: with `--data`.
        runs: the runs that were named.

    Raises:
        UserError: a folder holds no dataset, or one that none of the runs was trained on.
    """
    trained = {entry.fingerprint: entry.name for run in runs for entry in run.datasets}
    places = {}
    for path in arguments.data:
        found = datasets.load(path, verify=False)
        if found.fingerprint not in trained:
            known = "; ".join(f"{name!r}, fingerprint {mark}" for mark, name in trained.items())
            raise UserError(
                f"holds the dataset {found.name!r}, fingerprint {found.fingerprint}, which is not the data"
                f" that was trained on; wanted {known}. Name the folder that has it, or prepare it again"
                " from the same sources with the same settings",
                file=str(path),
            )
        places[found.fingerprint] = path
    return places


def _checkpoint(text: str) -> str | int:
    if text in ("best", "latest"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted best, latest or a step")
    return int(text)
