"""Folders on object stores, by URL (`gs://`, `s3://`, `memory://`, whatever fsspec opens).

An object store has no folders, no rename and no append. So a remote folder is read through a local
copy, and written as a whole from a local one: every file, then the manifest, without which nobody
reads it.
"""

import contextlib
import hashlib
import os
import pathlib
import posixpath
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import fsspec

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


def exists(path: PathLike) -> bool:
    """Whether there is a file or folder at a path or URL."""
    if not is_remote(path):
        return pathlib.Path(path).exists()
    with _errors(path):
        system, place = _open(path)
        return system.exists(place)


def is_empty(path: PathLike) -> bool:
    """Whether a path or URL is a folder without anything in it; false where there is nothing."""
    if not is_remote(path):
        folder = pathlib.Path(path)
        return folder.is_dir() and not any(folder.iterdir())
    with _errors(path):
        system, place = _open(path)
        return system.isdir(place) and not system.find(place)


def refuse_remote(path: PathLike, what: str) -> None:
    """Raises `UserError` where `what` (a run dir, say) must be on a file system and `path` is a URL."""
    if is_remote(path):
        raise UserError(
            f"is a URL; {what} must be on a file system that all hosts of the job see. Mount the bucket"
            " (Cloud Storage FUSE, NFS) and name the folder there; dataset dirs and item ids may be URLs",
            file=os.fspath(path),
        )


def local_copy(path: PathLike, files: Sequence[str] | None = None) -> pathlib.Path:
    """The folder at `path` as one of this machine: itself, or an up-to-date copy of a remote one.

    Copies lie in `$GENREC_STORAGE_CACHE` (default `~/.cache/genrec_jax/remote`); a file is fetched
    again when the store says that it has changed. Several processes may do it at once.

    Args:
        path: a folder or the URL of one.
        files: names to copy, those of them that exist; everything below the folder when not given.

    Raises:
        UserError: the store cannot be reached, or the scheme is not one that fsspec knows.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    url = os.fspath(path).rstrip("/")
    folder = _cache() / f"{last_name(url)}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    with _errors(url):
        system, place = _open(url)
        found = system.find(place, detail=True)
        names = {name[len(place.rstrip("/")) + 1 :]: info for name, info in found.items()}
        for name in sorted(names) if files is None else [f for f in files if f in names]:
            _fetch(system, f"{place.rstrip('/')}/{name}", names[name], folder / name)
        for copied in [copy for copy in folder.rglob("*") if copy.is_file()]:
            name = copied.relative_to(folder).as_posix()
            if name not in names and not any(part.startswith(".") for part in name.split("/")):
                copied.unlink(missing_ok=True)  # it is no longer there
    return folder


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
            new = [
                file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
            ]
            for name in sorted(new, key=lambda name: _last(name, manifests)):
                system.put_file(str(folder / name), f"{place}/{name}")


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


def _cache() -> pathlib.Path:
    set_here = os.environ.get("GENREC_STORAGE_CACHE")
    if set_here:
        return pathlib.Path(set_here)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "genrec_jax" / "remote"


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
            f"cannot be opened: {error}. For gs:// install genrec_jax[gcs]", file=os.fspath(path)
        ) from error
    except Exception as error:  # each store's library has exceptions of its own
        raise UserError(
            f"the store failed ({type(error).__name__}: {error}). Check the URL, your credentials and the"
            " network, and run it again",
            file=os.fspath(path),
        ) from error
