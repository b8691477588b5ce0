"""What host 0 finds, told to all hosts: files and clocks may look different from another machine."""

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
    """What a function gives on host 0, where alone it is called; every host of the job calls this.

    Args:
        find: gives a value that JSON has; it does nothing that takes all hosts.

    Raises:
        UserError: on all hosts, where it raises one on host 0.
    """
    if jax.process_count() == 1:
        return find()
    message: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            message = {"found": find()}
        except UserError as error:
            message = {"problem": str(error)}
    told = json.loads(_broadcast(json.dumps(message).encode()))
    if "problem" in told:
        raise UserError(told["problem"])
    return told["found"]


def _broadcast(message: bytes) -> bytes:
    """Host 0's bytes, with spaces behind."""
    size = -(-len(message) // _MULTIPLE) * _MULTIPLE
    size = int(multihost_utils.broadcast_one_to_all(np.int32(size)))
    padded = np.frombuffer(message.ljust(size)[:size], np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
