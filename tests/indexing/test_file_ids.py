"""Ids made elsewhere: every form of file, what they become, and what is refused."""

import json

import polars as pl
import pytest

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.indexing import build, file_ids, foreign_ids, item_ids

SOURCES = ["a", "b", "7"]
TEXTS = ("red teapot", "blue teapot", "green tea")
CODES = ([12, 7, 0], [12, 7, 1], [3, 255, 0])
TOKENS = ("<a_12><b_7><c_0>", "<a_12><b_7><c_1>", "<a_3><b_255><c_0>")


def put(file, text):
    file.write_text(text)
    return file


def write(tmp_path, kind, columns):
    """The items' columns, and a row of another item first."""
    columns = {
        "item": ["gone", *SOURCES],
        **{name: [values[0], *values] for name, values in columns.items()},
    }
    file = tmp_path / f"ids.{kind}"
    if kind == "parquet":
        pl.DataFrame(columns).write_parquet(file)
    elif kind == "jsonl":
        pl.DataFrame(columns).write_ndjson(file)
    else:
        as_text = {
            name: [json.dumps(value) if isinstance(value, list) else value for value in values]
            for name, values in columns.items()
        }
        pl.DataFrame(as_text).write_csv(file, separator="," if kind == "csv" else "\t")
    return file


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
@pytest.mark.parametrize("form", ["text", "codes", "columns"])
def test_every_kind_of_file_holds_every_form(tmp_path, kind, form):
    columns = {
        "text": {"text": TEXTS},
        "codes": {"codes": CODES},
        "columns": {f"code_{level}": [codes[level] for codes in CODES] for level in range(3)},
    }[form]
    if form == "codes" and kind == "tsv":
        columns = {"codes": [" ".join(map(str, codes)) for codes in CODES]}
    file = write(tmp_path, kind, columns)
    found = file_ids.read(file, SOURCES)
    assert found.texts == (TEXTS if form == "text" else TOKENS)
    tokens = ["<a_12>", "<a_3>", "<b_255>", "<b_7>", "<c_0>", "<c_1>"]
    assert list(found.added_tokens) == ([] if form == "text" else tokens)
    assert found.parameters == {
        "file": file.name,
        "sha256": artefacts.sha256_of_file(file),
        "rows_of_other_items": 1,
    }


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_one_json_object_of_lists(tmp_path, indent, as_tokens):
    """LC-Rec's files, and those of TIGER's public versions."""
    codes = [[f"<{x}_{c}>" for x, c in zip("abc", row, strict=True)] for row in CODES]
    rows = dict(zip(["gone", *SOURCES], [[0], *(codes if as_tokens else CODES)], strict=True))
    file = put(tmp_path / "ids.index.json", json.dumps(rows, indent=indent))
    found = file_ids.read(file, SOURCES)
    assert found.texts == TOKENS
    assert len(found.added_tokens) == 6
    assert found.parameters["rows_of_other_items"] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("i.json", '{"a": [1], "b": [2], "a": [3]}', "'a' a second time"),
        ("i.json", '{"a": [1], "b": ["x"]}', "has .* for item 'b'; wanted codes"),
        ("i.json", '{"a": [1], "b": {"c": 2}}', "has the columns a, b; wanted an item and"),
        ("i.json", json.dumps(dict.fromkeys(map(str, range(99)), 1)), "10, 11 and 87 more; wanted"),
        ("i.json", '{"a": [1],', "wanted one JSON object a line"),
        ("i.npy", "\x93NUMPY", r"is no table, .*polars\.DataFrame.*codes\.tolist"),
        (
            "i.csv",
            "item;codes\na;[1, 2]\n",
            "'item;codes', whose columns ';' separates; wanted ','",
        ),
        ("i.csv", "item\tcodes\na\t1\n", "wanted ','. Name the file .tsv"),
        ("i.tsv", "item,codes\na,1\n", r"wanted '\\t'\. Name the file \.csv"),
    ],
)
def test_files_of_other_forms(tmp_path, name, content, message):
    file = put(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as error:
        file_ids.read(file, ["a", "b"])
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("[12, 7]", "<a_12><b_7>"),
        ("[12 7]", "<a_12><b_7>"),
        ("(12,7,)", "<a_12><b_7>"),
        ("012 7.0", "<a_12><b_7>"),
        ("['<a_12>', '<b_7>']", "<a_12><b_7>"),
        ("<x9> <y>", "<x9><y>"),
        ("12;7", None),
        ("-1 2", None),
        ("1.5", None),
        ("", None),
        (" ".join("1" * 27), None),
    ],
)
def test_codes_in_one_cell(tmp_path, cell, text):
    file = tmp_path / "ids.tsv"
    file.write_text(f"item\tcodes\na\t{cell}\n")
    if text is not None:
        assert file_ids.read(file, ["a"]).texts == (text,)
        return
    with pytest.raises(
        UserError, match="for item 'a'; wanted codes, whole numbers from 0"
    ) as error:
        file_ids.read(file, ["a"])
    assert error.value.line == 2


