"""Checkpoints of several hosts that share a URL but no file system: each uploads its shards.

Every host writes its shards of the arrays to a folder of its own. Zarr names a chunk by its place in the
array, so all hosts' files together are one checkpoint, which any number of hosts restores. Metadata is
the same on all of them, and host 0's counts.
"""

import json
import logging
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import type_handlers

from genrec_jax.checkpoint import manifest
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.mirror import Mirror

TIMEOUT = 1800.0
"""Seconds that hosts wait for the slowest one's upload of a checkpoint."""

_NO_NEWS = ("Global object size logging disabled", "Skipping merge of OCDBT checkpoints")
"""Warnings of Orbax's on every save in which all hosts write alike, as here they should."""

_CHUNK = re.compile(r"\d+(\.\d+)*")


def checkpointer(*items: str) -> ocp.AsyncCheckpointer:
    """Saves pytrees, each host its own shards to a folder that no other host sees.

    Args:
        *items: names of the pytrees that make up a checkpoint.
    """
    logging.getLogger("absl").addFilter(_is_news)
    alone = ocp.options.MultiprocessingOptions(primary_host=None)
    registry = type_handlers.create_type_handler_registry(
        (jax.Array, type_handlers.ArrayHandler(primary_host=None))
    )
    handlers: dict[str, Any] = {
        item: ocp.PyTreeCheckpointHandler(
            use_ocdbt=False, multiprocessing_options=alone, type_handler_registry=registry
        )
        for item in items
    }
    # Not in the background: the signal that a folder has been made is one for all hosts, so that of the
    # host that is first would let the others write to a folder of theirs that is not there yet.
    at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    composite = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(
            multiprocessing_options=alone, async_options=at_once
        ),
        **handlers,
    )
    return ocp.AsyncCheckpointer(composite, multiprocessing_options=alone, async_options=at_once)


def gather(mirror: Mirror, name: str, written: Callable[[], None]) -> manifest.Files:
    """Uploads this host's files of a checkpoint and waits for all hosts; may run in a thread of its own.

    On hosts other than 0 the folder is removed then: the checkpoint is in the store.

    Args:
        mirror: of the checkpoints' folder, for this host.
        name: of the checkpoint.
        written: waits until this host has written its files.

    Returns:
        On host 0 what the others uploaded, which its folder has not; elsewhere nothing.

    Raises:
        UserError: the store cannot be written, or another host did not upload its files.
    """
    number, own = jax.process_index(), mirror.below(name)
    try:
        written()
        if number == 0:
            mirror.publish(name)
        else:
            _upload_chunks(own, _part(number))
    finally:  # the others are never left waiting for a host that failed
        wait = ocp.multihost.get_barrier_sync_fn()
        wait(key=f"genrec_uploaded_{name}", timeout_ms=int(1000 * TIMEOUT))
    if number:
        manifest.remove(own.folder)
        return {}
    parts = [_part(other) for other in range(1, jax.process_count())]
    own.bring(*parts)
    files: manifest.Files = {}
    for other, part in enumerate(parts, start=1):
        file = own.folder / part
        if not file.is_file():
            raise UserError(
                f"host {other} did not upload its part of the checkpoint; see its message. Earlier"
                " checkpoints stand, and the same command goes on from them",
                file=own.url,
            )
        found = json.loads(file.read_text(encoding="utf-8"))
        files |= {chunk: (size, digest) for chunk, (size, digest) in found.items()}
        own.remove(part)
        file.unlink()
    return files


def _is_news(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in _NO_NEWS)


def _upload_chunks(own: Mirror, part: str) -> None:
    """The chunks of this host, then the list of them."""
    chunks = {
        file: entry
        for file, entry in manifest.entries(own.folder).items()
        if _CHUNK.fullmatch(pathlib.PurePosixPath(file).name)
    }
    own.publish(*chunks)
    artefacts.write_json(own.folder / part, chunks)
    own.publish(part)


def _part(number: int) -> str:
    return f"{manifest.NAME}.host{number}"
