"""Evaluation's examples of the alignment tasks: whose they are, what they ask, what is answered."""

import dataclasses

import numpy as np

from genrec_jax.data import splits as splits_lib
from genrec_jax.pipeline import alignment_eval
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.prompts import templates
from tests.pipeline import alignment_data
from tests.pipeline.alignment_data import LEAD


def make_assembler(shop, words) -> PromptAssembler:
    return PromptAssembler(
        words,
        alignment_data.item_ids(shop),
        templates.load_templates(templates.ALIGNMENT_TEMPLATES),
        shop.name,
        max_input_length=1024,
        titles=shop.item_titles,
    )


def wording_of(task):
    return [t.id for t in templates.load_templates(templates.ALIGNMENT_TEMPLATES) if t.task == task]


def test_evaluation_examples(shop, words, by_hand):
    assembler, splits = make_assembler(shop, words), splits_lib.leave_one_out(shop)
    for split, held in (("validation", 2), ("test", 1)):
        made = {
            task: alignment_eval.EvaluationSource(
                assembler, shop, splits, split, task, wording_of(task), num_candidates=30
            ).examples()
            for task in templates.EVALUATED_TASKS
        }
        for examples in made.values():
            assert examples.users_E.tolist() == list(range(shop.num_users))
            targets = [shop.sequence(user)[-held] for user in range(shop.num_users)]
            assert examples.targets_E.tolist() == targets
        candidates = made["ranking"].candidates_EC
        for user in range(shop.num_users):
            sequence = shop.sequence(user)
            own = candidates[user].tolist()
            assert len(set(own)) == 30
            assert (set(own) & set(sequence.tolist())) == {int(sequence[-held])}
            shown = by_hand.listed(sequence[: len(sequence) - held][-20:])
            text = f"{LEAD}{shown} What would the user buy next?"
            row = made["retrieval"].prompts.inputs.row(user).tolist()
            assert row == [*words.encode(text), 1]
            ids = ", ".join(map(by_hand.id, own))
            assert words.decode(made["ranking"].prompts.inputs.row(user)).endswith(f"are: {ids}.")
        ratings = shop.ratings_X[shop.offsets_U1[1:] - held]
        assert made["rating"].labels_E.tolist() == (ratings > 3).tolist()


def test_held_out_examples_show_the_first_seen_wording_alone(shop, words):
    """Also those of the validation loss and of SeqIO's tasks, which train on both wordings."""
    known = templates.load_templates(templates.ALIGNMENT_TEMPLATES)
    asked = [t for t in known if t.task in templates.EVALUATED_TASKS]
    again = [dataclasses.replace(t, id=f"{t.id}_2", input=f"again: {t.input}") for t in asked]
    ids = alignment_data.item_ids(shop)
    tables = PromptTables(words, shop.name, ids, [*known, *again], shop.item_titles)
    made = alignment_data.make_tasks(tables, shop, templates.EVALUATED_TASKS, num_candidates=30)
    for name, task in made.items():
        (held,) = task.held_out(task.splits, "test")
        numbers = np.arange(held.num_examples)
        shown = {tables.templates[n].id for n in held.plan(0, numbers).templates_E.tolist()}
        assert shown <= {t.id for t in asked} and name in shown


def test_candidates_do_not_depend_on_who_else_is_asked_for(shop, words):
    assembler, splits = make_assembler(shop, words), splits_lib.leave_one_out(shop)
    source = alignment_eval.EvaluationSource(
        assembler, shop, splits, "test", "ranking", ["ranking"], num_candidates=30
    )
    everybody, some = source.examples(), source.examples(np.array([5, 11]))
    assert some.users_E.tolist() == [5, 11]
    assert (some.candidates_EC == everybody.candidates_EC[[5, 11]]).all()
    assert some.prompts.inputs.to_lists() == [
        everybody.prompts.inputs.row(user).tolist() for user in (5, 11)
    ]


def test_answers(shop, words):
    like, dislike = alignment_eval.answer_tokens(make_assembler(shop, words))
    assert like.tolist() == [*words.encode("yes"), 1]
    assert dislike.tolist() == [*words.encode("no"), 1]
