"""The alignment system's prompts against the paper's own examples (Table 11, Figure 3), word for word."""

import pathlib
import re

import pytest

from genrec_jax.errors import UserError
from genrec_jax.prompts import rendering, templates
from genrec_jax.prompts.templates import ItemTexts
from tests.prompts import rendered

ITEM = re.compile(r"Item ID: (I\d+), Title: (.*?);")


@pytest.fixture(scope="module")
def ours() -> tuple[templates.Template, ...]:
    return templates.load_templates(templates.ALIGNMENT_TEMPLATES)


@pytest.fixture(scope="module")
def table_11(shared: pathlib.Path) -> dict[str, tuple[str, str]]:
    """Task -> input and output, with ids such as 19762 read as they are meant, I9762."""
    (seed,) = (shared / "seeds").glob("001_*.txt")
    rows = {}
    for line in seed.read_text(encoding="utf-8").splitlines():
        found = re.match(
            r"(Retrieval|Ranking|Rating prediction|MIM|MLM|BPR)\t(?:<p>)?<b>Input:</b> (.*)", line
        )
        if found:
            text = re.sub(r"</?p>", "", found[2])
            asked, _, answer = text.partition("<b>Output:</b>")
            meant = [
                re.sub(r"Item ID: 1(\d+)", r"Item ID: I\1", s).strip() for s in (asked, answer)
            ]
            rows[found[1]] = (meant[0], meant[1])
    assert len(rows) == 6
    return rows


def _listed(texts: ItemTexts, text: str) -> str:
    """The items of a piece of the paper's text, written as our templates write them."""
    written = [
        texts.masked_item if not found[1] else rendering.item_text(texts, found[2], found[3])
        for found in re.finditer(r"\[masked item\];|(Item ID: (I\d+), Title: (.*?);)", text)
    ]
    assert written
    return rendering.list_text(texts, written)


def _fill(template: templates.Template, **values: str) -> tuple[str, str]:
    return (
        rendering.fill_text(template.input, "Toys", values) if values else template.input,
        template.target,
    )


def test_retrieval_is_table_11(ours, table_11):
    template = templates.find(ours, "retrieval")
    asked, answer = table_11["Retrieval"]
    text, target = rendered.render(
        template,
        dataset="Toys",
        history=[rendering.item_text(template.texts, i, t) for i, t in ITEM.findall(asked)],
        target="I3977",
    )
    assert (text, target) == (asked, answer)
    assert len(ITEM.findall(asked)) == 9


def test_ranking_is_table_11(ours, table_11):
    template = templates.find(ours, "ranking")
    asked, answer = table_11["Ranking"]
    candidates = re.findall(r"I\d+", asked.split("Candidate items are: ")[1])
    assert len(candidates) == 100
    assert answer in candidates
    shown = template.texts.between_candidates.join(candidates)
    text, target = _fill(template, history=_listed(template.texts, asked), candidates=shown)
    assert text == asked
    assert (target, answer) == ("{target}", "I3977")


def test_rating_is_table_11(ours, table_11):
    template = templates.find(ours, "rating")
    asked, answer = table_11["Rating prediction"]
    likes, dislikes = asked.split("The user dislikes")
    asked_for = re.search(r"Answer yes or no\. Item ID: (I\d+), Title: (.*)$", asked)
    assert asked_for
    text, target = _fill(
        template,
        likes=_listed(template.texts, likes),
        dislikes=_listed(template.texts, dislikes),
        item=rendering.item_text(template.texts, asked_for[1], asked_for[2]),
    )
    assert text == asked
    assert (target, answer) == ("{answer}", template.texts.dislike)
    # The prompt shows the last 5 of the 9 items that the others show.
    shown = {item for item, _ in ITEM.findall(asked)}
    last = [item for item, _ in ITEM.findall(table_11["Retrieval"][0])][-5:]
    assert shown == set(last)
    assert template.shows == 5


def test_mim_is_table_11(ours, table_11):
    template = templates.find(ours, "mim")
    asked, answer = table_11["MIM"]
    assert _fill(template, window=_listed(template.texts, asked))[0] == asked
    assert _listed(template.texts, answer) == answer
    assert asked.count("[masked item];") == 2


