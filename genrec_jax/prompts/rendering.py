"""Templates to text: what a person reads, and the oracle that compiled prompts are held against."""

from collections.abc import Mapping, Sequence

from genrec_jax.prompts.templates import ItemTexts, Template

HISTORY_SEPARATOR = ItemTexts.between_items
UNKNOWN_USER = -1


def user_id_text(user: int) -> str:
    """What `{user_id}` becomes: users are numbered from 1; a user never trained on is `0`."""
    return str(user + 1)


def item_text(texts: ItemTexts, item_id: str, title: str | None = None) -> str:
    """How one item is written, without what follows it in a list."""
    if title:
        return texts.item.format(item_id=item_id, title=title)
    return texts.item_untitled.format(item_id=item_id)


def list_text(texts: ItemTexts, items: Sequence[str]) -> str:
    """A list of items, each as `item_text` gives it; a masked one is `texts.masked_item`."""
    return texts.between_items.join(item + texts.after_item for item in items)


def render(
    template: Template,
    *,
    dataset: str,
    user_id: str = "",
    history: Sequence[str] = (),
    target: str = "",
) -> tuple[str, str]:
    """Fills a template.

    Args:
        template: the template.
        dataset: the dataset's name, such as `Beauty`.
        user_id: see `user_id_text`.
        history: item texts such as `item_1001`, oldest first.
        target: the item text to be generated; may be empty where only the prompt is wanted.

    Returns:
        The input text and the target text:

            >>> render(a11, dataset="Beauty", user_id="7", history=["item_1001", "item_1004"],
            ...        target="item_1002")
            ('What is the top recommended item for Beauty user_7 who interacted with Beauty item
             item_1001 , item_1004 ?', 'Beauty item_1002')
    """
    values = {"user_id": user_id, "history": list_text(template.texts, history), "target": target}
    return fill_text(template.input, dataset, values), fill_text(template.target, dataset, values)


def fill_text(text: str, dataset: str, values: Mapping[str, str]) -> str:
    """A template's input or target with its slots filled: any task's.

    Args:
        text: with slots.
        dataset: what `{dataset}` becomes.
        values: what each of the other slots becomes.
    """
    return text.format(**{"dataset": dataset, **values})
