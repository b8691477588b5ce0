"""Training steps of a T5-small, float32, beside T5X's own trainer, on equal dense shapes.

    bash benchmarks/install_peers.sh t5x
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONPATH=. python -m benchmarks.train_vs_t5x

Both start from the same random parameters and take the same steps (forward, backward, z-loss, Adafactor)
on the same full rows, without dropout, in turn. T5X's part is `t5x.trainer.Trainer` with T5X's minimal
network as they are; that network looks up its embeddings by a product with one-hot rows, which suits a
TPU and costs a CPU much. The losses of the first steps, each of which depends on the updates before it,
are compared.
"""

import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks import common, hf_peer, train_vs_hf
from genrec_jax.checkpoint import export, weight_names
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.pipeline.batch import Batch
from genrec_jax.training import adafactor, losses, optimizers, schedules, state, step

PYTHON = str(common.PEERS / "t5x" / "bin" / "python")
LEARNING_RATE = 1e-3
SAME_LOSS = 2e-4


def write_inputs(
    folder: pathlib.Path, config: T5Config, params: nnx.State, batches: list[Batch]
) -> None:
    """Writes what the peer reads: sizes, parameters by T5X's names, batches."""
    sizes = {
        "vocab_size": config.vocab_size,
        "emb_dim": config.embed_dim,
        "num_heads": config.num_heads,
        "head_dim": config.head_dim,
        "mlp_dim": config.mlp_dim,
        "num_encoder_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "mlp_activations": config.mlp_activations,
        "logits_via_embedding": config.tied_head,
    }
    (folder / "config.json").write_text(json.dumps(sizes))
    ours, theirs = export.named(params), {}
    for line in weight_names.table_of("t5x", config):
        theirs |= dict(weight_names.to_theirs(line, np.asarray(ours[line.ours]), config))
    np.savez(folder / "params.npz", **theirs)
    arrays: dict[str, Any] = {}
    for number, batch in enumerate(batches):
        arrays[f"inputs_{number}"] = batch.encoder_input_tokens_BL
        arrays[f"targets_{number}"] = batch.decoder_target_tokens_BT
    np.savez(folder / "batches.npz", **arrays)


def measure(config: T5Config, batches: list[Batch], arguments) -> dict[str, Any]:
    """Time of all batches, ours and the peer's in turn, several times over."""
    mesh = meshes.single_device_mesh()
    optimizer = optimizers.Optimizer(
        rule=adafactor.AdafactorConfig(),
        learning_rate=schedules.LearningRate(peak=LEARNING_RATE, decay="constant"),
    )
    _, params = t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(params=0)))
    current = state.state_from_params(config, optimizer, mesh, jax.tree.map(np.asarray, params))
    take_step = step.jit_train_step(config, optimizer, losses.LossConfig(), mesh)
    on_device = [jax.device_put(batch) for batch in batches]
    our_times, peer_times, our_losses, peer_losses = [], [], [], []
    peer = None
    with tempfile.TemporaryDirectory() as name:
        if not arguments.no_peer and hf_peer.there(arguments.peer_python, "t5x"):
            write_inputs(pathlib.Path(name), config, params, batches)
            peer = hf_peer.Peer(arguments.peer_python, "t5x_train.py", pathlib.Path(name))
        for turn in range(arguments.repeats + 1):  # the first compiles, and gives the losses
            wall, processor, sums = time.perf_counter(), time.process_time(), []
            for batch in on_device:
                current, metrics = take_step(current, batch, None)
                sums.append(metrics)
            found = [
                (float(one["loss_sum"]) + float(one["z_loss_sum"])) / float(one["target_tokens"])
                for one in sums
            ]
            spent = time.perf_counter() - wall, time.process_time() - processor
            if turn == 0:
                our_losses = found
                if peer is not None:
                    numbers = range(len(batches))
                    peer_losses = [peer.ask([number])["loss"] for number in numbers]
                continue
            our_times.append(spent)
            if peer is not None:
                answer = peer.ask(list(range(len(batches))))
                peer_times.append((answer["wall_s"], answer["cpu_s"]))
        if peer is not None:
            peer.close()
    examples = len(batches) * arguments.batch
    wall, processor = map(min, zip(*our_times, strict=True))
    row: dict[str, Any] = {
        "examples": examples,
        "shape": str(batches[0].encoder_input_tokens_BL.shape),
        "ours_wall_s": wall,
        "ours_cpu_s": processor,
        "ours_examples_per_s": examples / wall,
        "our_losses": our_losses,
        "peer": peer.versions if peer is not None else common.how_to_install("t5x"),
    }
    if peer_times:
        row["t5x_wall_s"], row["t5x_cpu_s"] = map(min, zip(*peer_times, strict=True))
        row["t5x_examples_per_s"] = examples / row["t5x_wall_s"]
        row["times_faster"] = row["t5x_wall_s"] / wall
        row["times_faster_by_turn"] = [
            theirs[0] / ours[0] for ours, theirs in zip(our_times, peer_times, strict=True)
        ]
        row["t5x_losses"] = peer_losses
        pairs = zip(our_losses, peer_losses, strict=True)
        row["largest_loss_difference"] = max(abs(a - b) / abs(b) for a, b in pairs)
        row["same_losses"] = row["largest_loss_difference"] < SAME_LOSS
    return row


def show(model: str, row: dict[str, Any]) -> None:
    """A table for the terminal."""
    table = Table(title=f"{model}, float32: training steps")
    for name in ("shape", "ours ex/s", "T5X ex/s", "faster", "loss apart"):
        table.add_column(name, justify="right")
    there = "t5x_wall_s" in row
    table.add_row(
        row["shape"],
        f"{row['ours_examples_per_s']:.2f}",
        f"{row['t5x_examples_per_s']:.2f}" if there else "",
        f"{row['times_faster']:.2f}x" if there else "",
        f"{row['largest_loss_difference']:.1e}" if there else "",
    )
    Console(width=100).print(table)


def main() -> None:
    parser = train_vs_hf.parser_of(__doc__, PYTHON)
    parser.add_argument("--result", default="train_vs_t5x", help="stem of the file of results")
    arguments = parser.parse_args()
    config = train_vs_hf.config_of(arguments.model)
    batches = train_vs_hf.dense_batches(
        arguments.batch, arguments.length, arguments.target, arguments.steps
    )
    row = measure(config, batches, arguments)
    show(arguments.model, row)
    names = ("model", "batch", "length", "target", "steps", "repeats")
    settings = {name: getattr(arguments, name) for name in names}
    settings["huge_pages"] = common.huge_pages()
    print(f"wrote {common.write_result(arguments.result, {'settings': settings, **row})}")


if __name__ == "__main__":
    main()
