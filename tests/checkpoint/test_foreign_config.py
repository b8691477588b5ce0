"""What a run that starts from other weights may choose for itself, and what it may not."""

import dataclasses

from genrec_jax.checkpoint import foreign_config
from genrec_jax.model.config import T5Config
from tests.checkpoint import foreign

FIXED = {
    "embed_dim": 48,
    "num_heads": 3,
    "head_dim": 24,
    "mlp_dim": 96,
    "num_encoder_layers": 5,
    "num_decoder_layers": 5,
    "mlp_activations": ("relu",),
    "tied_head": True,
    "scale_head_input": True,
    "relative_buckets": 16,
    "relative_max_distance": 64,
    "relative_bias_per_layer": True,
    "norm_epsilon": 1e-5,
}
"""Fields that say what the parameters are or what is computed with them, each with another value."""


def test_every_field_of_a_network_is_free_or_fixed():
    """A new field of T5Config has to be put into one of the two."""
    fields = {field.name for field in dataclasses.fields(T5Config)}
    assert not FIXED.keys() & set(foreign_config.FREE)
    assert FIXED.keys() | set(foreign_config.FREE) == fields


def test_each_fixed_field_is_a_difference():
    weights = foreign.T5_1_1
    for name, value in FIXED.items():
        run = dataclasses.replace(weights, **{name: value})
        theirs = getattr(weights, name)
        told = f"{name} is {value!r}, the weights have {theirs!r}"
        assert foreign_config.differences(run, weights) == [told]


def test_the_same_mathematics_may_be_computed_in_another_way():
    weights = foreign.T5_1_1
    run = dataclasses.replace(
        weights, attention="xla", dtype="bfloat16", remat="full", scan_layers=False
    )
    assert foreign_config.differences(run, weights) == []
