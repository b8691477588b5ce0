"""Compiled templates against a vocabulary that can be read by eye, and against SentencePiece."""

import pytest

from genrec_jax.errors import UserError
from genrec_jax.prompts import compiling, templates
from genrec_jax.prompts.compiling import Slot


class LetterVocabulary:
    """One token a character, a word mark before each word: token = code point."""

    size = 1 << 16
    eos_id = 1

    def __init__(self, joins: str = ""):
        self._joins = joins

    def encode(self, text: str) -> list[int]:
        marked = "".join("▁" + word for word in text.split())
        if self._joins:
            marked = marked.replace(self._joins, "#")
        return [ord(letter) for letter in marked]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces(ids)).replace("▁", " ").strip()

    def id_of(self, piece: str) -> int:
        raise KeyError(piece)

    def pieces(self, ids: list[int]) -> list[str]:
        return [chr(token).replace("#", self._joins or "#") for token in ids]


def _template(text: str, task: str = "sequential") -> templates.Template:
    return templates.Template("S1", task, True, text, "{dataset} {target}")  # type: ignore[arg-type]


def _tokens(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) for letter in text)


def test_runs_and_slots():
    compiled = compiling.compile_template(
        _template("So {dataset} u_{user_id} had ({history}). {{q}} {{dataset}}?"),
        "Toys",
        LetterVocabulary(),
    )
    assert compiled.input == (
        _tokens("▁So▁Toys"),
        Slot("user_id", "u_", ""),
        _tokens("▁had"),
        Slot("history", "(", ")."),
        (*_tokens("▁{q}▁{dataset}?"), 1),
    )
    assert compiled.target == (_tokens("▁Toys"), Slot("target"), (1,))


def test_fill_is_the_whole_text():
    vocabulary = LetterVocabulary()
    compiled = compiling.compile_template(_template("{user_id}: {history}!"), "Toys", vocabulary)
    filled = compiling.fill(
        compiled.input, {"user_id": ["7"], "history": ["item_1", "item_2"]}, vocabulary
    )
    assert filled == [*_tokens("▁7:▁item_1▁,▁item_2!"), 1]


def test_two_slots_in_a_word():
    with pytest.raises(UserError, match="holds two slots"):
        compiling.compile_template(_template("{user_id}:{history}"), "Toys", LetterVocabulary())


def test_pieces_across_white_space_are_refused():
    vocabulary = LetterVocabulary(joins="s▁a")
    fine = _template("had {history} and")
    compiling.compile_template(fine, "Toys", vocabulary)
    across = _template("items {history} and {user_id}s are")
    with pytest.raises(UserError, match="reaches across white space"):
        compiling.compile_template(across, "Toys", vocabulary)
