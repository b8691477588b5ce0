"""Brings the fixtures' models, made by T5X and by Hugging Face, into our parameters and batches."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.batch import Batch

T5X = {"t5x_t511": (True, False), "t5x_t50": (False, False), "t5x_t511_scanned": (True, True)}
HF = {"hf_t511": True, "hf_t50": False}


def config_of(name: str) -> T5Config:
    is_1_1, per_layer = T5X[name] if name in T5X else (HF[name], False)
    return T5Config(
        vocab_size=1152,
        embed_dim=32,
        num_heads=4,
        head_dim=12,
        mlp_dim=80,
        num_encoder_layers=2,
        num_decoder_layers=2,
        mlp_activations=("gelu", "linear") if is_1_1 else ("relu",),
        tied_head=not is_1_1,
        scale_head_input=not is_1_1,
        relative_bias_per_layer=per_layer,
        dropout_rate=0.0,
        whole_word_embedding=False,
    )


def flatten(params: nnx.State) -> dict[str, np.ndarray]:
    """Our parameters by "/"-joined path."""
    flat = nnx.to_flat_state(params)
    return {"/".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in flat}


def fill(config: T5Config, flat: dict[str, np.ndarray]) -> tuple[nnx.GraphDef, nnx.State]:
    """A model whose every parameter is taken from `flat`; no name may be left over or missing."""
    graphdef, abstract = t5.abstract_graph_and_params(config)
    paths = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(abstract)}
    assert set(paths) == set(flat), set(paths) ^ set(flat)
    for name, leaf in paths.items():
        assert leaf.get_value().shape == flat[name].shape, name
    filled = [
        (path, leaf.replace(jnp.asarray(flat["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(abstract)
    ]
    return graphdef, nnx.from_flat_state(filled)


def load(fixture: pathlib.Path) -> tuple[T5Config, nnx.GraphDef, nnx.State]:
    """Our config, graph and parameters of one fixture folder."""
    config = config_of(fixture.name)
    if fixture.name in HF:
        flat = from_hugging_face(load_file(fixture / "model.safetensors"), config)
    elif config.relative_bias_per_layer:
        flat = from_t5x_scanned(dict(np.load(fixture / "params.npz")))
    else:
        flat = from_t5x(dict(np.load(fixture / "params.npz")), config)
    return config, *fill(config, flat)


def t5x_names(config: T5Config) -> dict[str, tuple[str, ...]]:
    """Our name -> T5X's name, or names of the layers to be stacked (minimal network)."""
    mlp = ("wi_0", "wi_1", "wo") if len(config.mlp_activations) == 2 else ("wi_0", "wo")
    names: dict[str, tuple[str, ...]] = {"token_embedding": ("token_embedder/embedding",)}
    if not config.tied_head:
        names["head"] = ("decoder/logits_dense/kernel",)
    for stack, layers in (
        ("encoder", config.num_encoder_layers),
        ("decoder", config.num_decoder_layers),
    ):
        names[f"{stack}/final_norm/scale"] = (f"{stack}/{stack}_norm/scale",)
        names[f"{stack}/relative_bias/embedding"] = (f"{stack}/relpos_bias/rel_embedding",)

        def stacked(ours, theirs, stack=stack, layers=layers):
            names[f"{stack}/layers/{ours}"] = tuple(
                f"{stack}/layers_{n}/{theirs}" for n in range(layers)
            )

        blocks = {"self_attention": "attention" if stack == "encoder" else "self_attention"}
        if stack == "decoder":
            blocks["cross_attention"] = "encoder_decoder_attention"
        for ours, theirs in blocks.items():
            for kernel in ("query", "key", "value", "out"):
                stacked(f"{ours}/{kernel}", f"{theirs}/{kernel}/kernel")
        norms = {"mlp_norm": "pre_mlp_layer_norm"}
        if stack == "encoder":
            norms["self_attention_norm"] = "pre_attention_layer_norm"
        else:
            norms["self_attention_norm"] = "pre_self_attention_layer_norm"
            norms["cross_attention_norm"] = "pre_cross_attention_layer_norm"
        for ours, theirs in norms.items():
            stacked(f"{ours}/scale", f"{theirs}/scale")
        for kernel in mlp:
            theirs = "wi" if kernel == "wi_0" and len(mlp) == 2 else kernel
            stacked(f"mlp/{kernel}", f"mlp/{theirs}/kernel")
    return names


def from_t5x(theirs: dict[str, np.ndarray], config: T5Config) -> dict[str, np.ndarray]:
    flat = {}
    for ours, names in t5x_names(config).items():
        arrays = [theirs.pop(name) for name in names]
        flat[ours] = np.stack(arrays) if "/layers/" in ours else arrays[0]
    assert not theirs, list(theirs)
    if "head" in flat:
        flat["head"] = flat["head"].T
    return flat


