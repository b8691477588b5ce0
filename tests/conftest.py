"""What every test shares: fake CPU devices, strict promotion, and the way to `../shared`."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: without LLVM's optimisation, compiling takes half the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("GENREC_COMPILATION_CACHE", "")  # tests leave the home folder alone

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Real data and fixtures beside the checkout; tests that need them skip without."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real data and fixtures in {SHARED}, which is absent")
    return SHARED
