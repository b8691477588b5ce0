"""`genrec recommend --users` and `--histories`: the lists of one at a time, in one file."""

import json

import pyarrow.parquet as pq
import pytest

from genrec_jax.cli import recommend_many
from genrec_jax.decoding import recommender as recommenders
from tests.cli.recommending import genrec


def history_of(dataset, user):
    return [dataset.item_source_ids[item] for item in dataset.sequence(user)]


def test_all_users_get_what_one_at_a_time_gets(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recommend_many, "CHUNK", 7)
    run_dir, dataset = made
    file = tmp_path / "lists.parquet"
    words = ["--users", "all", "-k", 3, "--exclude-seen", "--output", file]
    code, out, _ = genrec(capsys, run_dir.path, *words)
    assert code == 0
    rows = pq.read_table(file).to_pylist()
    assert f"wrote {len(rows):,} rows for {dataset.num_users:,} users to {file}" in out
    assert list(dict.fromkeys(row["user"] for row in rows)) == list(dataset.user_source_ids)
    recommender = recommenders.load(run_dir.path)
    for user in (0, 6, 7, dataset.num_users - 1):
        history = history_of(dataset, user)
        wanted = recommender.recommend([history], k=3, users=[user], exclude_seen=True)[0]
        own = [row for row in rows if row["user"] == dataset.user_source_ids[user]]
        assert [row["rank"] for row in own] == [1, 2, 3]
        assert [row["source_id"] for row in own] == [one.source_id for one in wanted]
        assert [row["title"] for row in own] == [one.title for one in wanted]
        scores = [one.score for one in wanted]
        assert [row["score"] for row in own] == pytest.approx(scores, abs=1e-5)


def test_histories_of_a_file_and_a_subset(made, tmp_path, capsys):
    run_dir, dataset = made
    ids, titles = dataset.item_source_ids, dataset.item_titles
    asked = [{"user": "ann", "history": [ids[3], titles[5]]}, {"history": [ids[8]]}]
    histories, file = tmp_path / "histories.jsonl", tmp_path / "lists.jsonl"
    histories.write_text("\n\n".join(map(json.dumps, asked)), encoding="utf-8")
    words = ["--histories", histories, "--only", ids[1], ids[2], ids[4], "-k", 2, "--output", file]
    assert genrec(capsys, run_dir.path, *words)[0] == 0
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    recommender = recommenders.load(run_dir.path)
    wanted = recommender.recommend(
        [one["history"] for one in asked], k=2, allow=[[ids[1], ids[2], ids[4]]] * 2
    )
    got = [(row["user"], row["rank"], row["source_id"]) for row in rows]
    assert got == [
        (user, rank, one.source_id)
        for user, own in zip(("ann", "3"), wanted, strict=True)
        for rank, one in enumerate(own, start=1)
    ]


def test_what_of_a_files_histories_is_not_known_is_told(made, tmp_path, capsys):
    run_dir, dataset = made
    id_, title = dataset.item_source_ids[3], dataset.item_titles[5]
    histories, file = tmp_path / "histories.jsonl", tmp_path / "lists.jsonl"

    def recommended(**asked):
        rows = [{"user": user, "history": history} for user, history in asked.items()]
        histories.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        words = ["--histories", histories, "-k", 1, "--output", file]
        code, out, err = genrec(capsys, run_dir.path, *words)
        return code, out.splitlines()[1:], err

    half = ["SKU4", id_, title + "s"]
    code, told, _ = recommended(ann=["SKU1", "SKU2"], bob=["SKU3"], cy=half, di=[id_], eve=[])
    assert code == 0 and told == [
        "5 entries in 3 histories are not in the catalogue: 4 left out ('SKU1' of ann, 'SKU2' of ann,"
        f" 'SKU3' of bob), 1 taken for the nearest title ({title + 's'!r} for {title!r})",
        "2 users (ann, bob) were asked about by user alone, since nothing of their history is known: they"
        " get what an empty history gets",
    ]
    file.unlink()
    assert recommended(di=[id_, title], eve=[])[:2] == (0, [])
    file.unlink()
    code, _, err = recommended(ann=["SKU1", "SKU2"], bob=["SKU3"], eve=[])
    assert code == 2 and not file.exists()
    told = (
        "no entry of these 3 histories is in the catalogue, such as 'SKU1', 'SKU2', 'SKU3'; wanted"
    )
    assert f"{histories}: {told}" in " ".join(err.split())


