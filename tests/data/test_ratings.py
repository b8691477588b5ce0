"""Every reader that knows ratings carries them, row by row, into the dataset dir."""

import collections
import json
import zipfile

import pytest

from genrec_jax.data import prepare, prepare_run


def carried(made) -> collections.Counter:
    """(user, item, time, rating) of every interaction of a dataset."""
    users, items = made.user_source_ids, made.item_source_ids
    return collections.Counter(
        (users[u], items[i], int(t), float(r))
        for u, i, t, r in zip(
            made.users_X, made.items_X, made.timestamps_X, made.ratings_X, strict=True
        )
    )


def test_movielens(shared, tmp_path):
    made = prepare_run.prepare_from(
        "movielens", shared / "data" / "ml_100k", tmp_path / "ml", skip_bad_rows=True
    )
    raw = collections.Counter()
    for line in (shared / "data" / "ml_100k" / "u.data").read_text().splitlines():
        user, item, rating, time = line.split()
        raw[user, item, int(time), float(rating)] += 1
    found = carried(made)
    assert len(found) == 99_287
    assert not found - raw


def test_movietweetings(shared, tmp_path):
    folder = shared / "data" / "movietweetings_100k"
    made = prepare_run.prepare_from("movietweetings", folder, tmp_path / "mt")
    raw = collections.Counter()
    for line in (folder / "ratings.dat").read_text(encoding="utf-8").splitlines():
        user, item, rating, time = line.split("::")
        raw[user, item, int(time), float(rating)] += 1
    found = carried(made)
    assert not found - raw
    assert {rating for *_, rating in found} == set(map(float, range(11)))


def test_amazon(shared, tmp_path):
    archive = shared / "data" / "amazon_musical_instruments" / "Musical_Instruments.zip"
    made = prepare_run.prepare_from("amazon", archive, tmp_path / "mi", skip_bad_rows=True)
    raw = collections.Counter()
    with zipfile.ZipFile(archive) as opened:
        (name,) = [n for n in opened.namelist() if n.endswith(".json")]
        for line in opened.read(name).decode().splitlines():
            row = json.loads(line)
            raw[row["reviewerID"], row["asin"], row["unixReviewTime"], row["overall"]] += 1
    found = carried(made)
    assert sum(found.values()) == 10_261
    assert not found - raw
    assert made.item_titles == [None] * made.num_items  # no metadata: prompts show ids alone


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_table(tmp_path, scale):
    rows = [
        (f"u{u}", f"i{(u + k) % 7}", 100 + k, scale * (1 + (u + k) % 5))
        for u in range(6)
        for k in range(6)
    ]
    table = tmp_path / "log.csv"
    table.write_text(
        "user,item,timestamp,rating\n" + "".join(f"{u},{i},{t},{r}\n" for u, i, t, r in rows)
    )
    made = prepare_run.prepare_from("table", table, tmp_path / "out", filters=prepare.Filters(1, 1))
    assert carried(made) == collections.Counter(rows)
