"""Whole prompts as text, slot by slot: the oracle that compiled prompts are held against."""

from collections.abc import Sequence

from genrec_jax.prompts import rendering
from genrec_jax.prompts.templates import Template


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
    values = {
        "user_id": user_id,
        "history": rendering.list_text(template.texts, history),
        "target": target,
    }
    texts = (template.input, template.target)
    prompt, answer = (rendering.fill_text(text, dataset, values) for text in texts)
    return prompt, answer
