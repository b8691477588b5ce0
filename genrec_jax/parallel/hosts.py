"""Agreement between hosts: on what host 0 found, on their progress, and on errors of one of them."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from genrec_jax.errors import UserError

_MULTIPLE = 1024
"""Messages are padded to a multiple of so many bytes, so that few lengths are compiled for."""


def from_first(find: Callable[[], Any]) -> Any:
    """The result of a function that only host 0 calls; every host of the job calls `from_first`.

    Args:
        find: gives a value that JSON has; it does nothing that takes all hosts.

    Raises:
        UserError: on all hosts, where it raises one on host 0; on the others for any other error.
    """
    if jax.process_count() == 1:
        return find()
    message: dict[str, Any] = {}
    problem: Exception | None = None
    if jax.process_index() == 0:
        try:
            message = {"found": find()}
        except UserError as error:
            problem, message = error, {"problem": str(error)}
        except Exception as error:
            said = f"host 0 failed ({type(error).__name__}: {error}); see its message"
            problem, message = error, {"problem": said}
    told = json.loads(_broadcast(json.dumps(message).encode()))
    if problem is not None:
        raise problem
    if "problem" in told:
        raise UserError(told["problem"])
    return told["found"]


def barrier(name: str) -> None:
    """Waits until every host has called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def together(act: Callable[[], None], *, on: Callable[[int], bool], file: str) -> None:
    """Acts on some hosts while the others wait; where one of them fails, all of them do.

    Args:
        act: does nothing that takes all hosts.
        on: whether the host of a number acts.
        file: what it is about, for the error of those that only hear of it.

    Raises:
        UserError: another host failed. A host that failed raises what `act` raised.
    """
    problem: Exception | None = None
    if on(jax.process_index()):
        try:
            act()
        except Exception as error:
            problem = error
    if jax.process_count() > 1:
        failed = np.asarray(multihost_utils.process_allgather(np.int32(problem is not None)))
        if problem is None and failed.any():
            number = int(np.flatnonzero(failed)[0])
            problem = UserError(f"host {number} failed; see its message", file=file)
    if problem is not None:
        raise problem


def _broadcast(message: bytes) -> bytes:
    """Host 0's bytes, with spaces behind."""
    size = -(-len(message) // _MULTIPLE) * _MULTIPLE
    size = int(multihost_utils.broadcast_one_to_all(np.int32(size)))
    padded = np.frombuffer(message.ljust(size)[:size], np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
