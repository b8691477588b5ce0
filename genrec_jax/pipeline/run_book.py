"""The runs of tokens that the prompts of one dataset are made of, each tokenised once and numbered."""

from collections.abc import Sequence

from genrec_jax.pipeline.token_runs import TokenRuns
from genrec_jax.prompts import rendering
from genrec_jax.prompts.compiling import Tokenizer
from genrec_jax.prompts.templates import ItemTexts

EMPTY_RUN = 0
EOS_RUN = 1

PLAIN = ItemTexts()
"""An item written as its id alone."""


class RunBook:
    """Collects runs: constant ones, and tables with a run for every item.

    Attributes:
        vocabulary: what tokenises.
        num_items: items of the catalogue.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        item_ids: Sequence[str],
        titles: Sequence[str | None] | None = None,
    ):
        """Begins with an empty run and one of end-of-sequence alone.

        Args:
            vocabulary: what tokenises.
            item_ids: the id of each item.
            titles: the title of each item, None where it has none; without it no item has one.
        """
        self.vocabulary = vocabulary
        self.num_items = len(item_ids)
        self._item_ids = list(item_ids)
        self._titles = list(titles) if titles else [None] * len(item_ids)
        self._runs: list[Sequence[int]] = [(), (vocabulary.eos_id,)]
        self._tables: dict[tuple[str, ...], int] = {}

    def constant(self, tokens: Sequence[int]) -> int:
        """Adds a run; its number."""
        self._runs.append(tokens)
        return len(self._runs) - 1

    def text(self, text: str) -> int:
        """Adds the run of a text; its number."""
        return self.constant(self.vocabulary.encode(text))

    def empty_items(self) -> int:
        """The first run of a table in which every item's is empty."""
        if ("",) not in self._tables:
            self._tables["",] = len(self._runs)
            self._runs += [()] * self.num_items
        return self._tables["",]

    def items(
        self, texts: ItemTexts, prefix: str = "", suffix: str = "", *, separated: bool = False
    ) -> int:
        """The first run of a table of all items, written that way between `prefix` and `suffix`.

        With `separated`, what stands between two items of a list follows.
        """
        separator = self.separator(texts) if separated else []
        key = (texts.item, texts.item_untitled, prefix, suffix, *map(str, separator))
        if key not in self._tables:
            written = [
                prefix + rendering.item_text(texts, item_id, title) + suffix
                for item_id, title in zip(self._item_ids, self._titles, strict=True)
            ]
            self._tables[key] = len(self._runs)
            self._runs += [[*run, *separator] for run in self.vocabulary.encode_batch(written)]
        return self._tables[key]

    def separator(self, texts: ItemTexts) -> list[int]:
        """The tokens that stand between two items of a list."""
        return self.vocabulary.encode(texts.between_items.strip())

    def runs(self) -> TokenRuns:
        """All runs so far."""
        return TokenRuns.from_lists(self._runs)
