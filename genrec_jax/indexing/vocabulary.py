"""The vocabulary: one SentencePiece `.model`, read alike by indexing, prompts, training and decoding."""

import functools
import hashlib
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
from jaxtyping import Bool, Integer

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(99, -1, -1))
WORD_START = "▁"

Tokens = Iterable[int] | Integer[np.ndarray, " length"]

_REMEDY = "Run `genrec index` again, or name a T5 `spiece.model`"


class Vocabulary:
    """A SentencePiece model with T5's special numbers: padding 0, end of sequence 1, unknown 2.

    Everything is in the one `.model`, sentinels and added tokens too, so a token's number never
    depends on which library reads the text. Safe to use from several threads.
    """

    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = UNK_ID

    def __init__(self, model: artefacts.PathLike | bytes):
        """Reads a model.

        Args:
            model: path of a `.model` file, or the bytes of one.

        Raises:
            UserError: the file is missing, is no SentencePiece model, or numbers its padding,
                end of sequence and unknown otherwise than 0, 1, 2.
        """
        self.path = None if isinstance(model, bytes) else pathlib.Path(model)
        place = None if self.path is None else str(self.path)
        try:
            self.serialized = (
                model if isinstance(model, bytes) else pathlib.Path(model).read_bytes()
            )
        except OSError as error:
            raise UserError(
                f"cannot be read ({error.strerror}); wanted a SentencePiece model. {_REMEDY}",
                file=place,
            ) from error
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.serialized)
        except RuntimeError as error:
            raise UserError(
                f"is not a SentencePiece model ({error}). {_REMEDY}", file=place
            ) from error
        found = (
            self._processor.pad_id(),
            self._processor.eos_id(),
            self._processor.unk_id(),
        )
        if found != (PAD_ID, EOS_ID, UNK_ID):
            raise UserError(
                f"numbers padding, end of sequence and unknown {found}; wanted T5's"
                f" {(PAD_ID, EOS_ID, UNK_ID)}. {_REMEDY}",
                file=place,
            )

    @property
    def size(self) -> int:
        """How many tokens there are, not padded to anything."""
        return self._processor.GetPieceSize()

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the model's bytes."""
        return hashlib.sha256(self.serialized).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without an end of sequence."""
        return self._processor.EncodeAsIds(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text."""
        return self._processor.Encode(list(texts), out_type=int)

    def decode(self, tokens: Tokens) -> str:
        """The text of token numbers; padding and end of sequence vanish."""
        return self._processor.DecodeIds([int(token) for token in tokens])

    def pieces(self, tokens: Tokens) -> list[str]:
        """The pieces that token numbers stand for."""
        return [self._processor.IdToPiece(int(token)) for token in tokens]

    def id_of(self, piece: str) -> int:
        """The number of a piece.

        Raises:
            KeyError: the vocabulary has no such piece.
        """
        token = self._processor.PieceToId(piece)
        if token == UNK_ID and piece != self._processor.IdToPiece(UNK_ID):
            raise KeyError(piece)
        return token

    @functools.cached_property
    def word_starts_V(self) -> Bool[np.ndarray, " V"]:
        """Which pieces begin with the white-space mark, that is, begin a word."""
        return np.array(
            [self._processor.IdToPiece(token).startswith(WORD_START) for token in range(self.size)]
        )

    def save(self, path: artefacts.PathLike) -> None:
        """Writes the `.model`, atomically."""
        with artefacts.atomic_file(path) as temporary:
            temporary.write_bytes(self.serialized)
