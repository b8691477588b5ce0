import json
import os
import shlex
import subprocess
import sys

import pytest

from genrec_jax.cli import main
from genrec_jax.cli import prepare as command
from genrec_jax.data import dataset, download


def genrec(capsys, *words):
    code = main.main(["prepare", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write_ratings(folder):
    folder.mkdir(exist_ok=True)
    rows = [f"{u}::{(u * 3 + i) % 7}::5::{1000 + i // 2}" for u in range(9) for i in range(7)]
    (folder / "ratings.dat").write_text("\n".join([*rows, "9::1::11::1000"]) + "\n")
    return folder


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(["prepare", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for reader in ("amazon", "movielens", "sequences", "table", "toystore", "tfds", "recipe NAME"):
        assert f"\n  {reader} " in text
    assert "genrec prepare toystore --output data/toystore" in text
    assert "next: genrec index DIR" in text


def test_the_first_example_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = next(line for line in command.EPILOG.splitlines() if line.startswith("  genrec prepare"))
    code, out, _ = genrec(capsys, *shlex.split(line)[2:])
    assert code == 0
    made = dataset.load(tmp_path / "data" / "toystore")
    assert f"{made.num_interactions:,}" in out
    assert "Leakage audit" in out
    assert "next: genrec index" in out


def test_the_summary_shows_counts_ties_and_rejected_rows(tmp_path, capsys):
    source = write_ratings(tmp_path / "in")
    code, out, err = genrec(
        capsys, "movielens", "--input", source, "--output", tmp_path / "out", "--name", "Toy"
    )
    assert (code, out) == (2, "")
    assert err.startswith(
        f"genrec prepare: error: {source / 'ratings.dat'}:64: impossible rating: got"
    )
    assert not (tmp_path / "out").exists()
    code, out, _ = genrec(
        capsys,
        "movielens",
        "--input",
        source,
        "--output",
        tmp_path / "out",
        "--name",
        "Toy",
        "--skip-bad-rows",
    )
    assert code == 0
    flat = " ".join(out.split())
    for piece in (
        "users 9",
        "items 7",
        "interactions 63",
        "rows read 64",
        "impossible rating 1",
        "rows tied in time 54 (85.7%)",
        "exact duplicates 0 kept, 0 dropped",
    ):
        assert piece in flat
    assert dataset.load(tmp_path / "out").name == "Toy"


def test_an_output_that_looks_like_markup(tmp_path, capsys):
    code, out, _ = genrec(capsys, "toystore", "--output", tmp_path / "[/b]", "--name", "Toy")
    assert code == 0
    assert "/[/b]" in "".join(out.split())


def test_filters_and_overwrite(tmp_path, capsys):
    source = write_ratings(tmp_path / "in")
    words = ["movietweetings", "--input", source, "--output", tmp_path / "out", "--skip-bad-rows"]
    assert genrec(capsys, *words)[0] == 0
    code, _, err = genrec(capsys, *words)
    assert code == 2
    assert "already exists" in err
    assert "--overwrite" in err
    code, _, err = genrec(capsys, *words, "--overwrite", "--min-item-interactions", 10)
    assert code == 2
    assert "nothing is left" in err
    assert dataset.load(tmp_path / "out").num_items == 7  # the old one stands
    assert genrec(capsys, *words, "--overwrite", "--min-user-interactions", 7)[0] == 0
    assert dataset.load(tmp_path / "out").manifest["filters"]["min_user"] == 7
    assert dataset.load(tmp_path / "out").name == "out"


def test_table_options(tmp_path, capsys):
    file = tmp_path / "log.csv"
    lines = [f"u{u};i{i};2020-01-{i + 1:02d}" for u in range(5) for i in range(5)]
    file.write_text("\n".join(lines) + "\n")
    (tmp_path / "items.csv").write_text("sku,label\ni0,First &amp; best\n")
    code, _, err = genrec(
        capsys,
        *(
            "table",
            "--input",
            file,
            "--output",
            tmp_path / "out",
            "--no-header",
            "--separator",
            ";",
        ),
        *("--columns", "user,item,timestamp", "--time-format", "%Y-%m-%d"),
        *("--items", tmp_path / "items.csv", "--item-columns", "item=sku,title=label"),
    )
    assert code == 0, err
    made = dataset.load(tmp_path / "out")
    assert made.item_titles[0] == "First & best"
    assert made.manifest["reader_options"]["items"] == "items.csv"
    assert made.manifest["order"] == "timestamp"


def test_recipe(shared, tmp_path, capsys):
    beauty = shared / "data" / "amazon_beauty"
    code, out, _ = genrec(
        capsys, "recipe", "Beauty", "--input", beauty, "--output", tmp_path / "out"
    )
    assert code == 0
    assert "published counts" in out
    code, _, err = genrec(
        capsys, "recipe", "Toys", "--input", beauty, "--output", tmp_path / "toys"
    )
    assert code == 2
    assert "22,363 users (published: 19,412)" in err
    assert not (tmp_path / "toys").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["recipe", "--output", "o", "--input", "x"],
            "`recipe` needs a name; wanted one of Beauty",
        ),
        (["recipe", "Beauty", "--output", "o"], "pass --input"),
        (["recipe", "Beauty", "--output", "o", "--input", "x", "--name", "n"], "fixes the name"),
        (["movielens", "ml", "--output", "o"], "'ml' follows the reader"),
        (["movielens", "--output", "o"], "needs data; pass --input PATH"),
        (["movielens", "--output", "o", "--download", "ml-3m"], "has no download 'ml-3m'"),
        (
            ["movielens", "--output", "o", "--download", "ml-1m", "--input", "x"],
            "exclude each other",
        ),
        (
            ["recipe", "ML100K", "--output", "o", "--download", "2014/Beauty"],
            "the reader `movielens` has no download '2014/Beauty'; wanted one of ml-100k",
        ),
        (["toystore", "--output", "/dev/null/o"], "a file is in the way"),
        (
            ["toystore", "--output", "o", "--columns", "user=a"],
            "--columns means nothing to the reader",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = genrec(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_download_feeds_the_reader(tmp_path, capsys, monkeypatch):
    source = write_ratings(tmp_path / "in")

    def fetch(remote, target, *, steps):
        target.parent.mkdir(parents=True, exist_ok=True)
        name = remote.file_name
        target.write_text((source / name).read_text() if name == "ratings.dat" else "0::T (1)::\n")
        return target

    monkeypatch.setattr(download, "fetch", fetch)
    code, _, err = genrec(
        capsys,
        *(
            "movietweetings",
            "--download",
            "movietweetings-100k",
            "--download-dir",
            tmp_path / "kept",
        ),
        *("--output", tmp_path / "out", "--skip-bad-rows"),
    )
    assert code == 0, err
    assert (tmp_path / "kept" / "movietweetings-100k" / "ratings.dat").exists()
    assert dataset.load(tmp_path / "out").item_titles[0] == "T (1)"


def test_the_process_neither_loads_jax_nor_tensorflow(tmp_path):
    code = (
        "import sys; from genrec_jax.cli import main;"
        f"code = main.main(['prepare', 'toystore', '--output', {str(tmp_path / 'out')!r}]);"
        "loaded = {'jax', 'tensorflow', 'seqio', 'gin'} & set(sys.modules);"
        "sys.exit(f'{code} {loaded}' if code or loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "Leakage audit" in done.stdout
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["reader"] == "toystore"
