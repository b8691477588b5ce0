"""What is exported is what Hugging Face and T5X themselves write, bit for bit, and reads back the same."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import transformers
from flax import nnx, serialization

from genrec_jax.checkpoint import export, foreign_config, import_weights, tensor_files
from genrec_jax.checkpoint.export import Exportable
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.errors import UserError
from genrec_jax.indexing import t5_vocabulary
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model import t5
from tests.checkpoint import foreign
from tests.model import fixture_params

NO_TORCH = "needs PyTorch, which is no requirement: a CPU build is pip install torch"


def exportable(folder) -> Exportable:
    weights = ForeignWeights.open(folder)
    return Exportable(weights.config, export.named(weights.params()), None)


def drawn(config, vocabulary=None, seed=0) -> Exportable:
    params = nnx.state(t5.T5(config, rngs=nnx.Rngs(seed)), nnx.Param)
    return Exportable(config, export.named(params), vocabulary)


@pytest.mark.parametrize("name", ["hf_t511", "hf_t50"])
def test_an_imported_hugging_face_folder_exports_the_same_bytes(shared, tmp_path, name):
    fixture = shared / "fixtures" / name
    export.write_hugging_face(tmp_path, exportable(fixture))
    theirs = (fixture / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == theirs
    content = json.loads((tmp_path / "config.json").read_text())
    hub = json.loads((fixture / "config_hub_style.json").read_text())
    # What hub-style configs leave out has these values in every transformers.
    defaults = {"feed_forward_proj": "relu", "tie_word_embeddings": True}
    assert content == defaults | hub
    assert "scale_decoder_outputs" not in content


def test_shards_hold_what_one_file_holds(shared, tmp_path):
    what = exportable(shared / "fixtures/hf_t511")
    export.write_hugging_face(tmp_path, what, shard_bytes=200_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{n:05}-of-00004.safetensors" for n in (1, 2, 3, 4)]
    sizes = {
        path.name: sum(a.nbytes for a in tensor_files.read_one(path).values())
        for path in tmp_path.glob("*.safetensors")
    }
    assert max(sizes.values()) <= 200_000
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    theirs = shared / "fixtures/hf_t511/sharded/model.safetensors.index.json"
    total = json.loads(theirs.read_text())["metadata"]["total_size"]
    assert index["metadata"]["total_size"] == total
    again = foreign.flat(ForeignWeights.open(tmp_path).params())
    foreign.assert_same(again, {n: np.asarray(array) for n, array in what.params.items()})


@pytest.mark.parametrize(
    ("name", "step"), [("t5x_t511", 3), ("t5x_t50", 3), ("t5x_t511_scanned", 0)]
)
def test_an_imported_t5x_checkpoint_exports_t5xs_own_file(shared, tmp_path, name, step):
    """The msgpack file says the same, but for the step; arrays and shapes of statistics are T5X's."""
    theirs = shared / "fixtures" / name / f"checkpoint_legacy/checkpoint_{step}"
    export.write_t5x(tmp_path / "checkpoint_0", exportable(theirs))
    ours = tmp_path / "checkpoint_0"
    read = lambda folder: serialization.msgpack_restore((folder / "checkpoint").read_bytes())  # noqa: E731
    left, right = read(ours), read(theirs)
    assert int(left["optimizer"]["state"].pop("step")) == 0
    assert int(right["optimizer"]["state"].pop("step")) == step
    left_leaves = dict(tensor_files._leaves(left))
    right_leaves = dict(tensor_files._leaves(right))
    assert left_leaves.keys() == right_leaves.keys()
    for place, leaf in right_leaves.items():
        if isinstance(leaf, dict):
            assert left_leaves[place] == leaf
        else:
            np.testing.assert_array_equal(left_leaves[place], leaf)
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    foreign.assert_same(
        foreign.all_of(ForeignWeights.open(ours).source),
        foreign.all_of(ForeignWeights.open(theirs).source),
    )


def test_the_scanned_network_is_none_of_hugging_faces(shared, tmp_path):
    theirs = shared / "fixtures/t5x_t511_scanned/checkpoint_legacy/checkpoint_0"
    with pytest.raises(UserError, match="only be exported for T5X"):
        export.write_hugging_face(tmp_path, exportable(theirs))


def test_a_matrix_that_t5x_factors_gets_its_row_and_column(tmp_path):
    (tmp_path / "c").mkdir()
    statistics = export._fresh_statistics(tmp_path / "c", "a/kernel", ["D", "F"], (256, 128))
    assert {name: np.shape(value) for name, value in statistics.items()} == {
        "m": (1,),
        "v": (1,),
        "v_row": (128,),
        "v_col": (256,),
    }
    assert not any((tmp_path / "c").iterdir())


