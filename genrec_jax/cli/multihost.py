"""`--multihost`: joins the processes of a job on several hosts, before JAX looks for devices."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from genrec_jax.errors import UserError

if TYPE_CHECKING:
    from genrec_jax.parallel.failure import Watch

COORDINATOR, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

watch: Watch | None = None
"""Of the other processes, once they have joined."""


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Declares the flag."""
    parser.add_argument(
        "--multihost",
        action="store_true",
        help="this is one process of several, all started with the same command; TPU pods, Slurm, Open MPI"
        f" and Kubernetes say which, elsewhere the environment does: {COORDINATOR}=HOST:PORT of process"
        f" 0, {COUNT}, {NUMBER} from 0",
    )


def join() -> None:
    """Waits until all processes of the job are there; from then on the failure of one ends all.

    Raises:
        UserError: nothing says which processes there are.
    """
    import jax

    global watch
    try:
        count, number = (
            int(os.environ[name]) if name in os.environ else None for name in (COUNT, NUMBER)
        )
        jax.distributed.initialize(num_processes=count, process_id=number)
    except ValueError as error:
        raise UserError(
            f"--multihost: {error} Wanted a cluster that JAX knows (TPU pod, Slurm, Open MPI, Kubernetes),"
            f" or {COORDINATOR}=HOST:PORT, {COUNT} and {NUMBER} in the environment of every process"
        ) from error
    from genrec_jax.parallel.failure import Watch

    if jax.process_count() > 1:
        watch = Watch()
