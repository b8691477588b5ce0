"""`--multihost` with real processes: they find each other, or say what is missing."""

import os
import socket
import subprocess
import sys

JOIN = """
from genrec_jax.cli import multihost
multihost.join()
import jax
print(jax.process_index(), "of", jax.process_count(), "with", jax.device_count(), "devices")
"""
NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "XLA_FLAGS")


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in NAMES}
    return plain | {"JAX_PLATFORMS": "cpu", "GENREC_COMPILATION_CACHE": ""} | more


def test_processes_that_the_environment_names_join():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            env=environment(
                JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(number),
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert outputs == ["0 of 2 with 2 devices", "1 of 2 with 2 devices"]


def test_without_a_cluster_it_says_what_to_set():
    command = [sys.executable, "-m", "genrec_jax.cli.main", "evaluate", "runs/a", "--multihost"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 2
    assert ran.stderr.startswith("genrec evaluate: error: --multihost: ")
    assert "JAX_COORDINATOR_ADDRESS=HOST:PORT" in ran.stderr
    assert "Traceback" not in ran.stderr
