"""One table of names: how Hugging Face and T5X store each parameter of ours, for reading and for writing.

A line of a table says what an array is called there, what it is called here, and the order of its
dimensions there. In a name `{n}` counts layers, which here are the leading `layers` axis of one array.
Dimensions: V vocabulary, D residual stream, J joined heads (H heads of width K), F feed-forward,
R relative buckets, N layers.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from genrec_jax.errors import UserError
from genrec_jax.model.config import T5Config

Format = Literal["hugging_face", "t5x", "t5x_scanned"]
Index = tuple[slice, ...]

# The order of dimensions here, by the last part of a name; arrays under `layers` have N in front.
OUR_AXES = {
    "token_embedding": "V D",
    "head": "V D",
    "query": "D J",
    "key": "D J",
    "value": "D J",
    "out": "J D",
    "wi_0": "D F",
    "wi_1": "D F",
    "wo": "F D",
    "scale": "D",
    "embedding": "H R",
}


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        theirs: the array's name there; `{n}` stands for the number of a layer.
        ours: the parameter's name here.
        axes: the order of dimensions there.
    """

    theirs: str
    ours: str
    axes: str

    @property
    def per_layer(self) -> bool:
        """Whether there every layer has an array of its own."""
        return "{n}" in self.theirs

    @property
    def our_axes(self) -> list[str]:
        """The order of dimensions here, with the layers in front where they are stacked."""
        axes = OUR_AXES[self.ours.rsplit("/", 1)[-1]].split()
        return ["N", *axes] if "/layers/" in self.ours else axes


def _layer_names(stack: str) -> Iterator[tuple[str, str, str]]:
    """The parameters of a layer: our name, Hugging Face's and T5X's."""
    decoder = stack == "decoder"
    attentions = [("self_attention", "SelfAttention", "self_attention" if decoder else "attention")]
    if decoder:
        attentions.append(("cross_attention", "EncDecAttention", "encoder_decoder_attention"))
    names = {
        "self_attention_norm": "pre_self_attention_layer_norm"
        if decoder
        else "pre_attention_layer_norm",
        "cross_attention_norm": "pre_cross_attention_layer_norm",
    }
    for number, (ours, theirs, t5x) in enumerate(attentions):
        for kernel in ("query", "key", "value", "out"):
            yield f"{ours}/{kernel}", f"{number}.{theirs}.{kernel[0]}", f"{t5x}/{kernel}/kernel"
        yield f"{ours}_norm/scale", f"{number}.layer_norm", f"{names[f'{ours}_norm']}/scale"
    number = len(attentions)
    yield "mlp_norm/scale", f"{number}.layer_norm", "pre_mlp_layer_norm/scale"
    for kernel in ("wi_0", "wi_1", "wo"):
        yield f"mlp/{kernel}", f"{number}.DenseReluDense.{kernel}", f"mlp/{kernel}/kernel"


# Dimensions there, by the order here. Hugging Face keeps linear weights as [out, in]; the scanned network
# keeps layers on the second dimension, and heads and their width apart.
_SCANNED = {"D J": "D N H K", "J D": "H N K D", "D F": "D N F", "F D": "F N D", "D": "D N"}


def _table(format: Format) -> tuple[Line, ...]:
    hugging_face = format == "hugging_face"
    if hugging_face:
        lines = [Line("shared.weight", "token_embedding", "V D")]
        lines += [Line("lm_head.weight", "head", "V D")]
    else:
        lines = [Line("token_embedder/embedding", "token_embedding", "V D")]
        lines += [Line("decoder/logits_dense/kernel", "head", "D V")]
    for stack in ("encoder", "decoder"):
        if hugging_face:
            norm = f"{stack}.final_layer_norm.weight"
            bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            lines.append(Line(bias, f"{stack}/relative_bias/embedding", "R H"))
        else:
            norm = f"{stack}/{stack}_norm/scale"
            if format == "t5x":
                bias = Line(
                    f"{stack}/relpos_bias/rel_embedding", f"{stack}/relative_bias/embedding", "H R"
                )
            else:
                bias = Line(
                    f"{stack}/{stack}/relpos_bias/rel_embedding",
                    f"{stack}/layers/relative_bias/embedding",
                    "H N R",
                )
            lines.append(bias)
        lines.append(Line(norm, f"{stack}/final_norm/scale", "D"))
        for ours, theirs, t5x in _layer_names(stack):
            axes = OUR_AXES[ours.rsplit("/", 1)[-1]]
            name = f"{stack}/layers/{ours}"
            if hugging_face:
                turned = " ".join(reversed(axes.split()))
                lines.append(Line(f"{stack}.block.{{n}}.layer.{theirs}.weight", name, turned))
            elif format == "t5x":
                lines.append(Line(f"{stack}/layers_{{n}}/{t5x}", name, axes))
            else:
                lines.append(Line(f"{stack}/{stack}/{t5x}", name, _SCANNED[axes]))
    return tuple(lines)


TABLES: dict[Format, tuple[Line, ...]] = {
    format: _table(format) for format in ("hugging_face", "t5x", "t5x_scanned")
}

# Arrays that files have and the network does not: copies of the shared embedding, and a bias that
# T5 1.0's conversion to Hugging Face carried along and nothing ever read.
IGNORED = re.compile(
    r"(encoder|decoder)\.embed_tokens\.weight"
    r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)


