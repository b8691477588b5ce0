"""The HTML builder: everything is escaped but what is markup already."""

from genrec_jax.evaluation import report_html
from genrec_jax.evaluation.report_html import Markup, element, join, section, table

HOSTILE = "<script>alert('x')</script>\" onload=\"alert(1)"


def test_text_and_attributes_are_escaped():
    made = element("p", HOSTILE, title=HOSTILE)
    assert "<script" not in made
    assert ' onload="' not in made
    assert made.count("&lt;script&gt;") == 2


def test_markup_is_kept_and_nests():
    assert element("p", element("b", "a & b"), None, 3) == "<p><b>a &amp; b</b>3</p>"


def test_attribute_names_lose_their_underscores():
    assert element("td", class_="number", aria_label="x", id=None) == (
        '<td class="number" aria-label="x"></td>'
    )


def test_joining_escapes_text_but_not_markup():
    assert join(["<", Markup("<br>"), None], " ") == "&lt; <br>"
    assert isinstance(join(["a"]), Markup)


def test_a_section_without_content_is_nothing():
    assert section("Title", Markup(""), None) == ""
    assert section("Title", "x", level=3) == "<section><h3>Title</h3>x</section>"


def test_a_table_names_its_rows_and_columns():
    made = table("Caption", ["a", "b"], [["r", 1.5], ["s", HOSTILE]], row_classes=["model"])
    assert '<th scope="row">r</th><td class="number">1.5</td>' in made
    assert '<th scope="col" class="number">b</th>' in made
    assert '<tr class="model">' in made and "<tr><th" in made
    assert "<script" not in made
    assert table("Caption", ["a"], []) == ""


def test_definitions_leave_out_what_is_unknown():
    made = report_html.definitions([("a", 1), ("b", None)])
    assert made == "<dl><div><dt>a</dt><dd>1</dd></div></dl>"
    assert report_html.definitions([("b", None)]) == ""
