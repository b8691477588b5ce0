"""Training steps of a T5-small, float32, beside Hugging Face's: equal dense shapes, then real examples.

    bash benchmarks/install_peers.sh torch
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONPATH=. python benchmarks/train_vs_hf.py

Both start from the same random parameters and take the same steps (forward, backward, clipping, AdamW)
on the same examples, without dropout, in turn. `dense`: rows that are all full. `openp5`: examples of
OpenP5's two tasks on Beauty, whose lengths vary; Hugging Face pads each batch to its longest example,
ours packs examples into rows. The losses of the first steps are compared. `floor` is the FLOP of the
products of real tokens over the matrix-product rate that JAX reaches in the same run.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks import beam_search, common, decode_vs_hf, hf_peer
from genrec_jax.data import dataset, prepare_run
from genrec_jax.indexing import build, item_ids
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.pipeline import mixtures
from genrec_jax.pipeline.batch import Batch
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.prompts import templates
from genrec_jax.training import adamw, losses, optimizers, schedules, state, step

LEARNING_RATE = 1e-3
SAME_LOSS = 2e-4


def dense_batches(rows: int, length: int, target: int, count: int) -> list[Batch]:
    """Rows without padding."""
    random = np.random.default_rng(0)
    return [
        unpacked(
            random.integers(2, 32_000, (rows, length)), random.integers(2, 32_000, (rows, target))
        )
        for _ in range(count)
    ]


def unpacked(inputs_BL: np.ndarray, targets_BT: np.ndarray) -> Batch:
    """One example a row."""
    inputs_BL, targets_BT = inputs_BL.astype(np.int32), targets_BT.astype(np.int32)
    real_BL, real_BT = (inputs_BL > 0).astype(np.int32), (targets_BT > 0).astype(np.int32)
    return Batch(
        encoder_input_tokens_BL=inputs_BL,
        decoder_target_tokens_BT=targets_BT,
        decoder_input_tokens_BT=np.pad(targets_BT[:, :-1], ((0, 0), (1, 0))),
        decoder_loss_weights_BT=real_BT.astype(np.float32),
        encoder_segment_ids_BL=real_BL,
        decoder_segment_ids_BT=real_BT,
        encoder_positions_BL=np.arange(inputs_BL.shape[1], dtype=np.int32) * real_BL,
        decoder_positions_BT=np.arange(targets_BT.shape[1], dtype=np.int32) * real_BT,
        encoder_whole_word_ids_BL=np.zeros_like(inputs_BL),
    )


def openp5_batches(
    data: pathlib.Path,
    vocabulary: pathlib.Path,
    work: pathlib.Path,
    size: int,
    row: int,
    count: int,
) -> tuple[list[Batch], list[Batch]]:
    """The same examples twice: packed, and one a row padded to the batch's longest."""
    prepare_run.prepare_from("sequences", data / "user_sequence.txt", work / "data", name="Beauty")
    settings = build.IndexConfig(method="sequential")
    build.build_index([work / "data"], settings, output=work / "index", vocabulary=vocabulary)
    mixture = mixtures.build_mixture(
        "openp5",
        [dataset.load(work / "data")],
        [item_ids.load(work / "index").texts],
        item_ids.load_vocabulary(work / "index"),
        templates.load_templates(),
        max_input_length=row,
    )
    packed = TrainBatches(mixture, size, packing=True, row_length=row)
    plain = TrainBatches(mixture, size, row_length=row)
    padded = []
    for number in range(count):
        whole = plain.batch(number)
        inputs_BL, targets_BT = whole.encoder_input_tokens_BL, whole.decoder_target_tokens_BT
        padded.append(
            unpacked(
                inputs_BL[:, : int((inputs_BL > 0).sum(1).max())],
                targets_BT[:, : int((targets_BT > 0).sum(1).max())],
            )
        )
    return [packed.batch(number) for number in range(count)], padded


