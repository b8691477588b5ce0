"""No task of a mixture trains on another's held-out item: on every mixture, and where it must fail."""

import dataclasses

import numpy as np
import pytest

from genrec_jax.data import audit
from genrec_jax.data import splits as splits_lib
from genrec_jax.errors import UserError
from genrec_jax.pipeline import alignment_mixtures, mixture_audit, mixtures
from genrec_jax.prompts import templates
from tests.pipeline import alignment_data


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return alignment_data.write_shop(tmp_path_factory.mktemp("audit") / "shop", users=40)


@pytest.fixture(scope="module")
def words(shared):
    return alignment_data.t5_with_sentinels(shared)


def build(name, shop, words, splits=None, **options):
    return mixtures.build_mixture(
        name,
        [shop],
        [alignment_data.item_ids(shop)],
        words,
        templates.load_templates(mixtures.default_templates(name)),
        titles=[shop.item_titles],
        num_candidates=20,
        max_input_length=1024,
        splits=None if splits is None else [splits],
        **options,
    )


@pytest.mark.parametrize("name", [n for n, t in mixtures.MIXTURE_TASKS.items() if t])
def test_every_mixture_passes(shop, words, name):
    splits = splits_lib.leave_one_out(shop)
    (result,) = mixture_audit.check_mixture(build(name, shop, words), [splits])
    assert result.status == "pass"


def test_what_is_held_out_and_no_target_is_watched_too(shop, words):
    """By date users have more after the dates than their targets: none of it may train."""
    last_U = shop.offsets_U1[1:] - 1
    part = splits_lib.Splits("temporal", last_U - 3, last_U - 3, last_U - 2)
    (result,) = mixture_audit.audit_mixture(build("openp5", shop, words, part), [part])
    assert result.status == "pass"
    reads_the_last = dataclasses.replace(part, train_end_U=last_U + 1)
    mixture = build("openp5", shop, words, reads_the_last)
    for source in mixture.sources:
        source.positions_N = source.positions_N[np.isin(source.positions_N, last_U)]
        source._shown = 0  # the last item alone, which is no target
        source.num_examples = len(source.positions_N) * source._draws
    (result,) = mixture_audit.audit_mixture(mixture, [part])
    assert result.status == "fail"
    assert "the split holds out" in result.detail


@pytest.mark.parametrize("task", templates.ALIGNMENT_TASKS[:-1])
def test_each_task_on_its_own_would_be_caught(shop, words, task):
    """A task built on a split that ends one item later, beside the others on the right one."""
    right = splits_lib.leave_one_out(shop)
    wrong = dataclasses.replace(right, train_end_U=right.train_end_U + 1)
    good = build("alignment_ut_at", shop, words)
    bad = build(f"alignment_{task}", shop, words, wrong)
    both = mixtures.Mixture("both", (*good.sources, *bad.sources))
    (result,) = mixture_audit.audit_mixture(both, [right])
    assert result.status == "fail"
    assert f"training examples of Shop/{task}" in result.detail
    with pytest.raises(UserError, match=r"both leaks: .* Split the log in one way for all tasks"):
        mixture_audit.check_mixture(both, [right])


def test_no_token_depends_on_a_held_out_interaction(shop, words):
    """Every training example of every task, made anew with the held-out items exchanged."""
    part = splits_lib.leave_one_out(shop)
    words_of = alignment_data.item_ids(shop)

    def examples(dataset):
        tables = mixtures.PromptTables(
            words,
            "Shop",
            words_of,
            templates.load_templates(templates.ALIGNMENT_TEMPLATES),
            shop.item_titles,
        )
        settings = alignment_mixtures.AlignmentSettings(num_candidates=20)
        tasks = alignment_mixtures.build_tasks(
            tables, dataset, part, templates.ALIGNMENT_TASKS, settings
        )
        made = []
        for task in tasks:
            for epoch in (0, 1):
                block = task.assemble(epoch, np.arange(task.num_examples))
                made += [str(row) for row in block.inputs.to_lists() + block.targets.to_lists()]
        return made

    result = audit.audit_rebuild("examples_rebuilt", shop, part, examples(shop), examples)
    assert result.status == "pass", result.detail
