"""`genrec report`: run dirs -> one self-contained HTML page."""

import argparse
import pathlib
import sys

from genrec_jax import storage
from genrec_jax.cli import numeric_flags, run_flags

HELP = """\
Turns one or more run dirs into one self-contained HTML page: the result beside popularity, last-item
and second-last-item transition and (for generated data) the best possible one, tables with intervals,
learning curves, example users with titles, the leakage audit made anew, and every setting. Several runs
are compared, and runs that differ in their seed alone are averaged."""

EPILOG = """\
examples:

  genrec report runs/quickstart --output runs/quickstart/report.html
  genrec report runs/seed0 runs/seed1 runs/seed2 --output seeds.html --title "ML-100K, 3 seeds"
  genrec report runs/beauty --output beauty.html --paper-figures paper_results.csv

The page needs no network and no other file; send it to whom you like. Evaluate a run first
(`genrec evaluate RUN_DIR`): without an evaluation the page has curves and settings only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="what `genrec train` wrote, or its URL"
    )
    parser.add_argument(
        "--output",
        type=storage.argument,
        metavar="FILE",
        help="the page to write (default: report.html in the first run dir); an earlier report is replaced",
    )
    parser.add_argument(
        "--paper-figures",
        type=pathlib.Path,
        metavar="CSV",
        help="published figures to stand beside ours, with the columns"
        " paper,table,task,dataset,method,metric,value,note",
    )
    run_flags.add_data(parser)
    parser.add_argument("--title", help="of the page")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the output even if it is no report"
    )
    parser.add_argument(
        "--examples",
        type=numeric_flags.Whole(0),
        default=6,
        metavar="N",
        help="users to show (default 6)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the page and prints where it lies."""
    from genrec_jax.checkpoint.run_dir import RunDir
    from genrec_jax.evaluation import report, stored

    output = arguments.output or storage.join(arguments.run_dirs[0], "report.html")
    runs = [RunDir.load(run_dir) for run_dir in arguments.run_dirs]
    written = report.write_report(
        runs,
        output,
        paper_figures=arguments.paper_figures,
        data=run_flags.data_paths(arguments, runs),
        title=arguments.title,
        num_examples=arguments.examples,
        overwrite=arguments.overwrite,
        notify=lambda said: print(said, file=sys.stderr),
    )
    print(written)
    for run in runs:
        if not stored.every(run):
            print(
                f"{run.location}: not evaluated, so the page has no results of it: run `genrec evaluate"
                f" {run.location}`, then this again",
                file=sys.stderr,
            )
