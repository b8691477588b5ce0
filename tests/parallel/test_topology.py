"""Clusters by name."""

import math
import os
import subprocess
import sys

import pytest

from genrec_jax.errors import UserError
from genrec_jax.parallel import topology


@pytest.mark.parametrize(
    ("name", "devices", "shape"),
    [
        ("v5e-16", 16, (4, 4)),
        ("v6e-256", 256, (16, 16)),
        ("v4-32", 16, (2, 2, 4)),
        ("v5p-64", 32, (2, 4, 4)),
        ("h100-8", 8, None),
        ("cpu-8", 8, None),
    ],
)
def test_names(name, devices, shape):
    """v4 and v5p are counted in cores, of which a chip has two; JAX sees one device a chip."""
    found = topology.parse(name)
    assert (found.num_devices, found.shape) == (devices, shape)
    assert shape is None or math.prod(shape) == devices


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("v5e", "wanted a chip of v4, v5e"),
        ("v9-8", "wanted a chip of v4, v5e"),
        ("v5e-12", "wanted a number of chips of v5e-1, v5e-4, v5e-8, v5e-16"),
        ("v4-16", None),
        ("v4-12", "wanted a number of cores, two a chip of v4-8, v4-16"),
        ("h100-0", "wanted at least 1 device"),
    ],
)
def test_names_that_mean_nothing_are_refused(name, wanted):
    if wanted is None:
        assert topology.parse(name).num_devices == 8
        return
    with pytest.raises(UserError, match=wanted):
        topology.parse(name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("TPU v3", None),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "h200"),
        ("cpu", None),
    ],
)
def test_chips_by_what_jax_calls_their_devices(kind, name):
    found = topology.chip_of(kind)
    assert (None if found is None else found.name) == name


def test_devices_are_those_that_can_be_compiled_for(monkeypatch):
    assert topology.devices_of(topology.parse("h100-8")) is None
    assert len(topology.devices_of(topology.parse("cpu-4"))) == 4
    with pytest.raises(UserError, match=r"JAX sees 8 CPU devices; cpu-16 needs 16. Set XLA_FLAGS"):
        topology.devices_of(topology.parse("cpu-16"))
    monkeypatch.setattr(topology, "has_libtpu", lambda: False)
    with pytest.raises(UserError, match=r"needs libtpu.*genrec-jax\[tpu-plan\].*--count-only"):
        topology.devices_of(topology.parse("v5e-4"))


def test_a_trace_after_compiling_for_a_tpu_is_still_written(tmp_path):
    """In a process of its own: libtpu's profiler, once registered, ends it."""
    if not topology.has_libtpu():
        pytest.skip("needs libtpu, which compiles for TPUs: pip install 'genrec-jax[tpu-plan]'")
    program = f"""
import jax
from genrec_jax.parallel import topology

for name, chips in (("v4-8", 4), ("v5e-4", 4), ("v5p-8", 4), ("v6e-4", 4)):
    devices = topology.devices_of(topology.parse(name))
    assert len(devices) == chips
    assert topology.chip_of(devices[0].device_kind) == topology.parse(name).chip
jax.profiler.start_trace({str(tmp_path)!r})
jax.block_until_ready(jax.numpy.ones(3) * 2)
jax.profiler.stop_trace()
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
