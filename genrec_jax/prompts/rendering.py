"""Templates to text: what a person reads, and the oracle that compiled prompts are held against."""

from collections.abc import Sequence

from genrec_jax.prompts.templates import Template

HISTORY_SEPARATOR = " , "
UNKNOWN_USER = -1


def user_id_text(user: int) -> str:
    """What `{user_id}` becomes: users are numbered from 1; a user never trained on is `0`."""
    return str(user + 1)


def render(
    template: Template,
    *,
    dataset: str,
    user_id: str,
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
    joined = HISTORY_SEPARATOR.join(history)
    return (
        template.input.format(dataset=dataset, user_id=user_id, history=joined),
        template.target.format(dataset=dataset, target=target),
    )
