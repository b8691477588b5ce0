"""Agreement between hosts: on what host 0 found, on their progress, and on errors of one of them.

What they say goes through JAX's coordination service, not through the devices: a host may be late by
any time, while a collective on CPUs gives up after 30 seconds.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax._src import distributed

from genrec_jax.errors import UserError

Given = TypeVar("Given")

PATIENCE_MS = 24 * 3600 * 1000
"""How long hosts wait for each other. One that is dead is noticed by its heartbeat, long before."""

_numbers = itertools.count()
"""Of agreements; every host comes to each of them, so all count alike."""


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
    told = json.loads(_agree(json.dumps(message) if message else None)[0])
    if problem is not None:
        raise problem
    if "problem" in told:
        raise UserError(told["problem"])
    return told["found"]


def barrier() -> None:
    """Waits until every host has called this."""
    if jax.process_count() > 1:
        _agree(None)


def together(
    act: Callable[[], Given], *, file: str, on: Callable[[int], bool] = lambda host: True
) -> Given | None:
    """Acts on some hosts, or on all, while the others wait; where one of them fails, all of them do.

    Args:
        act: does nothing that takes all hosts.
        file: what it is about, for the error of those that only hear of it.
        on: whether the host of a number acts.

    Returns:
        What `act` gave; None on a host that did not act.

    Raises:
        UserError: another host failed; it says why. A host that failed raises what `act` raised.
    """
    given, problem, message = None, None, None
    if on(jax.process_index()):
        try:
            given = act()
        except Exception as error:
            problem = error
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            message = f"{kind}{error}"
    if jax.process_count() > 1:
        failed = _agree(message)
        if problem is None and failed:
            number = min(failed)
            problem = UserError(f"host {number} failed: {failed[number]}", file=file)
    if problem is not None:
        raise problem
    return given


def coordinator() -> Any:
    """The client, in this process, of the coordination service, which keeps keys and values for all hosts.

    Raises:
        UserError: the processes were not joined.
    """
    client = distributed.global_state.client
    if client is None:
        raise UserError(
            "there are several processes, which do not know each other; call jax.distributed.initialize()"
            " first, as `genrec ... --multihost` does"
        )
    return client


def _agree(message: str | None) -> dict[int, str]:
    """Waits until all hosts have come here; what those with a message said, by number of host."""
    client, number, own = coordinator(), next(_numbers), jax.process_index()
    if message is not None:
        client.key_value_set(f"genrec_agreed/{number}/{own}", message)
    client.wait_at_barrier(f"genrec_agreed_{number}", PATIENCE_MS)
    said = client.key_value_dir_get(f"genrec_agreed/{number}/")
    if own == 0 and number:  # all have come further, so all have read it
        client.key_value_delete(f"genrec_agreed/{number - 1}/")
    return {int(key.rpartition("/")[2]): text for key, text in said}
