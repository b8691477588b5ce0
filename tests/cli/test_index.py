"""`genrec index` as a user types it."""

import pathlib

import pyarrow as pa
import pytest

from genrec_jax.cli import main
from genrec_jax.data import dataset
from genrec_jax.indexing import build, item_ids
from tests.indexing.conftest import write_dataset


@pytest.fixture
def data(tmp_path: pathlib.Path) -> dataset.Dataset:
    users = [user for user in range(12) for _ in range(6)]
    items = [(user * step) % 10 for user in range(12) for step in range(1, 7)]
    return dataset.write(
        tmp_path / "shop",
        name="Shop",
        interactions=pa.table({"user": users, "item": items}),
        items=pa.table(
            {
                "item": list(range(10)),
                "source_id": [f"s{item}" for item in range(10)],
                "title": [
                    None if item == 4 else f"Thing {item} [red] :bell:" for item in range(10)
                ],
            }
        ),
        users=pa.table({"user": list(range(12)), "source_id": [f"u{user}" for user in range(12)]}),
    )


@pytest.mark.parametrize("method", build.METHODS)
def test_prints_a_summary(data, capsys, method):
    assert main.main(["index", str(data.path), "--method", method]) == 0
    printed = capsys.readouterr().out
    loaded = item_ids.load(data.path / "index" / method)
    assert loaded.method == method
    assert f"Shop: {method} ids" in printed
    assert "10 items" in printed
    assert loaded.texts[0] in printed
    assert "Thing 0 [red] :bell:" in printed  # titles are not markup
    assert "s4" in printed  # an item without a title is shown by its source id
    assert "audit: pass  item_ids_rebuilt" in printed
    assert f"written to {data.path}/index/{method}" in printed


def test_flags_reach_the_index(data, tmp_path):
    output = tmp_path / "ids"
    words = ["index", str(data.path), "--method", "collaborative", "--output", str(output)]
    settings = {"clusters": 3, "max_cluster": 4, "max_user_items": 5}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    assert main.main([*words, *flags]) == 0
    assert item_ids.load(output).parameters == settings
    words = ["index", str(data.path), "--method", "random", "--output", str(output)]
    assert main.main([*words, "--seed", "9", "--overwrite", "--number-digits-per-token", "1"]) == 0
    assert item_ids.load(output).seed == 9
    vocabulary = item_ids.load_vocabulary(output)
    assert vocabulary.pieces(vocabulary.encode("item_1001")) == ["▁item_1", "0", "0", "1"]


def test_ids_from_a_file(data, tmp_path, capsys):
    file = tmp_path / "ids.csv"
    rows = "".join(f"s{item},{item % 3},{item}\n" for item in range(10))
    file.write_text(f"sku,high,low\n{rows}")
    words = ["index", str(data.path), "--method", "file", "--ids", str(file)]
    columns = ["--id-columns", "item=sku,codes=high+low"]
    assert main.main([*words, *columns]) == 0
    printed = capsys.readouterr().out
    assert "Shop: file ids" in printed and "<a_2><b_2>" in printed
    assert "13 added for these ids" in printed
    assert "audit: warn  item_ids_made_elsewhere: the ids of ids.csv were made elsewhere" in printed
    plain = ["--no-add-tokens", "--output", str(tmp_path / "plain")]
    assert main.main([*words, *columns, *plain]) == 0
    assert item_ids.load(tmp_path / "plain").added_tokens == ()


def test_every_template_word_is_one_token(data):
    from genrec_jax.prompts import templates

    main.main(["index", str(data.path), "--method", "sequential"])
    vocabulary = item_ids.load_vocabulary(data.path / "index/sequential")
    for template in templates.load_templates():
        text = template.input.format(dataset="Shop", user_id=42, history="item_7")
        assert len(vocabulary.encode(text)) == len(text.split()), text


def test_templates_of_slots_alone(data, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[template]]\nid = "S1"\ntask = "sequential"\nseen = true\n'
        'input = "{dataset} {history}"\ntarget = "{dataset} {target}"\n'
    )
    output = tmp_path / "index"
    arguments = ["index", str(data.path), "--method", "random", "--templates", str(file)]
    assert main.main([*arguments, "--output", str(output)]) == 0
    assert len(item_ids.load_vocabulary(output).encode("Shop item_7 , item_8")) == 4


def test_templates_that_show_titles(tmp_path):
    """The vocabulary has what titles are written in; OpenP5's prompts show none, so theirs has not."""
    write_dataset(tmp_path / "d", [["a", "b", "c"]] * 8, "Chinese", ["三体"] * 3)
    file = tmp_path / "mine.toml"
    file.write_text(
        '[texts]\nitem = "{item_id} {title}"\n'
        '[[template]]\nid = "S1"\ntask = "sequential"\nseen = true\n'
        'input = "{dataset} {history}"\ntarget = "{dataset} {target}"\n'
    )
    arguments = ["index", str(tmp_path / "d"), "--method", "random", "--overwrite"]
    for more, known in (([], False), (["--templates", str(file)], True)):
        assert main.main([*arguments, *more]) == 0
        vocabulary = item_ids.load_vocabulary(tmp_path / "d/index/random")
        assert (vocabulary.unk_id not in vocabulary.encode("三体")) == known


def test_titles_that_t5_cannot_write_are_told_of(shared, tmp_path, capsys):
    model = str(shared / "data/t5_vocabulary/spiece.model")
    for name, title, told in (("Latin", "Toy", False), ("Chinese", "三", True)):
        write_dataset(tmp_path / name, [["a", "b", "c"]] * 8, name, [title] * 3)
        words = ["index", str(tmp_path / name), "--method", "random", "--vocabulary", model]
        assert main.main(words) == 0
        assert ("of the titles' tokens are unknown" in capsys.readouterr().out) == told


def test_mistakes_are_one_line(data, tmp_path, capsys):
    assert main.main(["index", str(tmp_path / "none"), "--method", "random"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("genrec index: error: ")
    assert message.count("\n") == 1
    assert "is not there; wanted a" in message and "`genrec prepare --help`" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "sequential", "--seed", "0"], "--seed means nothing to --method sequential"),
        (["--method", "random", "--max-cluster", "9"], "it is for --method collaborative"),
        (["--method", "random", "--ids", "a.csv"], "--ids means nothing to --method random"),
        (
            ["--method", "random", "--no-add-tokens"],
            "--add-tokens means nothing to --method random",
        ),
        (["--method", "file"], "--ids names 0 files and there are 1 datasets"),
        (
            ["--method", "random", "--vocabulary", "x.model", "--templates", "y.toml"],
            "--vocabulary gives one that is finished",
        ),
    ],
)
def test_flags_that_would_do_nothing_are_refused(data, capsys, words, message):
    assert main.main(["index", str(data.path), *words]) == 2
    assert message in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit_:
        main.main(["index", "--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "genrec index data/toystore --method sequential" in printed
    for method in (*build.METHODS, "file"):
        assert f"\n  {method}" in printed
