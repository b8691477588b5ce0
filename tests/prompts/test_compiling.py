"""Compiled templates against a vocabulary that can be read by eye, and against SentencePiece."""

import dataclasses
import pathlib

import pytest

from genrec_jax.errors import UserError
from genrec_jax.indexing import t5_vocabulary, unigram_vocabulary
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.prompts import compiling, rendering, templates
from genrec_jax.prompts.compiling import Slot
from tests.prompts import rendered


class LetterVocabulary:
    """One token a character, a word mark before each word: token = code point."""

    size = 1 << 16
    eos_id = 1
    unk_id = 2

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


@pytest.mark.parametrize("texts", [templates.ItemTexts(), templates.ItemTexts(between_items="; ")])
def test_filled_word_by_word_it_is_the_whole_text(texts):
    vocabulary = LetterVocabulary()
    template = dataclasses.replace(_template("{user_id}: ({history}) of {dataset}!"), texts=texts)
    compiled = compiling.compile_template(template, "Toys", vocabulary)
    history = ["item_1", "item_2"]
    values = {"user_id": "7", "history": rendering.list_text(texts, history)}
    filled = []
    for part in compiled.input:
        if isinstance(part, Slot):
            for word in (part.prefix + values[part.name] + part.suffix).split():
                filled += vocabulary.encode(word)
        else:
            filled += part
    whole, _ = rendered.render(template, dataset="Toys", user_id="7", history=history)
    assert filled == [*vocabulary.encode(whole), 1]
    assert (
        whole
        == {
            " , ": "7: (item_1 , item_2) of Toys!",
            "; ": "7: (item_1; item_2) of Toys!",
        }[texts.between_items]
    )


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


FILMS = pathlib.Path(__file__).parents[2] / "gin_configs/alignment/films.toml"
SHIPPED = [
    template
    for file in (templates.OPENP5_TEMPLATES, templates.ALIGNMENT_TEMPLATES, FILMS)
    for template in templates.load_templates(file)
]


def test_every_vocabulary_can_write_the_shipped_templates(shared):
    lines = templates.vocabulary_lines(templates.load_templates())
    t5 = Vocabulary(shared / "data/t5_vocabulary/spiece.model")
    for vocabulary in (t5, unigram_vocabulary.train(lines)):
        for template in SHIPPED:
            compiling.compile_template(template, "Toys", vocabulary)


@pytest.mark.parametrize(
    ("text", "texts", "lacking"),
    [
        ("用户{user_id} 购买了 {history}、", {}, "6: 用 户 购 买 了 、"),
        ("had {history} ?", {"after_item": "¤", "like": "жю"}, "3: ¤ ж ю"),
        ("had {history} ?", {"item": "№№{item_id}ж"}, "1: ж"),
        ("had {history} ?", {"between_candidates": "ж "}, "1: ж"),
    ],
)
def test_text_that_the_vocabulary_cannot_write_is_refused(text, texts, lacking):
    """Until the vocabulary is trained on it, as the error says."""
    template = dataclasses.replace(_template(text), texts=templates.ItemTexts(**texts))
    vocabulary = unigram_vocabulary.train(templates.vocabulary_lines(templates.load_templates()))
    with pytest.raises(UserError, match=rf"template S1: .* lacks \({lacking}\), so .*index"):
        compiling.compile_template(template, "Toys", vocabulary)
    vocabulary = unigram_vocabulary.train(templates.vocabulary_lines([template]))
    compiled = compiling.compile_template(template, "Toys", vocabulary)
    glued = [p.prefix + "12" + p.suffix for p in compiled.input if isinstance(p, Slot)]
    assert vocabulary.unk_id not in vocabulary.encode(" ".join(glued))


def test_braces_are_known_to_be_none_of_t5s(shared):
    t5 = Vocabulary(shared / "data/t5_vocabulary/spiece.model")
    compiling.compile_template(
        _template("<extra_id_0> [{history}]"), "Toys", t5_vocabulary.extend(t5, [])
    )
    with pytest.raises(UserError, match=r"lacks \(3: \{ \} <\), .* '\{a\}'"):
        compiling.compile_template(_template("{{a}} <{history}"), "Toys", t5)
