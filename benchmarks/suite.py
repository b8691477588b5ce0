"""Runs benchmarks one after another, each a process with a time limit, and writes down how each ended.

`cpu_suite.py` and `gpu_suite.py` hold the lists. A benchmark writes its own JSON as it goes, so one that
is cut short keeps what it has measured; `suite_<name>.json` says which ones were.
"""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import common

KILL_AFTER = 5.0
TRIAL_FACTOR = 10
"""A trial may take so many times the limit: it shows that all runs, on however busy a machine."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One benchmark of a suite.

    Attributes:
        result: the stem of the file of results that it writes.
        module: what is run, a file of `benchmarks/`.
        seconds: its time limit.
        arguments: its flags.
        smoke: its flags in a trial, which only shows that it works.
        peer: what `install_peers.sh` calls the peer beside which it runs. Where that is not installed,
            the benchmark says so and measures ours alone.
        one_core: run on one core.
        needs: a folder beside the checkout without which there is nothing to measure.
    """

    result: str
    module: str
    seconds: int
    arguments: tuple[str, ...] = ()
    smoke: tuple[str, ...] = ()
    peer: str | None = None
    one_core: bool = False
    needs: pathlib.Path | None = None

    def command(self, *, smoke: bool) -> list[str]:
        """The words of its process."""
        words = ["taskset", "-c", "0"] if self.one_core else []
        words += [sys.executable, "-m", f"benchmarks.{self.module}"]
        return words + list(self.smoke if smoke else self.arguments)


def budgets(steps: Sequence[Step]) -> str:
    """A Markdown table of what is run, and of each step's limit."""
    lines = [
        "| result | limit | command, after `python -m benchmarks.` | peer |",
        "|---|---:|---|---|",
    ]
    for step in steps:
        words = " ".join((step.module, *step.arguments))
        core = ", on one core" if step.one_core else ""
        peer = f"`{step.peer}`" if step.peer else ""
        lines.append(f"| `{step.result}` | {step.seconds} s | `{words}`{core} | {peer} |")
    total = sum(step.seconds for step in steps)
    return "\n".join([*lines, f"| all | {total} s | | |"])


def installed(peer: str) -> bool:
    """Whether `install_peers.sh` has put a peer where it puts them."""
    return (common.PEERS / peer / "installed").exists()


def run(
    name: str,
    steps: Sequence[Step],
    *,
    smoke: bool = False,
    total_seconds: float | None = None,
    lend: bool = False,
    peer_there: Callable[[str], bool] = installed,
) -> int:
    """Runs the steps and tells how they ended, on the terminal and in `suite_<name>.json`.

    Args:
        name: of the suite.
        steps: in order.
        smoke: a trial at small sizes.
        total_seconds: of all steps together, the ending of one cut short included; those that come
            after it are not begun.
        lend: of `total_seconds`, a step may also take what no other has a claim to: what earlier ones
            left over, and what is beyond the sum of all limits.
        peer_there: whether a peer is installed.

    Returns:
        How many steps failed or were cut short.
    """
    deadline = None if total_seconds is None else time.monotonic() + total_seconds
    entries: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        there = step.peer is not None and peer_there(step.peer)
        limit = step.seconds * (TRIAL_FACTOR if smoke else 1)
        entry: dict[str, Any] = {"result": step.result, "limit_s": limit}
        if step.peer is not None:
            entry["peer"] = step.peer if there else common.how_to_install(step.peer)
        left = float(limit)
        if deadline is not None:
            left = deadline - KILL_AFTER - time.monotonic()
            if lend:
                claimed = sum(later.seconds for later in steps[number + 1 :])
                left = min(left, max(limit, left - claimed))
            else:
                left = min(left, limit)
        if step.needs is not None and not step.needs.exists():
            entry["status"] = f"not measured: needs {step.needs.name}, which is not there"
        elif left < 1:
            entry["status"] = "not measured: the suite's time was used up"
        else:
            command = step.command(smoke=smoke)
            print("$", " ".join(command), flush=True)
            began = time.monotonic()
            entry["status"] = _run_one(command, left)
            entry["seconds"] = round(time.monotonic() - began, 1)
        entries.append(entry)
        payload = {"smoke": smoke, "total_limit_s": total_seconds, "steps": entries}
        # This process leaves the device alone: JAX would take most of a GPU's memory.
        path = common.write_result(f"suite_{name}", payload, with_device=False)
    _show(name, entries)
    print(f"wrote {path}")
    return sum(entry["status"].startswith(("failed", "cut")) for entry in entries)


def _run_one(command: list[str], limit: float) -> str:
    """Runs a process and all that it starts, at most so long: `measured`, or what went wrong."""
    variables = {
        "PYTHONPATH": os.pathsep.join(
            [str(common.ROOT), str(common.PEERS / "static"), os.environ.get("PYTHONPATH", "")]
        ),
        # Large pages halve a training step's time; the commands of genrec set this by themselves.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        common.RESULTS_VARIABLE: str(common.RESULTS),
    }
    process = subprocess.Popen(
        command, cwd=common.ROOT, env={**os.environ, **variables}, start_new_session=True
    )
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"cut short after {limit:.0f} s"
    except BaseException:
        _end(process)
        raise
    return "measured" if status == 0 else f"failed with exit status {status}"


def _end(process: subprocess.Popen) -> None:
    """Ends a process and its children: kindly, then not."""
    for number, wait in ((signal.SIGTERM, KILL_AFTER), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(wait)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _show(name: str, entries: Iterable[dict[str, Any]]) -> None:
    table = Table("benchmark", "seconds", "limit", "ended", "peer", title=f"{name} benchmarks")
    for entry in entries:
        table.add_row(
            entry["result"],
            str(entry.get("seconds", "")),
            str(entry["limit_s"]),
            entry["status"],
            entry.get("peer", ""),
        )
    Console(width=140).print(table)