def flop_of(config: T5Config, batch: Batch) -> float:
    """Forward and backward products of the real tokens; attention within an example only."""
    joined = config.num_heads * config.head_dim
    projection = 2 * config.embed_dim * joined
    mlp = (len(config.mlp_activations) + 1) * 2 * config.embed_dim * config.mlp_dim
    inputs = lengths(np.asarray(batch.encoder_segment_ids_BL))
    targets = lengths(np.asarray(batch.decoder_segment_ids_BT))
    encoder = inputs * (4 * projection + mlp) + inputs**2 * 4 * joined
    decoder = targets * (6 * projection + mlp) + inputs * 2 * projection
    decoder = decoder + (targets**2 + targets * inputs) * 4 * joined
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return 3.0 * float(np.sum(layers + targets * 2 * config.embed_dim * config.vocab_size))


def lengths(segments_BL: np.ndarray) -> np.ndarray:
    """Tokens of each example of a packed batch, row by row."""
    return np.concatenate([np.bincount(row[row > 0])[1:] for row in segments_BL]).astype(float)


def measure(
    title: str, config: T5Config, ours: list[Batch], theirs: list[Batch], arguments
) -> dict[str, Any]:
    """Time of all batches, ours and the peer's in turn, several times over."""
    mesh = meshes.single_device_mesh()
    optimizer = optimizers.Optimizer(
        rule=adamw.AdamWConfig(),
        learning_rate=schedules.LearningRate(peak=LEARNING_RATE, decay="constant", warmup_steps=0),
    )
    loss = losses.LossConfig(z_loss=0.0)
    model = t5.T5(config, rngs=nnx.Rngs(params=0))
    _, params = t5.graph_and_params(model)
    current = state.state_from_params(config, optimizer, mesh, jax.tree.map(np.asarray, params))
    take_step = step.jit_train_step(config, optimizer, loss, mesh)
    ours = [jax.device_put(batch) for batch in ours]
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        arrays: dict[str, Any] = {}
        for number, batch in enumerate(theirs):
            arrays[f"inputs_{number}"] = batch.encoder_input_tokens_BL
            arrays[f"targets_{number}"] = batch.decoder_target_tokens_BT
        np.savez(work / "batches.npz", **arrays)
        empty = np.zeros(0, np.int64)
        hf_peer.write_inputs(work, config, params, empty, empty, empty)
        peer = None
        if not arguments.no_peer and hf_peer.there(arguments.peer_python):
            peer = hf_peer.Peer(arguments.peer_python, "hf_train.py", work)
        numbers = list(range(len(ours)))
        our_times, peer_times, our_losses, peer_losses, rates = [], [], [], [], []
        for turn in range(arguments.repeats + 1):  # the first turn compiles, and gives the losses
            wall, processor, sums = time.perf_counter(), time.process_time(), []
            for batch in ours:
                current, metrics = take_step(current, batch, None)
                sums.append((metrics["loss_sum"], metrics["target_tokens"]))
            found = [float(total) / float(tokens) for total, tokens in sums]
            spent = time.perf_counter() - wall, time.process_time() - processor
            answer = peer.ask(numbers) if peer is not None else None
            if turn == 0:
                our_losses, peer_losses = found, answer["losses"] if answer else []
                continue
            our_times.append(spent)
            rates.append(decode_vs_hf.matmul_rate(config, 3)[0])
            if answer is not None:
                peer_times.append((answer["wall_s"], answer["cpu_s"]))
        if peer is not None:
            peer.close()
    examples = sum(len(lengths(np.asarray(batch.decoder_segment_ids_BT))) for batch in ours)
    wall, processor = map(min, zip(*our_times, strict=True))
    floor = sum(flop_of(config, batch) for batch in ours) / max(rates)
    row: dict[str, Any] = {
        "batches": title,
        "examples": examples,
        "our_shapes": sorted({str(batch.encoder_input_tokens_BL.shape) for batch in ours}),
        "ours_wall_s": wall,
        "ours_cpu_s": processor,
        "ours_examples_per_s": examples / wall,
        "floor_s": floor,
        "of_floor": wall / floor,
        "our_losses": our_losses,
    }
    if peer_times:
        row["peer_shapes"] = sorted({str(b.encoder_input_tokens_BL.shape) for b in theirs})
        row["hf_wall_s"], row["hf_cpu_s"] = map(min, zip(*peer_times, strict=True))
        row["hf_examples_per_s"] = examples / row["hf_wall_s"]
        row["times_faster"] = row["hf_wall_s"] / wall
        row["hf_losses"] = peer_losses
        pairs = zip(our_losses, peer_losses, strict=True)
        row["largest_loss_difference"] = max(abs(a - b) / abs(b) for a, b in pairs)
        row["same_losses"] = row["largest_loss_difference"] < SAME_LOSS
    row["peer"] = peer.versions if peer is not None else common.how_to_install("torch")
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """A table for the terminal."""
    table = Table(title="T5-small, float32: training steps")
    for name in ("batches", "ours ex/s", "HF ex/s", "faster", "of floor", "loss apart"):
        table.add_column(name, justify="right")
    for row in rows:
        with_peer = "hf_wall_s" in row
        table.add_row(
            row["batches"],
            f"{row['ours_examples_per_s']:.2f}",
            f"{row['hf_examples_per_s']:.2f}" if with_peer else "",
            f"{row['times_faster']:.2f}x" if with_peer else "",
            f"{row['of_floor']:.2f}x",
            f"{row['largest_loss_difference']:.1e}" if with_peer else "",
        )
    Console(width=120).print(table)


