import gzip
import zipfile

import pytest
import reading

from genrec_jax.data import prepare_run
from genrec_jax.errors import UserError

COLUMNS = ("user", "item", "rating", "timestamp")


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


FILES_100K = {
    "u__data": "0   50  5 881250949\n196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
    "u__user": "186|39|F|executive|00000\n196|49|M|writer|55105\n",
    "u__item": "242|Kolya (1996)|24-Jan-1997||x|0|0|1\n302|Am\xe9lie|x||x|1|1|0\n".encode(
        "latin-1"
    ),
    "u__genre": "unknown|0\nAction|1\nComedy|2\n\n",
}


def test_100k(tmp_path):
    folder = write(tmp_path / "ml", **FILES_100K)
    for path in (folder, folder / "u.data"):
        log = reading.read("movielens", path, tmp_path)
        assert reading.rows(log, *COLUMNS) == [
            ("196", "242", 3.0, 881250949),
            ("186", "302", 3.0, 891717742),
        ]
        assert (log.rejected, log.rows_read) == ({"user not listed in u.user": 1}, 3)
        assert log.items["title"].to_list() == ["Kolya (1996)", "Amélie"]
        assert log.items["categories"].to_list() == [["Comedy"], ["Action"]]
        assert [source.name for source in log.sources] == ["u.data", "u.user", "u.item", "u.genre"]


def test_100k_without_its_companions(tmp_path):
    folder = write(tmp_path / "ml", u__data=FILES_100K["u__data"])
    log = reading.read("movielens", folder, tmp_path)
    assert len(reading.rows(log, "user")) == 3
    assert log.items is None


def test_1m_in_a_zip(tmp_path):
    file = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::1193::5::978300760\n")
        archive.writestr(
            "ml-1m/movies.dat", "1193::Mis\xe9rables, Les::Drama|Musical\n".encode("latin-1")
        )
        archive.writestr("ml-1m/users.dat", "1::F::1::10::48067\n")
    log = reading.read("movielens", file, tmp_path)
    assert reading.rows(log, *COLUMNS) == [("1", "1193", 5.0, 978300760)]
    assert log.items["title"].to_list() == ["Misérables, Les"]
    assert log.items["categories"].to_list() == [["Drama", "Musical"]]
    assert [source.name for source in log.sources] == ["ml-1m.zip"]


def test_10m_is_utf8_with_half_stars(tmp_path):
    folder = write(
        tmp_path / "ml",
        ratings__dat="1::122::0.5::838985046\n",
        movies__dat="122::Misérables, Les (1995)::Comedy\n",
    )
    log = reading.read("movielens", folder, tmp_path)
    assert reading.rows(log, "rating") == [(0.5,)]
    assert log.items["title"].to_list() == ["Misérables, Les (1995)"]


def test_csv_releases(tmp_path):
    folder = write(
        tmp_path / "ml",
        ratings__csv__gz=gzip.compress(
            b"userId,movieId,rating,timestamp\r\n1,296,4.5,1147880044\r\n"
        ),
        movies__csv='movieId,title,genres\n296,"Pulp ""F"", The",(no genres listed)\n',
    )
    log = reading.read("movielens", folder, tmp_path)
    assert reading.rows(log, *COLUMNS) == [("1", "296", 4.5, 1147880044)]
    assert log.items.row(0, named=True)["title"] == 'Pulp "F", The'
    assert log.items["categories"].to_list() == [None]


def test_not_movielens(tmp_path):
    folder = write(tmp_path / "x", readme__txt="hello")
    with pytest.raises(UserError, match=r"holds readme\.txt; wanted MovieLens ratings"):
        reading.read("movielens", folder, tmp_path)


def test_broken_titles(tmp_path):
    folder = write(
        tmp_path / "ml", ratings__dat="1::1::5::978300760\n", movies__dat="1 Toy Story\n"
    )
    with pytest.raises(UserError, match=r"movies\.dat:1: got '1 Toy Story'; wanted `id::title"):
        reading.read("movielens", folder, tmp_path)


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        (
            "movieId,title\n1,Toy\n",
            r"movies\.csv:1: has the columns movieId, title; wanted movieId",
        ),
        ("movieId,title,genres\n1,Toy\n", r"movies\.csv:2: has 2 columns; wanted the 3"),
        ('movieId,title,genres\n1,"' + "x\n" * 70_000, r"movies\.csv:2: .*never closed"),
    ],
)
def test_broken_titles_of_the_csv_releases(tmp_path, movies, message):
    folder = write(
        tmp_path / "ml",
        ratings__csv="userId,movieId,rating,timestamp\n1,1,5.0,978300760\n",
        movies__csv=movies,
    )
    with pytest.raises(UserError, match=message):
        reading.read("movielens", folder, tmp_path)


def test_movietweetings_keeps_leading_zeros(tmp_path):
    folder = write(
        tmp_path / "mt",
        ratings__dat="1::0104257::0::1364690142\n1::0104257::10::1364690143\n",
        movies__dat="0104257::À l'ombre (1992)::Drama\n0000001::Untitled ()\n",
    )
    log = reading.read("movietweetings", folder, tmp_path)
    assert reading.rows(log, "item", "rating") == [("0104257", 0.0), ("0104257", 10.0)]
    assert log.items["title"].to_list() == ["À l'ombre (1992)", "Untitled ()"]
    (folder / "ratings.dat").write_text("1::0104257::11::1364690142\n")
    with pytest.raises(UserError, match=r"ratings\.dat:1: impossible rating.*ratings 0 to 10"):
        reading.read("movietweetings", folder, tmp_path)


def test_ml_100k_has_the_published_counts(shared, tmp_path):
    made = prepare_run.prepare_from("movielens", shared / "data" / "ml_100k", tmp_path / "out")
    assert made.manifest["counts"] == {"users": 943, "items": 1349, "interactions": 99287}
    assert made.manifest["rows"]["rejected"] == {"user not listed in u.user": 3}
    assert round(made.manifest["ties"]["rows_share"], 2) == 0.76
    assert round(made.manifest["ties"]["users_last_two_share"], 2) == 0.44
    assert made.item_titles[made.item_source_ids.index("1")] == "Toy Story (1995)"
    assert not any("\ufffd" in (title or "") for title in made.item_titles)


def test_movietweetings_has_the_published_counts(shared, tmp_path):
    source = shared / "data" / "movietweetings_100k"
    made = prepare_run.prepare_from(
        "movietweetings", source, tmp_path / "out", name="MovieTweetings"
    )
    assert made.manifest["counts"] == {"users": 4333, "items": 2414, "interactions": 68055}
    assert all(len(source_id) == 7 for source_id in made.item_source_ids)
