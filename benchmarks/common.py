"""What every benchmark script shares: writing its measurement with the conditions it was made under."""

import datetime
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import subprocess
from typing import Any

from genrec_jax.cli import absent_tpu
from genrec_jax.data import artefacts

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS_VARIABLE = "BENCHMARK_RESULTS"
"""Names the folder that results go to, where that is not `benchmarks/results`."""

COMMIT_VARIABLE = "BENCHMARK_COMMIT"
"""Names the commit that is measured, where git cannot: a copy of a checkout without its history."""

RESULTS = pathlib.Path(os.environ.get(RESULTS_VARIABLE) or ROOT / "benchmarks" / "results")
PACKAGES = ("jax", "jaxlib", "flax", "numpy")
GPU_PACKAGES = (
    *("jax-cuda12-plugin", "nvidia-cudnn-cu12", "nvidia-cublas-cu12"),
    *("jax-cuda13-plugin", "nvidia-cudnn-cu13", "nvidia-cublas"),
)
PEERS = ROOT / ".peers"
SHARED = ROOT.parent / "shared" / "data"
"""Real data beside the checkout."""

BEAUTY = SHARED / "amazon_beauty"
VOCABULARY = SHARED / "t5_vocabulary" / "spiece.model"


absent_tpu.leave_out()  # every benchmark imports this module before it computes


def use_results(folder: str | pathlib.Path) -> None:
    """Sends the results of this process, and of the benchmarks that it starts, to a folder."""
    global RESULTS
    RESULTS = pathlib.Path(folder).absolute()


def write_result(name: str, payload: dict[str, Any], *, with_device: bool = True) -> pathlib.Path:
    """Writes `benchmarks/results/<name>.json`, whole or not at all.

    Args:
        name: of the benchmark, the file's stem.
        payload: what was measured; its keys must not clash with `name` and `conditions`.
        with_device: ask JAX what it computes on, which starts it up.

    Returns:
        The file. Beside the payload it holds `conditions`: versions, device, number of CPUs, commit
        (with `-dirty` where the checkout has changes), date and load. Called again as more is measured,
        so that a run which is cut short keeps what it has.
    """
    clashes = {"name", "conditions"} & payload.keys()
    if clashes:
        raise ValueError(f"the payload has reserved keys: {sorted(clashes)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    artefacts.write_json(path, {"name": name, "conditions": conditions(with_device), **payload})
    return path


def write_between(page: pathlib.Path, begin: str, end: str, text: str) -> None:
    """Replaces what stands between two marks of a page.

    Raises:
        ValueError: the page does not have both marks, in this order.
    """
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} lacks {begin!r} with {end!r} after it")
    with artefacts.atomic_file(page) as temporary:
        temporary.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def huge_pages() -> bool:
    """Whether this process was started with huge pages for its memory, which its times depend on."""
    return "hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")


def conditions(with_device: bool = True) -> dict[str, Any]:
    """Versions, device, CPUs, commit, date and the load of the last minute."""
    return {
        **({"device": device(), **gpu_versions()} if with_device else {}),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def device() -> str:
    """What JAX computes on, such as `1 x NVIDIA H200`; `none` where JAX is not installed."""
    try:
        import jax
    except ImportError:
        return "none"
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


@functools.cache
def gpu_versions() -> dict[str, Any]:
    """Of the driver, CUDA and cuDNN, as far as they can be read; nothing where JAX has no GPU."""
    try:
        import jax
    except ImportError:
        return {}
    if jax.default_backend() != "gpu":
        return {}
    platform = getattr(getattr(jax.devices()[0], "client", None), "platform_version", None)
    packages = {package: _version(package) for package in GPU_PACKAGES}
    return {
        "driver": _driver(),
        "platform": platform,
        **{package: version for package, version in packages.items() if version is not None},
    }


def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip().partition("\n")[0] or None


def git_commit() -> str | None:
    """The checkout's commit, with `-dirty` where tracked files differ.

    Results and the page made of them may differ: measuring changes them. Where git does not tell (there
    is no `.git`, or it is another user's), what the environment names; None where it names nothing.
    """
    made = [":(exclude)benchmarks/results", ":(exclude)docs/performance*"]
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *made)
    if commit is None:
        return os.environ.get(COMMIT_VARIABLE) or None
    return commit + ("-dirty" if changed else "")


def _git(*words: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def how_to_install(peer: str) -> str:
    """What stands in place of a ratio whose peer is not there."""
    return f"not measured: install the peer with `bash benchmarks/install_peers.sh {peer}`"


def static_there() -> bool:
    """Whether STATIC's code can be imported; says how to install it where it cannot."""
    if importlib.util.find_spec("static_decoding") is not None:
        return True
    print(f"STATIC: {how_to_install('static')}, and put .peers/static on PYTHONPATH", flush=True)
    return False


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