def parser_of(description: str | None, peer_python: str) -> argparse.ArgumentParser:
    """The flags of every benchmark of training beside a peer."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=beam_search.MODELS, default="t5_small")
    parser.add_argument("--batch", type=int, default=64, help="examples of a step (64)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a dense prompt (128)")
    parser.add_argument("--target", type=int, default=16, help="tokens of a dense target (16)")
    parser.add_argument("--steps", type=int, default=2, help="different batches a turn (2)")
    parser.add_argument("--repeats", type=int, default=2, help="turns that are timed (2)")
    parser.add_argument("--peer-python", default=peer_python, help="a Python that has the peer")
    parser.add_argument("--no-peer", action="store_true", help="ours alone, and its floor")
    return parser


def config_of(model: str) -> T5Config:
    """The network that both sides train: no whole-word embedding, no dropout."""
    return dataclasses.replace(
        beam_search.config_of(model, decode_vs_hf.VOCAB),
        whole_word_embedding=False,
        dropout_rate=0.0,
    )


def main() -> None:
    parser = parser_of(__doc__, hf_peer.PYTHON)
    parser.add_argument("--row", type=int, default=256, help="tokens of a packed row (256)")
    parser.add_argument("--data", type=pathlib.Path, default=common.BEAUTY)
    parser.add_argument(
        "--vocabulary",
        type=pathlib.Path,
        default=common.VOCABULARY,
    )
    arguments = parser.parse_args()
    config = config_of(arguments.model)
    dense = dense_batches(arguments.batch, arguments.length, arguments.target, arguments.steps)
    rows = [measure("dense", config, dense, dense, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        packed, padded = openp5_batches(
            arguments.data,
            arguments.vocabulary,
            pathlib.Path(folder),
            arguments.batch,
            arguments.row,
            arguments.steps,
        )
    rows.append(measure("openp5", config, packed, padded, arguments))
    show(rows)
    names = ("model", "batch", "length", "target", "row", "steps", "repeats")
    settings = {name: getattr(arguments, name) for name in names}
    settings["huge_pages"] = common.huge_pages()
    print(f"wrote {common.write_result('train_vs_hf', {'settings': settings, 'rows': rows})}")


if __name__ == "__main__":
    main()
