import gzip
import json
import zipfile

import pytest
import reading

from genrec_jax.data import prepare_run
from genrec_jax.errors import UserError

REVIEW_2014 = {
    "reviewerID": "A1",
    "asin": "B001",
    "reviewerName": "x",
    "helpful": [0, 1],
    "reviewText": "Don&#8217;t buy",
    "overall": 5.0,
    "summary": "Bad &amp; worse",
    "unixReviewTime": 1393545600,
    "reviewTime": "02 28, 2014",
}
META_2014 = (
    "{'asin': 'B001', 'title': 'Nail &amp; File', 'price': 3.17, 'brand': 'OPI',"
    " 'categories': [['Beauty', 'Nails'], ['Beauty', 'Tools']], 'related': {'also_bought': ['B002']}}\n"
)
REVIEW_2023 = {
    "rating": 4.0,
    "title": "Fine",
    "text": "",
    "images": [],
    "asin": "B0CHILD",
    "parent_asin": "B0PARENT",
    "user_id": "AEX",
    "timestamp": 1588687728923,
    "helpful_vote": 0,
    "verified_purchase": True,
}
META_2023 = {
    "main_category": "All Beauty",
    "title": "Howard",
    "price": None,
    "store": "Howard Products",
    "categories": ["Beauty"],
    "description": ["one", "two"],
    "parent_asin": "B0PARENT",
    "details": {"x": 1},
}
COLUMNS = ("user", "item", "timestamp", "rating", "review", "summary")


def lines(*objects):
    return "".join(json.dumps(value) + "\n" for value in objects)


def test_2014_with_python_dict_metadata(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "reviews_Beauty_5.json.gz").write_bytes(gzip.compress(lines(REVIEW_2014).encode()))
    (folder / "meta_Beauty.json.gz").write_bytes(gzip.compress(META_2014.encode()))
    (folder / "meta_Toys.json").write_text("not ours")
    for source in (folder / "reviews_Beauty_5.json.gz",):
        log = reading.read("amazon", source, tmp_path)
        assert reading.rows(log, *COLUMNS) == [
            ("A1", "B001", 1393545600, 5.0, "Don\u2019t buy", "Bad & worse")
        ]
        item = log.items.row(0, named=True)
        assert (item["item"], item["title"], item["brand"]) == ("B001", "Nail & File", "OPI")
        assert item["categories"] == ["Beauty", "Nails", "Tools"]
        assert item["price"] == pytest.approx(3.17)
        assert [source.name for source in log.sources] == [
            "reviews_Beauty_5.json.gz",
            "meta_Beauty.json.gz",
        ]


def test_2014_full_reviews_as_python_dicts(tmp_path):
    file = tmp_path / "reviews_Beauty.json"
    file.write_text(f"{REVIEW_2014!r}\n" + lines(REVIEW_2014))
    log = reading.read("amazon", file, tmp_path)
    assert reading.rows(log, "user", "timestamp") == [("A1", 1393545600)] * 2
    assert log.items is None


def test_2018(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "Luxury_5.json").write_text(lines(REVIEW_2014 | {"vote": "3", "style": {"a": "b"}}))
    meta = {
        "asin": "B001",
        "title": "T",
        "category": ["A", "B"],
        "price": "$9.99",
        "description": [],
    }
    (folder / "meta_Luxury.json").write_text(lines(meta))
    log = reading.read("amazon", folder, tmp_path)
    item = log.items.row(0, named=True)
    assert (item["title"], item["categories"], item["description"]) == ("T", ["A", "B"], None)
    assert item["price"] == pytest.approx(9.99)


def test_2023_in_a_zip(tmp_path):
    file = tmp_path / "beauty.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("All_Beauty.jsonl", lines(REVIEW_2023, REVIEW_2023 | {"text": "yes"}))
        archive.writestr("meta_All_Beauty.jsonl.gz", gzip.compress(lines(META_2023).encode()))
    log = reading.read("amazon", file, tmp_path)
    assert reading.rows(log, *COLUMNS) == [
        ("AEX", "B0PARENT", 1588687728, 4.0, None, "Fine"),
        ("AEX", "B0PARENT", 1588687728, 4.0, "yes", "Fine"),
    ]
    item = log.items.row(0, named=True)
    assert (item["brand"], item["description"]) == ("Howard Products", "one two")


def test_ratings_only(tmp_path):
    old = tmp_path / "ratings_Beauty.csv"
    old.write_text("A1,B001,5.0,1393545600\n")
    log = reading.read("amazon", old, tmp_path)
    assert reading.rows(log, "user", "item", "timestamp") == [("A1", "B001", 1393545600)]
    new = tmp_path / "Beauty.csv"
    new.write_text("user_id,parent_asin,rating,timestamp\nAEX,B0,4.0,1588687728923\n")
    log = reading.read("amazon", new, tmp_path)
    assert reading.rows(log, "user", "item", "timestamp") == [("AEX", "B0", 1588687728)]
    new.write_text("B0,AEX,4.0,1588687728\n")  # 2018 puts the item first
    with pytest.raises(UserError, match="item,user,rating,timestamp"):
        reading.read("amazon", new, tmp_path)


def test_unknown_layouts(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"who": 1}\n')
    with pytest.raises(
        UserError, match=r"x\.json:1: begins with .*wanted reviews with `reviewerID`"
    ):
        reading.read("amazon", file, tmp_path)
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a.json", "b.json"):
        (folder / name).write_text(lines(REVIEW_2014))
    with pytest.raises(UserError, match=r"holds a\.json, b\.json; wanted one file of reviews"):
        reading.read("amazon", folder, tmp_path)


def test_broken_metadata(tmp_path):
    (tmp_path / "Beauty_5.json").write_text(lines(REVIEW_2014))
    (tmp_path / "meta_Beauty.json").write_text(
        META_2014 + "{'title': 'no asin'}\n{'asin': open('x')}\n"
    )
    with pytest.raises(UserError, match=r"meta_Beauty\.json:2: broken line of metadata"):
        reading.read("amazon", tmp_path / "Beauty_5.json", tmp_path)
    log = reading.read("amazon", tmp_path / "Beauty_5.json", tmp_path, skip_bad_rows=True)
    assert log.rejected == {"broken line of metadata": 2}
    assert len(log.items) == 1
    for nowhere in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match=r"not found; .*Check --metadata"):
            reading.read("amazon", tmp_path / "Beauty_5.json", tmp_path, metadata=nowhere)


def test_musical_instruments_has_the_published_counts(shared, tmp_path):
    source = shared / "data" / "amazon_musical_instruments" / "Musical_Instruments.zip"
    made = prepare_run.prepare_from("amazon", source, tmp_path / "out", name="Instruments")
    assert made.manifest["counts"] == {"users": 1429, "items": 900, "interactions": 10261}
    assert made.manifest["order"] == "timestamp"
