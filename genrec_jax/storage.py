"""Folders on object stores, by URL (`gs://`, `s3://`, `memory://`, whatever fsspec opens).

An object store has no folders, no rename and no append. So a remote folder is read through a local
copy, and written as a whole from a local one: every file, then the manifest, without which nobody
reads it. What grows while it is written, a run dir, is a `mirror.Mirror`.
"""

import contextlib
import hashlib
import os
import pathlib
import posixpath
import re
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from genrec_jax.errors import UserError

PathLike = str | os.PathLike[str]
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_remote(path: PathLike) -> bool:
    """Whether `path` is a URL such as `gs://bucket/data`, not a path of this machine."""
    return _SCHEME.match(os.fspath(path)) is not None


def argument(text: str) -> PathLike:
    """A command line's word as a path: `pathlib.Path` would fold the two slashes of a URL into one."""
    return text.rstrip("/") if is_remote(text) else pathlib.Path(text)


def join(path: PathLike, *parts: str) -> PathLike:
    """`path / part / ...`, for URLs too."""
    if is_remote(path):
        return posixpath.join(os.fspath(path), *parts)
    return pathlib.Path(path, *parts)


def last_name(path: PathLike) -> str:
    """The last part of a path or URL."""
    return (
        os.fspath(path).rstrip("/").rsplit("/", 1)[-1]
        if is_remote(path)
        else pathlib.Path(path).name
    )


def listed(paths: PathLike | Iterable[Any]) -> list[Any]:
    """A list of paths; one alone is a list of one, not of its letters."""
    return [paths] if isinstance(paths, (str, os.PathLike)) else [*paths]


def exists(path: PathLike) -> bool:
    """Whether there is a file or folder at a path or URL."""
    if not is_remote(path):
        return pathlib.Path(path).exists()
    with _errors(path):
        system, place = _open(path)
        return system.exists(place)


def is_folder(path: PathLike) -> bool:
    """Whether there is a folder at a path or URL."""
    if not is_remote(path):
        return pathlib.Path(path).is_dir()
    with _errors(path):
        system, place = _open(path)
        return system.isdir(place)


def read_head(path: PathLike, count: int) -> bytes:
    """The first bytes of the file at a path or URL, `count` at most."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read(count)
    with _errors(path):
        system, place = _open(path)
        return system.cat_file(place, 0, count)


def is_empty(path: PathLike) -> bool:
    """Whether a path or URL is a folder without anything in it; false where there is nothing."""
    if not is_remote(path):
        folder = pathlib.Path(path)
        return folder.is_dir() and not any(folder.iterdir())
    with _errors(path):
        system, place = _open(path)
        return system.isdir(place) and not system.find(place)


def find(path: PathLike, name: str) -> list[str]:
    """Where files of that name lie anywhere below a path or URL, sorted; links are not followed."""
    if not is_remote(path):
        return sorted(str(file) for file in pathlib.Path(path).rglob(name))
    with _errors(path):
        system, place = _open(path)
        place = place.rstrip("/")
        below = [file[len(place) + 1 :] for file in system.find(place)]
    return sorted(os.fspath(join(path, file)) for file in below if file.split("/")[-1] == name)


def refuse_remote(path: PathLike, what: str) -> None:
    """Raises `UserError` where `what` (a run dir, say) must be on a file system and `path` is a URL."""
    if is_remote(path):
        raise UserError(
            f"is a URL; {what} must be on a file system. Mount the bucket (Cloud Storage FUSE, NFS) and"
            " name the folder there; dataset dirs, item ids and run dirs may be URLs",
            file=os.fspath(path),
        )


def local_copy(
    path: PathLike, files: Sequence[str] | Callable[[str], bool] | None = None
) -> pathlib.Path:
    """The folder at `path` as one of this machine: itself, or an up-to-date copy of a remote one.

    Copies lie in `$GENREC_STORAGE_CACHE` (default `~/.cache/genrec_jax/remote`); a file is fetched
    again when the store says that it has changed, and a copy goes when its file has gone there. Several
    processes may do it at once.

    Args:
        path: a folder or the URL of one.
        files: names to copy, those of them that exist, or what says whether to copy a name; everything
            below the folder when not given.

    Raises:
        UserError: the store cannot be reached, or the scheme is not one that fsspec knows.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    folder = cache_folder(path)
    if not callable(files):
        chosen = None if files is None else set(files)
        files = lambda name: chosen is None or name in chosen  # noqa: E731
    names = fetch(path, folder, files)
    for stamp in list(folder.rglob(f".*{_STAMP}")):
        copied = stamp.with_name(stamp.name[1 : -len(_STAMP)])
        if copied.relative_to(folder).as_posix() not in names:  # it is no longer there
            stamp.unlink(missing_ok=True)
            copied.unlink(missing_ok=True)
    return folder


