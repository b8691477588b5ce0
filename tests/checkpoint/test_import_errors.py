"""What cannot be imported is refused with all that is wrong with it, and with what to do about it."""

import dataclasses
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

import fsspec
import numpy as np
import pytest

from genrec_jax.checkpoint import foreign_config, import_weights, weight_names
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.errors import UserError
from tests.checkpoint import foreign
from tests.checkpoint.test_export import NO_TORCH


def test_everything_wrong_is_listed_in_one_error(tmp_path):
    values = foreign.arrays("hugging_face", foreign.T5_1_1)
    del values["encoder.final_layer_norm.weight"]
    del values["decoder.block.2.layer.1.EncDecAttention.o.weight"]
    values["encoder.block.2.layer.0.layer_norm.weight"] = np.ones(8, np.float32)
    values["adapter.weight"] = np.ones(8, np.float32)
    values["shared.weight"] = np.ones((100, 8), np.float32)
    folder = foreign.write_hugging_face(tmp_path, foreign.T5_1_1, values)
    with pytest.raises(UserError) as caught:
        ForeignWeights.open(folder)
    lines = str(caught.value).splitlines()
    assert "5 problems" in lines[0]
    assert lines[1:6] == [
        "  adapter.weight: unmatched, no parameter of the network takes it",
        "  encoder.block.2.layer.0.layer_norm.weight: unmatched, no parameter of the network takes it",
        "  decoder.block.2.layer.1.EncDecAttention.o.weight: missing, a parameter of the network is not"
        " filled",
        "  encoder.final_layer_norm.weight: missing, a parameter of the network is not filled",
        "  shared.weight: has shape (100, 8), wanted (200, 8)",
    ]


def test_a_t5x_checkpoint_that_lacks_an_array(shared, tmp_path):
    from flax import serialization

    path = shared / "fixtures/t5x_t50/checkpoint_legacy/checkpoint_3"
    folder = tmp_path / "checkpoint_3"
    shutil.copytree(path, folder)
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    target = content["optimizer"]["target"]
    target["decoder"]["extra"] = target["decoder"].pop("decoder_norm")
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError) as caught:
        ForeignWeights.open(folder)
    assert "decoder/extra/scale: unmatched" in str(caught.value)
    assert "decoder/decoder_norm/scale: missing" in str(caught.value)
    shutil.rmtree(folder / "target.token_embedder.embedding")
    with pytest.raises(UserError, match="token_embedder/embedding cannot be read"):
        ForeignWeights.open(folder)


@pytest.mark.parametrize("said", ['("silu", "linear")', "[\n    'relu', 'linear']"])
def test_activations_that_t5x_wrote_down_are_not_taken_for_gelu(shared, tmp_path, said):
    path = shared / "fixtures/t5x_t511/checkpoint_legacy/checkpoint_3"
    folder = tmp_path / "checkpoint_3"
    shutil.copytree(path, folder)
    written = tmp_path / "config.gin"
    written.write_text('network.T5Config.mlp_activations = ("gelu", "linear")\n')
    assert ForeignWeights.open(folder).config.mlp_activations == ("gelu", "linear")
    written.write_text(
        f"network.T5Config.mlp_activations = {said}\nnetwork.T5Config.num_heads = 2\n"
    )
    with pytest.raises(UserError, match="has mlp_activations"):
        ForeignWeights.open(folder)


