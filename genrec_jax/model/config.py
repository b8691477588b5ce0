"""The one description of a T5 network; saved in the run dir, so that a run needs no gin to reload."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from genrec_jax import checks
from genrec_jax.errors import UserError

VOCAB_MULTIPLE = 128


CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", "dots", "full"),
    "attention": ("own", "xla", "cudnn"),
}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and choices of a T5 (Raffel et al. 2020) encoder-decoder.

    Attributes:
        vocab_size: real tokens; the embedding has `padded_vocab_size` rows, and the rows beyond
            `vocab_size` are masked out of the softmax.
        embed_dim: width of the residual stream (D).
        num_heads: attention heads (H).
        head_dim: width of one head (K); not tied to `embed_dim`.
        mlp_dim: hidden width of the feed-forward block (F).
        num_encoder_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder.
        mlp_activations: `("relu",)` is T5 1.0; `("gelu", "linear")` is T5 1.1 and FLAN-T5 (gelu is
            the tanh approximation).
        tied_head: the logits share the embedding (T5 1.0).
        scale_head_input: the decoder's output is scaled by `embed_dim ** -0.5` before a tied head.
        relative_buckets: buckets of the relative position bias.
        relative_max_distance: distances beyond it share a bucket.
        relative_bias_per_layer: one bias per layer (T5X's scanned network) instead of one per stack.
        norm_epsilon: of the RMS norms.
        dropout_rate: dropout in training.
        whole_word_embedding: add P5's whole-word embedding to the encoder's input.
        max_whole_words: rows of that embedding.
        dtype: activations, `float32` or `bfloat16`; parameters are float32 always.
        remat: recompute in the backward pass: `none`, everything but matmul outputs (`dots`), or `full`.
        attention: of training and of the encoder: `own` is written out in this library and runs
            everywhere; `xla` and `cudnn` are `jax.nn.dot_product_attention`'s. `cudnn` is NVIDIA's fused
            kernel, which never writes the scores down; it computes in bfloat16, and where JAX has no GPU
            the model is the same and `own` computes it.
        scan_layers: one compiled layer, scanned, so that compile time does not grow with depth.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    tied_head: bool = False
    scale_head_input: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128
    relative_bias_per_layer: bool = False
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    whole_word_embedding: bool = True
    max_whole_words: int = 512
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "own"
    scan_layers: bool = True

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "T5Config":
        """The description that `dataclasses.asdict` wrote to JSON, which has lists for tuples."""
        return cls(**{**fields, "mlp_activations": tuple(fields["mlp_activations"])})

    def __post_init__(self):
        if self.mlp_activations not in (("relu",), ("gelu", "linear")):
            raise UserError(
                f"mlp_activations is {self.mlp_activations!r}; wanted ('relu',) for T5 1.0 or"
                " ('gelu', 'linear') for T5 1.1 and FLAN-T5"
            )
        flags = ("tied_head", "scale_head_input", "relative_bias_per_layer", "whole_word_embedding")
        checks.flag_fields(self, *flags, "scan_layers")
        sizes = ("vocab_size", "embed_dim", "num_heads", "head_dim", "mlp_dim")
        for field in (*sizes, "num_encoder_layers", "num_decoder_layers"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} is {getattr(self, field)}; wanted at least 1")
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise UserError(
                    f"{field} is {getattr(self, field)!r}; wanted one of {', '.join(map(repr, known))}"
                )
        if not 0 <= self.dropout_rate < 1:
            raise UserError(
                f"dropout_rate is {self.dropout_rate}; wanted a share from 0 to below 1, such as 0.1"
            )
        if self.attention == "cudnn" and (
            self.dtype != "bfloat16" or self.head_dim % 8 or self.head_dim > 128
        ):
            raise UserError(
                f"attention is 'cudnn' with dtype {self.dtype!r} and head_dim {self.head_dim}; cuDNN's"
                " kernel wants 'bfloat16', and a head_dim that is a multiple of 8 up to 128. Set dtype,"
                " or attention = 'own'"
            )

    @property
    def padded_vocab_size(self) -> int:
        """`vocab_size` rounded up to a multiple of 128, which the hardware's tiles like."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
