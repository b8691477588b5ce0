"""One host's failure is the job's: the others, which may wait for it in a collective, hear why, and end.

Left to itself a process that failed waits in JAX's shutdown for the others, which wait for it; after five
minutes all are aborted, and say nothing of why.
"""

import contextlib
import json
import os
import sys
import threading
import time
from typing import NoReturn

import jax

from genrec_jax.parallel import hosts

_FIRST, _ENDED = "genrec_failed/first", "genrec_failed_ended"

POLL = 1.0
"""Seconds between two looks at whether another host has failed."""
GRACE = 5.0
"""Seconds that a host has to end by itself, most often for the same reason, before it is ended."""
LIMIT = 15.0
"""Seconds that host 0, which keeps what hosts say, stays for the others to hear."""


class Watch:
    """Ends this process, by a thread of its own, when another host of the job has failed."""

    def __init__(self):
        self._client = hosts.coordinator()
        self._number, self._count = jax.process_index(), jax.process_count()
        self._ending = threading.Lock()  # taken by the one that ends the process, never given back
        threading.Thread(target=self._listen, name="failed-hosts", daemon=True).start()

    def fail(
        self, reason: str, code: int, *, details: str = "", consequence: bool = False
    ) -> NoReturn:
        """Ends this process, which failed, and all the others with the same exit code.

        Args:
            reason: a line for all hosts.
            code: exit code of all.
            details: printed before it, on this host alone.
            consequence: whether the failure may come of another host's, whose reason is shown then.
        """
        self._ending.acquire()
        told = None
        with contextlib.suppress(Exception):
            told = self._told() if consequence else None
        if told is None:
            message = json.dumps({"host": self._number, "reason": reason, "code": code})
            with contextlib.suppress(Exception):  # another host was first
                self._client.key_value_set(_FIRST, message)
            self._leave(details + reason, code)
        self._leave(*told)

    def _listen(self) -> None:
        told = None
        with contextlib.suppress(Exception):  # the job has ended, or host 0 has vanished
            while (told := self._told()) is None:
                time.sleep(POLL)
        if told is not None:
            time.sleep(GRACE)
            self._ending.acquire()
            self._leave(*told)

    def _told(self) -> tuple[str, int] | None:
        """The line and the exit code of the host that failed first."""
        found = self._client.key_value_dir_get(_FIRST.partition("/")[0] + "/")
        if not found:
            return None
        message = json.loads(found[0][1])
        return f"host {message['host']} ended this job: {message['reason']}", message["code"]

    def _leave(self, line: str, code: int) -> NoReturn:
        """Ends the process at once, JAX's shutdown and what else would wait for other hosts left out."""
        try:
            print(line, file=sys.stderr, flush=True)
            sys.stdout.flush()
            self._client.key_value_set(f"{_ENDED}/{self._number}", "yes")
            deadline = time.monotonic() + LIMIT
            while self._number == 0 and time.monotonic() < deadline:
                time.sleep(POLL)  # the last one that has said so is ending yet
                if len(self._client.key_value_dir_get(f"{_ENDED}/")) == self._count:
                    break
        finally:
            os._exit(code)
