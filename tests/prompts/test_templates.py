"""The 22 templates against the seed, and every mistake a user's own file can hold."""

import pathlib
import re

import pytest

from genrec_jax.errors import UserError
from genrec_jax.prompts import templates

GOOD = """
[[template]]
id = "S1"
task = "sequential"
seen = true
input = "{dataset} user_{user_id} had {history}, and then?"
target = "{dataset} {target}"
"""


def test_word_for_word_as_the_paper_but_for_b3(shared: pathlib.Path):
    (seed,) = (shared / "seeds").glob("000_*.txt")
    appendix = seed.read_text(encoding="utf-8").split("In this appendix")[1]
    pattern = r"Prompt (Seen|Unseen): (\w+)\s+Input Template: (.+)\s+Target Template: (.+)"
    paper = {
        name: (kind == "Seen", text.split(), target.split())
        for kind, name, text, target in re.findall(pattern, appendix)
    }
    ours = templates.load_templates()
    assert len(paper) == 22
    assert [template.id for template in ours] == list(paper)
    for template in ours:
        seen, text, target = paper[template.id]
        if template.id == "B3":
            assert text[7:9] == ["dataset", "user_{user_id}"]
            text[7] = "{dataset}"
        assert (template.seen, template.input.split(), template.target.split()) == (
            seen,
            text,
            target,
        )
        assert template.task == {"A": "sequential", "B": "straightforward"}[template.id[0]]
    assert "itmes" in templates.find(ours, "A4").input


def test_select_and_find():
    ours = templates.load_templates()
    assert len(templates.select(ours, task="sequential", seen=True)) == 10
    assert [t.id for t in templates.select(ours, seen=False)] == ["A11", "B11"]
    with pytest.raises(UserError, match="no template 'A12'; wanted one of A1, A2"):
        templates.find(ours, "A12")


def test_own_file(tmp_path: pathlib.Path):
    path = tmp_path / "mine.toml"
    for content in (GOOD, "\ufeff" + GOOD.replace("\n", "\r\n")):  # the second as Windows writes it
        path.write_text(content, encoding="utf-8", newline="")
        (only,) = templates.load_templates(path)
        assert only.id == "S1"
        assert templates.slots(only.input) == ["dataset", "user_id", "history"]


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ('id = "S1"', 'id = "S1', "is not TOML", 3),
        ('"S1"', '"S 1"', "without spaces", 2),
        ("[[template]]", "[[prompt]]", r"wanted one or more \[\[template\]\]", None),
        ("seen = true\n", "", "has no 'seen'", 2),
        ("seen = true", "seen = 1", "wanted a true or false", 2),
        ("seen = true", "seen = true\nweight = 3", "has 'weight'", 2),
        ("seen = true", "seen = false", "no sequential template has seen = true", None),
        ('"sequential"', '"rated"', "task is 'rated'", 2),
        ('"sequential"', '"rating"', r"has the slot \{history\}", 2),
        ('"sequential"', '"straightforward"', r"has the slot \{history\}", 2),
        ("{history}", "its items", r"wanted \{history\} once", 2),
        ("{user_id}", "{user}", r"has the slot \{user\}", 2),
        ("{user_id}", "{user_id!r}", "is not a plain name", 2),
        ("and then?", "and {target}?", r"has the slot \{target\}", 2),
        ("{dataset} {target}", "{dataset}", r"wanted \{target\} once", 2),
        ("and then?", "and then {?", "not well formed", 2),
    ],
)
def test_a_mistake_is_named(old: str, new: str, message: str, line: int | None):
    assert old in GOOD
    with pytest.raises(UserError, match=message) as caught:
        templates.parse_templates(GOOD.replace(old, new, 1), file="mine.toml")
    assert caught.value.file == "mine.toml"
    assert caught.value.line == line


def test_two_of_one_id_and_differing_targets():
    with pytest.raises(UserError, match=r"mine.toml:9: the id 'S1' is used twice"):
        templates.parse_templates(GOOD + GOOD, file="mine.toml")
    other = GOOD.replace("S1", "S2").replace('"{dataset} {target}"', '"{target}"')
    with pytest.raises(UserError, match="one trie serves them all") as caught:
        templates.parse_templates(GOOD + other)
    assert caught.value.line == 9


def test_missing_file(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match="Copy"):
        templates.load_templates(tmp_path / "none.toml")
