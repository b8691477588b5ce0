"""T5's `spiece.model` plus sentinels and added tokens in one `.model`, for pretrained T5 weights."""

from collections.abc import Sequence

from sentencepiece import sentencepiece_model_pb2

from genrec_jax.errors import UserError
from genrec_jax.indexing import vocabulary

PIECES = 32_000
USER_DEFINED = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED


def extend(base: vocabulary.Vocabulary, added_tokens: Sequence[str]) -> vocabulary.Vocabulary:
    """Appends the 100 sentinels and then `added_tokens` as user-defined symbols.

    T5's 32,000 pieces keep their numbers, the sentinels stand at 32,000-32,099 in T5's order
    (`<extra_id_0>` is 32,099) and the first added token is 32,100: pretrained embedding rows stay
    where they are and growth only appends.

    Args:
        base: T5's `spiece.model`, or a model that this function has extended before (its
            sentinels, and added tokens it already has, are kept).
        added_tokens: further tokens, such as `<CI0>`; each is always one token.

    Raises:
        UserError: `base` is neither.
    """
    model = sentencepiece_model_pb2.ModelProto.FromString(base.serialized)
    pieces = [piece.piece for piece in model.pieces]
    extended = tuple(pieces[PIECES : PIECES + len(vocabulary.SENTINELS)]) == vocabulary.SENTINELS
    if len(pieces) != PIECES and not extended:
        raise UserError(
            f"has {len(pieces):,} pieces; wanted T5's {PIECES:,}. Pass the `spiece.model` of a T5"
            " (or FLAN-T5) checkpoint, or none at all to train a small vocabulary",
            file=None if base.path is None else str(base.path),
        )
    known = set(pieces)
    for token in (*vocabulary.SENTINELS, *added_tokens):
        if token not in known:
            model.pieces.add(piece=token, score=0.0, type=USER_DEFINED)
            known.add(token)
    model.trainer_spec.vocab_size = len(model.pieces)
    return vocabulary.Vocabulary(model.SerializeToString(deterministic=True))
