"""An exported recommender gives the lists of the run, in a process that has JAX and NumPy alone."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

import genrec_jax
from genrec_jax.checkpoint import restore
from genrec_jax.cli import main
from genrec_jax.decoding import export, exported_program, trie
from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.decoding.stock import Stock
from genrec_jax.errors import UserError
from genrec_jax.model import stacks, t5
from genrec_jax.pipeline.batch import PromptBatch
from tests.evaluation import tiny_run

CLEAN_PROCESS = """
import importlib.abc, pathlib, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        wanted = {"genrec_jax", "flax", "optax", "orbax", "etils", "gin", "tensorflow", "seqio"}
        wanted |= {"sentencepiece"}
        if name.partition(".")[0] in wanted:
            raise ModuleNotFoundError(name + " is absent here", name=name)

sys.meta_path.insert(0, Absent())
folder, prompts, other, output = sys.argv[1:]
sys.path.insert(0, folder)
import load
import numpy as np

given = np.load(prompts)
cache = pathlib.Path(output).with_name("cache")
recommender = load.Recommender(folder, cache=cache)
assert recommender.warm_up().keys() == {(4, 64)}
compiled = sorted(cache.iterdir())
assert compiled
found = recommender.recommend(given["tokens"], given["whole_words"])
other = load.Recommender(folder, catalogue=other)
names = {"source_ids": recommender.source_ids, "other_source_ids": other.source_ids}
other = other.recommend(given["tokens"], given["whole_words"])
lists = {"items": found[0], "scores": found[1], "other_items": other[0], "other_scores": other[1]}
np.savez(output, **lists, **names)
try:
    load.Recommender(folder).recommend(np.ones((9, 9), np.int32))
except ValueError as error:
    print(error)
