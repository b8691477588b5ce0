"""The checksum manifest that makes a checkpoint valid: written last, checked before any restore.

A checkpoint dir without a manifest is one whose writing was interrupted; one whose files differ from
the manifest is damaged. Neither is ever restored.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

FORMAT_VERSION = 1
NAME = "manifest.json"
Files = dict[str, tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json` in a checkpoint dir.

    Attributes:
        step: training steps done when the checkpoint was made.
        metrics: validation metrics measured at that step, by name; empty where none were.
        progress: the loop's own state (counts since the start, best so far); plain JSON values.
        files: relative path -> (size in bytes, sha256) of every file of the checkpoint.
    """

    step: int
    metrics: dict[str, float]
    progress: dict[str, Any]
    files: Files


def entries(folder: pathlib.Path) -> Files:
    """Hashes every file under `folder`, manifests aside."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_size,
            artefacts.sha256_of_file(path),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and NAME not in path.name
    }


def write(
    folder: pathlib.Path,
    *,
    step: int,
    metrics: dict[str, float],
    progress: dict[str, Any],
    elsewhere: Mapping[str, tuple[int, str]] | None = None,
) -> None:
    """Hashes every file under `folder` and writes the manifest, atomically and last.

    Args:
        folder: the checkpoint dir.
        step: training steps done.
        metrics: validation metrics of that step; those that do not exist (the AUC of ratings that are
            all likes is NaN) are left out.
        progress: the loop's own state.
        elsewhere: files of this checkpoint that are not in `folder`, but where it counts.
    """
    files = entries(folder) | dict(elsewhere or {})
    replace(folder, Manifest(step, metrics, progress, files))


def replace(folder: pathlib.Path, manifest: Manifest) -> None:
    """Writes a manifest, atomically, in place of the one that is there; see `write`."""
    metrics = {name: value for name, value in manifest.metrics.items() if math.isfinite(value)}
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(manifest), "metrics": metrics}
    artefacts.write_json(folder / NAME, content)


def read(folder: pathlib.Path) -> Manifest | None:
    """The manifest of a checkpoint dir, or None if it is absent, truncated or of another version."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            return None
        files = {
            name: (int(size), str(digest)) for name, (size, digest) in content["files"].items()
        }
        return Manifest(int(content["step"]), content["metrics"], content["progress"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remove(path: pathlib.Path) -> None:
    """Removes a checkpoint dir, its manifest first, so that a half removed one is never valid."""
    if path.is_dir():
        (path / NAME).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def digest(folder: pathlib.Path, *, only: str) -> str:
    """One checksum for all files under a sub-folder: which parameters a checkpoint has.

    Args:
        folder: a checkpoint dir with a manifest.
        only: the sub-folder, such as `params`.

    Raises:
        UserError: it has no manifest (any more).
    """
    manifest = read(folder)
    if manifest is None:
        raise UserError("has no readable manifest; wanted a complete checkpoint", file=str(folder))
    files = sorted((n, *f) for n, f in manifest.files.items() if n.startswith(f"{only}/"))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def damage(folder: pathlib.Path, *, only: str | None = None) -> str | None:
    """Says what is wrong with a checkpoint dir, or None when every byte is as it was written.

    Args:
        folder: the checkpoint dir.
        only: check only the files under this sub-folder (`params` when nothing else is restored).
    """
    manifest = read(folder)
    if manifest is None:
        return "its manifest is missing or unreadable: its writing was interrupted"
    files = manifest.files.items()
    chosen = [(n, f) for n, f in files if only is None or n.startswith(f"{only}/")]
    if not chosen:
        return f"its manifest lists no file{'' if only is None else f' under {only}'}"
    for name, (size, _) in chosen:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes; {size} were written"
    for name, (_, digest) in chosen:
        if artefacts.sha256_of_file(folder / name) != digest:
            return f"{name} does not match its checksum"
    return None
