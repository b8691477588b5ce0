import pytest

from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.errors import UserError

TITLES = [
    "Toy Story (1995)",
    "Star Wars (1977)",
    "Star Trek: The Motion Picture (1979)",
    "Fried Green Tomatoes (1991)",
    "Tom &amp; Huck (1995)",
    None,
    "Star Wars (1977)",
]
CATALOGUE = Catalogue(["m1", "m2", "m3", "m4", "m5", "m6", "77"], TITLES)


@pytest.mark.parametrize(
    "query, item",
    [
        ("m6", 5),
        ("77", 6),
        (77, 6),
        ("Toy Story (1995)", 0),
        ("  toy story  (1995) ", 0),
        ("Star Wars (1977)", 1),
        ("Tom & Huck (1995)", 4),
        ("Tom &amp; Huck (1995)", 4),
    ],
)
def test_known_ones_are_found_exactly(query, item):
    match = CATALOGUE.find(query)
    assert match.item == item and match.exact and match.similarity == 1.0


@pytest.mark.parametrize(
    "query, item",
    [
        ("toy story", 0),
        ("Star Warz", 1),
        ("startrek motion picture", 2),
        ("green tomatos fried", 3),
        ("tom and huck", 4),
        ("m66", 5),
    ],
)
def test_unknown_ones_get_the_nearest(query, item):
    match = CATALOGUE.find(query)
    assert match.item == item
    assert not match.exact and 0 < match.similarity < 1
    assert match.query == query
    assert match.title == CATALOGUE.titles[item]


@pytest.mark.parametrize("query", ["zzzz", "", "   "])
def test_nothing_alike_is_an_error(query):
    with pytest.raises(UserError, match="neither a source id nor a title"):
        CATALOGUE.find(query)


def test_catalogue_without_titles():
    catalogue = Catalogue(["100", "101", "205"], [None, None, None])
    assert catalogue.find(101).exact
    assert catalogue.find("2055").source_id == "205"


def test_titles_lose_their_html_entities():
    assert CATALOGUE.titles[4] == "Tom & Huck (1995)"


def test_items_of_takes_none_for_another():
    assert CATALOGUE.items_of(["m2", 77, " tom & huck (1995)"]) == [1, 6, 4]
    with pytest.raises(UserError, match="'Star Wras', 'a', 'b' and 1 more: neither source ids nor"):
        CATALOGUE.items_of(["m1", "Star Wras", "a", "b", "c"])
