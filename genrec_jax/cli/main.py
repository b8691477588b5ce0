"""The `genrec` console script: one subcommand per arrow of the flow, each a module of this package.

A subcommand's module has `HELP` (what it does), `EPILOG` (examples that run), `add_arguments(parser)`
and `run(arguments) -> None`. It is imported only when it is asked for, so that `genrec --help` answers at
once and `genrec prepare` never loads JAX.
"""

import argparse
import importlib
import os
import sys
import traceback
from typing import NoReturn

from genrec_jax import __version__
from genrec_jax.cli import absent_tpu, huge_pages, multihost
from genrec_jax.errors import UserError

COMMANDS = {
    "prepare": "raw logs -> dataset dir",
    "index": "dataset dir -> item IDs and vocabulary",
    "train": "dataset and item IDs -> run dir with checkpoints",
    "evaluate": "run dir -> metrics and predictions",
    "recommend": "a user or a history -> the next items, by title",
    "plan": "a configuration and a cluster -> memory, time and a mesh that fits",
    "report": "run dirs -> one self-contained HTML page",
    "import-weights": "Hugging Face or T5X weights -> a start for train",
    "export": "run dir -> Hugging Face folder, T5X checkpoint or programs for JAX alone",
}

COMPUTING = ("train", "evaluate", "recommend")

DESCRIPTION = """Trains and evaluates generative recommenders.

One subcommand per stage, in the order they are run:

"""

EPILOG = """
A first run, from nothing to recommendations (make quickstart runs all but recommend):

  genrec prepare toystore --output data/toystore
  genrec index data/toystore --method sequential
  genrec train --gin_file=gin_configs/quickstart.gin --gin.MODEL_DIR=\\"runs/quickstart\\"
  genrec evaluate runs/quickstart
  genrec recommend runs/quickstart --history "Tiny Space Plush Friend" "Shiny Space Night Light"
  genrec report runs/quickstart --output runs/quickstart/report.html

`genrec SUBCOMMAND --help` explains each one.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with code 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        0 when the work was done; 2 for a mistake the user can mend, printed as one line (`--debug`
        shows the traceback); 130 when interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    command = words[0] if words else None
    parser = Parser(
        prog="genrec",
        description=DESCRIPTION
        + "\n".join(f"  {name:<14} {text}" for name, text in COMMANDS.items()),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="SUBCOMMAND", help="one of the above")
    parser.add_argument("--version", action="version", version=f"genrec_jax {__version__}")
    if command is None:
        parser.print_help(sys.stderr)
        return 2
    if command not in COMMANDS:
        parser.parse_args(words)
        return 2
    if arguments is None and command in COMPUTING:
        huge_pages.start_again()
    absent_tpu.leave_out()
    module = importlib.import_module(_module_of(command))
    parsed = build_parser(command).parse_args(words[1:])
    try:
        module.run(parsed)
    except UserError as error:
        details = traceback.format_exc() if parsed.debug else ""
        return _failed(f"genrec {command}: error: {error}", 2, details)
    except KeyboardInterrupt:
        resume = (
            "; the same command goes on from the last checkpoint, if any"
            if command == "train"
            else ""
        )
        return _failed(f"genrec {command}: interrupted{resume}", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if multihost.watch is None:
            raise
        reason = f"genrec {command}: error: {type(error).__name__}: {error}"
        multihost.watch.fail(reason, 1, details=traceback.format_exc(), consequence=True)
    return 0


def _failed(reason: str, code: int, details: str = "") -> int:
    """Says why the command failed; of several processes all end then."""
    if multihost.watch is not None:
        multihost.watch.fail(reason, code, details=details)
    print(details + reason, file=sys.stderr)
    return code


def build_parser(command: str) -> argparse.ArgumentParser:
    """The argument parser of one subcommand; the documentation's commands are checked with it."""
    module = importlib.import_module(_module_of(command))
    parser = Parser(
        prog=f"genrec {command}",
        description=module.HELP,
        epilog=module.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _module_of(command: str) -> str:
    return f"genrec_jax.cli.{command.replace('-', '_')}"


if __name__ == "__main__":
    sys.exit(main())