assert recommender._call[4, 64]._cache_size() == 1 and sorted(cache.iterdir()) == compiled
assert not any(name.startswith(("genrec_jax", "flax")) for name in sys.modules)
"""


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    dataset = tiny_run.make_dataset(folder)
    made = tiny_run.make_run(folder / "run", [dataset.path], steps=(10,))
    return genrec_jax.load(str(made.path))


def prompts_of(recommender, histories) -> PromptBatch:
    prompts = recommender._stock.assembler.assemble("A1", None, [np.asarray(h) for h in histories])
    nobody = np.full(len(histories), -1)
    longest = int(prompts.inputs.lengths_E.max())
    return prompts.padded(len(histories), longest, users_E=nobody, targets_E=nobody)


def backwards(recommender) -> Stock:
    """The same items, numbered from the other end."""
    stock = recommender._stock
    texts = recommender.run_dir.item_ids().texts[::-1]
    encode = recommender.run_dir.vocabulary.encode
    ids = [encode(f"{recommender.dataset} {text}") for text in texts]
    values = np.concatenate([np.asarray(tokens) for tokens in ids])
    offsets = np.cumsum([0, *map(len, ids)])
    built = trie.build_trie(values, offsets, vocab_size=recommender.run_dir.vocabulary.size)
    names = Catalogue(stock.catalogue.source_ids[::-1], stock.catalogue.titles[::-1])
    return dataclasses.replace(stock, trie=built, catalogue=names)


def write_catalogue(recommender, folder, path, stock):
    return export.write_catalogue(folder, stock, recommender.run_dir.vocabulary, path)


def test_a_clean_process_gets_the_lists_of_the_run(recommender, tmp_path):
    folder = recommender.export(tmp_path / "exported", rows=(4,), lengths=(64,), k=10)
    histories = [[3, 1, 4], [15, 9, 2, 6, 5, 3, 5, 8], [9]]
    batch = prompts_of(recommender, histories)
    tokens_BL = batch.encoder_input_tokens_BL
    np.savez(
        tmp_path / "prompts.npz", tokens=tokens_BL, whole_words=batch.encoder_whole_word_ids_BL
    )
    write_catalogue(recommender, folder, tmp_path / "other.npz", backwards(recommender))
    command = [sys.executable, "-c", CLEAN_PROCESS, folder, tmp_path / "prompts.npz"]
    command += [tmp_path / "other.npz", tmp_path / "found.npz"]
    done = subprocess.run(
        list(map(str, command)),
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "got 9 prompts of 9 tokens; the exported programs take [(4, 64)]" in done.stdout
    found = np.load(tmp_path / "found.npz")
    source_ids = recommender.catalogue.source_ids
    wanted = recommender.recommend([[source_ids[item] for item in h] for h in histories], k=10)
    for row, own in enumerate(wanted):
        assert found["items"][row, :10].tolist() == [one.item for one in own]
        scores = [one.score for one in own]
        np.testing.assert_allclose(found["scores"][row, :10], scores, atol=2e-5)
    # The catalogue is an argument: another of that size runs on the same program, names and all.
    np.testing.assert_allclose(found["other_scores"], found["scores"], atol=2e-5)
    last = len(recommender.catalogue) - 1
    assert np.array_equal(last - found["other_items"][:, :10], found["items"][:, :10])
    assert found["source_ids"].tolist() == list(source_ids)
    assert found["other_source_ids"].tolist() == list(source_ids)[::-1]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["shapes"] == [[4, 64]] and manifest["step"] == 10
    (template,) = (one for one in recommender.run_dir.templates if one.id == "A1")
    assert manifest["prompt"]["input"] == template.input and manifest["prompt"]["history"] > 0
    vocabulary = (folder / "vocabulary.model").read_bytes()
    assert vocabulary == (recommender.run_dir.path / "vocabulary.model").read_bytes()


def lists_of(exported, recommender, histories, k=10) -> list[list[str]]:
    """Source ids of an exported recommender, asked as `recommender` would ask."""
    batch = prompts_of(recommender, histories)
    items, _ = exported.recommend(batch.encoder_input_tokens_BL, batch.encoder_whole_word_ids_BL)
    return [[exported.source_ids[item] for item in row if item >= 0][:k] for row in items]


def own_lists(recommender, histories, k=10) -> list[list[str]]:
    source_ids = recommender.catalogue.source_ids
    asked = [[source_ids[item] for item in history] for history in histories]
    return [[one.source_id for one in found] for found in recommender.recommend(asked, k=k)]


HISTORIES = [[3, 1, 4], [15, 9, 2, 6, 5], [9]]


def test_items_added_and_retired_are_in_an_export(recommender, tmp_path):
    """An export made after a change has it; one made before gets it with the catalogue of now."""
    live = genrec_jax.load(str(recommender.run_dir.path), room=40)
    folders = [live.export(tmp_path / "before", rows=(4,), lengths=(64,))]
    live.update(add={"new": "item_9001"}, titles={"new": "Quiet Wooden Train"})
    live.update(retire=live.catalogue.source_ids[14:-1])
    folders.append(live.export(tmp_path / "after", rows=(4,), lengths=(64,)))
    live.export_catalogue(folders[0])
    for name in ("catalogue.npz", "manifest.json", "params.npz"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    wanted = own_lists(live, HISTORIES, k=20)
    assert all("new" in found and len(found) == 15 for found in wanted)
    exported = exported_program.Recommender(folders[0])
    assert lists_of(exported, live, HISTORIES, k=20) == wanted
    titles = live.catalogue.titles
    assert exported.titles == [titles[number] for number in live._stock.numbers_I]
    assert len(exported.titles) == 15
    # In another process other items have the same numbers; its catalogue brings their names.
    other = genrec_jax.load(str(recommender.run_dir.path))
    other.update(add={"w1": "item_9002", "w2": "item_9003"})
    other.update(retire=other.catalogue.source_ids[14:-2])
    path = other.export_catalogue(folders[1], tmp_path / "other.npz")
    exported = exported_program.Recommender(folders[1], catalogue=path)
    wanted = own_lists(other, HISTORIES, k=20)
    assert all({"w1", "w2"} < set(found) for found in wanted)
    assert lists_of(exported, other, HISTORIES, k=20) == wanted
    assert exported_program.Recommender(folders[1]).source_ids[-1] == "new"


def test_a_catalogue_that_programs_cannot_take_is_refused(recommender, tmp_path):
    folder = recommender.export(tmp_path / "exported", rows=(1,), lengths=(32,))
    before = (folder / export.CATALOGUE).read_bytes()
    own = backwards(recommender)
    steps, end = own.trie.max_steps, own.trie.eos_id
    deeper = dataclasses.replace(own.trie, max_steps=steps + 4)
    ending = dataclasses.replace(own.trie, eos_id=end + 1)
    longer = recommender._stock.updated({f"n{n}": f"item_{9000 + n}" for n in range(300)}, [], {})
    path = folder / export.CATALOGUE
    for stock, message in [
        (dataclasses.replace(own, trie=deeper), f"up to {steps + 4} tokens.*make {steps} st"),
        (dataclasses.replace(own, trie=ending), f"end with {end}"),
        (longer, r"tokens_Y is uint16\[\d+\], and uint16\[\d+\] there"),
    ]:
        with pytest.raises(UserError, match=f"{message}.*Export the recommender anew"):
            write_catalogue(recommender, folder, None, stock)
        assert path.read_bytes() == before
        export._write_arrays(tmp_path / "wrong.npz", export._catalogue_arrays(stock))
        with pytest.raises(ValueError, match=f"wrong.npz has.*{message}"):
            exported_program.Recommender(folder, catalogue=tmp_path / "wrong.npz")
    with pytest.raises(ValueError, match="is no catalogue of an export: it lacks"):
        exported_program.Recommender(folder, catalogue=recommender.run_dir.path / "trie.npz")
    exported_program.Recommender(folder, catalogue=path)
    with pytest.raises(UserError, match="wanted an export's manifest"):
        recommender.export_catalogue(recommender.run_dir.path)
    (folder / "vocabulary.model").write_bytes(b"another")
    with pytest.raises(UserError, match="an export with another vocabulary"):
        recommender.export_catalogue(folder)


def test_parameters_have_one_form_whatever_exports_them(recommender, tmp_path, monkeypatch):
    """As the checkpoint has them; so another checkpoint's fit, and those of another network do not."""
    shape = {"rows": (4,), "lengths": (64,)}
    split = recommender.export(tmp_path / "split", **shape)
    monkeypatch.setattr(recommender, "_params", stacks.stack_layers(recommender._params))
    both = recommender.export(tmp_path / "both", **shape, platforms=("cpu", "cuda"))
    monkeypatch.undo()
    assert (split / "params.npz").read_bytes() == (both / "params.npz").read_bytes()
    saved = restore.restore_chosen(recommender.run_dir, recommender.step)
    with np.load(split / "params.npz") as params:
        assert {name: array.shape for name, array in params.items()} == {
            name: array.shape for name, array in export.named_arrays(saved).items()
        }
    said = [json.loads((folder / "manifest.json").read_text()) for folder in (split, both)]
    assert said[0]["params"] == said[1]["params"]
    assert said[0]["split_layers"] and not said[1]["split_layers"]
    wanted = own_lists(recommender, HISTORIES)
    for folder in (split, both):
        exported = exported_program.Recommender(folder)
        assert lists_of(exported, recommender, HISTORIES) == wanted
    tiny_run.add_checkpoint(recommender.run_dir, 20)
    later = genrec_jax.load(str(recommender.run_dir.path), checkpoint=20)
    export._write_arrays(split / "params.npz", _stacked(later._params))
    exported = exported_program.Recommender(split)
    assert lists_of(exported, later, HISTORIES) == own_lists(later, HISTORIES) != wanted
    deeper = dataclasses.replace(recommender.run_dir.model_config, num_encoder_layers=2)
    _, params = t5.graph_and_params(t5.T5(deeper, rngs=nnx.Rngs(0)))
    export._write_arrays(split / "params.npz", _stacked(params))
    with pytest.raises(ValueError, match=r"params.npz has other arrays.*is float32\[2,.*\[1,"):
        exported_program.Recommender(split)


