"""The network of a folder of weights: from Hugging Face's `config.json`, or from T5X's shapes."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from genrec_jax.checkpoint import weight_names
from genrec_jax.checkpoint.tensor_files import TensorSource
from genrec_jax.checkpoint.weight_names import Format
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.model.config import T5Config

HF_CONFIG = "config.json"
WHOLE = "ForConditionalGeneration"
ACTIVATIONS: dict[str, tuple[str, ...]] = {"relu": ("relu",), "gated-gelu": ("gelu", "linear")}
HF_ACTIVATIONS = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}
"""For each `feed_forward_proj` the `dense_act_fn` and `is_gated_act` that transformers makes of it."""
T5X_CONFIG = "config.gin"
HEAD, EMBEDDING = "lm_head.weight", "shared.weight"
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
ROWS_COMPARED = 1024


def hugging_face_config(folder: pathlib.Path, source: TensorSource) -> T5Config:
    """The network that a Hugging Face folder describes, in the words of transformers 4 or 5.

    transformers 5 writes `tie_word_embeddings: true` for every T5 and keeps the old meaning in
    `scale_decoder_outputs`. So the head's input is scaled if that says so, or, where it is absent, if
    `tie_word_embeddings` does (absent: true); and the head is tied if the file has no `lm_head.weight`,
    or one that equals `shared.weight`.

    Raises:
        UserError: no T5, or a kind of T5 that is not built here.
    """
    file = folder / HF_CONFIG
    found = artefacts.read_json(
        file,
        wanted="the configuration of a Hugging Face model",
        remedy="Download it beside the weights",
    )
    if found.get("model_type") != "t5":
        raise UserError(
            f"describes a model of type {found.get('model_type')!r}; wanted 't5' (T5 1.0, 1.1 or FLAN-T5)",
            file=str(file),
        )
    kind = found.get("feed_forward_proj", "relu")
    if kind not in ACTIVATIONS:
        raise UserError(
            f"has feed_forward_proj {kind!r}; wanted one of {', '.join(ACTIVATIONS)}",
            file=str(file),
        )
    for key, value in zip(("dense_act_fn", "is_gated_act"), HF_ACTIVATIONS[kind], strict=True):
        if found.get(key, value) != value:
            raise UserError(
                f"has {key} {found[key]!r} beside feed_forward_proj {kind!r}; wanted {value!r}, as the"
                " published T5s have: no other network is built here",
                file=str(file),
            )
    tied = found.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise UserError(
            f"has tie_word_embeddings {json.dumps(tied)}, which transformers 4 and 5 read differently;"
            " wanted true or false",
            file=str(file),
        )
    scaled = found.get("scale_decoder_outputs", tied)
    kinds = found.get("architectures") or [WHOLE]
    whole = any(str(one).endswith(WHOLE) for one in kinds)
    if HEAD not in source.shapes and (not tied or not (whole or scaled)):
        raise UserError(
            f"has no {HEAD}, and {HF_CONFIG} describes a network with a head of its own ({kinds[0]},"
            f" tie_word_embeddings {json.dumps(tied)}); wanted the weights of a T5{WHOLE}",
            file=str(folder),
        )
    for name in EMBEDDING_COPIES:
        if name in source.shapes and EMBEDDING in source.shapes and not _is_embedding(name, source):
            raise UserError(
                f"has a {name} that is not {EMBEDDING}; wanted one embedding for both stacks and no copy"
                " that differs, since nothing says which was trained",
                file=str(folder),
            )
    sizes = {}
    for ours, theirs in _SIZES.items():
        if theirs not in found:
            raise UserError(f"does not say {theirs}; wanted it, a whole number", file=str(file))
        sizes[ours] = int(found[theirs])
    return T5Config(
        **sizes,
        num_decoder_layers=int(found.get("num_decoder_layers") or found["num_layers"]),
        mlp_activations=ACTIVATIONS[kind],
        tied_head=head_is_tied(source),
        scale_head_input=bool(scaled),
        relative_buckets=int(found.get("relative_attention_num_buckets", 32)),
        relative_max_distance=int(found.get("relative_attention_max_distance", 128)),
        norm_epsilon=float(found.get("layer_norm_epsilon", 1e-6)),
        dropout_rate=float(found.get("dropout_rate", 0.1)),
        whole_word_embedding=False,
    )


_SIZES = {
    "vocab_size": "vocab_size",
    "embed_dim": "d_model",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_encoder_layers": "num_layers",
}


def head_is_tied(source: TensorSource) -> bool:
    """Whether a Hugging Face file's head is its embedding: absent, or equal to it."""
    if HEAD not in source.shapes or EMBEDDING not in source.shapes:
        return HEAD not in source.shapes
    return _is_embedding(HEAD, source)