def test_columns_are_sorted_by_their_numbers(tmp_path):
    """And pandas writes whole numbers as floats where it has met none."""
    levels = {f"c{level}": [float(level), level + 10.0, level + 20.0] for level in range(10, 0, -1)}
    found = file_ids.read(write(tmp_path, "parquet", levels), SOURCES)
    assert found.texts[0].startswith("<a_1><b_2><c_3>")
    assert found.texts[2].endswith("<i_29><j_30>")


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        (
            "item,code_0,code_1\na,1,2\nb,1,\n",
            3,
            "no code in code_1 for item 'b'; wanted one in each",
        ),
        ("item,code_0,code_1\na,,2\nb,1,3\n", 2, "no code in code_0 for item 'a'"),
        ("item,code_0,code_2\na,1,2\n", 1, "with the numbers 0, 2; wanted .* codes=code_0.code_2"),
        ("item,c2,c3\na,1,2\n", 1, "with the numbers 2, 3; wanted each number once"),
        ("item,c1,sid_1\na,1,2\n", 1, "with the numbers 1, 1; wanted each number once"),
    ],
)
def test_codes_in_columns_have_no_holes(tmp_path, rows, line, message):
    file = put(tmp_path / "ids.csv", rows)
    with pytest.raises(UserError, match=message) as error:
        file_ids.read(file, ["a", "b"])
    assert error.value.line == line


def test_codes_in_a_list_may_be_of_several_lengths(tmp_path):
    """As where a last code tells twins apart and the other items have none."""
    file = write(tmp_path, "parquet", {"codes": [[12, 7], [12, 7, 1], [3]]})
    assert file_ids.read(file, SOURCES).texts == ("<a_12><b_7>", "<a_12><b_7><c_1>", "<a_3>")


def test_columns_are_named_where_they_have_other_names(tmp_path):
    file = put(tmp_path / "ids.csv", "sku,x,y,name\na,1,2,red <t> pot\nb,1,3,blue <t> pot\n")
    for columns, texts in (
        ({"item": "sku", "codes": "y+x"}, ("<a_2><b_1>", "<a_3><b_1>")),
        ({"item": "sku", "text": "name"}, ("red <t> pot", "blue <t> pot")),
    ):
        assert file_ids.read(file, ["a", "b"], columns=columns).texts == texts
    named = {"item": "sku", "text": "name"}
    assert file_ids.read(file, ["a", "b"], columns=named, add_tokens=True).added_tokens == ("<t>",)
    codes = {"item": "sku", "codes": "y"}
    assert file_ids.read(file, ["a", "b"], columns=codes, add_tokens=False).added_tokens == ()
    with pytest.raises(UserError, match="has the columns sku, x, y, name; wanted an item and"):
        file_ids.read(file, ["a", "b"])
    with pytest.raises(UserError, match="wanted z"):
        file_ids.read(file, ["a", "b"], columns={"item": "sku", "codes": "x+z"})
    with pytest.raises(UserError, match="wanted title"):
        file_ids.read(file, ["a", "b"], columns={**named, "title": "x"})


def test_an_index_of_ours_is_such_a_file(make_dataset, prompt_lines, tmp_path):
    data = make_dataset([["a", "b", "c", "d"]] * 3)
    (built,) = build.build_index(
        [data.path], build.IndexConfig("collaborative"), prompt_lines=prompt_lines
    )
    table = data.path / "index/collaborative/item_ids.parquet"
    again = build.IndexConfig("file", ids=[table])
    (read,) = build.build_index([data.path], again, prompt_lines=prompt_lines)
    assert read.item_ids.texts == built.item_ids.texts
    assert set(read.item_ids.added_tokens) == set(built.item_ids.added_tokens)
    assert read.tokens == built.tokens


@pytest.mark.parametrize(
    ("texts", "added"),
    [
        (("<a_1><b_7>", "<a_1><b_8>", "<a_2> <b_7>"), ("<a_1>", "<a_2>", "<b_7>", "<b_8>")),
        (("item_<I0>", "item_<I1>", "item_<I2>"), ("<I0>", "<I1>", "<I2>")),
        (("<a_1><b_7>", "<a_1><b_8>", "pot <b_7>"), ()),
        (("<a_1><b_7>", "<a_1><b_8>", "<a_2>b"), ()),
    ],
)
def test_texts_of_tokens_alone_are_whole_tokens(tmp_path, capsys, texts, added):
    file = write(tmp_path, "csv", {"text": texts})
    assert file_ids.read(file, SOURCES).added_tokens == added
    said = f"{texts[0]}, so each <...> becomes one token ({len(added)} added). --no-add-tokens"
    assert (said in capsys.readouterr().err) == bool(added)
    assert file_ids.read(file, SOURCES, add_tokens=False).added_tokens == ()
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ("a,x\nb,y\n", None, "has no id for 1 of 3 items, such as 7; wanted one for each. Add"),
        (
            "a,x\n7.0,y\nb,z\n",
            None,
            r"such as 7; .* Items there that the dataset does not have: 7\.0",
        ),
        ("a,x\nb,y\na,z\n", 4, "has item 'a' a second time, first on line 2"),
        (
            "7,x\nb,y\ngone,x\na,x\n",
            5,
            "gives item 'a' the id 'x', which item '7' has on line 2; wanted",
        ),
        ("7,x\nb,x\na,x\n", 3, r"item 'b' the id 'x', .* line 2 \(and 1 more such\)"),
        ("a,x\nb,\n7,z\n", 3, "has .* for item 'b'; wanted a text"),
    ],
)
def test_bad_files(tmp_path, rows, line, message):
    file = put(tmp_path / "ids.csv", "item,text\n" + rows)
    with pytest.raises(UserError, match=message) as error:
        file_ids.read(file, SOURCES)
    assert error.value.line == line