def cache_root() -> pathlib.Path:
    """Where all that this library caches lies: `$XDG_CACHE_HOME/genrec_jax`, or `~/.cache/genrec_jax`."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "genrec_jax"


def cache_folder(path: PathLike) -> pathlib.Path:
    """Where this machine keeps copies of what lies at a URL."""
    url = os.fspath(path).rstrip("/")
    return _cache() / f"{last_name(url)}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def fetch(path: PathLike, folder: pathlib.Path, chosen: Callable[[str], bool]) -> set[str]:
    """Copies the chosen files below a URL into a folder, those that have changed since.

    Args:
        path: the URL of a folder.
        folder: one of this machine.
        chosen: whether to copy a file, by its name below the folder.

    Returns:
        The names of all files below the URL.

    Raises:
        UserError: the store cannot be reached.
    """
    with _errors(path):
        system, place = _open(path)
        place = place.rstrip("/")
        found = system.find(place, detail=True)
        names = {name[len(place) + 1 :]: info for name, info in found.items()}
        for name in sorted(filter(chosen, names)):
            _fetch(system, f"{place}/{name}", names[name], folder / name)
    return set(names)


def upload(
    folder: pathlib.Path, path: PathLike, names: Collection[str], *, last: Collection[str] = ()
) -> None:
    """Copies files of a folder to a URL, each whole or not at all where the store writes objects so.

    Args:
        folder: one of this machine.
        path: the URL of the folder.
        names: of the files, relative to it.
        last: names of manifests: those there are taken away before anything is written, and written
            after all else.

    Raises:
        UserError: the store cannot be written.
    """
    with _errors(path):
        system, place = _open(path)
        place = place.rstrip("/")
        ordered = sorted(names, key=lambda name: _last(name, last))
        for name in reversed(ordered):
            if name.rsplit("/", 1)[-1] in last and system.exists(f"{place}/{name}"):
                system.rm_file(f"{place}/{name}")
        for name in ordered:
            _put(system, folder / name, f"{place}/{name}")


def delete(path: PathLike, *, first: Collection[str] = ()) -> None:
    """Removes what lies at a URL, a file or a folder, if anything does.

    Args:
        path: the URL.
        first: names of manifests, which go before all else.

    Raises:
        UserError: the store cannot be written.
    """
    with _errors(path):
        system, place = _open(path)
        for name in sorted(system.find(place), key=lambda name: _last(name, first), reverse=True):
            system.rm_file(name)
        if system.isdir(place):  # where folders are more than parts of names
            system.rm(place, recursive=True)


def put_file(file: pathlib.Path, path: PathLike) -> None:
    """Copies one file to a URL.

    Raises:
        UserError: the store cannot be written.
    """
    with _errors(path):
        system, place = _open(path)
        _put(system, file, place)


@contextlib.contextmanager
def publishing(path: PathLike, *, manifests: Collection[str]) -> Iterator[pathlib.Path]:
    """Yields an empty local folder; on success its files become the remote folder `path`.

    An older folder there is taken away manifest first and the new one is written manifest last, so
    that a reader finds the old one, the new one or none; where this is interrupted, none.

    Args:
        path: a URL.
        manifests: names of the files that make a folder valid.

    Raises:
        UserError: the store cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="genrec-publish-") as temporary:
        folder = pathlib.Path(temporary) / last_name(path)
        folder.mkdir()
        yield folder
        with _errors(path):
            system, place = _open(path)
            place = place.rstrip("/")
            old = sorted(system.find(place), key=lambda name: _last(name, manifests), reverse=True)
            for name in old:
                system.rm_file(name)
        names = [
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
        ]
        upload(folder, path, names, last=manifests)


_STAMP = ".fetched"


def _last(name: str, manifests: Collection[str]) -> tuple[bool, int, str]:
    """Sorts a folder's files for writing: manifests after all else, the outermost of them at the end."""
    return name.rsplit("/", 1)[-1] in manifests, -name.count("/"), name


def _fetch(system: Any, place: str, info: dict[str, Any], target: pathlib.Path) -> None:
    """Copies one file, unless the copy of just this version is there; the stamp is written after it."""
    version = hashlib.sha256(repr(sorted(info.items(), key=str)).encode()).hexdigest()
    stamp = target.with_name(f".{target.name}{_STAMP}")
    if target.is_file() and stamp.is_file() and stamp.read_text() == version:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as temporary:
        copied = pathlib.Path(temporary) / "file"
        system.get_file(place, str(copied))
        copied.replace(target)
        (pathlib.Path(temporary) / "stamp").write_text(version)
        (pathlib.Path(temporary) / "stamp").replace(stamp)


def _put(system: Any, file: pathlib.Path, place: str) -> None:
    if isinstance(system, LocalFileSystem):  # no store of objects: it has folders
        system.makedirs(posixpath.dirname(place), exist_ok=True)
        folder, name = posixpath.split(place)
        part = f"{folder}/.{name}.{uuid.uuid4().hex}"
        system.put_file(str(file), part)
        system.mv(part, place)
    else:
        system.put_file(str(file), place)


def _cache() -> pathlib.Path:
    set_here = os.environ.get("GENREC_STORAGE_CACHE")
    return pathlib.Path(set_here) if set_here else cache_root() / "remote"


def _open(path: PathLike) -> tuple[Any, str]:
    """The file system of a URL, its listings not cached, and the place in it."""
    return fsspec.core.url_to_fs(os.fspath(path), use_listings_cache=False)


@contextlib.contextmanager
def _errors(path: PathLike) -> Iterator[None]:
    """Whatever a store's own library raises, as one that names the URL."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"cannot be opened: {error}. For gs:// install genrec-jax[gcs]", file=os.fspath(path)
        ) from error
    except Exception as error:  # each store's library has exceptions of its own
        raise UserError(
            f"the store failed ({type(error).__name__}: {error}). Check the URL, your credentials and the"
            " network, and run it again",
            file=os.fspath(path),
        ) from error
