"""The smallest model that trains, for tests and for the processes that they start."""

from genrec_jax.model.config import T5Config

TINY = T5Config(
    vocab_size=1,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activations=("relu",),
    tied_head=True,
    scale_head_input=True,
    max_whole_words=64,
)
