"""Building an index: every method, several datasets, what is written, and what is refused."""

import json

import numpy as np
import pytest

from genrec_jax.data import dataset, splits
from genrec_jax.errors import UserError
from genrec_jax.indexing import build, collaborative_ids, item_ids
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.prompts import templates
from tests.indexing.conftest import write_dataset


def _sequences(seed=0, users=60, items=40):
    rng = np.random.default_rng(seed)
    return [
        [f"i{item:02d}" for item in rng.integers(0, items, rng.integers(5, 12))]
        for _ in range(users)
    ]


@pytest.mark.parametrize("method", build.METHODS)
def test_every_method_gives_every_item_its_own_id(make_dataset, prompt_lines, method):
    data = make_dataset(_sequences())
    (built,) = build.build_index([data.path], build.IndexConfig(method), prompt_lines=prompt_lines)
    assert built.path == data.path / "index" / method
    loaded = item_ids.load(built.path)
    assert len(set(loaded.texts)) == data.num_items
    prefix = "I" if method == "short" else "item_"
    assert all(text.startswith(prefix) for text in loaded.texts)
    vocabulary = item_ids.load_vocabulary(built.path)
    for text in loaded.texts:
        tokens = vocabulary.encode(text)
        assert 1 <= len(tokens) <= 3
        assert vocabulary.decode(tokens) == text
        assert vocabulary.word_starts_V[tokens].tolist() == [True] + [False] * (len(tokens) - 1)
    manifest = json.loads((built.path / "index.json").read_text())
    assert manifest["counts"]["items"] == data.num_items
    assert manifest["vocabulary"]["size"] == vocabulary.size
    assert {verdict["status"] for verdict in manifest["audit"]} == {"pass"}
    assert {verdict["check"] for verdict in manifest["audit"]} == {
        "item_ids_not_by_held_out",
        "item_ids_rebuilt",
        "vocabulary_rebuilt",
    }


@pytest.mark.parametrize("method", build.METHODS)
def test_building_twice_gives_the_same_bytes(make_dataset, prompt_lines, tmp_path, method):
    data = make_dataset(_sequences())
    for name in ("one", "two"):
        build.build_index(
            [data.path],
            build.IndexConfig(method, seed=2),
            output=tmp_path / name,
            prompt_lines=prompt_lines,
        )
    for file in ("index.json", "vocabulary.model", "item_ids.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("method", "file"),
    [("random", templates.OPENP5_TEMPLATES), ("short", templates.ALIGNMENT_TEMPLATES)],
)
def test_without_lines_the_vocabulary_has_the_words_of_its_method_s_prompts(
    make_dataset, tmp_path, method, file
):
    data = make_dataset(_sequences())
    config = build.IndexConfig(method)
    (plain,) = build.build_index([data.path], config)
    lines = templates.vocabulary_lines(templates.load_templates(file))
    (told,) = build.build_index([data.path], config, output=tmp_path / "o", prompt_lines=lines)
    assert plain.vocabulary.sha256 == told.vocabulary.sha256
    for word in " ".join(lines).split():
        assert len(plain.vocabulary.encode(word)) == 1, word


@pytest.mark.parametrize("method", ["sequential", "short"])
def test_titles_that_prompts_show_are_written_in_known_tokens(tmp_path, prompt_lines, method):
    """Arabic digits, Chinese, Devanagari with its own digits, an emoji: whatever the titles have."""
    titles = ["كتاب ٣٤٥", "三体 第２部", "पुस्तक ४२", "Toy 🚀 №7", "Straße ½"]
    data = write_dataset(tmp_path / "d", [[f"i{n}" for n in range(5)]] * 8, "Tiny", titles)
    (built,) = build.build_index(
        [data.path], build.IndexConfig(method), prompt_lines=prompt_lines, show_titles=True
    )
    for title in titles:
        assert built.vocabulary.unk_id not in built.vocabulary.encode(title), title
    assert built.unknown_in_titles == 0
    (told,) = build.build_index([data.path], build.IndexConfig("random"), prompt_lines=prompt_lines)
    assert told.vocabulary.unk_id in told.vocabulary.encode(titles[0])
    assert told.unknown_in_titles == 0  # its prompts show none