def test_mlm_is_table_11(ours, table_11):
    template = templates.find(ours, "mlm")
    asked, _ = table_11["MLM"]
    assert _fill(template, window=_listed(template.texts, asked))[0] == asked


def test_bpr_is_table_11(ours, table_11):
    template = templates.find(ours, "bpr")
    asked, answer = table_11["BPR"]
    history, choices = asked.split("Which of the following two items")
    filled = {
        "history": _listed(template.texts, history),
        "choices": _listed(template.texts, choices),
    }
    assert _fill(template, **filled)[0] == asked
    assert _listed(template.texts, answer) == answer
    assert answer in asked


def test_questions_are_figure_3(ours, shared):
    (seed,) = (shared / "seeds").glob("001_*.txt")
    figure = seed.read_text(encoding="utf-8").replace("\u2019", "'")
    asked = re.findall(r"Input: (What's the (\w+) of (I\d+)\?) Output:", figure)
    assert {field for _, field, _ in asked} == {"title", "brand", "price"}
    for text, field, item in asked:
        (template,) = [t for t in ours if t.field == field]
        assert rendering.fill_text(template.input, "Toys", {"item_id": item}) == text
    fields = [t.field for t in ours if t.task == "ie"]
    assert sorted(map(str, fields)) == sorted(templates.ITEM_FIELDS)


def test_every_task_has_a_prompt(ours):
    for task in templates.ALIGNMENT_TASKS:
        assert templates.select(ours, task=task, seen=True), task
    assert rendering.item_text(ours[0].texts, "I5", None) == "Item ID: I5"


GOOD = """
[texts]
item = "{item_id} ({title})"

[[template]]
id = "r"
task = "rating"
seen = true
input = "{likes} {item}?"
target = "{answer}"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{likes} ", "", "wanted {likes}, {dislikes} or both"),
        ("{item}", "this", r"wanted \{item\} once in its input"),
        ('"{answer}"', '"yes"', r"wanted \{answer\} once in its target"),
        ("seen = true", "seen = true\nshows = 0", "shows is 0; wanted at least 1"),
        ("seen = true", 'seen = true\nfield = "title"', "for an ie template alone"),
        ('item = "{item_id} ({title})"', 'item = "{title}"', r"wanted \{item_id\} once"),
        ('item = "{item_id} ({title})"', 'items = "x"', r"\[texts\] has \['items'\]"),
        ('item = "{item_id} ({title})"', "item = 3", "wanted a text in quotes"),
        ('item = "{item_id} ({title})"', 'between_items = ","', "white space at both ends"),
        ('item = "{item_id} ({title})"', 'between_candidates = "/"', "white space at its end"),
        ('item = "{item_id} ({title})"', 'item = "{item_id"', "not well formed"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, message: str):
    assert old in GOOD
    with pytest.raises(UserError, match=message) as caught:
        templates.parse_templates(GOOD.replace(old, new, 1), file="mine.toml")
    assert caught.value.file == "mine.toml"


def test_the_file_that_the_mistakes_are_made_in_is_good():
    (only,) = templates.parse_templates(GOOD)
    assert only.texts.item == "{item_id} ({title})"


def test_rating_prompts_that_are_asked_together():
    def rating(name: str, slots: str, seen: bool) -> templates.Template:
        return templates.Template(name, "rating", seen, f"{slots} {{item}}", "{answer}")

    known = [
        rating("likes", "{likes}", True),
        rating("other", "{likes} {dislikes}", False),
        rating("both", "{likes} {dislikes}", True),
        rating("both_2", "{dislikes} {likes}", True),
        rating("dislikes", "{dislikes}", True),
        rating("dislikes_2", "{dislikes}", True),
        rating("other_likes", "{likes}", False),
    ]
    seen = [("both", "likes", "dislikes"), ("both_2", "likes", "dislikes_2")]
    found = templates.rating_wordings(known)
    assert [tuple(t.id for t in wording) for wording in found] == seen
    unseen = ("other", "other_likes", "other_dislikes")
    found = templates.rating_wordings([*known, rating("other_dislikes", "{dislikes}", False)])
    assert [tuple(t.id for t in wording) for wording in found] == [*seen, unseen]
