"""Hugging Face's tokenizer files of a vocabulary: the same numbers for the same text, nothing added."""

import base64
import pathlib
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from genrec_jax.data import artefacts
from genrec_jax.indexing.vocabulary import EOS_ID, PAD_ID, SENTINELS, UNK_ID, WORD_START, Vocabulary

PROTO = sentencepiece_model_pb2.ModelProto
SPECIAL = {PAD_ID: "pad_token", EOS_ID: "eos_token", UNK_ID: "unk_token"}


def write(folder: pathlib.Path, vocabulary: Vocabulary) -> None:
    """Writes `spiece.model`, `tokenizer.json` and `tokenizer_config.json`.

    `spiece.model` is the run's `.model`, sentinels and added tokens in it, so `extra_ids` is 0: else
    transformers would add 100 sentinels more, and `<extra_id_0>` would move. The class is the general one,
    which takes `tokenizer.json` as it is: transformers' T5Tokenizer replaces parts of it, and loses the
    lone white-space piece that SentencePiece writes between a space and an added token. White space at
    either end of a text, and a text that begins with an added token, are still cut otherwise there.
    """
    vocabulary.save(folder / "spiece.model")
    model = PROTO.FromString(vocabulary.serialized)
    added = _added(model)
    artefacts.write_json(folder / "tokenizer.json", _fast(model, added))
    names = {name: model.pieces[number].piece for number, name in SPECIAL.items()}
    sentinels = [entry["content"] for entry in added if entry["content"] in SENTINELS]
    artefacts.write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "extra_ids": 0,
            "legacy": True,
            **names,
            "additional_special_tokens": sentinels,
            "added_tokens_decoder": {
                str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
                for entry in added
            },
            "clean_up_tokenization_spaces": False,
        },
    )
    artefacts.write_json(
        folder / "special_tokens_map.json", {**names, "additional_special_tokens": sentinels}
    )


def _added(model: Any) -> list[dict[str, Any]]:
    """The tokens that are matched as they are, before the text is cut into pieces."""
    found = []
    for number, piece in enumerate(model.pieces):
        user_defined = piece.type == PROTO.SentencePiece.USER_DEFINED
        if number in SPECIAL or user_defined:
            found.append(
                {
                    "id": number,
                    "content": piece.piece,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": number in SPECIAL or piece.piece in SENTINELS,
                }
            )
    return found


def _fast(model: Any, added: list[dict[str, Any]]) -> dict[str, Any]:
    """`tokenizer.json`: what the `tokenizers` library reads."""
    charsmap = model.normalizer_spec.precompiled_charsmap
    steps: list[dict[str, Any]] = []
    if charsmap:
        text = base64.b64encode(charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": text})
    steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    metaspace = {
        "type": "Metaspace",
        "replacement": WORD_START,
        "prepend_scheme": "first",
        "split": True,
    }
    eos = model.pieces[EOS_ID].piece
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    end = {"SpecialToken": {"id": eos, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence, end],
            "pair": [sequence, end, second, end],
            "special_tokens": {eos: {"id": eos, "ids": [EOS_ID], "tokens": [eos]}},
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": UNK_ID,
            "vocab": [[piece.piece, piece.score] for piece in model.pieces],
            "byte_fallback": False,
        },
    }
