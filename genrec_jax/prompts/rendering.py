"""Templates to text: how users, items and lists are written."""

from collections.abc import Mapping, Sequence

from genrec_jax.prompts.templates import ItemTexts

UNKNOWN_USER = -1


def user_id_text(user: int) -> str:
    """The text of `{user_id}`: users are numbered from 1; a user never trained on is `0`."""
    return str(user + 1)


def item_text(texts: ItemTexts, item_id: str, title: str | None = None) -> str:
    """How one item is written, without what follows it in a list."""
    if title:
        return texts.item.format(item_id=item_id, title=title)
    return texts.item_untitled.format(item_id=item_id)


def list_text(texts: ItemTexts, items: Sequence[str]) -> str:
    """A list of items, each as `item_text` gives it; a masked one is `texts.masked_item`."""
    return texts.between_items.join(item + texts.after_item for item in items)


def fill_text(text: str, dataset: str, values: Mapping[str, str]) -> str:
    """A template's input or target with its slots filled: any task's.

    Args:
        text: with slots.
        dataset: what `{dataset}` becomes.
        values: what each of the other slots becomes.
    """
    return text.format(**{"dataset": dataset, **values})
