"""What `genrec evaluate` makes of several runs: the mean over seeds, and the runs against each other."""

import argparse
import json
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich.console

from genrec_jax import storage
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

if TYPE_CHECKING:  # what needs JAX is imported once there is work to do, so that --help is quick
    from genrec_jax.checkpoint.run_dir import RunDir
    from genrec_jax.evaluation.checkpoints import Evaluation
    from genrec_jax.evaluation.evaluator import EvaluateConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `--aggregate`, `--compare` and `--overwrite`."""
    parser.add_argument(
        "--aggregate",
        type=storage.argument,
        metavar="FILE",
        help="write mean and spread over the run dirs (training seeds) to this file",
    )
    parser.add_argument(
        "--compare",
        type=_pairs_file,
        nargs="?",
        const=True,
        metavar="FILE.json",
        help="print each metric's paired difference between the run dirs, user by user, too; with a file,"
        " write it there",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the file of --aggregate or --compare, whatever it is",
    )


def check(
    arguments: argparse.Namespace, runs: "Sequence[RunDir]", config: "EvaluateConfig"
) -> None:
    """Refuses, before an evaluation, which may take hours, what could not be done with its results.

    Raises:
        UserError: runs that cannot be averaged or compared.
    """
    from genrec_jax.evaluation import aggregate, description, run_pairs

    if arguments.aggregate is not None:
        _check_same_datasets(runs)
        aggregate.check_seeds([one.location for one in runs], [one.manifest for one in runs])
    if arguments.compare:
        _check_same_data(runs)
        run_pairs.check([(one.location, description.foreseen(one, config)) for one in runs])


def check_files(arguments: argparse.Namespace) -> None:
    """Refuses, before an evaluation, files that its results cannot or must not be written to.

    Raises:
        UserError: it names the file.
    """
    files = {"--aggregate": arguments.aggregate, "--compare": arguments.compare}
    files = {flag: file for flag, file in files.items() if file not in (None, True)}
    if len(files) == 2 and len(set(files.values())) == 1:
        file = str(files["--compare"])
        raise UserError("is named by --aggregate and by --compare; wanted two files", file=file)
    for flag, file in files.items():
        _check_file(flag, file, arguments.overwrite)


def finish(
    arguments: argparse.Namespace,
    runs: "Sequence[RunDir]",
    evaluations: "Sequence[Sequence[Evaluation]]",
    console: rich.console.Console,
) -> None:
    """Prints and writes what was asked for of the evaluations, which stand in the runs' order."""
    if arguments.aggregate is not None:
        _aggregate(runs, evaluations, arguments.aggregate, console)
    if arguments.compare:
        file = None if arguments.compare is True else arguments.compare
        _compare(runs, evaluations, file, console)


def _pairs_file(text: str) -> artefacts.PathLike:
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(
            f"got {text!r}; wanted a file to write, whose name ends in .json, or nothing. Name run dirs"
            " before it"
        )
    return storage.argument(text)


def _check_file(flag: str, file: artefacts.PathLike, overwrite: bool) -> None:
    if storage.is_folder(file):
        raise UserError(f"is a folder; wanted for {flag} a file to write", file=str(file))
    if not storage.is_remote(file):
        above = next(p for p in pathlib.Path(file).absolute().parents if os.path.lexists(p))
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(
                f"cannot be written, for {above} is no folder that you may write to; choose another file"
                f" for {flag}",
                file=str(file),
            )
    if overwrite or not storage.exists(file):
        return
    measured = "systems" if flag == "--aggregate" else "paired"
    try:
        found = json.loads(storage.read_head(file, 2**30))
    except ValueError:
        found = None
    parts = [found]
    if isinstance(found, dict) and isinstance(found.get("datasets"), dict):
        parts = list(found["datasets"].values())  # an aggregate of several datasets
    if not all(isinstance(part, dict) and {"runs", measured} <= part.keys() for part in parts):
        raise UserError(
            f"exists and was not written by {flag}; wanted a new file or an earlier one of {flag}. Choose"
            " another, or pass --overwrite to replace it",
            file=str(file),
        )


