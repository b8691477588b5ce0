"""Ids must be told apart by their tokens, and errors name both items."""

import pytest

from genrec_jax.errors import UserError
from genrec_jax.indexing import token_checks, unigram_vocabulary


@pytest.fixture(scope="module")
def vocabulary(prompt_lines):
    return unigram_vocabulary.train(prompt_lines, added_tokens=["<CI1>"])


def test_counts(vocabulary):
    counts = token_checks.check_unambiguous(
        ["item_7", "item_1234", "item_123456"], vocabulary, describe=["a", "b", "c"]
    )
    assert (counts.shortest, counts.mean, counts.longest) == (1, 2.0, 3)


def test_one_id_may_begin_another(vocabulary):
    """End of sequence tells `item_12` from `item_1234`."""
    texts = ["item_12", "item_1234"]
    first, second = vocabulary.encode_batch(texts)
    assert second[: len(first)] == first
    token_checks.check_unambiguous(texts, vocabulary, describe=["a", "b"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("item_5", "item_5"),
        ("item_5", " item_5 "),  # other text, same tokens: white space at the ends vanishes
        ("item_5", "item_\uff15"),  # a full-width digit is normalised
    ],
)
def test_a_clash_names_both_items(vocabulary, first, second):
    with pytest.raises(UserError) as caught:
        token_checks.check_unambiguous(
            ["item_1", first, second], vocabulary, describe=["B000A", "B000B", "B000C"]
        )
    message = str(caught.value)
    assert "items 1 (B000B" in message
    assert "and 2 (B000C" in message
    assert repr(second) in message


@pytest.mark.parametrize("text", ["item_\u4e2d", ""])
def test_ids_that_tokens_cannot_write(vocabulary, text):
    with pytest.raises(UserError, match=r"of item 1 \(B\) becomes"):
        token_checks.check_unambiguous(["item_1", text], vocabulary, describe=["A", "B"])


@pytest.mark.parametrize("text", ["item_1 </s>", "<pad>"])
def test_special_tokens_cannot_be_written_as_text(vocabulary, text):
    """So a title or a name holding `</s>` can never end a sequence."""
    assert not {vocabulary.pad_id, vocabulary.eos_id} & set(vocabulary.encode(text))
