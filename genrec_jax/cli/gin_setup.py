"""Gin for the command line: parses what the flags of `cli/gin_flags.py` name, and fills in dataclasses.

Gin is known here, in the commands that use it, and in `.gin` files; the library takes dataclasses.
"""

import difflib
import logging
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import gin
from gin import config as gin_config

from genrec_jax.cli.gin_flags import INSTEAD, MACROS
from genrec_jax.errors import UserError

Configured = TypeVar("Configured")

_MACRO_LINE = re.compile(r"^(\w+)\s*=", re.MULTILINE)
_REFERENCE = re.compile(r"%(\w+)")
_INCLUDE_LINE = re.compile(r"^include\s+['\"](.+?)['\"]", re.MULTILINE)
LIBRARY = pathlib.Path(__file__).resolve().parent.parent.parent
"""Where `gin_configs` lies: the checkout, or what the library is installed into."""


def parse(
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str] = (),
    fill: Mapping[str, str] | None = None,
) -> None:
    """Parses files, then bindings, and checks that nothing is unknown and nothing required is missing.

    A macro that no binding uses is taken for a misspelt one, unless it is one of the commands' own.

    Args:
        files: `.gin` files, later ones win.
        bindings: `NAME=VALUE`, which win over the files.
        search_paths: comma-separated folders in which files are looked for, after the current one and
            the library's.
        fill: values of required macros that the command does without, where nobody set them.

    Raises:
        UserError: a file that is missing or broken, an unknown or unused macro, an unknown parameter, a
            value that is not a Python literal, or a required macro without a value.
    """
    gin.clear_config(clear_constants=False)
    paths = [path for paths in search_paths for path in paths.split(",") if path]
    for path in [str(LIBRARY), *paths]:  # gin looks in the current folder first
        gin.add_config_file_search_path(path)
    known: dict[str, tuple[pathlib.Path, int]] = {}  # where each macro is set
    used = {name for binding in bindings for name in _REFERENCE.findall(binding)} | set(MACROS)
    for file in files:
        for path in included_files(file, paths):
            text = path.read_text(encoding="utf-8")
            used.update(_REFERENCE.findall(text))
            for found in _MACRO_LINE.finditer(text):
                known[found[1]] = path, text.count("\n", 0, found.start()) + 1
    with gin.unlock_config():
        for file in files:
            _parse(lambda file=file: gin.parse_config_file(file), file)
        for binding in bindings:
            name = binding.partition("=")[0].strip()
            if "." not in name and "/" not in name and name not in known:
                raise UserError(f"--gin.{name}: there is no such macro.{_guess(name, known)}")
            _parse(lambda binding=binding: gin.parse_config(binding), f"--gin.{binding}")
        for name, other in INSTEAD.items():
            if name in known and _is_required(name) and macro(other) is not None:
                gin.parse_config(f"{name} = None")
        for name, value in (fill or {}).items():
            if name in known and _is_required(name):
                gin.parse_config(f"{name} = {value}")
    for name, (path, line) in known.items():
        if name not in used:
            others = known.keys() & used
            raise UserError(
                f"no parameter uses the macro {name}.{_guess(name, others)}",
                file=str(path),
                line=line,
            )
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


def macro(name: str) -> Any:
    """The value of a macro of the parsed files, or None where they have no such macro."""
    try:
        return gin.query_parameter(f"%{name}")
    except ValueError:
        return None


def operative_config() -> str:
    """What was configured, with defaults, as a `.gin` file; call it after `configure`."""
    return gin.operative_config_str()


def included_files(file: str, search_paths: Sequence[str] = ()) -> Iterator[pathlib.Path]:
    """A `.gin` file and all it includes, the included ones first.

    Raises:
        UserError: one of them is not to be found.
    """
    folders = [".", str(LIBRARY), *search_paths]
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
        if what.startswith("--gin.") and _is_unquoted(error, text):
            name, _, value = what.partition("=")
            raise UserError(
                f"{value} is not a Python value; strings need quotes that survive the shell:"
                f' {name}=\\"{value}\\"'
            ) from error
        raise UserError(text, file=what) from error
    finally:
        logging.disable(logging.NOTSET)


def _is_unquoted(error: Exception, text: str) -> bool:
    return isinstance(error, SyntaxError) or "Unable to parse" in text or "malformed" in text


def _is_required(name: str) -> bool:
    try:
        return gin.query_parameter(f"%{name}") is gin.REQUIRED or str(
            gin.query_parameter(f"%{name}")
        ) in ("%gin.REQUIRED", repr(gin_config.REQUIRED))
    except ValueError:
        return False


def _guess(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]}?" if near else ""
    listed = ", ".join(sorted(known)) or "none: give a --gin_file"
    return f"{guess} Macros of these files: {listed}"


def _missing(names: list[str]) -> str:
    flags = " ".join(f"--gin.{name}={_shell(MACROS.get(name, ('', '...'))[1])}" for name in names)
    either = "".join(
        f" ({INSTEAD[name]} does instead of {name})" for name in names if name in INSTEAD
    )
    return f"{', '.join(names)} must be set{either}. For example: {flags}"


def _shell(value: str) -> str:
    return value.replace('"', '\\"') if value.isascii() and " " not in value else f"'{value}'"