@pytest.mark.parametrize("to", ["hugging_face", "t5x"])
def test_a_model_of_ours_goes_out_and_comes_back(tmp_path, to):
    """Whole-word embedding and all; rows that pad the vocabulary, which nothing reads, come back zero."""
    config = dataclasses.replace(
        foreign.T5_1_1, vocab_size=200, whole_word_embedding=True, max_whole_words=16
    )
    what = drawn(config)
    folder = tmp_path / "checkpoint_0"
    if to == "hugging_face":
        folder.mkdir()
        export.write_hugging_face(folder, what)
    else:
        export.write_t5x(folder, what)
    weights = ForeignWeights.open(folder)
    assert weights.config == config
    back = foreign.flat(weights.params())
    sent = {name: np.array(array) for name, array in what.params.items()}
    for name in ("token_embedding", "head"):
        assert not back[name][200:].any()
        sent[name][200:] = 0
    foreign.assert_same(back, sent)


def test_a_tied_head_without_scaling_goes_out_as_a_copy(tmp_path):
    config = dataclasses.replace(foreign.T5_1_0, scale_head_input=False, dropout_rate=0.1)
    export.write_hugging_face(tmp_path, drawn(config))
    source = tensor_files.open_hugging_face(tmp_path)
    assert "lm_head.weight" in source.shapes
    assert ForeignWeights.open(tmp_path).config == config
    with pytest.raises(UserError, match="T5X scales the input of a tied head"):
        export.write_t5x(tmp_path / "checkpoint_0", drawn(config))


@pytest.mark.parametrize(
    ("changes", "to", "message"),
    [
        ({"tied_head": False, "scale_head_input": True}, "hugging_face", "both on or both off"),
        ({"norm_epsilon": 1e-5}, "t5x", "T5X fixes norm_epsilon at 1e-06"),
        ({"relative_max_distance": 64}, "t5x", "T5X fixes relative_max_distance at 128"),
    ],
)
def test_networks_that_the_others_lack(tmp_path, changes, to, message):
    what = drawn(dataclasses.replace(foreign.T5_1_0, **changes))
    with pytest.raises(UserError, match=message):
        if to == "t5x":
            export.write_t5x(tmp_path / "checkpoint_0", what)
        else:
            export.write_hugging_face(tmp_path, what)


def test_imported_weights_export_with_their_vocabulary(shared, tmp_path):
    """import, then export, then import again: the same parameters, network and vocabulary."""
    config = dataclasses.replace(foreign.T5_1_0, vocab_size=32_128)
    spiece = shared / "data/t5_vocabulary/spiece.model"
    values = foreign.arrays("hugging_face", config)
    folder = foreign.write_hugging_face(tmp_path / "hub", config, values)
    first = import_weights.import_weights(folder, tmp_path / "first", vocabulary=spiece)
    export.export(tmp_path / "first", tmp_path / "out")
    second = import_weights.import_weights(tmp_path / "out", tmp_path / "second")
    assert second.model_config == first.model_config
    assert first.vocabulary is not None and second.vocabulary is not None
    assert second.vocabulary.sha256 == first.vocabulary.sha256
    foreign.assert_same(foreign.flat(second.restore_params()), foreign.flat(first.restore_params()))


def test_overwrite_replaces_an_export_and_nothing_else(shared, tmp_path):
    first, second = (
        import_weights.import_weights(shared / "fixtures" / name, tmp_path / name).path
        for name in ("hf_t50", "hf_t511")
    )
    output = tmp_path / "out"
    export.export(first, output)
    with pytest.raises(UserError, match="already exists"):
        export.export(second, output)
    export.export(second, output, overwrite=True)
    theirs = ForeignWeights.open(shared / "fixtures/hf_t511")
    assert ForeignWeights.open(output).config == theirs.config
    for name in ("hf_t50", "hf_t511"):  # imported weights are no export, and neither are others'
        with pytest.raises(UserError, match="exists and is not an export"):
            export.export(second, tmp_path / name, overwrite=True)
    (output / export.MARK).unlink()
    with pytest.raises(UserError, match="exists and is not an export"):
        export.export(first, output, overwrite=True)
    assert (output / "config.json").is_file()


@pytest.mark.parametrize("has_cpu", [True, False])
def test_what_is_exported_stays_in_the_hosts_memory(tmp_path, monkeypatch, has_cpu):
    """Eight fake devices: 2 plays the first accelerator, 5 the host, which JAX_PLATFORMS may leave out."""
    values = foreign.arrays("hugging_face", foreign.T5_1_0)
    folder = foreign.write_hugging_face(tmp_path / "hub", foreign.T5_1_0, values)
    import_weights.import_weights(folder, tmp_path / "weights")
    devices = jax.devices()

    def local_devices(backend=None):
        if backend == "cpu" and not has_cpu:
            raise RuntimeError("Unknown backend cpu")
        return devices[5:] if backend == "cpu" else devices[2:]

    monkeypatch.setattr(jax, "local_devices", local_devices)
    params = export.load(tmp_path / "weights").params
    assert {array.device for array in params.values()} == {devices[5 if has_cpu else 2]}


