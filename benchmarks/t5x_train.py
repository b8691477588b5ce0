"""Training steps of T5X's own trainer as a process that answers; `hf_peer.py` starts it.

It runs where T5X is installed and imports nothing of genrec_jax. The folder it is given holds `config.json`
(the sizes under T5X's names), `params.npz` (parameters by T5X's names) and `batches.npz`: for each batch
i, `inputs_i` and `targets_i`, without padding. Each line of its input is a JSON list of batch numbers; the
answer is a JSON object with the time of all of them, and the mean of their losses, each before its update.
"""

import importlib.metadata
import json
import pathlib
import sys
import time

import flax
import jax
import numpy as np
import seqio
from flax import traverse_util
from t5x import adafactor, models, partitioning, trainer, utils
from t5x.examples.t5 import network

LEARNING_RATE = 1e-3


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    sizes = json.loads((folder / "config.json").read_text())
    vocabulary = seqio.PassThroughVocabulary(sizes["vocab_size"], eos_id=1)
    model = models.EncoderDecoderModel(
        module=network.Transformer(network.T5Config(**sizes, dtype="float32", dropout_rate=0.0)),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=adafactor.Adafactor(
            decay_rate=0.8,
            step_offset=0,
            logical_factor_rules=adafactor.standard_logical_factor_rules(),
        ),
        z_loss=1e-4,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    )
    stored = np.load(folder / "batches.npz")
    batches = []
    for number in range(len(stored.files) // 2):
        inputs_BL, targets_BT = stored[f"inputs_{number}"], stored[f"targets_{number}"]
        batches.append(
            {
                "encoder_input_tokens": inputs_BL,
                "decoder_input_tokens": np.pad(targets_BT[:, :-1], ((0, 0), (1, 0))),
                "decoder_target_tokens": targets_BT,
                "decoder_loss_weights": np.ones(targets_BT.shape, np.float32),
            }
        )
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: array.shape for name, array in batches[0].items()},
        partitioner=partitioner,
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    flat = {tuple(name.split("/")): array for name, array in np.load(folder / "params.npz").items()}
    shapes = traverse_util.flatten_dict(flax.core.unfreeze(state.params))
    if {name: array.shape for name, array in flat.items()} != {
        name: array.shape for name, array in shapes.items()
    }:
        raise SystemExit("parameters do not fit")
    params = flax.core.freeze(traverse_util.unflatten_dict(flat))
    state = state.replace_params(jax.tree.map(jax.numpy.asarray, params))
    training = trainer.Trainer(
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(0),
        learning_rate_fn=utils.create_learning_rate_scheduler(
            factors="constant", base_learning_rate=LEARNING_RATE
        ),
        num_microbatches=None,
    )
    training.compile_train(batches[0])
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
    print(json.dumps({"threads": len(jax.devices()), **versions}), flush=True)
    for line in sys.stdin:
        numbers = json.loads(line)
        wall, processor = time.perf_counter(), time.process_time()
        summary = training.train(iter([batches[n] for n in numbers]), len(numbers)).result()
        jax.block_until_ready(training.train_state.params)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        answer = {"wall_s": wall, "cpu_s": processor, "loss": float(summary["loss"].value)}
        print(json.dumps(answer), flush=True)
    training.close()


if __name__ == "__main__":
    main()
