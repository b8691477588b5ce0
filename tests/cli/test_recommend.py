import json

import pytest

from genrec_jax.data import dataset as datasets
from genrec_jax.decoding import catalogue
from genrec_jax.decoding import recommender as recommenders
from tests.cli.recommending import genrec
from tests.evaluation import tiny_run


def test_user_with_json(made, capsys):
    """A user's whole sequence is the history, and the number is that of training."""
    run_dir, dataset = made
    user = 7
    name = dataset.user_source_ids[user]
    code, out, _ = genrec(capsys, run_dir.path, "--user", name, "-k", 4, "--json")
    assert code == 0
    printed = json.loads(out)
    ids = dataset.item_source_ids
    history = [ids[item] for item in dataset.sequence(user)]
    assert [match["source_id"] for match in printed["history"]] == history
    wanted = recommenders.load(run_dir.path).recommend([history], k=4, users=[user])[0]
    assert [one["source_id"] for one in printed["recommendations"]] == [
        one.source_id for one in wanted
    ]
    assert printed["recommendations"][0]["rank"] == 1
    assert printed["recommendations"][0]["score"] == pytest.approx(wanted[0].score, abs=1e-5)


def test_typed_history_with_table(made, capsys):
    run_dir, dataset = made
    titles = dataset.item_titles
    words = ["--history", titles[2], titles[4] + "s", "T000000", "-k", 3, "--exclude-seen"]
    code, out, _ = genrec(capsys, run_dir.path, *words)
    assert code == 0
    assert f"'{titles[4]}s' is not in the catalogue; taken for" in out.replace("\n", " ")
    assert "'T000000' is not in the catalogue, nor like a title of it; left out" in out
    table = out[out.index("next, says step 10 (template A1)") :]
    shown = [title for title in titles if f" {title} " in table]
    assert len(shown) == 3
    assert titles[2] not in shown and titles[4] not in shown


def test_what_looks_like_markup_is_shown_as_it_is(made, capsys):
    run_dir, dataset = made
    title = dataset.item_titles[4]
    words = ["--history", f"{title} [/b]", f"{title}[x]", "[red]qqqq[/]", "-k", 2]
    code, out, _ = genrec(capsys, run_dir.path, *words)
    assert code == 0
    flat = " ".join(out.split())
    assert f"'{title} [/b]' is not in the catalogue; taken for" in flat
    assert f"'{title}[x]' is not in the catalogue; taken for" in flat
    assert "'[red]qqqq[/]' is not in the catalogue, nor like a title of it; left out" in flat


def test_a_title_of_several_items_says_which_was_taken(made, capsys, monkeypatch):
    run_dir, dataset = made
    load = recommenders.load

    def with_twins(*arguments, **options):
        recommender = load(*arguments, **options)
        own = recommender.catalogue
        titles = [*own.titles]
        titles[9] = titles[2]
        vars(own).update(vars(catalogue.Catalogue([*own.source_ids], titles)))
        return recommender

    monkeypatch.setattr(recommenders, "load", with_twins)
    words = [
        "--history",
        dataset.item_titles[2],
        dataset.item_source_ids[9],
        dataset.item_titles[4],
    ]
    code, out, _ = genrec(capsys, run_dir.path, *words, "-k", 2)
    assert code == 0
    said = f"2 items are titled {dataset.item_titles[2]!r}; taken for {dataset.item_source_ids[2]}."
    assert said in " ".join(out.split())
    assert out.count("items are titled") == 1


def test_unknown_ones_are_skipped_or_an_error_where_asked(made, capsys):
    run_dir, dataset = made
    titles = dataset.item_titles
    words = [run_dir.path, "--history", titles[2], titles[4] + "s", "--json", "--unknown"]
    code, out, _ = genrec(capsys, *words, "skip")
    printed = json.loads(out)
    assert code == 0 and [one["title"] for one in printed["history"]] == [titles[2]]
    assert printed["skipped"] == [titles[4] + "s"]
    code, _, err = genrec(capsys, *words, "error")
    assert code == 2 and f"'{titles[4]}s' is neither a source id nor a title" in err
    code, _, err = genrec(capsys, run_dir.path, "--history", titles[4] + "s", "--unknown", "skip")
    assert code == 2 and f"'{titles[4]}s' is neither a source id nor a title" in err


