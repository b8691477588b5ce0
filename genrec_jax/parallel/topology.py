"""Clusters by name (`v5e-16`, `h100-8`, `cpu-8`): number of devices, their memory and their speed.

Numbers are the makers' data sheets'. A TPU's devices come from libtpu, without a TPU, for compiling
ahead of time.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax

from genrec_jax.errors import UserError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
        name: as in a topology's name.
        kind: `tpu`, `gpu` or `cpu`.
        memory: bytes of device memory; None for a CPU, whose devices share the host's.
        peak_flops: dense bfloat16 matrix products a second; None for a CPU.
        wires: bytes a second that a TPU sends over all its links to other chips (half of what the data
            sheets call bidirectional); None for other devices.
        counts_cores: the number in the name counts cores, two a chip and device.
        dimensions: of the wiring.
        config: libtpu's name of the chip's configuration, where the default is not one device a chip.
        device_kinds: what JAX calls such a device: whole names of a TPU, words of a GPU's.
    """

    name: str
    kind: Literal["tpu", "gpu", "cpu"]
    memory: int | None
    peak_flops: float | None
    wires: float | None = None
    counts_cores: bool = False
    dimensions: int = 2
    config: str | None = None
    device_kinds: tuple[str, ...] = ()


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 32 * GIB, 275e12, 300e9, True, 3, "megacore", device_kinds=("TPU v4",)),
        Chip("v5e", "tpu", 16 * GIB, 197e12, 200e9, device_kinds=("TPU v5 lite", "TPU v5e")),
        Chip("v5p", "tpu", 95 * GIB, 459e12, 600e9, True, 3, device_kinds=("TPU v5", "TPU v5p")),
        Chip("v6e", "tpu", 32 * GIB, 918e12, 400e9, device_kinds=("TPU v6 lite", "TPU v6e")),
        Chip("a100", "gpu", 80 * 10**9, 312e12, device_kinds=("A100",)),
        Chip("h100", "gpu", 80 * 10**9, 989e12, device_kinds=("H100",)),
        Chip("h200", "gpu", 141 * 10**9, 989e12, device_kinds=("H200",)),
        Chip("cpu", "cpu", None, None),
    )
}
SLOWER_MAKES = ("H100 PCIe", "H100 NVL", "H200 NVL")
"""GPUs that are slower than the chip of their name."""

# Chips -> the shape of a slice.
_FLAT = {
    1: (1, 1),
    4: (2, 2),
    8: (2, 4),
    16: (4, 4),
    32: (4, 8),
    64: (8, 8),
    128: (8, 16),
    256: (16, 16),
}
_CUBE = {
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A cluster.

    Attributes:
        name: as the user wrote it.
        chip: what its devices are.
        num_devices: how many JAX sees.
    """

    name: str
    chip: Chip
    num_devices: int

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of a TPU slice; None elsewhere."""
        if self.chip.kind != "tpu":
            return None
        return (_FLAT if self.chip.dimensions == 2 else _CUBE)[self.num_devices]


def parse(name: str) -> Topology:
    """A topology from its name: chip, dash, number (of cores for v4 and v5p, as Google counts them).

    Raises:
        UserError: an unknown chip or number; it lists those there are.
    """
    match = re.fullmatch(r"([a-z0-9]+)-(\d+)", name)
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None:
        raise UserError(
            f"topology is {name!r}; wanted a chip of {', '.join(CHIPS)}, a dash and a number, such as"
            " v5e-16, v4-32, h100-8 or cpu-8"
        )
    number = int(match[2])
    devices = number // 2 if chip.counts_cores else number
    if chip.kind == "tpu":
        known = _FLAT if chip.dimensions == 2 else _CUBE
        numbers = [count * (2 if chip.counts_cores else 1) for count in known]
        if number not in numbers:
            what = "cores, two a chip" if chip.counts_cores else "chips"
            raise UserError(
                f"topology is {name!r}; wanted a number of {what} of"
                f" {', '.join(f'{chip.name}-{size}' for size in numbers)}"
            )
    elif number < 1:
        raise UserError(f"topology is {name!r}; wanted at least 1 device")
    return Topology(name, chip, devices)


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this JAX name (`device.device_kind`); None if it is not one of these."""
    if any(make in device_kind for make in SLOWER_MAKES):
        return None
    names = {device_kind, *re.split(r"[\s-]", device_kind)}
    return next((chip for chip in CHIPS.values() if names & set(chip.device_kinds)), None)


def has_libtpu() -> bool:
    """Whether libtpu, which compiles for TPUs, is installed."""
    return importlib.util.find_spec("libtpu") is not None


def devices_of(topology: Topology) -> Sequence[Any] | None:
    """The devices to compile for; None where that needs the real ones (GPUs).

    Raises:
        UserError: libtpu is missing or busy, or JAX was started with too few fake CPU devices.
    """
    if topology.chip.kind == "tpu":
        return _tpu_devices(topology)
    if topology.chip.kind == "gpu":
        return None
    devices = jax.devices("cpu")
    if len(devices) < topology.num_devices:
        raise UserError(
            f"JAX sees {len(devices)} CPU devices; {topology.name} needs {topology.num_devices}. Set"
            f" XLA_FLAGS=--xla_force_host_platform_device_count={topology.num_devices}"
        )
    return devices[: topology.num_devices]


def _tpu_devices(topology: Topology) -> Sequence[Any]:
    from jax.experimental import topologies

    if not has_libtpu():
        raise UserError(
            "compiling for a TPU needs libtpu, which is not installed: pip install 'genrec-jax[tpu-plan]'."
            " --count-only plans without it"
        )
    # No TPU is asked for: neither its metadata nor the lock that one process takes on it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    _load_libtpu()
    options = {} if topology.chip.config is None else {"chip_config_name": topology.chip.config}
    shape = "x".join(map(str, topology.shape or ()))
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{topology.chip.name}:{shape}", **options
        )
    except Exception as error:  # libtpu raises whatever its C side says
        text = " ".join(str(error).split())
        raise UserError(f"libtpu does not describe {topology.name}: {text[:300]}") from error
    return described.devices


def _load_libtpu() -> None:
    """Loads libtpu as a compiler alone.

    Left to itself JAX registers libtpu's profiler too, and where there is no TPU the next trace of any
    backend then ends the process with a segmentation fault (jax 0.10.2, libtpu 0.0.51).
    """
    import libtpu
    from jax._src.lib import xla_client

    if not xla_client.pjrt_plugin_loaded("tpu"):
        xla_client.load_pjrt_plugin_dynamically("tpu", libtpu.get_library_path())
