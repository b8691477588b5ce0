"""T5 1.0 and 1.1 (Raffel et al. 2020; Shazeer 2020): from a batch to logits; training and decoding use it.

Computation runs in `config.dtype`; norms, attention softmax and the head's operands stay float32. Products
of float32 have the device's default precision: TF32 on NVIDIA's GPUs, a pass of bfloat16 on TPUs.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.errors import UserError
from genrec_jax.model.attention import MASKED
from genrec_jax.model.config import T5Config
from genrec_jax.model.layers import Key, parameter
from genrec_jax.model.stacks import Decoder, Encoder, split_key
from genrec_jax.pipeline.batch import Batch


class T5(nnx.Module):
    """The encoder-decoder network.

    Attributes:
        config: sizes and choices.
        token_embedding: (V, D), shared by encoder and decoder, and by the head if `tied_head`.
        whole_word_embedding: (words, D), added to the encoder's input (P5, section 3.2).
        encoder: layers, shared relative bias, final norm.
        decoder: likewise, with attention to the encoder.
        head: (V, D), where the head is not tied.
    """

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        vocab = {"vocab": config.padded_vocab_size, "embed": config.embed_dim}
        self.token_embedding = parameter(rngs, vocab, stddev=1.0)
        if config.whole_word_embedding:
            words = {"whole_words": config.max_whole_words, "embed": config.embed_dim}
            self.whole_word_embedding = parameter(rngs, words, stddev=1.0)
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        if not config.tied_head:
            self.head = parameter(rngs, vocab, stddev=1 / math.sqrt(config.embed_dim))

    def embed(self, tokens_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Rows of the token embedding, in the compute type."""
        return self.token_embedding[...][tokens_BL].astype(self.config.dtype)

    def encode(
        self,
        tokens_BL: Int[Array, "B L"],
        *,
        segment_ids_BL: Int[Array, "B L"] | None = None,
        whole_word_ids_BL: Int[Array, "B L"] | None = None,
        dropout_key: Key | None = None,
    ) -> Float[Array, "B L D"]:
        """Encodes prompts.

        Args:
            tokens_BL: prompts.
            segment_ids_BL: which packed example a token belongs to, from 1; 0 is padding. Tokens see
                their own example only. Without it, token 0 is padding.
            whole_word_ids_BL: as in `Batch`; ids beyond the table take its last row. Required if the
                model has the embedding.
            dropout_key: None means no dropout.

        Raises:
            UserError: the model has a whole-word embedding and no ids were given.
        """
        if segment_ids_BL is None:
            segment_ids_BL = valid_segments(tokens_BL)
        x_BLD = self.embed(tokens_BL)
        if self.config.whole_word_embedding:
            if whole_word_ids_BL is None:
                raise UserError(
                    "got no whole-word ids; wanted them, since the model has a whole-word embedding;"
                    " give whole_word_ids_BL or set T5Config.whole_word_embedding=False"
                )
            rows_BL = jnp.clip(whole_word_ids_BL, 0, self.config.max_whole_words - 1)
            x_BLD = x_BLD + self.whole_word_embedding[...][rows_BL].astype(x_BLD.dtype)
        mask_BLL = segment_mask(segment_ids_BL, segment_ids_BL)
        return self.encoder(x_BLD, mask_BLL=mask_BLL, dropout_key=dropout_key)

    def decode(
        self,
        decoder_input_tokens_BT: Int[Array, "B T"],
        encoded_BLD: Float[Array, "B L D"],
        *,
        encoder_segment_ids_BL: Int[Array, "B L"],
        decoder_segment_ids_BT: Int[Array, "B T"],
        dropout_key: Key | None = None,
    ) -> Float[Array, "B T D"]:
        """Teacher-forced decoding, ready for the head (`logits`).

        Args:
            decoder_input_tokens_BT: targets shifted right; 0 starts each example.
            encoded_BLD: the encoder's output.
            encoder_segment_ids_BL: as in `encode`; 0 hides a position from the decoder.
            decoder_segment_ids_BT: from 1, 0 at padding targets.
            dropout_key: None means no dropout.
        """
        causal_TT = jnp.tri(decoder_input_tokens_BT.shape[1], dtype=bool)
        mask_BTT = segment_mask(decoder_segment_ids_BT, decoder_segment_ids_BT) & causal_TT[None]
        hidden_BTD = self.decoder(
            self.embed(decoder_input_tokens_BT),
            encoded_BLD,
            mask_BTT=mask_BTT,
            cross_mask_BTL=segment_mask(decoder_segment_ids_BT, encoder_segment_ids_BL),
            dropout_key=dropout_key,
        )
        return self.head_input(hidden_BTD)

    def head_input(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """The decoder's output in float32, scaled where the model scales it before the head."""
        hidden = hidden.astype(jnp.float32)
        return hidden * self.config.embed_dim**-0.5 if self.config.scale_head_input else hidden

    def head_VD(self) -> Float[Array, "V D"]:
        """The float32 matrix whose product with `decode`'s output gives the logits."""
        return self.token_embedding[...] if self.config.tied_head else self.head[...]

    def logits(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Float32 logits of every token; rows beyond `vocab_size` get a large negative number."""
        logits = jnp.einsum("...d,vd->...v", hidden.astype(jnp.float32), self.head_VD())
        if self.config.padded_vocab_size == self.config.vocab_size:
            return logits
        real_V = jnp.arange(self.config.padded_vocab_size) < self.config.vocab_size
        return jnp.where(real_V.reshape((1,) * (hidden.ndim - 1) + (-1,)), logits, MASKED)

    def __call__(self, batch: Batch, dropout_key: Key | None = None) -> Float[Array, "B T V"]:
        """Logits of every target position of a training batch."""
        return self.logits(self.hidden(batch, dropout_key))

    def hidden(self, batch: Batch, dropout_key: Key | None = None) -> Float[Array, "B T D"]:
        """The head's input at every target position of a training batch."""
        encoder_key, decoder_key = split_key(dropout_key, 2)
        encoded_BLD = self.encode(
            jnp.asarray(batch.encoder_input_tokens_BL),
            segment_ids_BL=jnp.asarray(batch.encoder_segment_ids_BL),
            whole_word_ids_BL=jnp.asarray(batch.encoder_whole_word_ids_BL),
            dropout_key=encoder_key,
        )
        return self.decode(
            jnp.asarray(batch.decoder_input_tokens_BT),
            encoded_BLD,
            encoder_segment_ids_BL=jnp.asarray(batch.encoder_segment_ids_BL),
            decoder_segment_ids_BT=jnp.asarray(batch.decoder_segment_ids_BT),
            dropout_key=decoder_key,
        )


def graph_and_params(model: T5) -> tuple[nnx.GraphDef, nnx.State]:
    """Splits a model into its static structure and its parameters; jit functions of the latter."""
    return nnx.split(model)


def abstract_graph_and_params(config: T5Config) -> tuple[nnx.GraphDef, nnx.State]:
    """The same without any array: shapes only, in no time, for restoring and sharding."""
    model = nnx.eval_shape(lambda: T5(config, rngs=nnx.Rngs(params=0)))
    return nnx.split(model)


def drawn_params(config: T5Config, seed: jax.Array) -> nnx.State:
    """The parameters of a network before any training; within a jit, only what is kept of them is made."""
    return nnx.state(T5(config, rngs=nnx.Rngs(params=jax.random.key(seed))), nnx.Param)


def valid_segments(tokens_BL: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """Segment ids of unpacked rows: 1 at real tokens, 0 at padding (token 0)."""
    return (tokens_BL > 0).astype(jnp.int32)


def segment_mask(
    query_segments_BQ: Int[Array, "B Q"], key_segments_BS: Int[Array, "B S"]
) -> Bool[Array, "B Q S"]:
    """Whether query and key belong to the same example; padding (segment 0) belongs to none.

    A padding query sees nothing, as in T5X; Hugging Face masks keys only.
    """
    same_BQS = query_segments_BQ[:, :, None] == key_segments_BS[:, None, :]
    return same_BQS & (query_segments_BQ > 0)[:, :, None]
