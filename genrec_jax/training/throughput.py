"""How much of the devices' peak a run uses: one formula, for devices whose peak is known."""

from collections.abc import Callable

import jax

# bfloat16 matrix products a second of one device, from the makers' data sheets (dense).
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def flops_share(num_parameters: int) -> Callable[[float, float], float | None]:
    """Makes `(tokens, seconds) -> share of peak`; None on a device whose peak is not listed.

    A trained token costs 6 operations for each parameter it meets (Kaplan et al. 2020, section 2.1),
    and in an encoder-decoder it meets about half of them; attention's own products are left out. It is
    for comparing runs of one model.
    """
    kind = jax.devices()[0].device_kind
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in kind), None)
    if peak is None:
        return lambda tokens, seconds: None
    total = peak * jax.device_count()
    return lambda tokens, seconds: 3 * num_parameters * tokens / (seconds * total)