def from_t5x_scanned(theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """T5X's scanned network stacks layers on axis 1 and keeps heads and head width apart."""
    flat = {
        "token_embedding": theirs.pop("token_embedder/embedding"),
        "head": theirs.pop("decoder/logits_dense/kernel").T,
    }
    renamed = {
        "pre_attention_layer_norm": "self_attention_norm",
        "pre_self_attention_layer_norm": "self_attention_norm",
        "pre_cross_attention_layer_norm": "cross_attention_norm",
        "pre_mlp_layer_norm": "mlp_norm",
        "attention": "self_attention",
        "encoder_decoder_attention": "cross_attention",
        "relpos_bias": "relative_bias",
        "rel_embedding": "embedding",
    }
    for name, array in theirs.items():
        parts = name.split("/")
        if parts[1] in ("encoder_norm", "decoder_norm"):
            flat[f"{parts[0]}/final_norm/scale"] = array
            continue
        ours = [renamed.get(part, part) for part in parts[2:] if part != "kernel"]
        array = np.moveaxis(array, 1, 0)
        if parts[-2] in ("query", "key", "value"):
            array = array.reshape(array.shape[0], array.shape[1], -1)
        elif parts[-2] == "out":
            array = array.reshape(array.shape[0], -1, array.shape[-1])
        flat["/".join([parts[0], "layers", *ours])] = array
    return flat


def from_hugging_face(theirs: dict[str, np.ndarray], config: T5Config) -> dict[str, np.ndarray]:
    """Hugging Face keeps linear weights as [out, in] and the bias in block 0, as (buckets, heads)."""
    flat = {"token_embedding": theirs.pop("shared.weight")}
    if not config.tied_head:
        flat["head"] = theirs.pop("lm_head.weight")
    gated = len(config.mlp_activations) == 2
    for stack, layers in (
        ("encoder", config.num_encoder_layers),
        ("decoder", config.num_decoder_layers),
    ):
        flat[f"{stack}/final_norm/scale"] = theirs.pop(f"{stack}.final_layer_norm.weight")
        blocks = [("self_attention", "SelfAttention"), ("cross_attention", "EncDecAttention")]
        blocks = blocks if stack == "decoder" else blocks[:1]
        relative = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        flat[f"{stack}/relative_bias/embedding"] = theirs.pop(relative).T
        sources = {}
        for index, (ours, block) in enumerate(blocks):
            for kernel in ("query", "key", "value", "out"):
                sources[f"{ours}/{kernel}"] = f"{index}.{block}.{kernel[0]}.weight"
            sources[f"{ours}_norm/scale"] = f"{index}.layer_norm.weight"
        index = len(blocks)
        sources["mlp_norm/scale"] = f"{index}.layer_norm.weight"
        inner = (
            {"wi_0": "wi_0", "wi_1": "wi_1", "wo": "wo"} if gated else {"wi_0": "wi", "wo": "wo"}
        )
        for ours, kernel in inner.items():
            sources[f"mlp/{ours}"] = f"{index}.DenseReluDense.{kernel}.weight"
        for ours, source in sources.items():
            arrays = [theirs.pop(f"{stack}.block.{n}.layer.{source}") for n in range(layers)]
            flat[f"{stack}/layers/{ours}"] = np.stack([array.T for array in arrays])
    assert not theirs, list(theirs)
    return flat


def batch_of(features: dict[str, np.ndarray], prefix: str = "") -> Batch:
    """A batch from a fixture's features; segment ids of unpacked rows follow from the padding."""
    features = {
        name.removeprefix(prefix): array
        for name, array in features.items()
        if name.startswith(prefix)
    }
    tokens = features["encoder_input_tokens"]
    targets = features["decoder_target_tokens"]

    def ramp(segments):
        return np.arange(segments.shape[1], dtype=np.int32)[None] * (segments > 0)

    encoder_segments = features.get("encoder_segment_ids", (tokens > 0).astype(np.int32))
    decoder_segments = features.get("decoder_segment_ids", (targets > 0).astype(np.int32))
    return Batch(
        encoder_input_tokens_BL=tokens,
        decoder_target_tokens_BT=targets,
        decoder_input_tokens_BT=features["decoder_input_tokens"],
        decoder_loss_weights_BT=features["decoder_loss_weights"].astype(np.float32),
        encoder_segment_ids_BL=encoder_segments,
        decoder_segment_ids_BT=decoder_segments,
        encoder_positions_BL=features.get("encoder_positions", ramp(encoder_segments)),
        decoder_positions_BT=features.get("decoder_positions", ramp(decoder_segments)),
        encoder_whole_word_ids_BL=np.zeros_like(tokens),
    )


def config_json(fixture: pathlib.Path) -> dict:
    return json.loads((fixture / "config.json").read_text())


def run(graphdef: nnx.GraphDef, params: nnx.State, function, *arguments):
    """`function(model, *arguments)`, jitted over the parameters."""
    return jax.jit(lambda params, *rest: function(nnx.merge(graphdef, params), *rest))(
        params, *arguments
    )
