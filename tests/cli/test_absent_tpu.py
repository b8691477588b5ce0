"""Where libtpu is installed and no TPU is there, JAX is not left to find that out."""

import os
import subprocess
import sys

import pytest

from genrec_jax.cli import absent_tpu


@pytest.fixture
def installed(monkeypatch):
    """Packages that are there."""
    there = {"libtpu"}
    monkeypatch.setattr(
        absent_tpu.importlib.util, "find_spec", lambda name: name if name in there else None
    )
    return there


def test_platforms(installed, tmp_path):
    platforms = absent_tpu.platforms_without_tpu
    assert platforms({}, tmp_path) == "cpu"
    assert platforms({"JAX_PLATFORMS": ""}, tmp_path) is None
    assert platforms({"JAX_FORCE_TPU_INIT": "1"}, tmp_path) is None
    installed.add("jax_cuda13_plugin")
    assert platforms({}, tmp_path) == "cuda,cpu"
    installed.remove("libtpu")
    assert platforms({}, tmp_path) is None


@pytest.mark.parametrize("chip", ["accel0", "vfio/0"])
def test_a_tpu_is_left_to_jax(installed, tmp_path, chip):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # the container of groups, which other machines have too
    assert absent_tpu.platforms_without_tpu({}, tmp_path) == "cpu"
    (tmp_path / chip).touch()
    assert absent_tpu.platforms_without_tpu({}, tmp_path) is None


@pytest.mark.parametrize("imported", [False, True])
def test_a_trace_does_not_end_the_process(tmp_path, imported):
    """In a process of its own, with nothing said of platforms: libtpu is a developer's requirement."""
    pytest.importorskip("libtpu", reason="needs libtpu: pip install genrec-jax[tpu-plan]")
    program = f"""
{"import jax" if imported else ""}
from genrec_jax.cli import absent_tpu
absent_tpu.leave_out()
import jax
jax.profiler.start_trace({str(tmp_path)!r})
jax.block_until_ready(jax.numpy.ones(3) + 1)
jax.profiler.stop_trace()
print(jax.devices())
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "CpuDevice" in run.stdout and "libtpu" not in run.stderr
