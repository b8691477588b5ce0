"""LastFM, Yelp and Taobao, on files made after their documented layouts."""

import json

import pytest
import reading

from genrec_jax.data import prepare_run
from genrec_jax.errors import UserError

TAGS = (
    "userID\tartistID\ttagID\ttimestamp\n"
    "2\t52\t13\t1238536800000\n"
    "2\t52\t15\t1238536800000\n"  # the same artist again
    "2\t63\t13\t-428720400000\n"  # as in the original
    "2\t52\t41\t1100000000000\n"  # an earlier tag, later in the file
)


def test_lastfm_takes_the_first_tag_of_an_artist(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "user_taggedartists-timestamps.dat").write_text(TAGS)
    (folder / "artists.dat").write_text("id\tname\turl\tpictureURL\n52\tMorcheeba\tx\ty\n")
    log = reading.read("lastfm", folder, tmp_path)
    assert sorted(reading.rows(log, "user", "item", "timestamp")) == [
        ("2", "52", 1100000000),
        ("2", "63", -428720400),
    ]
    assert log.rejected == {"artist tagged before by this user": 2}
    assert log.items["title"].to_list() == ["Morcheeba"]


def test_lastfm_needs_times(tmp_path):
    (tmp_path / "user_artists.dat").write_text("userID\tartistID\tweight\n2\t51\t13883\n")
    with pytest.raises(
        UserError, match=r"holds user_artists\.dat; wanted the tags with their times"
    ):
        reading.read("lastfm", tmp_path, tmp_path)


def yelp(tmp_path):
    folder = tmp_path / "yelp"
    folder.mkdir(exist_ok=True)
    dates = ["2018-12-31 23:59:59", "2019-01-01 00:00:00", "2019-12-31 23:59:59", "2020-01-01"]
    reviews = [
        {
            "review_id": f"r{n}",
            "user_id": "u",
            "business_id": f"b{n}",
            "stars": 3.0,
            "text": "ok",
            "date": date,
        }
        for n, date in enumerate(dates)
    ]
    business = {
        "business_id": "b1",
        "name": "Caf\u00e9 &amp; Co",
        "categories": "Coffee & Tea, Food",
        "stars": 4,
    }
    for name, objects in (("review", reviews), ("business", [business])):
        file = folder / f"yelp_academic_dataset_{name}.json"
        file.write_text("".join(json.dumps(value) + "\n" for value in objects))
    return folder


def test_yelp_with_and_without_dates(tmp_path):
    folder = yelp(tmp_path)
    for path in (folder, folder / "yelp_academic_dataset_review.json"):
        log = reading.read("yelp", path, tmp_path)
        assert [row[0] for row in reading.rows(log, "item")] == ["b0", "b1", "b2", "b3"]
        item = log.items.row(0, named=True)
        assert (item["title"], item["categories"]) == ("Café & Co", ["Coffee & Tea", "Food"])
    log = reading.read("yelp", folder, tmp_path, from_date="2019-01-01", to_date="2019-12-31")
    assert reading.rows(log, "item", "timestamp") == [("b1", 1546300800), ("b2", 1577836799)]
    with pytest.raises(UserError, match="--from-date 'soon' is no date; wanted YYYY-MM-DD"):
        reading.read("yelp", folder, tmp_path, from_date="soon")


def test_yelp_dates_must_be_dates(tmp_path):
    folder = yelp(tmp_path)
    file = folder / "yelp_academic_dataset_review.json"
    file.write_text(
        file.read_text() + '{"user_id":"u","business_id":"b","stars":1,"date":"12/31/2019"}\n'
    )
    with pytest.raises(UserError, match=r"review\.json:5: impossible timestamp"):
        reading.read("yelp", folder, tmp_path)


def test_taobao_takes_purchases_only(tmp_path):
    file = tmp_path / "UserBehavior.csv"
    file.write_text(
        "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,buy,1511561733\n"
        "2,3,4,cart,-99\n2,5,6,buy,1511600000\n"
    )
    log = reading.read("taobao", file, tmp_path)
    assert reading.rows(log, "user", "item", "timestamp") == [
        ("1", "2333346", 1511561733),
        ("2", "5", 1511600000),
    ]
    file.write_text(file.read_text() + "2,5,6,buy,-1\n")
    with pytest.raises(UserError, match=r"UserBehavior\.csv:5: impossible timestamp"):
        reading.read("taobao", file, tmp_path)
    file.write_text("1,2,3,pv,1511544070\n")
    with pytest.raises(UserError, match="holds no usable interaction"):
        reading.read("taobao", file, tmp_path)


def test_toystore_is_always_the_same(tmp_path):
    first = prepare_run.prepare_from("toystore", None, tmp_path / "a", name="toystore")
    second = prepare_run.prepare_from("toystore", None, tmp_path / "b", name="toystore")
    other = prepare_run.prepare_from(
        "toystore", None, tmp_path / "c", name="toystore", reader_options={"seed": 1}
    )
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert first.manifest["oracle"]
    assert None not in first.item_titles
