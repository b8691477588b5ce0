"""What every test shares: fake CPU devices, strict promotion, bounded memory, the way to `../shared`."""

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

PROGRAMS_LIMIT = 2 << 30
"""Bytes of a test process beyond which its compiled programs are dropped."""
SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Real data and fixtures beside the checkout; tests that need them skip without."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real data and fixtures in {SHARED}, which is absent")
    return SHARED


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Drops compiled programs after a module where they have come to gigabytes: two processes run."""
    yield
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return  # no Linux
    if pages * os.sysconf("SC_PAGE_SIZE") > PROGRAMS_LIMIT:
        jax.clear_caches()


def pytest_runtest_logreport(report: pytest.TestReport):
    """Names a failed test when it fails: the suite takes minutes, and its summary comes last."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when})", flush=True)
