import pytest

from genrec_jax.data import prepare_run, recipes
from genrec_jax.errors import UserError

OPENP5 = {
    "ML1M",
    "Yelp",
    "LastFM",
    "Beauty",
    "ML100K",
    "Clothing",
    "CDs",
    "Movies",
    "Taobao",
    "Electronics",
}


def test_every_published_set_is_there():
    known = recipes.load_recipes()
    assert {name for name, entry in known.items() if "OpenP5" in entry.systems} == OPENP5
    assert {name for name, entry in known.items() if "Alignment" in entry.systems} == {
        "Beauty",
        "Toys",
        "Sports",
    }
    assert {entry.name for entry in known.values() if "IDGenRec" in entry.systems} == {
        "Beauty",
        "Toys",
        "Sports",
        "Yelp",
    }
    for entry in known.values():
        assert {"users", "items"} <= set(entry.counts) <= {"users", "items", "interactions"}
        for reader in entry.readers:
            module = prepare_run.load_reader(reader)
            assert set(entry.options.get(reader, {})) <= set(prepare_run.own_options(module))


def test_published_counts():
    counts = {name: tuple(entry.counts.values()) for name, entry in recipes.load_recipes().items()}
    assert counts["Sports"] == (35598, 18357, 296337)
    assert counts["ML1M"] == (6040, 3416, 999611)
    assert counts["Yelp"] == (277631, 112394, 4250483)
    assert counts["Yelp2019"] == (30431, 20033, 316354)
    assert counts["CDs"] == (75258, 64443)  # the interactions printed are those of Movies


@pytest.mark.parametrize(
    ("recipe", "folder"),
    [
        ("Beauty", "amazon_beauty"),
        ("toys", "amazon_toys"),
        ("LastFM", "lastfm/user_sequence.txt"),
        ("ML-100K", "ml_100k"),
    ],
)
def test_real_data_make_the_published_counts(shared, tmp_path, recipe, folder):
    made = recipes.prepare_recipe(recipe, shared / "data" / folder, tmp_path / "out")
    assert made.manifest["counts"] == made.manifest["published_counts"]
    assert made.name == recipe.replace("-", "").replace("toys", "Toys")


@pytest.mark.parametrize(
    ("recipe", "files", "reader"),
    [
        ("LastFM", ["LastFM.txt"], "sequences"),
        ("LastFM", ["readme.txt", "user_taggedartists-timestamps.dat", "artists.dat"], "lastfm"),
        ("LastFM", ["artists.dat"], "lastfm"),
        ("Beauty", ["Beauty.txt", "items.tsv"], "sequences"),
        ("Beauty", ["notes.txt", "reviews_Beauty_5.json.gz"], "amazon"),
        ("Beauty", ["user_sequence.txt", "reviews_Beauty_5.json.gz"], "sequences"),
        ("ML1M", ["ratings.dat", "readme.txt"], "movielens"),
        ("Yelp", ["yelp_academic_dataset_review.json", "licence.txt"], "yelp"),
        ("Taobao", ["UserBehavior.csv", "md5.txt"], "taobao"),
    ],
)
def test_the_reader_goes_by_the_files(monkeypatch, tmp_path, recipe, files, reader):
    for name in files:
        (tmp_path / name).touch()

    class Chosen(Exception):
        pass

    def prepare_from(chosen, *_, **__):
        raise Chosen(chosen)

    monkeypatch.setattr(prepare_run, "prepare_from", prepare_from)
    with pytest.raises(Chosen, match=f"^{reader}$"):
        recipes.prepare_recipe(recipe, tmp_path, tmp_path / "out")


def test_other_counts_fail_loudly_and_leave_nothing(shared, tmp_path):
    with pytest.raises(UserError) as caught:
        recipes.prepare_recipe("Toys", shared / "data" / "amazon_beauty", tmp_path / "out")
    message = str(caught.value)
    for number in ("22,363 users (published: 19,412)", "12,101 items", "198,502 interactions"):
        assert number in message
    assert "no dataset was written" in message
    assert list(tmp_path.iterdir()) == []


def test_an_existing_dataset_survives_a_failed_recipe(tmp_path):
    source = tmp_path / "user_sequence.txt"
    source.write_text("".join(f"u{n} a b c d e\n" for n in range(5)))
    made = prepare_run.prepare_from("sequences", source, tmp_path / "out", name="Toys")
    with pytest.raises(UserError, match="published"):
        recipes.prepare_recipe("Toys", source, tmp_path / "out", overwrite=True)
    assert (made.path / "dataset.json").exists()


def test_an_unknown_recipe(tmp_path):
    with pytest.raises(UserError, match="there is no recipe 'Books'; wanted one of Beauty, Toys"):
        recipes.prepare_recipe("Books", tmp_path, tmp_path / "out")
