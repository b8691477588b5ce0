"""A peer in a Python of its own: a process that answers one request at a time, in lines of JSON."""

import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

import numpy as np
from flax import nnx

from benchmarks import common
from genrec_jax.model.config import T5Config

PYTHON = str(common.PEERS / "torch" / "bin" / "python")
"""Where `install_peers.sh torch` puts it."""

PEERS = {"torch": "Hugging Face", "t5x": "T5X"}
"""What `install_peers.sh` calls a peer -> its name."""


def there(python: str, peer: str = "torch") -> bool:
    """Whether a peer's Python exists; says how to install it where it does not."""
    if shutil.which(python) is not None:
        return True
    print(f"{PEERS[peer]}: {common.how_to_install(peer)}", flush=True)
    return False


class Peer:
    """Starts `hf_generate.py`, `hf_train.py` or `t5x_train.py`.

    Attributes:
        versions: what it says of itself once it is ready.
    """

    def __init__(self, python: str, script: str, folder: pathlib.Path, *options: str):
        """Starts it and waits until it is ready.

        Args:
            python: that has what the script imports.
            script: a file beside this one.
            folder: what it reads.
            *options: further words, after the number of threads.
        """
        file = pathlib.Path(__file__).with_name(script)
        threads = str(len(os.sched_getaffinity(0)))
        self._process = subprocess.Popen(
            [python, str(file), str(folder), threads, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = self._read()

    def ask(self, request: Any) -> dict[str, Any]:
        """Its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with status {self._process.wait()}")
        return json.loads(line)


def hugging_face_params(params: nnx.State) -> dict[str, np.ndarray]:
    """Our parameters by Hugging Face's names; its linear weights are [out, in]."""
    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(params)}
    arrays = {name: np.asarray(leaf.get_value()) for name, leaf in flat.items()}
    theirs = {"shared.weight": arrays["token_embedding"]}
    kernels = {"query": "q", "key": "k", "value": "v", "out": "o", "wi_0": "wi", "wo": "wo"}
    for stack, blocks in (
        ("encoder", ("self_attention", "mlp")),
        ("decoder", ("self_attention", "cross_attention", "mlp")),
    ):
        names = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"}
        theirs[f"{stack}.final_layer_norm.weight"] = arrays[f"{stack}.final_norm.scale"]
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        theirs[bias] = arrays[f"{stack}.relative_bias.embedding"].T
        for index, block in enumerate(blocks):
            for layer, scale in enumerate(arrays[f"{stack}.layers.{block}_norm.scale"]):
                theirs[f"{stack}.block.{layer}.layer.{index}.layer_norm.weight"] = scale
            for kernel, letter in kernels.items():
                stacked = arrays.get(f"{stack}.layers.{block}.{kernel}")
                for layer, matrix in enumerate(() if stacked is None else stacked):
                    name = f"{names.get(block, 'DenseReluDense')}.{letter}.weight"
                    theirs[f"{stack}.block.{layer}.layer.{index}.{name}"] = matrix.T
    return theirs


def write_inputs(
    folder: pathlib.Path, config: T5Config, params: nnx.State, values, offsets, tokens_BL
) -> None:
    """Writes what the peers read: sizes, parameters, the catalogue's ragged ids, prompts."""
    sizes = {
        "vocab_size": config.padded_vocab_size,
        "d_model": config.embed_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "feed_forward_proj": "relu",
        "decoder_start_token_id": 0,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(sizes))
    np.savez(folder / "params.npz", **hugging_face_params(params))  # type: ignore[arg-type]
    np.savez(folder / "ids.npz", values=values, offsets=offsets)
    np.savez(folder / "prompts.npz", tokens=tokens_BL)