def test_users_of_a_file(made, tmp_path, capsys):
    run_dir, dataset = made
    names = tmp_path / "users.txt"
    chosen = [dataset.user_source_ids[user] for user in (4, 2)]
    names.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    file = tmp_path / "lists.jsonl"
    assert genrec(capsys, run_dir.path, "--users", names, "-k", 1, "--output", file)[0] == 0
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["user"] for row in rows] == chosen
    names.write_text("\n".join([chosen[0], "nobody"]), encoding="utf-8")
    words = ["--users", names, "-k", 1, "--output", file, "--overwrite"]
    code, _, err = genrec(capsys, run_dir.path, *words)
    assert code == 2 and f"{names}:2: has no user 'nobody'" in err
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2  # the earlier file stands


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--users", "all"], "--output is None"),
        (["--users", "all", "--output", "lists.csv"], "ends in .parquet or .jsonl"),
        (["--history", "--output", "lists.jsonl"], "--output is for --users and --histories"),
        (["--users", "all", "--output", "lists.jsonl", "--json"], "--json prints one list"),
        (["--user", "a", "--user", "b"], "--user is given twice"),
    ],
)
def test_flags_that_do_not_go_together(made, words, said, capsys):
    run_dir, _ = made
    try:
        code, _, err = genrec(capsys, run_dir.path, *words)
    except SystemExit as ended:
        code, err = ended.code, capsys.readouterr().err
    assert code == 2 and said in " ".join(err.split())


@pytest.mark.parametrize(
    "line",
    [
        '["a"]',
        '{"history": "a"}',
        '{"history": [3]}',
        "nothing",
        r'{"user": "\ud83d", "history": []}',
        r'{"history": ["\ud83d"]}',
    ],
)
def test_a_line_that_is_no_history(line, tmp_path):
    file = tmp_path / "histories.jsonl"
    file.write_text('{"history": []}\n' + line, encoding="utf-8")
    with pytest.raises(
        recommend_many.UserError, match=r"histories.jsonl:2: .*wanted a JSON object"
    ):
        recommend_many.of_histories(str(file))


def test_histories_as_others_write_json_lines(tmp_path):
    file = tmp_path / "histories.jsonl"
    lines = [
        '{"user": "ann", "history": ["a\u2028b", "c\x85"]}',
        "",
        '{"user": null, "history": ["d"]}',
        '{"history": []}',
        '{"user": 7, "history": []}',
    ]
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    assert recommend_many.of_histories(str(file)) == [
        ("ann", None, ["a\u2028b", "c\x85"]),
        ("3", None, ["d"]),
        ("4", None, []),
        ("7", None, []),
    ]


@pytest.mark.parametrize("flag", ["--histories", "--users", "--only", "--exclude"])
def test_what_is_read_is_never_replaced(flag, made, tmp_path, capsys):
    run_dir, _ = made
    file, link = tmp_path / "mine.jsonl", tmp_path / "link.jsonl"
    file.write_text('{"history": []}', encoding="utf-8")
    link.symlink_to(file)
    words = [] if flag in ("--histories", "--users") else ["--users", "all"]
    words += [flag, file, "--output", link, "--overwrite"]
    code, _, err = genrec(capsys, run_dir.path, *words)
    assert code == 2 and f"{link}: is read too, as {file}; wanted another" in " ".join(err.split())
    assert link.is_symlink() and file.read_text(encoding="utf-8") == '{"history": []}'


def test_a_file_that_is_there_stays(made, tmp_path, capsys):
    run_dir, _ = made
    file = tmp_path / "lists.jsonl"
    file.write_text("mine", encoding="utf-8")
    code, _, err = genrec(capsys, run_dir.path, "--users", "all", "--output", file)
    assert code == 2 and "pass --overwrite" in err
    assert file.read_text(encoding="utf-8") == "mine"