def table_of(format: Format, config: T5Config) -> tuple[Line, ...]:
    """The lines that fit a network: T5 1.0 calls its one inner matrix `wi`, and a tied head is no array."""
    ungated = len(config.mlp_activations) == 1
    found = []
    for line in TABLES[format]:
        if (line.ours == "head" and config.tied_head) or (ungated and line.ours.endswith("/wi_1")):
            continue
        theirs = line.theirs.replace("wi_0", "wi") if ungated else line.theirs
        found.append(dataclasses.replace(line, theirs=theirs))
    return tuple(found)


def layers_of(line: Line, config: T5Config) -> int:
    """Layers of the stack that a line belongs to."""
    encoder = line.ours.startswith("encoder/")
    return config.num_encoder_layers if encoder else config.num_decoder_layers


def sizes_of(config: T5Config) -> dict[str, int]:
    """The size of every dimension but the layers; V counts real tokens."""
    return {
        "V": config.vocab_size,
        "D": config.embed_dim,
        "J": config.num_heads * config.head_dim,
        "H": config.num_heads,
        "K": config.head_dim,
        "F": config.mlp_dim,
        "R": config.relative_buckets,
    }


def their_shapes(format: Format, config: T5Config) -> dict[str, tuple[int, ...]]:
    """Every array that a checkpoint of this network has there, with its shape."""
    shapes = {}
    for line in table_of(format, config):
        layers = layers_of(line, config)
        sizes = sizes_of(config) | {"N": layers}
        shape = tuple(sizes[axis] for axis in line.axes.split())
        for number in range(layers if line.per_layer else 1):
            shapes[line.theirs.format(n=number)] = shape
    return shapes


def check(
    format: Format,
    config: T5Config,
    found: Mapping[str, tuple[int, ...]],
    *,
    file: str,
) -> None:
    """Checks that the arrays are exactly those of the network.

    Args:
        format: whose names.
        config: the network.
        found: the shape of every array there is.
        file: where, for the error.

    Raises:
        UserError: it lists every array that nothing here takes, every parameter that nothing there
            fills, and every shape that differs.
    """
    wanted = their_shapes(format, config)
    extra = sorted(n for n in found.keys() - wanted.keys() if not IGNORED.fullmatch(n))
    missing = sorted(wanted.keys() - found.keys())
    shapes = [
        f"{name}: has shape {found[name]}, wanted {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if tuple(found[name]) != wanted[name]
    ]
    problems = [f"{name}: unmatched, no parameter of the network takes it" for name in extra]
    problems += [f"{name}: missing, a parameter of the network is not filled" for name in missing]
    problems += shapes
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"does not hold the weights of this T5 ({len(problems)} problems):{listed}\nWanted a whole T5"
            " (1.0, 1.1 or FLAN) whose configuration describes its arrays; complete the folder, or mend"
            " its configuration",
            file=file,
        )


def to_ours(line: Line, array: np.ndarray, *, joined: slice | None = None) -> np.ndarray:
    """A view of an array of theirs in our order of dimensions, one layer's where it is `per_layer`.

    Args:
        line: says the orders.
        array: theirs, or a slice of it.
        joined: which of the joined heads' columns to keep, counted from the first in `array`, where
            there heads and width are apart; None keeps all.
    """
    theirs = line.axes.split()
    order: list[int] = []
    merged: int | None = None
    for axis in line.our_axes:
        if axis == "N" and line.per_layer:
            continue
        if axis == "J" and "J" not in theirs:
            merged = len(order)
            order += [theirs.index("H"), theirs.index("K")]
        else:
            order.append(theirs.index(axis))
    turned = array.transpose(order)
    if merged is None:
        return turned
    shape = turned.shape
    joined_array = turned.reshape(*shape[:merged], -1, *shape[merged + 2 :])
    return joined_array if joined is None else joined_array[(slice(None),) * merged + (joined,)]


def their_index(line: Line, index: Index, head_dim: int) -> tuple[Index, slice | None]:
    """Which part of an array of theirs holds a part of ours.

    Args:
        line: says the orders.
        index: part of ours, every slice with start and stop; without the layers where they are apart.
        head_dim: K.

    Returns:
        The part of theirs, and what `to_ours` keeps of its joined heads: heads are read whole.
    """
    axes = [axis for axis in line.our_axes if not (axis == "N" and line.per_layer)]
    parts = dict(zip(axes, index, strict=True))
    joined = None
    if "J" in parts and "J" not in line.axes.split():
        wanted = parts["J"]
        first = wanted.start // head_dim
        parts["H"] = slice(first, -(-wanted.stop // head_dim))
        parts["K"] = slice(0, head_dim)
        joined = slice(wanted.start - first * head_dim, wanted.stop - first * head_dim)
    return tuple(parts[axis] for axis in line.axes.split()), joined


def to_theirs(line: Line, array: np.ndarray, config: T5Config) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that hold one parameter of ours there, as views, with the rows of real tokens only.

    Args:
        line: says the name and the orders.
        array: the parameter.
        config: the network.
    """
    axes = line.our_axes
    if line.per_layer:
        for number, layer in enumerate(array):
            yield line.theirs.format(n=number), _turn(line, layer, axes[1:], config)
    else:
        yield line.theirs, _turn(line, array, axes, config)


def _turn(line: Line, array: np.ndarray, axes: list[str], config: T5Config) -> np.ndarray:
    theirs = line.axes.split()
    axes = list(axes)
    if "V" in axes:
        array = array[: config.vocab_size]
    if "J" in axes and "J" not in theirs:
        place = axes.index("J")
        shape = array.shape
        array = array.reshape(
            *shape[:place], config.num_heads, config.head_dim, *shape[place + 1 :]
        )
        axes[place : place + 1] = ["H", "K"]
    return array.transpose([axes.index(axis) for axis in theirs])