@pytest.mark.parametrize(
    ("format", "renamed"),
    [
        ("t5x", ["token_embedder/embedding", "encoder/layers_0/mlp/wi_0/kernel"]),
        ("t5x_scanned", ["decoder/decoder/self_attention/query/kernel"]),
    ],
)
def test_a_misnamed_array_that_tells_the_sizes_hides_no_other(format, renamed):
    """All of T5 1.1's names stand in the error where some tell the sizes and one does not."""
    config = dataclasses.replace(foreign.T5_1_1, relative_bias_per_layer=format == "t5x_scanned")
    shapes = weight_names.their_shapes(format, config)
    other = "decoder/decoder_norm/scale"
    spoilt = {n + "_x" if n in [*renamed, other] else n: s for n, s in shapes.items()}
    with pytest.raises(UserError) as caught:
        foreign_config.t5x_config(spoilt, file="here")
    first, *problems, last = str(caught.value).splitlines()
    assert first.startswith("here: does not tell a T5's sizes, which are those of ")
    assert first.endswith(f"{', '.join(renamed)} ({2 * len(renamed) + 2} problems):")
    unmatched = [f"  {n}_x: unmatched, no parameter of a T5 takes it" for n in [*renamed, other]]
    missing = [f"  {n}: missing, and it tells the network's sizes" for n in renamed]
    assert sorted(problems) == sorted([*unmatched, *missing, f"  {other}: missing"])
    assert last.startswith("Wanted a whole T5X checkpoint")


def test_an_array_that_cannot_tell_the_sizes_is_named():
    shapes = weight_names.their_shapes("t5x", foreign.T5_1_0)
    shapes["token_embedder/embedding"] = (1600,)
    with pytest.raises(UserError, match=r"has shape \(1600,\), wanted 2 dimensions"):
        foreign_config.t5x_config(shapes, file="here")


def test_what_is_no_t5_lists_all_that_a_t5_has():
    with pytest.raises(UserError) as caught:
        foreign_config.t5x_config({"embedding": (4, 4)}, file="here")
    message = str(caught.value)
    telling = ["token_embedder/embedding", "encoder/layers_0/attention/query/kernel"]
    telling += ["encoder/layers_0/mlp/wi/kernel", "encoder/relpos_bias/rel_embedding"]
    assert ", ".join(telling) in message
    assert "\n  embedding: unmatched" in message
    assert "\n  decoder/layers_0/encoder_decoder_attention/out/kernel: missing\n" in message


PICKLES = ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"]


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, name):
    """Whether its folder is named or the file itself; the tokenizer's files are not forgotten."""
    folder = tmp_path / "my model"
    foreign.write_hugging_face(folder, foreign.T5_1_0, {})
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04never read")
    for given, said in ((folder, f"a pickle ({name})"), (folder / name, "is a pickle, which")):
        with pytest.raises(UserError) as caught:
            import_weights.import_weights(given, tmp_path / "out")
        message = str(caught.value)
        assert message.startswith(f"{given}: ") and said in message and "never read" in message
        _, _, command = message.partition("leaves out: ")
        words = shlex.split(command)
        assert words[:2] == ["python", "-c"] and "save_pretrained" in words[2]
        new = f"{folder}_safetensors"
        assert f'from_pretrained("{folder}").save_pretrained("{new}")' in words[2]
        assert words[3:] == ["&&", "cp", f"{folder}/spiece.model", f"{folder}/*token*.json", new]