def test_titles_that_a_given_vocabulary_lacks_are_counted(tmp_path, shared):
    data = write_dataset(tmp_path / "d", [["a", "b", "c"]] * 8, "Tiny", ["Toy", "三", "Toy"])
    (built,) = build.build_index(
        [data.path],
        build.IndexConfig("sequential"),
        vocabulary=shared / "data/t5_vocabulary/spiece.model",
    )
    tokens = [token for title in built.titles for token in built.vocabulary.encode(title)]
    assert built.unknown_in_titles == 1 / len(tokens)


def test_settings_reach_the_method_and_the_manifest(make_dataset, prompt_lines):
    data = make_dataset(_sequences())
    (built,) = build.build_index(
        [data.path],
        build.IndexConfig("collaborative", clusters=3, max_cluster=6),
        prompt_lines=prompt_lines,
    )
    assert item_ids.load(built.path).parameters == {"clusters": 3, "max_cluster": 6}
    assert max(text.count("<CI") for text in built.item_ids.texts) > 2


def test_t5_vocabulary_grows_by_the_ids_tokens(make_dataset, shared):
    data = make_dataset(_sequences())
    (built,) = build.build_index(
        [data.path],
        build.IndexConfig("collaborative"),
        vocabulary=shared / "data/t5_vocabulary/spiece.model",
    )
    vocabulary = item_ids.load_vocabulary(built.path)
    added = built.item_ids.added_tokens
    assert vocabulary.pieces(range(32_100, vocabulary.size)) == list(added)
    assert added[:3] == ("<CI0>", "<CI1>", "<CI2>")
    assert vocabulary.pieces(vocabulary.encode("item_<CI1><CI2>")) == [
        "▁item",
        "_",
        "<CI1>",
        "<CI2>",
    ]


def test_several_datasets_share_one_vocabulary(make_dataset, prompt_lines, tmp_path):
    data = [make_dataset(_sequences(seed), name=name) for seed, name in ((0, "Red"), (1, "Blue"))]
    built = build.build_index(
        [one.path for one in data],
        build.IndexConfig("collaborative", clusters=4, max_cluster=5),
        output=tmp_path / "index",
        prompt_lines=prompt_lines,
    )
    assert [one.path for one in built] == [tmp_path / "index/Red", tmp_path / "index/Blue"]
    shared_vocabulary = Vocabulary(tmp_path / "index/vocabulary.model")
    for one, own in zip(data, built, strict=True):
        assert item_ids.load_vocabulary(own.path).sha256 == shared_vocabulary.sha256
        loaded = item_ids.load(own.path)
        loaded.check_dataset(one)
        tokens = shared_vocabulary.encode(f"{one.name} {loaded.texts[0]}")
        assert shared_vocabulary.pieces(tokens)[0] == f"▁{one.name}"
    assert not (tmp_path / "index/Red/vocabulary.model").exists()


def test_parity_option_is_caught_by_the_audit(make_dataset, prompt_lines):
    trained = [["a", "b"], ["b", "a"]]
    held_out = [f"z{(7 * number) % 20:02d}" for number in range(20)]
    sequences = [[*trained[user % 2], *held_out[2 * user : 2 * user + 2]] for user in range(10)]
    data = make_dataset(sequences)
    verdicts = {}
    for order in ("shuffled", "held-out-order"):
        (built,) = build.build_index(
            [data.path],
            build.IndexConfig("sequential", cold_items=order),
            prompt_lines=prompt_lines,
            overwrite=True,
        )
        assert built.cold_items == 20
        verdicts[order] = {verdict.check: verdict.status for verdict in built.audit}
    assert set(verdicts["shuffled"].values()) == {"pass"}
    assert verdicts["held-out-order"]["item_ids_rebuilt"] == "fail"


@pytest.mark.parametrize("method", build.METHODS)
def test_ids_of_a_log_whose_source_ids_grow_with_time_tell_nothing(
    make_dataset, prompt_lines, method
):
    """Every user's held-out items are new ones, and the catalogue's order is the order of time."""
    trained = [["a", "b"], ["b", "a"]]
    sequences = [
        [*trained[user % 2], f"n{2 * user:02d}", f"n{2 * user + 1:02d}"] for user in range(20)
    ]
    data = make_dataset(sequences)
    (built,) = build.build_index([data.path], build.IndexConfig(method), prompt_lines=prompt_lines)
    assert built.cold_items == 40
    assert {verdict.status for verdict in built.audit} == {"pass"}, built.audit


