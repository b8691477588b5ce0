"""Prompts to recommend for: known users, new users, whole splits."""

import numpy as np
import pytest

from genrec_jax.data import splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import prompt_batches
from genrec_jax.prompts import templates
from tests.prompts import rendered


@pytest.fixture(scope="module")
def assembler(shop, texts_of, small_vocabulary, openp5_templates):
    return prompt_batches.PromptAssembler(
        small_vocabulary, texts_of(shop), openp5_templates, "Shop"
    )


@pytest.mark.parametrize(("split", "held_out"), [("validation", 2), ("test", 1)])
@pytest.mark.parametrize("name", ["A1", "A11", "B1", "B11"])
def test_every_user_of_a_split_once(
    assembler, shop, texts_of, small_vocabulary, openp5_templates, split, held_out, name
):
    texts = texts_of(shop)
    found = {}
    shapes = set()
    for batch in prompt_batches.prompt_batches(
        assembler, shop, splits.leave_one_out(shop), split, name, 16
    ):
        shapes.add(batch.encoder_input_tokens_BL.shape)
        for row, words, user, target in zip(
            batch.encoder_input_tokens_BL,
            batch.encoder_whole_word_ids_BL,
            batch.users_B.tolist(),
            batch.targets_B.tolist(),
            strict=True,
        ):
            if user < 0:
                assert target == -1
                assert not row.any()
                continue
            assert user not in found
            found[user] = row[row > 0].tolist()
            assert target == shop.sequence(user)[-held_out]
            expected = np.cumsum([p.startswith("▁") for p in small_vocabulary.pieces(found[user])])
            assert words[row > 0].tolist() == [*expected[:-1], 0]
    assert {rows for rows, _ in shapes} == {16}
    assert len(shapes) <= 4
    for user in range(shop.num_users):
        text, _ = rendered.render(
            templates.find(openp5_templates, name),
            dataset="Shop",
            user_id=str(user + 1),
            history=[texts[item] for item in shop.sequence(user)[:-held_out]][-20:],
        )
        assert found[user] == [*small_vocabulary.encode(text), 1]


def test_some_users_over_two_hosts(assembler, shop):
    one = splits.leave_one_out(shop)
    users = np.array([3, 5, 8, 13, 21])
    arguments = (assembler, shop, one, "test", "A1", 4)
    alone = list(prompt_batches.prompt_batches(*arguments, users=users))
    halves = [
        list(prompt_batches.prompt_batches(*arguments, users=users, host=h, num_hosts=2))
        for h in range(2)
    ]
    for whole, *parts in zip(alone, *halves, strict=True):
        for field in ("encoder_input_tokens_BL", "users_B", "targets_B"):
            together = np.concatenate([getattr(part, field) for part in parts])
            assert np.array_equal(together, getattr(whole, field))
    assert sorted(u for b in alone for u in b.users_B.tolist()) == [-1, -1, -1, 3, 5, 8, 13, 21]


def test_new_users_and_own_user_texts(assembler, small_vocabulary, texts_of, shop):
    histories = [np.array([4, 5]), np.array([6])]
    decode = small_vocabulary.decode
    for users, words in (
        (None, ["user_0", "user_0"]),
        (np.array([-1, 16]), ["user_0", "user_17"]),
        (["17", "guest"], ["user_17", "user_"]),
    ):
        prompts = assembler.assemble("A1", users, histories)
        for row, word in zip(prompts.inputs.to_lists(), words, strict=True):
            assert f"Shop {word}" in decode(row)
    assert texts_of(shop)[6] in decode(prompts.inputs.row(1).tolist())


def test_only_the_newest_items_are_shown(assembler, small_vocabulary, shop, texts_of):
    long = assembler.assemble("A3", None, [np.arange(60)])
    assert (
        long.inputs.to_lists()
        == assembler.assemble("A3", None, [np.arange(40, 60)]).inputs.to_lists()
    )


def test_target_runs_are_what_the_trie_needs(assembler, shop, texts_of, small_vocabulary):
    wanted = [[*small_vocabulary.encode(f"Shop {text}"), 1] for text in texts_of(shop)]
    assert assembler.target_runs().to_lists() == wanted


def test_mistakes(assembler, shop):
    with pytest.raises(UserError, match="history 1 is empty"):
        assembler.assemble("A1", None, [np.array([1]), np.array([], np.int32)])
    assert len(assembler.assemble("B1", None, [np.array([], np.int32)])) == 1
    with pytest.raises(UserError, match="wanted item numbers from 0 to 89"):
        assembler.assemble("A1", None, [np.array([90])])
    with pytest.raises(UserError, match="no template 'A99'"):
        assembler.assemble("A99", None, [np.array([1])])
    one = splits.leave_one_out(shop)
    with pytest.raises(UserError, match="does not divide among 3 hosts"):
        list(prompt_batches.prompt_batches(assembler, shop, one, "test", "A1", 16, num_hosts=3))
    with pytest.raises(UserError, match="the batch of 0"):
        list(prompt_batches.prompt_batches(assembler, shop, one, "test", "A1", 0))
