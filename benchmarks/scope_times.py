"""Where the time of a compiled program goes, by `jax.named_scope`, from JAX's own profiler.

Every operation of the program counts for the innermost of the given scopes that it was traced in, and
for `other` where XLA made it up (copies) or it lies in none. Times of one operation are those of the
thread that waits for it; so the sum over scopes is the program's wall time on one core
(`taskset -c 0`), and nearly so on several.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?\s([\w\-]+)\(", re.MULTILINE)
OP_NAME = re.compile(r'op_name="([^"]*)"')
CONTAINERS = {"while", "conditional", "call", "tuple", "get-tuple-element", "parameter"}


class ScopeTimes(NamedTuple):
    """Seconds of one run by scope, and how often the busiest operation of each scope ran."""

    seconds: dict[str, float]
    times_run: dict[str, int]


def scope_times(
    compiled: jax.stages.Compiled, run: Callable[[], Any], scopes: Sequence[str], runs: int = 3
) -> ScopeTimes:
    """Profiles `run`, which calls the program that `compiled` is.

    Args:
        compiled: the program, for the names of its operations.
        run: runs it once.
        scopes: names given to `jax.named_scope`.
        runs: how often to run it; times are averages.
    """
    scope_of = _scopes_of(compiled.as_text() or "", scopes)
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                jax.block_until_ready(run())
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    seconds, counts = collections.Counter(), collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in scope_of:
                    seconds[scope_of[event.name]] += event.duration_ns / 1e9 / runs
                    counts[event.name] += 1
    times_run = dict.fromkeys((*scopes, "other"), 0)
    for name, count in counts.items():
        times_run[scope_of[name]] = max(times_run[scope_of[name]], round(count / runs))
    return ScopeTimes({scope: seconds[scope] for scope in times_run}, times_run)


def _scopes_of(text: str, scopes: Sequence[str]) -> dict[str, str]:
    """The scope of every operation that runs by itself: not loops, whose bodies are counted."""
    found = {}
    for line in text.splitlines():
        instruction = INSTRUCTION.match(line)
        if instruction is None or instruction.group(2) in CONTAINERS:
            continue
        op_name = OP_NAME.search(line)
        parts = op_name.group(1).split("/") if op_name else []
        named = [part for part in parts if part in scopes]
        found[instruction.group(1)] = named[-1] if named else "other"
    return found
