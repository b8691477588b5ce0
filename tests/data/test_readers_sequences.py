import pytest
import reading

from genrec_jax.data import prepare, prepare_run
from genrec_jax.errors import UserError


def write(tmp_path, text, name="user_sequence.txt"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_lines_become_rows_in_order(tmp_path):
    file = write(tmp_path, "u2 c  a b\n\nu1\tb c\r\n")
    log = reading.read("sequences", file, tmp_path)
    assert reading.rows(log, "user", "item") == [
        ("u2", "c"),
        ("u2", "a"),
        ("u2", "b"),
        ("u1", "b"),
        ("u1", "c"),
    ]
    assert log.order_trusted
    assert log.rows_read == 5
    assert [log.locate(row) for row in (0, 2, 3)] == [
        (str(file), 1),
        (str(file), 1),
        (str(file), 3),
    ]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("u a b c\nv\n", 2, "a user without items"),
        ("u a b c\nv a b\nu d\n", 3, "a user met before, on line 1"),
    ],
)
def test_bad_lines(tmp_path, text, line, problem):
    file = write(tmp_path, text)
    with pytest.raises(
        UserError, match=rf"user_sequence\.txt:{line}: {problem}: got .*wanted a line"
    ):
        reading.read("sequences", file, tmp_path)
    log = reading.read("sequences", file, tmp_path, skip_bad_rows=True)
    assert log.rejected == {problem.split(", on")[0]: 1}


def test_a_wrong_encoding(tmp_path):
    file = tmp_path / "s.txt"
    file.write_bytes(b"u a b c\nv \xff b c\n")
    with pytest.raises(UserError, match=r"s\.txt:2: is not utf-8 text \(byte 0xff\)"):
        reading.read("sequences", file, tmp_path)
    log = reading.read("sequences", file, tmp_path, skip_bad_rows=True)
    assert log.rejected == {"not text in the file's encoding": 1}


def test_an_empty_file(tmp_path):
    for text in ("", "\n"):
        with pytest.raises(UserError, match=r"user_sequence\.txt: (is empty|holds no usable)"):
            reading.read("sequences", write(tmp_path, text), tmp_path)


def test_a_short_user_is_named_by_line(tmp_path):
    file = write(tmp_path, "u a b c\nv a b\n")
    with pytest.raises(UserError, match=r"user_sequence\.txt:2: user 'v' has 2 interactions"):
        prepare_run.prepare_from("sequences", file, tmp_path / "out", filters=prepare.Filters(1, 1))
    assert not (tmp_path / "out").exists()
    made = prepare_run.prepare_from(
        "sequences", file, tmp_path / "out", filters=prepare.Filters(1, 1), skip_bad_rows=True
    )
    assert made.manifest["rows"]["rejected"] == {"user with fewer than 3 interactions": 2}


def test_titles_beside_the_sequences(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    file = write(folder, "u a b c\n")
    table = folder / "items.tsv"
    table.write_text("asin\ttitle\na\tA &amp; B\n")
    for log in (
        reading.read("sequences", folder, tmp_path),
        reading.read("sequences", file, tmp_path, items=table),
    ):
        assert log.items["title"].to_list() == ["A & B"]
        assert [source.name for source in log.sources] == ["user_sequence.txt", "items.tsv"]


@pytest.mark.parametrize(
    ("folder", "counts", "items"),
    [
        ("amazon_beauty", (22363, 12101, 198502), True),
        ("amazon_toys", (19412, 11924, 167597), True),
        ("lastfm", (1090, 3646, 52551), False),
    ],
)
def test_public_sequences_have_the_published_counts(shared, tmp_path, folder, counts, items):
    made = prepare_run.prepare_from(
        "sequences", shared / "data" / folder, tmp_path / "out", name="Public"
    )
    assert tuple(made.manifest["counts"].values()) == counts
    assert made.manifest["order"] == "trusted"
    lines = (shared / "data" / folder / "user_sequence.txt").read_text().splitlines()
    for line in (0, 17, made.num_users - 1):
        words = lines[line].split()
        user = made.user_source_ids.index(words[0])
        assert [made.item_source_ids[item] for item in made.sequence(user)] == words[1:]
    assert made.item_source_ids == sorted(made.item_source_ids)
    if items:
        titles = [title for title in made.item_titles if title]
        assert len(titles) > 0.99 * made.num_items
        assert not any("&amp;" in title or "&quot;" in title for title in titles)
