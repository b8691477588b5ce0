"""The vocabulary class, and the three libraries that read its `.model`, on real ids and prompts."""

import io
import random

import numpy as np
import pytest
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2

from genrec_jax.data import splits
from genrec_jax.errors import UserError
from genrec_jax.indexing import collaborative_ids, numbered_ids, t5_vocabulary, unigram_vocabulary
from genrec_jax.indexing.vocabulary import SENTINELS, Vocabulary
from genrec_jax.prompts import templates

CLUSTER_TOKENS = [f"<CI{number}>" for number in range(500)]


@pytest.fixture(scope="module")
def t5(shared):
    return t5_vocabulary.extend(
        Vocabulary(shared / "data/t5_vocabulary/spiece.model"), CLUSTER_TOKENS
    )


@pytest.fixture(scope="module")
def small(prompt_lines):
    return unigram_vocabulary.train(
        prompt_lines,
        words=["Beauty", "ML100K"],
        added_tokens=CLUSTER_TOKENS,
        openings=[f"item_{token}" for token in CLUSTER_TOKENS[:25]],
    )


@pytest.fixture(scope="module")
def item_texts(beauty):
    """All of Beauty's ids, sequential and collaborative."""
    part = splits.leave_one_out(beauty)
    tree = collaborative_ids.build_tree(beauty, part, clusters=20, max_cluster=500)
    sequential = numbered_ids.numbered(numbered_ids.sequential_order(beauty, part))
    return {"sequential": sequential, "collaborative": tree.texts}


@pytest.fixture(scope="module")
def prompt_texts(beauty, item_texts):
    """Every template, inputs and targets, over real histories of every 200th user."""
    texts = []
    for template in templates.load_templates():
        for method, ids in item_texts.items():
            for user in range(len(method), beauty.num_users, 200):
                history = [ids[item] for item in beauty.sequence(user)[-21:-1]]
                texts.append(
                    template.input.format(
                        dataset="Beauty", user_id=user + 1, history=" , ".join(history)
                    )
                )
                target = ids[beauty.sequence(user)[-1]]
                texts.append(template.target.format(dataset="Beauty", target=target))
    return texts


def _hugging_face(vocabulary):
    """Hugging Face's T5 tokenizer over the pieces of a `.model`, user-defined symbols as added tokens."""
    model = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.serialized)
    tokenizer = transformers.T5Tokenizer(
        vocab=[(piece.piece, piece.score) for piece in model.pieces],
        _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap,
        extra_ids=0,
        additional_special_tokens=[],
    )
    tokenizer.add_tokens(
        [
            tokenizers.AddedToken(piece.piece, normalized=False, special=False)
            for piece in model.pieces
            if piece.type == t5_vocabulary.USER_DEFINED
        ]
    )
    assert len(tokenizer) == vocabulary.size
    return lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]


def _tensorflow_text(vocabulary):
    reason = "needs the extra genrec-jax[seqio]"
    pytest.importorskip("tensorflow", reason=reason)
    tensorflow_text = pytest.importorskip("tensorflow_text", reason=reason)
    tokenizer = tensorflow_text.SentencepieceTokenizer(model=vocabulary.serialized)
    return lambda texts: tokenizer.tokenize(texts).to_list()


def _disagreements(vocabulary, reader, texts):
    return [
        text
        for text, ours, theirs in zip(
            texts, vocabulary.encode_batch(texts), reader(texts), strict=True
        )
        if ours != theirs
    ]


def test_t5_numbers(t5, shared):
    base = Vocabulary(shared / "data/t5_vocabulary/spiece.model")
    assert base.size == 32_000
    assert t5.pieces(range(32_000)) == base.pieces(range(32_000))
    assert t5.pieces(range(32_000, 32_100)) == list(SENTINELS)
    assert t5.id_of("<extra_id_0>") == 32_099
    assert t5.id_of("<extra_id_99>") == 32_000
    assert t5.pieces(range(32_100, t5.size)) == CLUSTER_TOKENS
    assert (t5.pad_id, t5.eos_id, t5.unk_id) == (0, 1, 2)


def test_t5_growth_only_appends(t5):
    grown = t5_vocabulary.extend(t5, ["<CI7>", "<I0>"])
    assert grown.size == t5.size + 1
    assert grown.pieces(range(t5.size)) == t5.pieces(range(t5.size))
    assert grown.id_of("<I0>") == t5.size


def test_only_t5_can_be_extended(small, tmp_path):
    small.save(tmp_path / "small.model")
    with pytest.raises(UserError, match=r"small\.model: has .* pieces; wanted T5's 32,000"):
        t5_vocabulary.extend(Vocabulary(tmp_path / "small.model"), [])


@pytest.mark.parametrize("method", ["sequential", "collaborative"])
def test_t5_ids_agree_with_hugging_face_but_for_one_tie(t5, item_texts, method):
    ties = _disagreements(t5, _hugging_face(t5), item_texts[method])
    assert ties == (["item_8888"] if method == "sequential" else [])


def test_the_tie_is_a_tie(t5, shared):
    """`888 8` and `8 888` have the same pieces, hence the same score."""
    pieces = t5.pieces(t5.encode("item_8888"))
    assert sorted(pieces) == sorted(["▁item", "_", "888", "8"])


def test_t5_prompts_agree_with_hugging_face(t5, prompt_texts):
    different = _disagreements(t5, _hugging_face(t5), prompt_texts)
    assert [text for text in different if "item_8888" not in text] == []


