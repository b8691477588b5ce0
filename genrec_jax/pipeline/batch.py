"""The batch: what the pipeline hands to a training step, with the feature names of T5X."""

import jax
import numpy as np
from jaxtyping import Float, Int

from genrec_jax.pytree import pytree_dataclass

Array = jax.Array | np.ndarray


@pytree_dataclass
class Batch:
    """One host's rows of one training step. Token 0 is padding; the decoder starts from 0.

    Attributes:
        encoder_input_tokens_BL: prompts, each ending in end-of-sequence.
        decoder_target_tokens_BT: targets, each ending in end-of-sequence.
        decoder_input_tokens_BT: targets shifted right by one, 0 at the start of each example.
        decoder_loss_weights_BT: 1 at real target tokens, 0 at padding.
        encoder_segment_ids_BL: which packed example a token belongs to, from 1; 0 at padding. In an
            unpacked batch every real token has 1.
        decoder_segment_ids_BT: likewise for targets.
        encoder_positions_BL: position within the example, from 0; 0 at padding.
        decoder_positions_BT: likewise for targets.
        encoder_whole_word_ids_BL: index of the word within the prompt, from 1; 0 at end-of-sequence
            and padding (P5, section 3.2; the OpenP5 repository).
    """

    encoder_input_tokens_BL: Int[Array, "B L"]
    decoder_target_tokens_BT: Int[Array, "B T"]
    decoder_input_tokens_BT: Int[Array, "B T"]
    decoder_loss_weights_BT: Float[Array, "B T"]
    encoder_segment_ids_BL: Int[Array, "B L"]
    decoder_segment_ids_BT: Int[Array, "B T"]
    encoder_positions_BL: Int[Array, "B L"]
    decoder_positions_BT: Int[Array, "B T"]
    encoder_whole_word_ids_BL: Int[Array, "B L"]


@pytree_dataclass
class PromptBatch:
    """Prompts to recommend for: the encoder's side of a batch, plus whose prompts they are.

    Attributes:
        encoder_input_tokens_BL: prompts, each ending in end-of-sequence; padding rows are all 0.
        encoder_whole_word_ids_BL: as in `Batch`.
        users_B: user number, -1 for padding rows.
        targets_B: the item to be found, -1 where there is none.
    """

    encoder_input_tokens_BL: Int[Array, "B L"]
    encoder_whole_word_ids_BL: Int[Array, "B L"]
    users_B: Int[Array, " B"]
    targets_B: Int[Array, " B"]