def test_the_audit_sees_clusters_that_count_held_out_interactions(
    make_dataset, prompt_lines, monkeypatch
):
    count = collaborative_ids.cooccurrence

    def of_everything(data, part, *rest):
        with pytest.MonkeyPatch.context() as patch:
            every_X = np.ones(data.num_interactions, bool)
            patch.setattr(splits.Splits, "in_training_X", lambda *_: every_X)
            return count(data, part, *rest)

    monkeypatch.setattr(collaborative_ids, "cooccurrence", of_everything)
    config = build.IndexConfig("collaborative", clusters=3, max_cluster=4)
    data = make_dataset(_sequences())
    (built,) = build.build_index([data.path], config, prompt_lines=prompt_lines)
    verdicts = {verdict.check: verdict.status for verdict in built.audit}
    assert verdicts["item_ids_rebuilt"] == "fail"


def test_wrong_calls(make_dataset, prompt_lines, tmp_path):
    config = build.IndexConfig("random")
    data = make_dataset(_sequences())
    twin = dataset.load(data.path)
    with pytest.raises(UserError, match="no dataset given"):
        build.build_index([], config)
    with pytest.raises(UserError, match="two datasets are called 'Tiny'"):
        build.build_index([data.path, twin.path], config, output=tmp_path / "o")
    other = make_dataset(_sequences(1), name="Other")
    with pytest.raises(UserError, match="pass --output DIR"):
        build.build_index([data.path, other.path], config)
    build.build_index([data.path], config, prompt_lines=prompt_lines)
    with pytest.raises(UserError, match="already exists"):
        build.build_index(str(data.path), config, prompt_lines=prompt_lines)  # no list of letters
    with pytest.raises(UserError, match="names 1 files and there are 2 datasets"):
        build.build_index([data.path, other.path], build.IndexConfig("file", ids="ids.csv"))


def test_overwrite_replaces_an_index_and_nothing_else(make_dataset, prompt_lines, tmp_path):
    def index(data, output):
        build.build_index(
            data,
            build.IndexConfig("random"),
            output=output,
            prompt_lines=prompt_lines,
            overwrite=True,
        )

    one, two = make_dataset(_sequences()), make_dataset(_sequences(1), name="Other")
    for output in (one.path, one.path / "index"):  # the dataset itself, and all of its indexes
        index([one.path], one.path / "index" / "random")
        with pytest.raises(UserError, match="exists and is not an index"):
            index([one.path], output)
    assert dataset.load(one.path).num_items == one.num_items
    (one.path / "index/random/run.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds the training run \S*random, which"):
        index([one.path], one.path / "index/random")
    (tmp_path / "empty").mkdir()
    for data in ([one.path], [one.path, two.path], [two.path]):
        index(data, tmp_path / "empty")
    assert item_ids.load(tmp_path / "empty").dataset_name == "Other"


def test_names_the_vocabulary_cannot_write(make_dataset, shared):
    (spiece,) = (shared / "data/t5_vocabulary").glob("*.model")
    data = make_dataset(_sequences(), name="名前")
    with pytest.raises(UserError, match=r"the dataset's name '名前' becomes .*wanted known tokens"):
        build.build_index([data.path], build.IndexConfig("random"), vocabulary=spiece)


def test_names_that_are_the_same_tokens(make_dataset, prompt_lines, tmp_path):
    # SentencePiece's normalisation makes the one letter of the first name the four of the second.
    two = [make_dataset(_sequences(), name=name).path for name in ("Ⅷ", "VIII")]
    with pytest.raises(UserError, match="that no other dataset's name becomes"):
        build.build_index(
            two, build.IndexConfig("random"), output=tmp_path / "o", prompt_lines=prompt_lines
        )


def test_a_failed_build_leaves_nothing(make_dataset, tmp_path):
    data = make_dataset(_sequences())
    config = build.IndexConfig("random")
    with pytest.raises(UserError, match=r"no text to train.*prompts\.templates\.vocabulary_lines"):
        build.build_index([data.path], config, output=tmp_path / "index", prompt_lines=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Tiny"]
