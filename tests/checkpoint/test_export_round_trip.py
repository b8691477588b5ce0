"""A T5 that transformers builds comes in, gets new tokens, goes out, and is there what it is here."""

import dataclasses
import shutil

import numpy as np
import pytest
import transformers
from flax import nnx

from genrec_jax.checkpoint import export, import_weights
from genrec_jax.checkpoint.export import Exportable
from genrec_jax.checkpoint.initial import initial_params
from genrec_jax.checkpoint.new_tokens import NewTokens
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import build_trie
from genrec_jax.indexing import t5_vocabulary
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model import t5
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.pipeline.batch import PromptBatch
from tests.checkpoint.test_export import NO_TORCH
from tests.model import fixture_params

ADDED = [f"<CI{number}>" for number in range(40)]
PROMPTS = [
    "What should user_11 choose next?",
    "Toys <CI3><CI7> item_1001 ; next",
    "Toys next <CI39>",
]
ROWS, BEAMS, ATOL = 32_128, 10, 5e-5


def build(kind: str, folder, shared):
    """A tiny network of T5's vocabulary that transformers draws and saves, with T5's pieces beside it."""
    import torch

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=ROWS,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=3,
        feed_forward_proj=kind,
        tie_word_embeddings=kind == "relu",
    )
    built = transformers.T5ForConditionalGeneration(config).eval()
    built.save_pretrained(folder)
    shutil.copyfile(shared / "data/t5_vocabulary/spiece.model", folder / "spiece.model")
    return built


def prompts(vocabulary: Vocabulary, texts: list[str]) -> np.ndarray:
    """Token numbers with end-of-sequence, padded with 0."""
    rows = [[*vocabulary.encode(text), 1] for text in texts]
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], np.int32)


def our_logits(graphdef: nnx.GraphDef, params: nnx.State, inputs_BL, targets_BT) -> np.ndarray:
    batch = fixture_params.batch_of(
        {
            "encoder_input_tokens": inputs_BL,
            "decoder_target_tokens": targets_BT,
            "decoder_input_tokens": np.pad(targets_BT, ((0, 0), (1, 0)))[:, :-1],
            "decoder_loss_weights": (targets_BT > 0).astype(np.int32),
        }
    )
    return np.asarray(fixture_params.run(graphdef, params, lambda m, b: m(b), batch))


def their_logits(model, inputs_BL, targets_BT) -> np.ndarray:
    import torch

    def tensor(array):
        return torch.from_numpy(array.astype(np.int64))

    with torch.no_grad():
        found = model(
            input_ids=tensor(inputs_BL),
            attention_mask=tensor(inputs_BL > 0),
            decoder_input_ids=tensor(np.pad(targets_BT, ((0, 0), (1, 0)))[:, :-1]),
        )
    return found.logits.numpy()


def their_lists(model, inputs_BL, items: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Item numbers and scores of transformers' beam search over the ids and nothing else."""
    import torch

    following: dict[tuple[int, ...], set[int]] = {}
    for tokens in items:
        path = [0, *tokens, 1]
        for end in range(1, len(path)):
            following.setdefault(tuple(path[:end]), set()).add(path[end])
    found = model.generate(
        input_ids=torch.from_numpy(inputs_BL.astype(np.int64)),
        attention_mask=torch.from_numpy((inputs_BL > 0).astype(np.int64)),
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        length_penalty=0.0,
        max_new_tokens=max(map(len, items)) + 1,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        prefix_allowed_tokens_fn=lambda _, row: sorted(following.get(tuple(row.tolist()), {1})),
    )
    numbers = {tuple(tokens): number for number, tokens in enumerate(items)}
    rows = [tuple(t for t in row if t > 1) for row in found.sequences.tolist()]
    items_BR = np.array([numbers[row] for row in rows]).reshape(-1, BEAMS)
    return items_BR, found.sequences_scores.numpy().reshape(items_BR.shape)


def catalogue() -> list[list[int]]:
    """60 ids of 2 or 3 tokens, of the added ones and of T5's own."""
    random = np.random.default_rng(0)
    first = random.integers(32_100, 32_100 + len(ADDED), 60)
    second = random.permutation(30_000)[:60] + 10  # all different
    third = random.integers(32_100, 32_100 + len(ADDED), 60)
    rows = np.stack([first % 5 + 32_100, second, third], axis=1)
    return [row[: 2 + number % 2].tolist() for number, row in enumerate(rows)]


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_a_grown_vocabulary_is_in_transformers_what_it_is_here(shared, tmp_path, kind):
    pytest.importorskip("torch", reason=NO_TORCH)
    built = build(kind, tmp_path / "hub", shared)
    made = import_weights.import_weights(tmp_path / "hub", tmp_path / "weights")
    assert made.vocabulary is not None and made.vocabulary.size == 32_100
    vocabulary = t5_vocabulary.extend(made.vocabulary, ADDED)
    config = dataclasses.replace(made.model_config, vocab_size=vocabulary.size)
    assert (config.vocab_size, config.padded_vocab_size) == (32_140, 32_256)
    params = initial_params(
        tmp_path / "weights",
        "best",
        config,
        vocabulary=vocabulary,
        options=NewTokens(),
        seed=0,
        mesh=mesh_lib.single_device_mesh(),
        notify=lambda line: None,
    )
    folder = tmp_path / "out"
    folder.mkdir()
    export.write_hugging_face(folder, Exportable(config, export.named(params), vocabulary))
    again = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    assert again.config.vocab_size == 32_140 == again.shared.weight.shape[0]

    graphdef, _ = t5.abstract_graph_and_params(config)
    inputs_BL = prompts(vocabulary, PROMPTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, row in zip(PROMPTS, inputs_BL, strict=True):
        assert tokenizer(text)["input_ids"] == row[row > 0].tolist()
    targets_BT = np.array([[32_139, 500, 1], [32_100, 1, 0], [77, 32_127, 1]], np.int32)
    real = targets_BT > 0
    ours = our_logits(graphdef, params, inputs_BL, targets_BT)[real][:, :32_140]
    np.testing.assert_allclose(
        their_logits(again, inputs_BL, targets_BT)[real], ours, atol=ATOL, rtol=0
    )
    # Where no added token is read, those of T5 score as in the model that transformers built.
    plain_BT = np.array([[500, 77, 1]], np.int32)
    before = their_logits(built, inputs_BL[:1], plain_BT)[..., :32_100]
    after = their_logits(again, inputs_BL[:1], plain_BT)[..., :32_100]
    np.testing.assert_allclose(after, before, atol=ATOL, rtol=0)

    items = catalogue()
    trie = build_trie(
        np.concatenate([np.array(row, np.int32) for row in items]),
        np.cumsum([0, *map(len, items)]),
        vocab_size=config.vocab_size,
    )
    none_B = np.full(len(inputs_BL), -1, np.int32)
    search = BeamConfig(BEAMS, BEAMS, finish_within_beams=True)
    batch = PromptBatch(inputs_BL, np.zeros_like(inputs_BL), none_B, none_B)
    found = make_recommend_step(graphdef, search)(params, batch, trie)
    items_BR, scores_BR = their_lists(again, inputs_BL, items)
    np.testing.assert_array_equal(found.items_BR, items_BR)
    np.testing.assert_allclose(found.scores_BR, scores_BR, atol=ATOL, rtol=0)