def _stacked(params) -> dict[str, np.ndarray]:
    return export.named_arrays(stacks.stack_layers(params))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 0}, "k is 0; wanted a whole number"),
        ({"rows": (0,)}, "wanted one or more pairs"),
        ({"rows": ()}, "wanted one or more pairs"),
        ({"platforms": ("abacus",)}, "platform 'abacus' is unknown"),
    ],
)
def test_mistakes(recommender, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        recommender.export(tmp_path / "exported", **options)
    assert not (tmp_path / "exported").exists()


def test_only_an_export_is_replaced(recommender, tmp_path):
    standing = pathlib.Path(tmp_path / "mine")
    standing.mkdir()
    (standing / "notes.txt").write_text("keep me")
    for overwrite in (False, True):
        with pytest.raises(UserError):
            recommender.export(standing, overwrite=overwrite)
    assert (standing / "notes.txt").read_text() == "keep me"
    checkpoint = recommender.run_dir.checkpoint_dir / "10"  # which has a manifest.json, too
    with pytest.raises(UserError, match="exists and is not an exported recommender"):
        recommender.export(checkpoint, overwrite=True)
    assert checkpoint.is_dir()


def test_command_line_writes_the_same_programs(recommender, tmp_path, capsys):
    words = ["export", str(recommender.run_dir.path), "--output", str(tmp_path / "exported")]
    assert main.main([*words, "--rows", "2"]) == 2
    assert "--rows means nothing to --to hugging_face" in capsys.readouterr().err
    assert main.main([*words, "--to", "jax", "--rows", "2", "--lengths", "32", "-k", "101"]) == 0
    assert "1 program;" in capsys.readouterr().out
    assert main.main([*words, "--to", "jax"]) == 2
    assert "pass overwrite (`--overwrite`)" in capsys.readouterr().err
    shape = ["--rows", "2", "--lengths", "32", "--room", "50"]
    assert main.main([*words, "--to", "jax", *shape, "--overwrite"]) == 0
    again = genrec_jax.load(str(recommender.run_dir.path), checkpoint=10, room=50).export(
        tmp_path / "again", rows=(2,), lengths=(32,)
    )
    for name in ("params.npz", "catalogue.npz", "load.py", "manifest.json"):
        assert (tmp_path / "exported" / name).read_bytes() == (again / name).read_bytes()
    assert (tmp_path / "exported" / "recommend_2x32.jax").stat().st_size > 0