def test_flags_that_do_nothing_are_refused(tmp_path):
    file = put(tmp_path / "ids.csv", "item,text\na,x\n")
    with pytest.raises(
        UserError, match=r"--add-tokens adds what stands in <...>, and 'x' and the other"
    ):
        file_ids.read(file, ["a"], add_tokens=True)
    with pytest.raises(UserError, match="not found; wanted a file of item ids"):
        file_ids.read(tmp_path / "none", ["a"])


@pytest.mark.parametrize("t5", [False, True])
def test_codes_become_whole_tokens(make_dataset, prompt_lines, shared, tmp_path, t5):
    data = make_dataset([[*SOURCES, *SOURCES]] * 3)
    config = build.IndexConfig("file", ids=[write(tmp_path, "csv", {"codes": CODES})])
    base = shared / "data/t5_vocabulary/spiece.model" if t5 else None
    (built,) = build.build_index([data.path], config, vocabulary=base, prompt_lines=prompt_lines)
    assert built.path == data.path / "index/file"
    vocabulary = item_ids.load_vocabulary(built.path)
    loaded = item_ids.load(built.path)
    assert loaded.texts[data.item_source_ids.index("a")] == TOKENS[0]
    assert vocabulary.pieces(vocabulary.encode(TOKENS[0])) == [
        *(["▁", "<a_12>"] if t5 else ["▁<a_12>"]),
        "<b_7>",
        "<c_0>",
    ]
    if t5:
        tokens = ["<a_3>", "<a_12>", "<b_7>", "<b_255>", "<c_0>", "<c_1>"]
        assert vocabulary.pieces(range(32_100, vocabulary.size)) == tokens
    assert loaded.parameters["sha256"] == artefacts.sha256_of_file(tmp_path / "ids.csv")
    manifest = item_ids.read_manifest(built.path)
    audit = {entry["check"]: entry for entry in manifest["audit"]}
    assert "item_ids_rebuilt" not in audit
    trusted = audit["item_ids_made_elsewhere"]
    assert trusted["status"] == "warn"
    assert "ids.csv were made elsewhere, taken on trust" in trusted["detail"]


def test_texts_are_made_of_words(make_dataset, prompt_lines, tmp_path):
    data = make_dataset([[*SOURCES, *SOURCES]] * 3)
    config = build.IndexConfig("file", ids=[write(tmp_path, "csv", {"text": TEXTS})])
    (built,) = build.build_index([data.path], config, prompt_lines=prompt_lines)
    vocabulary = built.vocabulary
    for text in TEXTS:
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.pieces(vocabulary.encode("blue teapot"))[-1] == "▁teapot"
    assert foreign_ids.frequent_words(["item_1 b a", "item_1 a b c", "a"]) == ["a", "b"]


def test_ids_that_are_the_same_tokens_are_refused(make_dataset, prompt_lines, tmp_path):
    data = make_dataset([[*SOURCES, *SOURCES]] * 3)
    file = put(tmp_path / "ids.csv", "item,text\na,tea ﬁve\nb,tea five\n7,pot\n")
    with pytest.raises(
        UserError, match=r"items 1 \(a, id 'tea ﬁve'\) and 2 .*have the same tokens"
    ):
        build.build_index(
            [data.path], build.IndexConfig("file", ids=[file]), prompt_lines=prompt_lines
        )


def test_several_datasets_have_a_file_each(make_dataset, prompt_lines, tmp_path):
    data = [make_dataset([[*SOURCES, *SOURCES]] * 3, name) for name in ("Red", "Blue")]
    files = [
        put(
            tmp_path / f"{name}.csv",
            "item,codes\n" + "".join(f"{s},{x} {n}\n" for n, s in enumerate(SOURCES)),
        )
        for x, name in enumerate(("red", "blue"))
    ]
    built = build.build_index(
        [one.path for one in data],
        build.IndexConfig("file", ids=files),
        output=tmp_path / "index",
        prompt_lines=prompt_lines,
    )
    assert [one.item_ids.texts[1] for one in built] == ["<a_0><b_0>", "<a_1><b_0>"]
    for count in (0, 1, 3):
        with pytest.raises(UserError, match=f"--ids names {count} files and there are 2 datasets"):
            build.build_index(
                [one.path for one in data],
                build.IndexConfig("file", ids=[files[0]] * count),
                output=tmp_path / "other",
                prompt_lines=prompt_lines,
            )