def test_the_way_to_convert_a_pickle_leads_to_weights_with_a_vocabulary(shared, tmp_path):
    """The command as the error gives it, in a shell, on a pickle that PyTorch wrote."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    folder = tmp_path / "my model"
    config = dataclasses.replace(foreign.T5_1_0, vocab_size=32_128)
    values = foreign.arrays("hugging_face", config)
    foreign.write_hugging_face(folder, config, values)
    (folder / "model.safetensors").unlink()
    tensors = {name: torch.from_numpy(array) for name, array in values.items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    shutil.copyfile(shared / "data/t5_vocabulary/spiece.model", folder / "spiece.model")
    settings = {"added_tokens_decoder": {"32100": {"content": "<CI0>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError) as caught:
        ForeignWeights.open(folder / "pytorch_model.bin")
    _, _, command = str(caught.value).partition("leaves out: ")
    command = command.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=500)
    made = import_weights.import_weights(tmp_path / "my model_safetensors", tmp_path / "weights")
    assert made.vocabulary is not None and made.vocabulary.pieces([32_100]) == ["<CI0>"]
    table = foreign.flat(made.restore_params())["token_embedding"]
    np.testing.assert_array_equal(table, values["shared.weight"])


def test_urls_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "absent").mkdir()
    for url in ("memory://x/w", "gs://bucket/t5/w/"):
        with pytest.raises(UserError) as caught:
            import_weights.import_weights("absent", url)
        message = str(caught.value)
        assert message.startswith(f"{url}: is a URL; weights are imported into a local folder")
        assert f"gcloud storage cp -r weights/w/* {url.rstrip('/')}/`" in message
        assert "INITIAL_CHECKPOINT_PATH may then be this URL" in message
    with pytest.raises(UserError, match=r"^gs://bucket/t5: is a URL; weights are read from"):
        import_weights.import_weights("gs://bucket/t5", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["absent"]


def test_weights_copied_to_a_bucket_are_a_start(shared, tmp_path, monkeypatch):
    """What the error about a URL promises: the folder, copied there, is opened by its URL."""
    monkeypatch.setenv("GENREC_STORAGE_CACHE", str(tmp_path / "cache"))
    made = import_weights.import_weights(shared / "fixtures/hf_t50", tmp_path / "weights")
    store = fsspec.filesystem("memory")
    store.put(str(made.path), "/imported/weights", recursive=True)
    try:
        assert ImportedWeights.exists("memory://imported/weights")
        there = ImportedWeights.load("memory://imported/weights")
        foreign.assert_same(
            foreign.flat(there.restore_params()), foreign.flat(made.restore_params())
        )
    finally:
        store.rm("/imported", recursive=True)


def _cut(folder: pathlib.Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def _garble(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def _no_config(folder: pathlib.Path) -> None:
    (folder / "config.json").unlink()


def _other_type(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bart"}')


def _other_activation(folder: pathlib.Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"feed_forward_proj": "gated-silu"}))


def _changed(**changes) -> Callable[[pathlib.Path], None]:
    def change(folder: pathlib.Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | changes))

    return change


def _other_copy(folder: pathlib.Path) -> None:
    values = foreign.arrays("hugging_face", foreign.T5_1_0)
    values["encoder.embed_tokens.weight"] = values["shared.weight"] + 1
    foreign.write_hugging_face(folder, foreign.T5_1_0, values)


def _no_size(folder: pathlib.Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["d_ff"]
    (folder / "config.json").write_text(json.dumps(content))


def _no_weights(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()


def _lost_shard(folder: pathlib.Path) -> None:
    _no_weights(folder)
    content = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def _integers(folder: pathlib.Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"I32"', 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, "cut short"),
        (_garble, "not a safetensors file"),
        (_no_config, "configuration of a Hugging Face model"),
        (_other_type, "'bart'; wanted 't5'"),
        (_other_activation, "'gated-silu'; wanted one of relu, gated-gelu"),
        (_changed(dense_act_fn="silu"), "dense_act_fn 'silu' beside feed_forward_proj 'relu'"),
        (_changed(is_gated_act=True), "is_gated_act True beside feed_forward_proj 'relu'"),
        (_changed(tie_word_embeddings=None), "tie_word_embeddings null, which"),
        (_changed(tie_word_embeddings=False), "has no lm_head.weight"),
        (
            _changed(architectures=["T5Model"], scale_decoder_outputs=False),
            "has no lm_head.weight, and config.json describes a network with a head of its own (T5Model",
        ),
        (_other_copy, "encoder.embed_tokens.weight that is not shared.weight"),
        (_no_size, "does not say d_ff"),
        (_no_weights, "holds no weights"),
        (_lost_shard, "model-00001-of-00002.safetensors. Download"),
        (_integers, "type I32"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(tmp_path, spoil, message):
    values = foreign.arrays("hugging_face", foreign.T5_1_0)
    spoil(foreign.write_hugging_face(tmp_path, foreign.T5_1_0, values))
    with pytest.raises(UserError) as caught:
        import_weights.import_weights(tmp_path, tmp_path / "out")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_neither_folder_nor_checkpoint(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        ForeignWeights.open(tmp_path / "absent")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=f"is a file; wanted the folder .*: {tmp_path}, if"):
        ForeignWeights.open(tmp_path / "model.safetensors")
    (tmp_path / "checkpoint").write_bytes(b"\x81")
    with pytest.raises(UserError, match="`checkpoint` file of T5X"):
        ForeignWeights.open(tmp_path)
