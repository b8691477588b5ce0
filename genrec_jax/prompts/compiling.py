"""Templates to token runs and slots, so that the pipeline assembles prompts without touching text.

This is exact because SentencePiece joins no piece across white space: a text is tokenised word by
word. A word without slots becomes tokens here; a word with a slot inside (`user_{user_id}`,
`{history},`) is tokenised by the pipeline once for each value, with what is glued to it.

Where a word has two segmentations of equal score, as T5 has of `item_8888`, it is tokenised as it
would be alone, so that it has one form in prompts, targets and trie.
"""

import collections
import dataclasses
import re
from typing import Protocol, runtime_checkable

from genrec_jax.errors import UserError
from genrec_jax.prompts import rendering
from genrec_jax.prompts.templates import Template

MAX_SHOWN = 20


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a vocabulary that prompts need (`indexing.vocabulary.Vocabulary` is one)."""

    @property
    def size(self) -> int:
        """How many tokens there are."""
        ...

    @property
    def eos_id(self) -> int:
        """The end-of-sequence token."""
        ...

    @property
    def unk_id(self) -> int:
        """The token of what no piece can write."""
        ...

    def encode(self, text: str, /) -> list[int]:
        """Token ids of a text, without end-of-sequence."""
        ...

    def encode_batch(self, texts: list[str], /) -> list[list[int]]:
        """Token ids of each text."""
        ...

    def decode(self, ids: list[int], /) -> str:
        """The text of token ids."""
        ...

    def id_of(self, piece: str, /) -> int:
        """The number of a piece; KeyError where there is no such piece."""
        ...

    def pieces(self, ids: list[int], /) -> list[str]:
        """The pieces of those token ids; one that begins a word begins with "▁"."""
        ...


@dataclasses.dataclass(frozen=True)
class Slot:
    """A word with a value to be filled in: tokenised as `prefix + value + suffix`.

    Attributes:
        name: whose value.
        prefix: what is glued to the value's front, such as `user_`; often empty.
        suffix: what is glued to its end, such as `,`.
    """

    name: str
    prefix: str = ""
    suffix: str = ""


CompiledText = tuple[tuple[int, ...] | Slot, ...]


@dataclasses.dataclass(frozen=True)
class CompiledTemplate:
    """A template for one dataset, as runs of tokens and slots; both end in end-of-sequence.

    Attributes:
        template: what it was compiled from.
        dataset: the dataset's name, which is part of the runs.
        input: the prompt.
        target: the target.
    """

    template: Template
    dataset: str
    input: CompiledText
    target: CompiledText


def compile_template(template: Template, dataset: str, vocabulary: Tokenizer) -> CompiledTemplate:
    """Tokenises a template's words once.

    Args:
        template: a checked template.
        dataset: the name that `{dataset}` becomes.
        vocabulary: the run's vocabulary.

    Raises:
        UserError: a word holds two slots, the vocabulary cannot write a word, or it has pieces that
            reach across white space, so that word by word is not whole text.
    """
    _check_known(template, vocabulary)
    compiled = CompiledTemplate(
        template=template,
        dataset=dataset,
        input=_compile_text(template.input, template.id, dataset, vocabulary),
        target=_compile_text(template.target, template.id, dataset, vocabulary),
    )
    _check_exact(compiled, vocabulary)
    return compiled


def _compile_text(text: str, template_id: str, dataset: str, vocabulary: Tokenizer) -> CompiledText:
    """Consecutive words without slots become one run; the last run holds end-of-sequence."""
    parts: list[tuple[int, ...] | Slot] = []
    constant: list[str] = []

    def flush(*extra: int) -> None:
        tokens = (*vocabulary.encode(" ".join(constant)), *extra) if constant else extra
        constant.clear()
        if tokens:
            parts.append(tokens)

    written = {"{{": "{", "}}": "}", "{dataset}": dataset}
    for word in text.split():
        pieces = re.split(r"(\{\{|\}\}|\{\w+\})", word)
        names = [piece[1:-1] for piece in pieces[1::2] if piece not in written]
        literals = [written.get(piece, piece) for piece in pieces]
        if not names:
            constant.append("".join(literals))
            continue
        if len(names) > 1:
            raise UserError(
                f"template {template_id}: the word {word!r} holds two slots; wanted one slot a word. Put"
                " a space between them"
            )
        place = pieces.index(f"{{{names[0]}}}")
        flush()
        parts.append(Slot(names[0], "".join(literals[:place]), "".join(literals[place + 1 :])))
    flush(vocabulary.eos_id)
    return tuple(parts)


def _check_known(template: Template, vocabulary: Tokenizer) -> None:
    """Refuses fixed text, that of items included, which the model would read as unknown tokens."""
    texts = dataclasses.asdict(template.texts)
    slotted = [template.input, template.target, texts.pop("item"), texts.pop("item_untitled")]
    slots_blank = collections.defaultdict[str, str](lambda: " ")
    fixed = [*(text.format_map(slots_blank) for text in slotted), *texts.values()]
    words = list(dict.fromkeys(word for text in fixed for word in text.split()))
    unknown = [
        word
        for word, tokens in zip(words, vocabulary.encode_batch(words), strict=True)
        if vocabulary.unk_id in tokens
    ]
    if not unknown:
        return
    letters = dict.fromkeys("".join(unknown))
    alone = [letter for letter in letters if vocabulary.unk_id in vocabulary.encode(letter)]
    missing = alone or unknown
    shown = " ".join(missing[:MAX_SHOWN]) + " ..." * (len(missing) > MAX_SHOWN)
    raise UserError(
        f"template {template.id}: its text has characters that the vocabulary lacks ({len(missing)}:"
        f" {shown}), so a model would read <unk> in {unknown[0]!r}; wanted text that it can write. A"
        " vocabulary trained here learns them with `genrec index ... --templates FILE --overwrite`, FILE"
        " being that of this template; for one given with --vocabulary, write the prompts without them"
    )


def _check_exact(compiled: CompiledTemplate, vocabulary: Tokenizer) -> None:
    """Refuses a vocabulary with a piece that reaches across white space, if this text meets one.

    Tokens are not compared: where two segmentations of a word have one score (T5's of `item_8888`),
    which one comes out may depend on the words around it, and ours is the one of the word alone.
    """
    template, dataset = compiled.template, compiled.dataset
    item = rendering.item_text(template.texts, "item_1001", "A title, 2nd (new)")
    items = rendering.list_text(template.texts, [item, template.texts.masked_item, item])
    values = {
        **dict.fromkeys(("user_id", "item_id", "target"), "item_20345"),
        **dict.fromkeys(("history", "window", "likes", "dislikes", "choices", "chosen"), items),
        **dict.fromkeys(("masked", "spans", "candidates"), items),
        "item": item,
        "answer": template.texts.like,
        "value": "A value",
    }
    texts = (
        rendering.fill_text(template.input, dataset, values),
        rendering.fill_text(template.target, dataset, values),
    )
    for text in texts:
        for piece in vocabulary.pieces(vocabulary.encode(text)):
            if "▁" in piece.lstrip("▁"):
                raise UserError(
                    f"template {compiled.template.id}: this vocabulary has the piece {piece!r}, which"
                    " reaches across white space, so a text is not tokenised word by word. Train it with"
                    " split_by_whitespace, as `genrec index` does"
                )
