"""Rendering, against texts written out by hand."""

from genrec_jax.prompts import rendering, templates
from tests.prompts import rendered


def test_sequential():
    a1 = templates.find(templates.load_templates(), "A1")
    assert rendered.render(
        a1,
        dataset="Beauty",
        user_id=rendering.user_id_text(0),
        history=["item_1001", "item_<CI0><CI3>"],
        target="item_1002",
    ) == (
        "Considering Beauty user_1 has interacted with Beauty items item_1001 , item_<CI0><CI3> ."
        " What is the next recommendation for the user ?",
        "Beauty item_1002",
    )


def test_straightforward_and_a_new_user():
    b9 = templates.find(templates.load_templates(), "B9")
    user = rendering.user_id_text(rendering.UNKNOWN_USER)
    assert rendered.render(b9, dataset="LastFM", user_id=user, target="item_1001") == (
        "Based on LastFM user_0 's interests and requirements , what item would you suggest to try ?",
        "LastFM item_1001",
    )


def test_literal_braces():
    text = """
    [[template]]
    id = "S1"
    task = "straightforward"
    seen = true
    input = "{{x}} {user_id}"
    target = "{target}"
    """
    (template,) = templates.parse_templates(text)
    assert rendered.render(template, dataset="d", user_id="5", target="t") == ("{x} 5", "t")
