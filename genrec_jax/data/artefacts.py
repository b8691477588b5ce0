"""Writes artefacts atomically, so that no later stage can read half of one.

Every stage writes to a temporary sibling and renames it into place; an interruption at any point
leaves the old artefact or the new one, never a mixture. Where a folder cannot be replaced in one step
(other systems than Linux, some network file systems) it takes two renames: killed between them, a process
leaves nothing at the path, and the old folder whole beside it, as `.NAME.old.*`. Contents are on the disk
before the name is, so that a machine that loses power keeps the same promise. On object stores, which
cannot rename, the manifest is what makes a folder whole: see `storage`.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from typing import Any

from genrec_jax import storage
from genrec_jax.errors import UserError
from genrec_jax.storage import PathLike

RUN_MANIFEST = "run.json"


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; on success it is flushed and renamed to `path`.

    Args:
        path: where the finished file goes; parent folders are made. For a URL the temporary file is
            this machine's, and is uploaded.

    Raises:
        UserError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    if storage.is_remote(path):
        with tempfile.TemporaryDirectory(prefix="genrec-file-") as folder:
            yield (file := pathlib.Path(folder) / storage.last_name(path))
            storage.put_file(file, path)
        return
    target = pathlib.Path(path)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = pathlib.Path(name)
        temporary.chmod(0o666 & ~_umask())
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(
    path: PathLike, *, overwrite: bool = False, manifests: Collection[str] = ()
) -> Iterator[pathlib.Path]:
    """Yields an empty temporary folder beside `path`; on success it is renamed to `path`.

    Args:
        path: where the finished folder goes; parent folders are made. Where `manifests` are given it
            may be a URL: the folder is then filled here and uploaded.
        overwrite: replace an existing folder. The old one is removed only after the new one stands.
        manifests: the files without which nobody reads such a folder.

    Raises:
        UserError: `path` exists and `overwrite` is false or it holds a run dir, or the disk is full.
    """
    if storage.exists(path) and not overwrite:
        raise UserError(
            "already exists; wanted a path that does not. Choose another output folder, or pass"
            " overwrite (`--overwrite`) to replace this one",
            file=str(path),
        )
    if overwrite:
        _refuse_runs(path)
    if storage.is_remote(path):
        if not manifests:
            storage.refuse_remote(path, "this output")
        with storage.publishing(path, manifests=manifests) as folder:
            yield folder
        return
    target = pathlib.Path(path)
    with disk_errors(target):
        temporary = temporary_folder(target)
        try:
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in (*files, "."):
                    _flush(pathlib.Path(folder, name))
            replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Puts a finished folder in the place of what is at `target`, if anything; in one step where it can.

    What was at `target` may then be at `temporary`, for the caller to remove.
    """
    if not target.exists():
        temporary.rename(target)
    elif target.is_symlink() or not target.is_dir() or not _exchange(temporary, target):
        aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        target.rename(aside / target.name)
        temporary.rename(target)
        shutil.rmtree(aside)
    _flush(target.parent)


def temporary_folder(path: PathLike) -> pathlib.Path:
    """A new empty folder beside `path`, which nobody else has; parent folders are made."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary.chmod(0o777 & ~_umask())
    return temporary


def _flush(path: pathlib.Path) -> None:
    """Waits until a file's contents, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno != errno.EINVAL:
            raise  # some network file systems flush no folders
    finally:
        os.close(handle)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Makes two paths change places in one step; false where the system has no way to."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library older than glibc 2.28
        return False
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p) * 2 + (ctypes.c_uint,)
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def check_output(path: PathLike, *, overwrite: bool, ours: bool, kind: str) -> None:
    """Checks, before any work is done, that the output folder is new or may be replaced.

    Args:
        path: where the output is to go.
        overwrite: whether an earlier output may be replaced.
        ours: whether the folder at `path` is such an output: nothing else is ever replaced, but
            for an empty folder.
        kind: what such an output is called, for the error ("a dataset dir").

    Raises:
        UserError: it must not be replaced.
    """
    if not storage.exists(path):
        return
    if not overwrite:
        raise UserError(
            "already exists; wanted a path that does not. Choose another output, or pass overwrite"
            " (`--overwrite`) to replace this one",
            file=str(path),
        )
    if not ours and not storage.is_empty(path):
        raise UserError(
            f"exists and is not {kind}; wanted one to overwrite, or a path that does not exist."
            " Choose another output",
            file=str(path),
        )
    _refuse_runs(path)


def _refuse_runs(path: PathLike) -> None:
    """Raises `UserError` where a run dir lies at or below `path`: replacing it would delete checkpoints."""
    runs = storage.find(path, RUN_MANIFEST)
    if runs:
        run = runs[0].removesuffix(f"/{RUN_MANIFEST}")
        more = f" (and {len(runs) - 1} more)" if len(runs) > 1 else ""
        raise UserError(
            f"holds the training run {run}{more}, which replacing this folder would delete; wanted a"
            " folder without runs. Move the run elsewhere or remove it, or choose another --output",
            file=str(path),
        )


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; floats keep every digit.

    Raises:
        UserError: the disk is full or the folder cannot be written.
        ValueError: a number is not finite. JSON has no NaN: what does not exist is None.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: PathLike, *, wanted: str, remedy: str, shown: PathLike | None = None) -> Any:
    """Reads a JSON file; a NaN, which earlier versions wrote though JSON has none, is read as None.

    Args:
        path: the file.
        wanted: what the file is, for the error ("the manifest of a prepared dataset").
        remedy: what to do when it is missing or broken ("run `genrec prepare`").
        shown: what errors call it, where the file is a copy.

    Raises:
        UserError: the file is missing, cannot be read or is not JSON.
    """
    place = str(path if shown is None else shown)
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=lambda _: None)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"not found; wanted {wanted}. {remedy}", file=place) from error
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror}); wanted {wanted}. Check its permissions",
            file=place,
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"is not JSON ({error}); wanted {wanted}. {remedy}", file=place) from error


def sha256_of_file(path: PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_version(found: Any, wanted: int, *, path: PathLike, remedy: str) -> None:
    """Raises `UserError` unless an artefact's format version is the one this code writes."""
    if found != wanted:
        raise UserError(
            f"has format version {found!r}; this genrec_jax reads version {wanted}. {remedy}",
            file=str(path),
        )


@contextlib.contextmanager
def disk_errors(path: PathLike) -> Iterator[None]:
    """Turns a full disk, a forbidden folder or a file in the way into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "the disk is full; nothing was changed. Free some space and run it again"
        elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            message = f"cannot be written ({error.strerror}); choose a folder you may write to"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            message = f"cannot be made, a file is in the way ({error}); choose another folder"
        else:
            raise
        raise UserError(message, file=str(path)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
