import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding.catalogue import Catalogue, Match, Rows
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
        (6, 6),
        (np.int64(0), 0),
        (Match("m3", 2, "m3", None, 1.0), 2),
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
    ],
)
def test_unknown_titles_get_the_nearest(query, item):
    match = CATALOGUE.find(query)
    assert match.item == item
    assert not match.exact and 0 < match.similarity < 1
    assert match.query == query
    assert match.title == CATALOGUE.titles[item]


@pytest.mark.parametrize("query", ["zzzz", "", "   ", "m66", "story1995", "1995", "Green Wars"])
def test_nothing_alike_is_an_error(query):
    """Nor is a source id taken for the title or the other source id that it resembles."""
    with pytest.raises(
        UserError, match="neither a source id nor a title of the catalogue, nor like"
    ):
        CATALOGUE.find(query)


def test_an_unknown_title_is_an_error_where_none_is_guessed():
    with pytest.raises(
        UserError, match="'Star Warz' is neither a source id nor a title of the cata"
    ):
        CATALOGUE.find("Star Warz", nearest=False)


def test_catalogue_without_titles():
    catalogue = Catalogue(["100", "101", "205"], [None, None, None])
    assert catalogue.find("101").item == 1
    with pytest.raises(UserError, match=r"given as 101; wanted .* an item number from 0 to 2"):
        catalogue.find(101)
    with pytest.raises(UserError, match="wanted something such as '100'"):
        catalogue.find("2055")


def test_a_history_of_known_and_unknown_ones():
    history = ["m2", "Star Warz", "m66", np.int64(6), "zzzz"]
    nearest, skipped = CATALOGUE.read(history, "nearest")
    assert [match.item for match in nearest] == [1, 1, 6] and skipped == ["m66", "zzzz"]
    known, skipped = CATALOGUE.read(history, "skip")
    assert [match.item for match in known] == [1, 6] and skipped == ["Star Warz", "m66", "zzzz"]
    with pytest.raises(UserError, match="'Star Warz' is neither"):
        CATALOGUE.read(history, "error")
    assert CATALOGUE.read(["m1"], "error") == ([CATALOGUE.find("m1")], [])


@pytest.mark.parametrize(
    "entry", [None, float("nan"), 6.0, np.float64(6), True, b"m1", ["m1"], 7, -1]
)
@pytest.mark.parametrize("unknown", ["nearest", "skip", "error"])
def test_what_is_no_item_at_all(entry, unknown):
    with pytest.raises(
        UserError, match="wanted a source id or title as text, an item number from 0 to 6"
    ):
        CATALOGUE.read(["m1", entry], unknown)
    with pytest.raises(UserError, match=re.escape(f"an item is given as {entry!r}")):
        CATALOGUE.items_of([entry])


def test_titles_lose_their_html_entities():
    assert CATALOGUE.titles[4] == "Tom & Huck (1995)"


def test_items_of_takes_none_for_another():
    assert CATALOGUE.items_of(["m2", 6, " tom & huck (1995)"]) == [1, 6, 4]
    with pytest.raises(UserError, match="'Star Wras', 'a', 'b' and 1 more: neither source ids nor"):
        CATALOGUE.items_of(["m1", "Star Wras", "a", "b", "c"])


def test_items_of_takes_a_list_and_no_title_of_several():
    numbered = Catalogue(["1", "2", "3", "123"], [None] * 4)
    with pytest.raises(UserError, match=r"are given as '123'; wanted a list .* such as \['1'\]"):
        numbered.items_of("123")
    assert numbered.items_of(["123"]) == [3]
    with pytest.raises(
        UserError, match="is the title of 2 items, 'm2', '77'; wanted the source ids"
    ):
        CATALOGUE.items_of(["star wars  (1977)"])


def test_a_title_means_an_item_that_is_not_retired():
    after = CATALOGUE.extended(["new"], ["Toy Story (1995)"]).retiring([0, 1])
    assert after.items_of(["Star Wars (1977)", "toy story (1995)", "m1"]) == [6, 7, 0]
    assert after.find("Star Wars (1977)").item == 6 and CATALOGUE.find("Star Wars (1977)").item == 1
    none_left = after.retiring([6])
    assert none_left.find("Star Wars (1977)").item == 1
    with pytest.raises(UserError, match="title of 2 items, 'm2', '77'"):
        none_left.items_of(["Star Wars (1977)"])


names = st.text("abc d", min_size=1, max_size=6).map(str.strip).filter(bool)
rows = st.lists(st.tuples(names, st.none() | names), max_size=6)


def assert_same(found, wanted, queries):
    assert len(found) == len(wanted)
    assert list(found.source_ids) == list(wanted.source_ids)
    assert list(found.titles) == list(wanted.titles)
    for query in queries:
        assert found.number_of(query) == wanted.number_of(query)
        assert found.titled(query) == wanted.titled(query)
        try:
            match = wanted.find(query)
        except UserError as error:
            with pytest.raises(UserError, match=re.escape(str(error))):
                found.find(query)
        else:
            assert found.find(query) == match


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    first=rows.filter(bool),
    changes=st.lists(rows, max_size=4),
    queries=st.lists(names, max_size=5),
    looked_up=st.booleans(),
)
def test_one_that_grew_is_one_built_anew(first, changes, queries, looked_up):
    """Source ids and titles come more than once; trigrams are indexed before some changes or after."""
    grown, so_far = Catalogue(*zip(*first, strict=True)), first
    versions = [(grown, so_far)]
    for added in changes:
        if looked_up:
            grown._grams_now()
        grown = grown.extended([s for s, _ in added], [t for _, t in added])
        so_far = [*so_far, *added]
        versions.append((grown, so_far))
    queries = [*queries, *(text for row in so_far for text in row if text)]
    for version, of in versions:
        assert_same(version, Catalogue(*zip(*of, strict=True)), queries)


def test_one_that_grew_keeps_what_it_grew_from():
    first = Catalogue(["m1", "m2"], ["Star Wars", None])
    more = first.extended(["m1", "m3"], ["Star Warz", "Star Wars"])
    other = first.extended(["m4"], ["Toy &amp; Story"])
    assert [first.find(q).item for q in ("m1", "star wars", "star warz")] == [0, 0, 0]
    assert first.number_of("m3") is None
    assert [more.find(q).item for q in ("m1", "star wars", "m3", "star warz")] == [2, 0, 3, 2]
    assert other.find("toy & story").item == 2 and other.number_of("m3") is None
    assert [len(one) for one in (first, more, other)] == [2, 4, 3]


def test_rows_are_a_sequence():
    rows = Rows([1, 2]).extended([3]).extended([4, 5])
    assert list(rows) == [1, 2, 3, 4, 5] and len(rows) == 5
    assert rows[0] == 1 and rows[2] == 3 and rows[-1] == 5
    assert rows[1:4] == [2, 3, 4] and rows[-2:] == [4, 5]
    with pytest.raises(IndexError):
        rows[5]


def test_rows_are_a_list_to_whoever_reads_them():
    rows, same = Rows(["a", "b"]).extended(["c"]), ["a", "b", "c"]
    assert rows == same and same == rows
    assert rows != ["a", "b"] and rows != "abc"
    assert repr(rows) == "['a', 'b', 'c']"
    assert rows[::-1] == ["c", "b", "a"]
