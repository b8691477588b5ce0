"""An exported recommender gives the lists of the run, in a process that has JAX and NumPy alone."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import genrec_jax
from genrec_jax.cli import main
from genrec_jax.decoding import export, exported_program, trie
from genrec_jax.errors import UserError
from genrec_jax.pipeline.batch import PromptBatch
from tests.evaluation import tiny_run

CLEAN_PROCESS = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        wanted = {"genrec_jax", "flax", "optax", "orbax", "gin", "tensorflow", "seqio", "sentencepiece"}
        if name.partition(".")[0] in wanted:
            raise ImportError(name + " is absent here")

sys.meta_path.insert(0, Absent())
folder, prompts, other_trie, output = sys.argv[1:]
sys.path.insert(0, folder)
import load
import numpy as np

given = np.load(prompts)
found = load.Recommender(folder).recommend(given["tokens"], given["whole_words"])
other = load.Recommender(folder, trie=other_trie).recommend(given["tokens"], given["whole_words"])
np.savez(output, items=found[0], scores=found[1], other_items=other[0], other_scores=other[1])
try:
    load.Recommender(folder).recommend(np.ones((9, 9), np.int32))
except ValueError as error:
    print(error)
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


def backwards(recommender) -> trie.Trie:
    """The trie of the same ids, whose items are numbered from the other end."""
    texts = recommender.run_dir.item_ids().texts[::-1]
    encode = recommender.run_dir.vocabulary.encode
    ids = [encode(f"{recommender.dataset} {text}") for text in texts]
    values = np.concatenate([np.asarray(tokens) for tokens in ids])
    offsets = np.cumsum([0, *map(len, ids)])
    return trie.build_trie(values, offsets, vocab_size=recommender.run_dir.vocabulary.size)


def test_a_clean_process_gets_the_lists_of_the_run(recommender, tmp_path):
    folder = recommender.export(tmp_path / "exported", rows=(4,), lengths=(64,), k=10)
    histories = [[3, 1, 4], [15, 9, 2, 6, 5, 3, 5, 8], [9]]
    batch = prompts_of(recommender, histories)
    tokens_BL = batch.encoder_input_tokens_BL
    np.savez(
        tmp_path / "prompts.npz", tokens=tokens_BL, whole_words=batch.encoder_whole_word_ids_BL
    )
    export.write_trie(tmp_path / "other.npz", backwards(recommender))
    command = [sys.executable, "-c", CLEAN_PROCESS, folder, tmp_path / "prompts.npz"]
    command += [tmp_path / "other.npz", tmp_path / "found.npz"]
    done = subprocess.run(
        list(map(str, command)),
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
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
    # The trie is an argument: another catalogue of that size runs on the same program.
    np.testing.assert_allclose(found["other_scores"], found["scores"], atol=2e-5)
    last = len(recommender.catalogue) - 1
    assert np.array_equal(last - found["other_items"][:, :10], found["items"][:, :10])
    items = json.loads((folder / "items.json").read_text())
    assert [item["source_id"] for item in items] == source_ids
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["shapes"] == [[4, 64]] and manifest["step"] == 10
    (template,) = (one for one in recommender.run_dir.templates if one.id == "A1")
    assert manifest["prompt"]["input"] == template.input and manifest["prompt"]["history"] > 0
    vocabulary = (folder / "vocabulary.model").read_bytes()
    assert vocabulary == (recommender.run_dir.path / "vocabulary.model").read_bytes()


def test_a_trie_that_the_programs_could_not_walk_is_refused(recommender, tmp_path):
    folder = recommender.export(tmp_path / "exported", rows=(1,), lengths=(32,))
    own = backwards(recommender)
    deeper = dataclasses.replace(own, max_steps=own.max_steps + 4)
    export.write_trie(tmp_path / "deeper.npz", deeper)
    with pytest.raises(
        ValueError, match=f"up to {deeper.max_steps} tokens.*make {own.max_steps} st"
    ):
        exported_program.Recommender(folder, trie=tmp_path / "deeper.npz")
    export.write_trie(tmp_path / "other_end.npz", dataclasses.replace(own, eos_id=own.eos_id + 1))
    with pytest.raises(ValueError, match=f"end with {own.eos_id}"):
        exported_program.Recommender(folder, trie=tmp_path / "other_end.npz")
    with pytest.raises(ValueError, match="not a run dir's"):
        exported_program.Recommender(folder, trie=recommender.run_dir.path / "trie.npz")
    exported_program.Recommender(folder, trie=folder / "trie.npz")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 0}, "k is 0"),
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
    assert main.main([*words, "--to", "jax", "--rows", "2", "--lengths", "32"]) == 0
    assert "1 program;" in capsys.readouterr().out
    assert main.main([*words, "--to", "jax"]) == 2
    assert "pass overwrite (`--overwrite`)" in capsys.readouterr().err
    assert main.main([*words, "--to", "jax", "--rows", "2", "--lengths", "32", "--overwrite"]) == 0
    again = recommender.export(tmp_path / "again", rows=(2,), lengths=(32,))
    for name in ("params.npz", "trie.npz", "load.py", "items.json", "manifest.json"):
        assert (tmp_path / "exported" / name).read_bytes() == (again / name).read_bytes()
    assert (tmp_path / "exported" / "recommend_2x32.jax").stat().st_size > 0
