"""What every benchmark script shares: writing its measurement with the conditions it was made under."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

from genrec_jax.data import artefacts

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def write_result(name: str, payload: dict[str, Any]) -> pathlib.Path:
    """Writes `benchmarks/results/<name>.json`, whole or not at all.

    Args:
        name: of the benchmark, the file's stem.
        payload: what was measured; its keys must not clash with `name` and `conditions`.

    Returns:
        The file. Beside the payload it holds `conditions`: versions, device, number of CPUs, commit
        (with `-dirty` where the checkout has changes) and date.
    """
    clashes = {"name", "conditions"} & payload.keys()
    if clashes:
        raise ValueError(f"the payload has reserved keys: {sorted(clashes)}")
    path = RESULTS / f"{name}.json"
    artefacts.write_json(path, {"name": name, "conditions": conditions(), **payload})
    return path


def conditions() -> dict[str, Any]:
    """Versions, device, CPUs, commit and date of this measurement."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "device": device(),
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
    }


def device() -> str:
    """What JAX computes on, such as `1 x NVIDIA H200`; `none` where JAX is not installed."""
    try:
        import jax
    except ImportError:
        return "none"
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def git_commit() -> str | None:
    """The checkout's commit, or None outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=RESULTS.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
