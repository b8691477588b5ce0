"""Gin for the command line: `--gin_file`, `--gin.NAME=VALUE` and `--gin_search_paths`, as T5X types them.

Gin is known here, in the commands that use it, and in `.gin` files; the library takes dataclasses.
"""

import argparse
import difflib
import logging
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import gin
from gin import config as gin_config

from genrec_jax.errors import UserError

Configured = TypeVar("Configured")

# Macro -> (what it sets, an example). The names are T5X's where T5X has one.
MACROS: dict[str, tuple[str, str]] = {
    "MODEL_DIR": ("the run dir: checkpoints, logs, everything later stages need", '"runs/beauty"'),
    "DATA_DIR": ("dataset dir from `genrec prepare`; a list of several for SP5", '"data/beauty"'),
    "INDEX_DIR": ("item ids from `genrec index`; None: <DATA_DIR>/index/<INDEX_METHOD>", "None"),
    "INDEX_METHOD": ("sequential, random, collaborative or independent", '"collaborative"'),
    "MIXTURE_OR_TASK_NAME": (
        "openp5, openp5_sequential, openp5_straightforward, or a SeqIO mixture",
        '"openp5"',
    ),
    "MIXTURE_OR_TASK_MODULE": ("module that registers your SeqIO mixture", '"my_package.tasks"'),
    "TASK_FEATURE_LENGTHS": ("tokens of prompts and targets", '{"inputs": 512, "targets": 32}'),
    "TRAIN_STEPS": ("training steps in all", "10000"),
    "TRAIN_EPOCHS": ("passes over the data instead; needs TRAIN_STEPS=None", "20"),
    "INITIAL_CHECKPOINT_PATH": ("a run dir whose parameters are the start", '"runs/pretrained"'),
    "BATCH_SIZE": ("examples of one step, over all devices", "256"),
    "PACKING": ("several examples in a row", "True"),
    "LEARNING_RATE": ("the highest, after the warm-up", "0.001"),
    "DROPOUT_RATE": ("dropout in training", "0.1"),
    "LOSS_NORMALIZING_FACTOR": ("divides the loss; None: the number of target tokens", "None"),
    "EVAL_PERIOD": ("steps between validations; None: never", "1000"),
    "CHECKPOINT_PERIOD": ("steps between checkpoints", "1000"),
    "RANDOM_SEED": ("of every draw", "0"),
}
GIN_FLAG = "--gin.NAME=VALUE"
_MACRO_LINE = re.compile(r"^([A-Z][A-Z0-9_]*)\s*=\s*(.*)$", re.MULTILINE)
_INCLUDE_LINE = re.compile(r"^include\s+['\"](.+?)['\"]", re.MULTILINE)
CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


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
        help="comma-separated folders in which .gin files are looked for, before the current one",
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


def parse(files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()) -> None:
    """Parses files, then bindings, and checks that nothing is unknown and nothing required is missing.

    Raises:
        UserError: a file that is missing or broken, an unknown macro or parameter, a value that is
            not a Python literal, or a required macro without a value.
    """
    gin.clear_config(clear_constants=False)
    paths = [path for paths in search_paths for path in paths.split(",") if path]
    for path in reversed([*paths, str(CHECKOUT)]):
        gin.add_config_file_search_path(path)
    known: dict[str, str] = {}
    for file in files:
        for path in included_files(file, paths):
            known.update(dict(_MACRO_LINE.findall(path.read_text(encoding="utf-8"))))
    with gin.unlock_config():
        for file in files:
            _parse(lambda file=file: gin.parse_config_file(file), file)
        for binding in bindings:
            name = binding.partition("=")[0].strip()
            if "." not in name and "/" not in name and name not in known:
                raise UserError(_unknown(name, known))
            _parse(lambda binding=binding: gin.parse_config(binding), f"--gin.{binding}")
    missing = [name for name in known if _is_required(name)]
    if missing:
        raise UserError(_missing(missing))


def configure(configurable: type[Configured]) -> Configured:
    """Builds what the parsed configuration says.

    Raises:
        UserError: a parameter has no value, or the values do not fit.
    """
    try:
        return gin.get_configurable(configurable)()
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        text = " ".join(str(error).split())
        raise UserError(
            f"the configuration does not make a {configurable.__name__}: {text}. Include"
            " gin_configs/runs/train.gin and a file of gin_configs/models/"
        ) from error


def operative_config() -> str:
    """What was configured, with defaults, as a `.gin` file; call it after `configure`."""
    return gin.operative_config_str()


def included_files(file: str, search_paths: Sequence[str] = ()) -> Iterator[pathlib.Path]:
    """A `.gin` file and all it includes, the included ones first.

    Raises:
        UserError: one of them is not to be found.
    """
    folders = [*search_paths, ".", str(CHECKOUT)]
    candidates = [pathlib.Path(folder) / file for folder in folders]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UserError(
            f"not found; looked in {', '.join(dict.fromkeys(folders))}. Give its path from the current"
            " folder, or --gin_search_paths",
            file=file,
        )
    for include in _INCLUDE_LINE.findall(path.read_text(encoding="utf-8")):
        yield from included_files(include, search_paths)
    yield path


def _parse(parse_it: Any, what: str) -> None:
    logging.disable(logging.ERROR)  # gin logs an error for each folder that lacks an included file
    try:
        parse_it()
    except UserError:
        raise
    except Exception as error:  # gin raises whatever an import or a literal does
        text = " ".join(str(error).split())
        hint = ""
        if isinstance(error, SyntaxError) or "Unable to parse" in text or "malformed" in text:
            hint = '. Strings need quotes that survive the shell: --gin.NAME=\\"value\\"'
        raise UserError(f"{text}{hint}", file=what) from error
    finally:
        logging.disable(logging.NOTSET)


def _is_required(name: str) -> bool:
    try:
        return gin.query_parameter(f"%{name}") is gin.REQUIRED or str(
            gin.query_parameter(f"%{name}")
        ) in ("%gin.REQUIRED", repr(gin_config.REQUIRED))
    except ValueError:
        return False


def _unknown(name: str, known: dict[str, str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]}?" if near else ""
    listed = ", ".join(sorted(known)) or "none: give a --gin_file"
    return f"--gin.{name}: there is no such macro.{guess} Macros of these files: {listed}"


def _missing(names: list[str]) -> str:
    flags = " ".join(f"--gin.{name}={_shell(MACROS.get(name, ('', '...'))[1])}" for name in names)
    return f"{', '.join(names)} must be set. For example: {flags}"


def _shell(value: str) -> str:
    return value.replace('"', '\\"') if value.isascii() and " " not in value else f"'{value}'"
