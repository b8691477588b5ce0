"""Checks of item ids as tokens, at index time: one sequence of tokens per item, and no other item's."""

import dataclasses
from collections.abc import Sequence

from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """How many tokens the ids take.

    Attributes:
        shortest: tokens of the shortest id, without the end of sequence.
        mean: over all items.
        longest: of the longest.
    """

    shortest: int
    mean: float
    longest: int


def unknown_share(texts: Sequence[str], vocabulary: Vocabulary) -> float:
    """The share of unknown tokens in texts; 0 where there is no text."""
    rows = vocabulary.encode_batch(texts)
    unknown = sum(row.count(vocabulary.unk_id) for row in rows)
    return unknown / max(sum(map(len, rows)), 1)


def check_unambiguous(
    texts: Sequence[str], vocabulary: Vocabulary, *, describe: Sequence[str]
) -> TokenCounts:
    """Checks that a sequence of tokens ending in end of sequence names exactly one item.

    With the end of sequence counted, one id's tokens may begin another's (`item_12` and
    `item_1234`), because the end of sequence itself tells them apart; what may not happen is that
    two ids are the same tokens, or that an id holds unknown, padding or end of sequence.

    Args:
        texts: id texts, indexed by item.
        vocabulary: what tokenises them.
        describe: how errors name each item (its source id).

    Raises:
        UserError: naming both items of a clash, or the item whose id cannot be written in tokens.
    """
    special = {vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id}
    owners: dict[tuple[int, ...], int] = {}
    lengths = []
    for item, tokens in enumerate(vocabulary.encode_batch(texts)):
        if not tokens or special & set(tokens):
            raise UserError(
                f"the id {texts[item]!r} of item {item} ({describe[item]}) becomes"
                f" {vocabulary.pieces(tokens)}, which holds an unknown or a special token; wanted"
                " ids that the vocabulary can write. Add the missing tokens to the vocabulary"
            )
        other = owners.setdefault(tuple(tokens), item)
        if other != item:
            raise UserError(
                f"items {other} ({describe[other]}, id {texts[other]!r}) and {item}"
                f" ({describe[item]}, id {texts[item]!r}) have the same tokens"
                f" {vocabulary.pieces(tokens)}; wanted a different sequence for every item."
                " Change one of the ids, or use a vocabulary that tells them apart"
            )
        lengths.append(len(tokens))
    return TokenCounts(min(lengths), sum(lengths) / len(lengths), max(lengths))