def test_t5_ids_and_prompts_agree_with_tensorflow_text(t5, item_texts, prompt_texts):
    texts = [*item_texts["sequential"], *item_texts["collaborative"], *prompt_texts]
    assert _disagreements(t5, _tensorflow_text(t5), texts) == []


def test_small_ids_and_prompts_agree_with_hugging_face(small, item_texts, prompt_texts):
    texts = [*item_texts["sequential"], *item_texts["collaborative"], *prompt_texts]
    assert _disagreements(small, _hugging_face(small), texts) == []


def test_small_ids_and_prompts_agree_with_tensorflow_text(small, item_texts, prompt_texts):
    texts = [*item_texts["sequential"], *item_texts["collaborative"], *prompt_texts]
    assert _disagreements(small, _tensorflow_text(small), texts) == []


@pytest.mark.parametrize("which", ["t5", "small"])
def test_words_apart_are_the_text_together(which, request, prompt_texts):
    """What lets a prompt be a gather of token runs: no piece crosses white space."""
    vocabulary = request.getfixturevalue(which)
    for text in prompt_texts[::3]:
        words = [token for word in vocabulary.encode_batch(text.split()) for token in word]
        assert words == vocabulary.encode(text), text


def test_words_apart_are_the_text_together_for_any_text(small):
    draw = random.Random(0)
    alphabet = "ab 01,._-<>()[]{}'\"?!:;/ItemUsr"
    for _ in range(300):
        words = [
            "".join(draw.choices(alphabet.replace(" ", ""), k=draw.randint(1, 9)))
            for _ in range(draw.randint(1, 8))
        ]
        words += draw.sample(["item_1234", "<CI3>", "item_<CI3><CI40>", "<extra_id_5>"], 2)
        text = " ".join(words)
        apart = [token for word in small.encode_batch(words) for token in word]
        assert apart == small.encode(text), text


def test_small_is_short_and_small(small, prompt_lines):
    def pieces(text):
        return small.pieces(small.encode(text))

    assert pieces("Beauty item_1234") == ["▁Beauty", "▁item_12", "34"]
    assert pieces("item_12345 , item_9") == ["▁item_1", "23", "45", "▁,", "▁item_9"]
    assert pieces("ML100K user_943 :") == ["▁ML100K", "▁user_9", "43", "▁:"]
    assert pieces("item_<CI3><CI41>") == ["▁item_<CI3>", "<CI41>"]
    assert pieces("item_<CI300>") == ["▁item_", "<CI300>"]
    for line in prompt_lines:
        assert len(small.encode(line)) == len(line.split())
    assert small.size < 1300


def test_small_reads_anything_in_ascii(small):
    text = 'Some (new) Shop\'s item_12, at 50% off: "really"? [user_7]; #1 {a}'
    tokens = small.encode(text)
    assert small.unk_id not in tokens
    assert small.decode(tokens) == text


def test_small_has_the_sentinels(small):
    tokens = small.encode("the <extra_id_0> user")
    assert small.id_of("<extra_id_0>") in tokens
    assert [small.id_of(sentinel) for sentinel in SENTINELS] == list(range(3, 103))


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_every_number_has_one_cheapest_cut(prompt_lines, digits):
    """From the right in groups of `digits`; what is left over joins the name."""
    vocabulary = unigram_vocabulary.train(prompt_lines, digits_per_token=digits)
    numbers = [*range(1, 1200), 9_999, 10_000, 12_345, 99_999, 100_000, 1_234_567]
    for name in ("item_", "user_"):
        for number in numbers:
            text = str(number)
            lead = len(text) % digits or digits
            groups = [text[at : at + digits] for at in range(lead, len(text), digits)]
            assert vocabulary.pieces(vocabulary.encode(f"{name}{number}")) == [
                f"▁{name}{text[:lead]}",
                *groups,
            ]


def test_training_is_deterministic(prompt_lines):
    first, second = (unigram_vocabulary.train(prompt_lines, words=["Toys"]) for _ in range(2))
    assert first.serialized == second.serialized


def test_training_needs_text():
    with pytest.raises(UserError, match="no text"):
        unigram_vocabulary.train(["  ", ""])
    with pytest.raises(UserError, match="wanted 1, 2 or 3"):
        unigram_vocabulary.train(["a b"], digits_per_token=4)


def test_word_starts(small):
    tokens = small.encode("Beauty item_1234 ,")
    assert small.word_starts_V[tokens].tolist() == [True, True, False, True]
    assert not small.word_starts_V[[0, 1, 2, 3]].any()
    assert small.word_starts_V.shape == (small.size,)


def test_decode_drops_padding_and_end(small):
    assert small.decode([*small.encode("Beauty item_1001"), 1, 0, 0]) == "Beauty item_1001"
    assert small.decode(np.array(small.encode("user_7"), np.int32)) == "user_7"


def test_unknown_pieces_have_no_number(small):
    assert small.id_of("<unk>") == 2
    with pytest.raises(KeyError):
        small.id_of("▁nothing-like-this")


def test_save_and_load(small, tmp_path):
    small.save(tmp_path / "deep" / "v.model")
    again = Vocabulary(tmp_path / "deep" / "v.model")
    assert again.sha256 == small.sha256
    assert again.encode("Beauty item_1001") == small.encode("Beauty item_1001")


def test_files_that_are_no_vocabulary(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        Vocabulary(tmp_path / "none.model")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bad\.model: is not a SentencePiece model"):
        Vocabulary(tmp_path / "bad.model")


def test_other_special_numbers_are_refused():
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["a b c d e f"] * 5),
        model_writer=written,
        vocab_size=20,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match=r"wanted T5's \(0, 1, 2\)"):
        Vocabulary(written.getvalue())