def _check_same_datasets(runs: "Sequence[RunDir]") -> None:
    """Refuses, before any is evaluated, runs that cannot be averaged dataset by dataset."""
    names = [sorted(dataset.name for dataset in one.datasets) for one in runs]
    for one, known in zip(runs, names, strict=True):
        if known != names[0]:
            raise UserError(
                f"the runs cannot be averaged: {one.location} was trained on {', '.join(known)} and"
                f" {runs[0].location} on {', '.join(names[0])}; --aggregate wants runs on the same"
                " datasets. Name seeds of one configuration"
            )


def _aggregate(
    runs: "Sequence[RunDir]",
    evaluations: "Sequence[Sequence[Evaluation]]",
    file: artefacts.PathLike,
    console: rich.console.Console,
) -> None:
    """One aggregate a dataset, which every run has; of several datasets the file holds them by name."""
    from genrec_jax.evaluation import aggregate, table

    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for written in evaluations:
        for evaluation in written:
            name = evaluation.metrics["dataset"]["name"]
            by_dataset.setdefault(name, []).append(evaluation.metrics)
    manifests = [run.manifest for run in runs]
    combined = {
        name: aggregate.aggregate(metrics, manifests) for name, metrics in by_dataset.items()
    }
    for content in combined.values():
        for title, made in table.tables(content, console.width):
            console.print(title, soft_wrap=True)
            console.print(made)
    only = next(iter(combined.values()))
    artefacts.write_json(
        file, only if len(combined) == 1 else {"format_version": 1, "datasets": combined}
    )
    console.print(f"wrote {file}", soft_wrap=True)


def _check_same_data(runs: "Sequence[RunDir]") -> None:
    """Refuses, before any is evaluated, runs that share no users by number."""
    if len(runs) < 2:
        raise UserError("--compare wants two run dirs or more; got one")
    marks = [{dataset.fingerprint: dataset.name for dataset in one.datasets} for one in runs]
    for one, known in zip(runs, marks, strict=True):
        if known.keys() != marks[0].keys():
            told = [
                ", ".join(f"{name} (fingerprint {mark})" for mark, name in of_run.items())
                for of_run in (known, marks[0])
            ]
            raise UserError(
                f"--compare wants runs on the same prepared data: {one.location} was trained on {told[0]}"
                f" and {runs[0].location} on {told[1]}. Users' numbers mean the same in one dataset only"
            )


def _compare(
    runs: "Sequence[RunDir]",
    evaluations: "Sequence[Sequence[Evaluation]]",
    file: artefacts.PathLike | None,
    console: rich.console.Console,
) -> None:
    """Prints the differences of each pair of runs on each dataset, and writes them to a file, if any."""
    from genrec_jax.evaluation import run_pairs, table
    from genrec_jax.evaluation.stored import Stored

    by_dataset: dict[str, list[tuple[str, Stored]]] = {}
    for run, written in zip(runs, evaluations, strict=True):
        for one in written:
            found = Stored(storage.local_copy(one.folder), one.metrics)
            mark = one.metrics["dataset"]["fingerprint"]
            by_dataset.setdefault(mark, []).append((run.location, found))
    paired = []
    for stored in by_dataset.values():
        metrics = stored[0][1].metrics
        dataset, level = metrics["dataset"]["name"], metrics["interval"]["level"]
        for system, compared in run_pairs.compare_all(stored):
            first = compared[0]
            console.print(
                f"{dataset}, {system}, {first['count']} {metrics['unit']}: {first['a']} less {first['b']},"
                f" with {100 * level:g}% intervals",
                soft_wrap=True,
            )
            console.print(table.pair_table(compared))
            paired += [{"dataset": dataset, "system": system} | entry for entry in compared]
    if file is not None:
        first_of_each = [written[0].metrics for written in evaluations]
        artefacts.write_json(file, run_pairs.content(first_of_each, paired))
        console.print(f"wrote {file}", soft_wrap=True)
