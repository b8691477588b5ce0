"""Model FLOPs utilisation: how much of the devices' peak a training run uses. One formula.

    MFU = model_flops of the steps' batches / (seconds * peak of the devices that train)

It is the utilisation of Chowdhery et al. 2022 (PaLM, appendix B), with the operations counted product by
product instead of as 6 a parameter and token, which does not suit an encoder-decoder.
"""

from collections.abc import Sequence
from typing import Any

from genrec_jax.model.config import T5Config
from genrec_jax.parallel import topology
from genrec_jax.pipeline.batch import Batch


def model_flops(config: T5Config, rows: int, input_length: int, target_length: int) -> float:
    """Operations of a training step's matrix products: forwards once, backwards twice.

    A product of (m, k) and (k, n) is 2 m k n. Padding counts, and so do attention's masked scores, because
    the device computes them (`padding_share` says how much of it was padding). What rematerialisation
    computes again does not count, nor does anything that is no matrix product.

    Args:
        config: the model.
        rows: of the batch.
        input_length: tokens of a row of inputs, packed or not.
        target_length: tokens of a row of targets.
    """
    joined = config.num_heads * config.head_dim
    projection = 2 * config.embed_dim * joined
    mlp = (len(config.mlp_activations) + 1) * 2 * config.embed_dim * config.mlp_dim
    inputs, targets = rows * input_length, rows * target_length
    encoder = inputs * (4 * projection + mlp) + 4 * inputs * input_length * joined
    # The decoder projects its own queries, keys, values and outputs, queries and outputs of its look at
    # the encoder, and that one's keys and values, which come from the inputs.
    decoder = targets * (6 * projection + mlp) + inputs * 2 * projection
    decoder += 4 * targets * (target_length + input_length) * joined
    head = targets * 2 * config.embed_dim * config.padded_vocab_size
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return 3.0 * (layers + head)


def peak_flops(devices: Sequence[Any]) -> float | None:
    """Dense bfloat16 operations a second of devices of one kind together; None where it is not listed."""
    chip = topology.chip_of(devices[0].device_kind)
    return None if chip is None or chip.peak_flops is None else chip.peak_flops * len(devices)


class Utilisation:
    """Counts the operations of a run's batches, and says what share of the peak they were."""

    def __init__(self, config: T5Config, devices: Sequence[Any]):
        """Measures a model on these devices."""
        self._config, self._peak = config, peak_flops(devices)

    def flops(self, batch: Batch) -> float:
        """`model_flops` of one step on a batch of all hosts' rows."""
        rows, input_length = batch.encoder_input_tokens_BL.shape
        return model_flops(
            self._config, rows, input_length, batch.decoder_target_tokens_BT.shape[1]
        )

    def share(self, flops: float, seconds: float) -> float | None:
        """MFU; None on devices whose peak is not listed."""
        return None if self._peak is None else flops / (seconds * self._peak)
