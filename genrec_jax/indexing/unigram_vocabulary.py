"""A small unigram vocabulary trained on the training prompts, for runs without a T5 vocabulary.

Prompts are mostly numbers (`user_57`, `item_1234`) and a few words that return in every template.
Both get short, unambiguous encodings, so that a model trained from scratch spends its time on the
items:

* A word of the prompts is one token. Titles, where prompts show them, get unigram pieces.
* A numbered name is cut from the right into groups of `digits_per_token` digits; what is left over
  joins the name: with 2 digits `item_1234` is `▁item_12` `34`, and `user_943` is `▁user_9` `43`.
  Only one cut needs no lone digit, and lone digits are dear, so there are no ties in the lattice
  and every library cuts alike.
* The first added token of an id joins the name too: `item_<CI3><CI21>` is `▁item_<CI3>` `<CI21>`.

Other text (a new dataset's name, a user's own template) falls back on the trained unigram pieces
and on single characters: those of ASCII, and all that the training text has.
"""

import collections
import io
import itertools
import string
from collections.abc import Iterable, Sequence

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from genrec_jax.errors import UserError
from genrec_jax.indexing import vocabulary

PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece
NUMBERED_NAMES = ("item_", "user_")
MAX_WORDS = 1000
MAX_PIECES = 400
MAX_TEXT_PIECES = 4000
# Whole pieces beat any split of the same text; characters are the last resort. The scores in
# between are the unigram model's own log-probabilities, moved below those of whole pieces.
WHOLE_SCORE = -1.0
CHARACTER_SCORE = -30.0


def train(
    lines: Iterable[str],
    *,
    words: Sequence[str] = (),
    added_tokens: Sequence[str] = (),
    openings: Sequence[str] = (),
    digits_per_token: int = 2,
    texts: Sequence[str] = (),
    numbered_names: Sequence[str] = NUMBERED_NAMES,
) -> vocabulary.Vocabulary:
    """Trains the vocabulary; the same input gives the same bytes.

    Args:
        lines: the text of the prompts, without ids and user numbers. Nothing in it may come from
            held-out interactions.
        words: names that must be one token each, such as the dataset's.
        added_tokens: tokens that item ids have after their first, such as `<CI21>`.
        openings: what item ids begin with, up to their first token, such as `item_<CI3>` or `<a_12>`;
            each becomes one token.
        digits_per_token: digits of a number that share a token, 1 to 3. More make ids shorter and
            the vocabulary larger (about 2 x 10^n names and 10^n groups).
        texts: further text that prompts show, such as titles: it gets unigram pieces (up to
            `MAX_TEXT_PIECES` more), and no whole words.
        numbered_names: names that a number follows, such as `item_`.

    Raises:
        UserError: no text at all, or `digits_per_token` out of range.
    """
    if not 1 <= digits_per_token <= 3:
        raise UserError(
            f"--number-digits-per-token is {digits_per_token}; wanted 1, 2 or 3", file=None
        )
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError(
            "there is no text to train a vocabulary on; wanted lines of the prompts' words, such as"
            " `genrec_jax.prompts.templates.vocabulary_lines` makes of templates"
        )
    groups = [
        "".join(digits)
        for length in range(1, digits_per_token + 1)
        for digits in itertools.product(string.digits, repeat=length)
    ]
    counts = collections.Counter(word for line in lines for word in line.split())
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS]
    mark = vocabulary.WORD_START
    whole = [mark + word for word in (*words, *frequent)]
    whole += [mark + name for name in numbered_names]
    whole += [mark + name + group for name in numbered_names for group in groups]
    whole += [group for group in groups if len(group) == digits_per_token]
    whole += [mark + opening for opening in openings]
    whole += added_tokens
    model = _trained([*lines, *texts], MAX_PIECES + min(MAX_TEXT_PIECES, 2 * len(texts)))
    unigram = [
        (piece.piece, piece.score + 2 * WHOLE_SCORE)
        for piece in model.pieces
        if piece.type == PIECE.NORMAL and not any(letter.isdigit() for letter in piece.piece)
    ]
    met = [piece.piece for piece in model.pieces if piece.type == PIECE.NORMAL]
    characters = [mark, *string.ascii_letters, *string.digits, *string.punctuation]
    characters += [piece for piece in met if len(piece) == 1]  # digits of other scripts too
    del model.pieces[:]
    model.pieces.add(piece="<pad>", score=0.0, type=PIECE.CONTROL)
    model.pieces.add(piece="</s>", score=0.0, type=PIECE.CONTROL)
    model.pieces.add(piece="<unk>", score=0.0, type=PIECE.UNKNOWN)
    for token in vocabulary.SENTINELS:
        model.pieces.add(piece=token, score=0.0, type=PIECE.USER_DEFINED)
    known = {piece.piece for piece in model.pieces}
    for piece, score in (
        *((piece, WHOLE_SCORE) for piece in whole),
        *unigram,
        *((piece, CHARACTER_SCORE) for piece in characters),
    ):
        if piece not in known:
            model.pieces.add(piece=piece, score=score, type=PIECE.NORMAL)
            known.add(piece)
    model.trainer_spec.vocab_size = len(model.pieces)
    return vocabulary.Vocabulary(model.SerializeToString(deterministic=True))


def _trained(lines: Sequence[str], size: int) -> sentencepiece_model_pb2.ModelProto:
    """A unigram model by SentencePiece's own trainer, on one thread so that it is reproducible."""
    letters = {letter for line in lines for letter in line}
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="unigram",
        vocab_size=max(size, len(letters) + 20),
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        pad_id=vocabulary.PAD_ID,
        eos_id=vocabulary.EOS_ID,
        unk_id=vocabulary.UNK_ID,
        bos_id=-1,
        pad_piece="<pad>",
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