def _is_embedding(name: str, source: TensorSource) -> bool:
    """Whether an array of a Hugging Face file is equal to the shared embedding."""
    shape = source.shapes[EMBEDDING]
    if source.shapes[name] != shape:
        return False
    parts = (
        (slice(start, start + ROWS_COMPARED), slice(None))
        for start in range(0, shape[0], ROWS_COMPARED)
    )
    return all(
        np.array_equal(source.read(name, rows), source.read(EMBEDDING, rows)) for rows in parts
    )


def to_hugging_face(config: T5Config) -> dict[str, Any]:
    """`config.json` of a network, in the form that transformers 4 and 5 read alike.

    It is the form of the time before transformers 5: `tie_word_embeddings` says both whether the head
    is tied and whether its input is scaled.

    Raises:
        UserError: the network is none that transformers can build.
    """
    if config.relative_bias_per_layer:
        raise UserError(
            "this network has a relative position bias for every layer, and Hugging Face's T5 one for each"
            " stack; it can only be exported for T5X (--to t5x)"
        )
    if config.scale_head_input and not config.tied_head:
        raise UserError(
            "this network scales the input of a head that is not tied, which Hugging Face's T5 cannot"
            " before transformers 5; wanted tied_head and scale_head_input both on or both off"
        )
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": config.mlp_dim,
        "d_kv": config.head_dim,
        "d_model": config.embed_dim,
        "decoder_start_token_id": 0,
        "dropout_rate": config.dropout_rate,
        "eos_token_id": 1,
        "feed_forward_proj": {v: k for k, v in ACTIVATIONS.items()}[config.mlp_activations],
        "is_encoder_decoder": True,
        "layer_norm_epsilon": config.norm_epsilon,
        "model_type": "t5",
        "n_positions": 512,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.relative_max_distance,
        "relative_attention_num_buckets": config.relative_buckets,
        "tie_word_embeddings": config.scale_head_input,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def t5x_config(shapes: Mapping[str, tuple[int, ...]], *, file: str) -> tuple[Format, T5Config]:
    """The network of a T5X checkpoint, which has no description: from the shapes of its arrays.

    T5X fixes the rest in its source: 128 positions at most, epsilon 1e-6, a tied head scaled.

    Raises:
        UserError: the arrays that tell it are missing or have another number of dimensions; it lists
            every name that has no place in a T5, and every name of a T5 that is not there.
    """
    scanned = any(re.match(r"(encoder|decoder)/\1/", name) for name in shapes)
    gated = any(name.endswith(("/mlp/wi_0/kernel", "/mlp/wi_1/kernel")) for name in shapes)
    format: Format = "t5x_scanned" if scanned else "t5x"
    encoder = "encoder/encoder" if scanned else "encoder/layers_0"
    bias = f"{'encoder/encoder' if scanned else 'encoder'}/relpos_bias/rel_embedding"
    inner = f"{encoder}/mlp/{'wi_0' if gated else 'wi'}/kernel"
    query = f"{encoder}/attention/query/kernel"
    decoder = "decoder/decoder/self_attention/query/kernel"
    tied = "decoder/logits_dense/kernel" not in shapes
    numbers = [max(1, _count_layers(shapes, stack)) for stack in ("encoder", "decoder")]
    named = T5Config(  # the names of the arrays, whatever their sizes
        vocab_size=1,
        embed_dim=1,
        num_heads=1,
        head_dim=1,
        mlp_dim=1,
        num_encoder_layers=numbers[0],
        num_decoder_layers=numbers[1],
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        tied_head=tied,
        scale_head_input=tied,
        relative_bias_per_layer=scanned,
        whole_word_embedding=False,
    )
    _check_telling(
        ("token_embedder/embedding", query, inner, bias, *([decoder] if scanned else [])),
        weight_names.their_shapes(format, named),
        shapes,
        file=file,
    )
    vocab, embed = shapes["token_embedder/embedding"]
    heads, buckets = shapes[bias][0], shapes[bias][-1]
    config = dataclasses.replace(
        named,
        vocab_size=vocab,
        embed_dim=embed,
        num_heads=heads,
        head_dim=shapes[query][-1] // (1 if scanned else heads),
        mlp_dim=shapes[inner][-1],
        num_encoder_layers=shapes[query][1] if scanned else numbers[0],
        num_decoder_layers=shapes[decoder][1] if scanned else numbers[1],
        relative_buckets=buckets,
    )
    return format, config