@pytest.fixture(scope="module")
def tokenizer_folder(shared, tmp_path_factory):
    """A folder with the tokenizer of T5's vocabulary and three added tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    base = Vocabulary(shared / "data/t5_vocabulary/spiece.model")
    vocabulary = t5_vocabulary.extend(base, ["<CI0>", "<CI1>", "<CI12>"])
    config = dataclasses.replace(foreign.T5_1_0, vocab_size=vocabulary.size)
    export.write_hugging_face(folder, drawn(config, vocabulary))
    return folder, vocabulary


TEXTS = [
    "user_7 has purchased Beauty items item_1001 , item_1002 ; predict next",
    "Beauty <CI1><CI12><CI0>",
    "What should user_11 choose next? <CI12>",
    "Ünïcode & <b>markup</b>, 3.50 €",
    "spaces   in  between",
    "a <CI1> b and a<CI1>b",
]


def test_transformers_reads_the_tokenizer_alike(tokenizer_folder):
    folder, vocabulary = tokenizer_folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == vocabulary.size == 32_103
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 32_099
    assert tokenizer.convert_tokens_to_ids(["<CI0>", "<CI12>"]) == [32_100, 32_102]
    special = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert special == (0, 1, 2)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [*vocabulary.encode(text), 1], text
    assert tokenizer.decode(vocabulary.encode(TEXTS[0])) == TEXTS[0]


def test_sentencepiece_reads_the_tokenizer_alike(tokenizer_folder):
    folder, vocabulary = tokenizer_folder
    assert Vocabulary(folder / "spiece.model").sha256 == vocabulary.sha256
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["extra_ids"] == 0
    found = import_weights.find_vocabulary(folder)
    assert found is not None and found.sha256 == vocabulary.sha256


@pytest.mark.parametrize("name", ["hf_t511", "hf_t50"])
def test_transformers_loads_the_same_logits_and_beams(shared, tmp_path, name):
    """Where PyTorch is not installed, the equal bytes above say that transformers reads its own model."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    fixture = shared / "fixtures" / name
    export.write_hugging_face(tmp_path, exportable(fixture))
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    io, beams = np.load(fixture / "io.npz"), np.load(fixture / "beams.npz")

    def tensor(array):
        return torch.from_numpy(array.astype(np.int64))

    keys = ("input_ids", "attention_mask", "decoder_input_ids")
    with torch.no_grad():
        logits = model(**{key: tensor(io[key]) for key in keys}).logits.numpy()
    np.testing.assert_allclose(logits, io["logits"], atol=5e-5, rtol=0)
    following: dict[tuple[int, ...], set[int]] = {}
    for tokens, length in zip(beams["item_tokens"], beams["item_lengths"], strict=True):
        path = [0, *tokens[:length].tolist(), 1]
        for end in range(1, len(path)):
            following.setdefault(tuple(path[:end]), set()).add(path[end])
    found = model.generate(
        input_ids=tensor(beams["input_ids"]),
        attention_mask=tensor(beams["attention_mask"]),
        num_beams=10,
        num_return_sequences=10,
        length_penalty=0.0,
        max_new_tokens=7,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, row: sorted(following.get(tuple(row.tolist()), {1})),
    )
    expected = beams["lp0_b10_sequences"]
    found_BRT = found.numpy().reshape(*expected.shape[:2], -1)  # no longer than the longest id
    width = found_BRT.shape[2]
    np.testing.assert_array_equal(found_BRT, expected[:, :, :width])
    assert not expected[:, :, width:].any()


def test_models_that_transformers_builds_here_come_in_with_their_logits(tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    for number, kind in enumerate(("relu", "gated-gelu")):
        torch.manual_seed(number)
        config = transformers.T5Config(
            vocab_size=100,
            d_model=16,
            d_kv=4,
            d_ff=24,
            num_layers=2,
            num_decoder_layers=1,
            num_heads=3,
            feed_forward_proj=kind,
        )
        theirs = transformers.T5ForConditionalGeneration(config).eval()
        theirs.save_pretrained(tmp_path / kind)
        weights = ForeignWeights.open(tmp_path / kind)
        graphdef, _ = t5.abstract_graph_and_params(weights.config)
        inputs = np.array([[5, 6, 7, 1], [8, 9, 1, 0]], np.int32)
        targets = np.array([[4, 3, 1], [2, 1, 0]], np.int32)
        shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        batch = fixture_params.batch_of(
            {
                "encoder_input_tokens": inputs,
                "decoder_target_tokens": targets,
                "decoder_input_tokens": shifted,
                "decoder_loss_weights": (targets > 0).astype(np.int32),
            }
        )
        ours = fixture_params.run(graphdef, weights.params(), lambda m, b: m(b), batch)
        with torch.no_grad():
            logits = theirs(
                input_ids=torch.from_numpy(inputs.astype(np.int64)),
                attention_mask=torch.from_numpy((inputs > 0).astype(np.int64)),
                decoder_input_ids=torch.from_numpy(shifted.astype(np.int64)),
            ).logits.numpy()
        real = targets > 0
        np.testing.assert_allclose(np.asarray(ours)[real][:, :100], logits[real], atol=5e-5, rtol=0)


def test_the_config_written_is_read_back():
    content = foreign_config.to_hugging_face(foreign.T5_1_1)
    assert content["tie_word_embeddings"] is False
    assert content["feed_forward_proj"] == "gated-gelu"
    assert foreign_config.to_hugging_face(foreign.T5_1_0)["tie_word_embeddings"] is True
