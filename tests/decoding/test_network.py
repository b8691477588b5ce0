"""How large a step's logits may be for the search to keep them."""

import jax
import pytest

from genrec_jax.decoding import network

GIB = 1 << 30


@pytest.mark.parametrize(
    "platform, memory, processes, wanted",
    [
        ("cpu", None, 1, network.MAX_LOGITS_BYTES),
        ("cpu", 1024 * GIB, 1, network.MAX_LOGITS_BYTES),
        ("gpu", 125 * GIB, 1, 125 * GIB // 32),
        ("gpu", 500 * GIB, 1, 4 * GIB),
        ("gpu", 6 * GIB, 1, network.MAX_LOGITS_BYTES),
        ("gpu", None, 1, network.MAX_LOGITS_BYTES),  # where the allocator does not count
        ("gpu", 125 * GIB, 2, network.MAX_LOGITS_BYTES),  # all hosts decide alike
        ("tpu", 95 * GIB, 1, network.MAX_LOGITS_BYTES),  # what `genrec plan` counts with
    ],
)
def test_kept_logits(platform, memory, processes, wanted):
    assert network.kept_logits_bytes(platform, memory, processes) == wanted


def test_a_large_gpu_keeps_the_logits_of_a_large_batch():
    batch_256 = 256 * 20 * 32_128 * 4
    assert network.MAX_LOGITS_BYTES < batch_256 < network.kept_logits_bytes("gpu", 80 * GIB, 1)


def test_the_first_device_decides(monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 64 * GIB}

    assert network._kept_here() == network.MAX_LOGITS_BYTES
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert network._kept_here() == 2 * GIB
    monkeypatch.setattr(Device, "memory_stats", lambda self: None)
    assert network._kept_here() == network.MAX_LOGITS_BYTES