def check_t5x_activations(checkpoint: pathlib.Path, config: T5Config) -> None:
    """Compares a T5X network's activations with the `config.gin` that T5X leaves beside its checkpoints.

    The shapes tell a gated network from one that is not, and not which functions it has.

    Raises:
        UserError: the file says others.
    """
    for file in (checkpoint / T5X_CONFIG, checkpoint.parent / T5X_CONFIG):
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for said in re.findall(r"\.mlp_activations\s*=\s*(\([^)]*\)|\[[^\]]*\])", text):
            names = tuple(re.findall(r"['\"](\w+)['\"]", said))
            if names != config.mlp_activations:
                raise UserError(
                    f"has mlp_activations {names}; wanted {config.mlp_activations}, which is what the"
                    " published T5s with such arrays have: no other network is built here",
                    file=str(file),
                )


def _check_telling(
    telling: tuple[str, ...],
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    file: str,
) -> None:
    """Refuses arrays that do not tell a network's sizes, with all that is wrong with their names.

    Args:
        telling: the arrays that tell.
        wanted: every array of such a network; its shape gives the number of dimensions alone.
        found: the shape of every array there is.
        file: where, for the error.
    """
    missing = [name for name in telling if name not in found]
    odd = [n for n in telling if n in found and len(found[n]) != len(wanted[n])]
    if not missing and not odd:
        return
    problems = [
        f"{name}: unmatched, no parameter of a T5 takes it"
        for name in sorted(found.keys() - wanted.keys())
    ]
    problems += [
        f"{name}: missing" + (", and it tells the network's sizes" if name in missing else "")
        for name in sorted(wanted.keys() - found.keys())
    ]
    problems += [
        f"{name}: has shape {found[name]}, wanted {len(wanted[name])} dimensions" for name in odd
    ]
    listed = "".join(f"\n  {problem}" for problem in problems)
    raise UserError(
        f"does not tell a T5's sizes, which are those of {', '.join(missing + odd)} ({len(problems)}"
        f" problems):{listed}\nWanted a whole T5X checkpoint of T5's minimal or scanned network, under"
        " T5X's names; layers are counted by the names there are, and shapes not yet compared",
        file=file,
    )


def _count_layers(shapes: Mapping[str, tuple[int, ...]], stack: str) -> int:
    found = (re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


# What a run may choose for itself: neither what its parameters are nor what is computed with them.
FREE = (
    "vocab_size",
    "dropout_rate",
    "whole_word_embedding",
    "max_whole_words",
    "dtype",
    "remat",
    "attention",
    "scan_layers",
)


def differences(ours: T5Config, theirs: T5Config) -> list[str]:
    """In what two networks differ whose parameters should fit each other, as text."""
    return [
        f"{field.name} is {getattr(ours, field.name)!r}, the weights have {getattr(theirs, field.name)!r}"
        for field in dataclasses.fields(T5Config)
        if field.name not in FREE and getattr(ours, field.name) != getattr(theirs, field.name)
    ]
