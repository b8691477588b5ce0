"""Keeps JAX from trying a TPU that is not there, where libtpu is installed for `genrec plan`.

JAX would start libtpu before it falls back to the CPU: several lines of warnings, and libtpu's profiler,
which ends the process with a segmentation fault at the next trace (`--profile`; jax 0.10.2, libtpu 0.0.51).
"""

import importlib.util
import os
import pathlib
import sys

VARIABLE = "JAX_PLATFORMS"
FORCED = "JAX_FORCE_TPU_INIT"
DEVICES = ("accel*", "vfio/[0-9]*")
"""What Linux calls the chips of a TPU VM, under `/dev`."""
GPU_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def platforms_without_tpu(
    environment: dict[str, str], devices: pathlib.Path = pathlib.Path("/dev")
) -> str | None:
    """The platforms that JAX should try, or None where that may be left to JAX.

    A setting of the user's is left as it is.
    """
    if VARIABLE in environment or FORCED in environment:
        return None
    if importlib.util.find_spec("libtpu") is None:
        return None
    if any(next(devices.glob(pattern), None) is not None for pattern in DEVICES):
        return None
    if any(importlib.util.find_spec(plugin) is not None for plugin in GPU_PLUGINS):
        return "cuda,cpu"
    return "cpu"


def leave_out() -> None:
    """Tells JAX, imported or not, as long as it has not computed yet; and the processes started later."""
    platforms = platforms_without_tpu(dict(os.environ))
    if platforms is None:
        return
    os.environ[VARIABLE] = platforms
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", platforms)