def test_only_and_exclude_take_items_and_files(made, capsys, tmp_path):
    run_dir, dataset = made
    ids, titles = dataset.item_source_ids, dataset.item_titles
    listed = tmp_path / "stock.txt"
    listed.write_text(f"{ids[3]}\n\n{ids[4]}\n{ids[5]}\n", encoding="utf-8")
    words = ["--history", ids[0], "--only", titles[2], listed, "--exclude", ids[4], "--json"]
    code, out, _ = genrec(capsys, run_dir.path, *words)
    assert code == 0
    found = [one["source_id"] for one in json.loads(out)["recommendations"]]
    assert sorted(found) == sorted([ids[2], ids[3], ids[5]])
    code, _, err = genrec(capsys, run_dir.path, "--history", ids[0], "--only", "nonesuch", ids[1])
    assert code == 2 and "--only: 'nonesuch': neither source ids nor titles" in err


def test_an_item_is_one_whatever_the_files_are_called(made, capsys, tmp_path, monkeypatch):
    run_dir, dataset = made
    ids, titles = dataset.item_source_ids, dataset.item_titles
    monkeypatch.chdir(tmp_path)
    (tmp_path / titles[2]).write_text("")
    (tmp_path / ids[3]).write_text(f"{ids[4]}\n")
    words = [run_dir.path.absolute(), "--history", ids[0], "--json", "--only", *ids[2:6]]
    code, out, _ = genrec(capsys, *words, "--exclude", titles[2], ids[3])
    assert code == 0
    found = [one["source_id"] for one in json.loads(out)["recommendations"]]
    assert sorted(found) == sorted(ids[4:6])
    code, out, _ = genrec(capsys, *words, "--exclude", f"./{ids[3]}")
    found = [one["source_id"] for one in json.loads(out)["recommendations"]]
    assert sorted(found) == sorted([ids[2], ids[3], ids[5]])


def test_a_file_without_items_is_no_subset_and_excludes_nothing(made, capsys, tmp_path):
    run_dir, dataset = made
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    words = [run_dir.path, "--history", dataset.item_source_ids[0], "-k", 2, "--json"]
    code, _, err = genrec(capsys, *words, "--only", empty)
    assert code == 2 and f"--only: no item is named in {empty}" in err
    code, out, _ = genrec(capsys, *words, "--exclude", empty)
    assert code == 0 and len(json.loads(out)["recommendations"]) == 2


def test_a_title_longer_than_a_files_name_may_be_and_a_file_that_is_no_text(made, capsys, tmp_path):
    run_dir, dataset = made
    words = ["--history", dataset.item_source_ids[0], "--only"]
    code, _, err = genrec(capsys, run_dir.path, *words, "a long title " * 30)
    assert code == 2 and "--only: 'a long title a long" in err
    listed = tmp_path / "stock.txt"
    listed.write_bytes(b"caf\xe9\n")
    code, _, err = genrec(capsys, run_dir.path, *words, listed)
    assert code == 2 and f"{listed}: cannot be read" in err


def test_moved_dataset_is_named_with_data(made, capsys, tmp_path):
    run_dir, dataset = made
    moved = tmp_path / "elsewhere"
    dataset.path.rename(moved)
    try:
        name = dataset.user_source_ids[0]
        code, _, err = genrec(capsys, run_dir.path, "--user", name)
        assert code == 2 and "--data DIR" in err
        code, out, _ = genrec(capsys, run_dir.path, "--user", name, "--data", moved, "--json")
        assert code == 0 and json.loads(out)["recommendations"]
    finally:
        moved.rename(dataset.path)


def test_another_dataset_is_refused(made, capsys, tmp_path):
    run_dir, dataset = made
    other = tiny_run.make_dataset(tmp_path, num_users=40)
    assert datasets.load(other.path).fingerprint != dataset.fingerprint
    code, _, err = genrec(capsys, run_dir.path, "--user", "shopper_1", "--data", other.path)
    assert code == 2 and "not the data that this run was trained on" in err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--user", "nobody"], "no user 'nobody'"),
        (["--history", "qqqq"], "neither a source id nor a title"),
        (["--history", "Night Light", "--template", "Z1"], "Z1"),
        (["--history", "Night Light", "--checkpoint", "77"], "10"),
    ],
)
def test_mistakes_are_one_readable_line(made, capsys, words, message):
    code, out, err = genrec(capsys, made[0].path, *words)
    assert code == 2 and out == ""
    assert err.startswith("genrec recommend: error: ") and message in err


def test_no_run_dir(capsys, tmp_path):
    code, _, err = genrec(capsys, tmp_path / "none", "--history", "tea")
    assert code == 2 and "is not there; wanted a folder that `genrec train` wrote" in err
