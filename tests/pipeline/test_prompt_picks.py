"""Tables picked item by item, and assemblers that grew, against those built of the same items anew."""

import dataclasses

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.indexing import unigram_vocabulary
from genrec_jax.pipeline import prompt_picks
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.prompts import templates
from tests.pipeline.test_prompt_tables import GLUED

TEXTS = [f"item_{number}" for number in (4, 17, 230, 1, 99, 58, 12, 7_777)]
TITLES = ["Red Train", None, "Kite", "Doll's House", "Kite", None, "K'NEX & Co", "Puzzle 500-Piece"]


@pytest.fixture(scope="module", params=["openp5", "alignment", "glued"])
def kind(request, openp5_templates):
    if request.param == "openp5":
        return openp5_templates
    if request.param == "glued":
        return templates.parse_templates(GLUED)
    return templates.load_templates(templates.ALIGNMENT_TEMPLATES)


@pytest.fixture(scope="module")
def words():
    return unigram_vocabulary.train([*TEXTS, *filter(None, TITLES)], words=["Shop", "user", "item"])


def assert_same_tables(found: PromptTables, wanted: PromptTables):
    for name in ("static_runs", "item_runs"):
        assert getattr(found, name).to_lists() == getattr(wanted, name).to_lists()
    for name in ("table_starts", "list_inputs", "list_targets", "sentinel_runs"):
        assert getattr(found, name) == getattr(wanted, name)
    for name in ("inputs", "targets"):
        own, other = getattr(found, name), getattr(wanted, name)
        for field in dataclasses.fields(own):
            np.testing.assert_array_equal(getattr(own, field.name), getattr(other, field.name))


@pytest.mark.parametrize(
    "numbers", [[0, 1, 2], [5], [7, 2, 2, 0], list(range(8))], ids=["some", "one", "again", "all"]
)
def test_picked_tables_are_those_built_of_these_items(kind, words, numbers):
    whole = PromptTables(words, "Shop", TEXTS, kind, TITLES)
    texts, titles = [TEXTS[n] for n in numbers], [TITLES[n] for n in numbers]
    anew = PromptTables(words, "Shop", texts, kind, titles)
    assert_same_tables(prompt_picks.pick([whole], [np.asarray(numbers)]), anew)
    # From two tables, and picked once more from what was picked.
    parts = [
        PromptTables(words, "Shop", TEXTS[a:b], kind, TITLES[a:b]) for a, b in ((0, 3), (3, 8))
    ]
    joined = prompt_picks.pick(parts, [np.arange(3), np.arange(5)])
    assert_same_tables(joined, whole)
    assert_same_tables(prompt_picks.pick([joined], [np.asarray(numbers)]), anew)


def assert_same_prompts(found, wanted):
    assert found.inputs.to_lists() == wanted.inputs.to_lists()
    assert found.whole_words.to_lists() == wanted.whole_words.to_lists()


@pytest.mark.parametrize("seed", range(2))
def test_an_assembler_that_grew_is_one_built_anew(kind, words, seed):
    rng = np.random.default_rng(seed)
    sizes = np.split(np.arange(8), np.sort(rng.choice(np.arange(1, 8), 3, replace=False)))
    first, *more = [([TEXTS[i] for i in part], [TITLES[i] for i in part]) for part in sizes]
    grown = PromptAssembler(words, first[0], kind, "Shop", titles=first[1])
    versions = [grown]
    for texts, titles in more:
        grown = grown.extended(texts, titles)
        versions.append(grown)
    asked = [t for t in kind if t.task in templates.SEARCHED_TASKS]
    assert asked
    # Every version, the earlier ones after the later ones were made.
    for version in versions:
        count = version.num_items
        anew = PromptAssembler(words, TEXTS[:count], kind, "Shop", titles=TITLES[:count])
        assert version.target_runs().to_lists() == anew.target_runs().to_lists()
        assert version.target_runs(begin=2).to_lists() == anew.target_runs().to_lists()[2:]
        histories = [rng.integers(0, count, size) for size in (1, 2, 5, 30)]
        for template in asked:
            own, wanted = (
                one.assemble(template.id, np.asarray([3, -1, 3, 0]), histories)
                for one in (version, anew)
            )
            assert_same_prompts(own, wanted)
        with pytest.raises(UserError, match=f"has item {count}; wanted .* to {count - 1}"):
            version.assemble(asked[0].id, None, [np.asarray([count])])


def test_versions_may_branch(words, openp5_templates):
    first = PromptAssembler(words, TEXTS[:2], openp5_templates, "Shop")
    ways = [first.extended(TEXTS[2:4]), first.extended(TEXTS[4:7])]
    for way, texts in zip(ways, (TEXTS[:4], [*TEXTS[:2], *TEXTS[4:7]]), strict=True):
        anew = PromptAssembler(words, texts, openp5_templates, "Shop")
        assert way.target_runs().to_lists() == anew.target_runs().to_lists()
    assert first.num_items == 2
