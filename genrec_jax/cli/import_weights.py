"""`genrec import-weights`: Hugging Face or T5X weights -> a folder that `train` starts from."""

import argparse
import sys

from genrec_jax.cli import multihost

HELP = """Turns pretrained T5 weights into a folder that INITIAL_CHECKPOINT_PATH takes.

WEIGHTS is a Hugging Face folder (config.json with model.safetensors, whole or in shards) or a T5X
checkpoint (checkpoint_<step>, T5X's own format or Orbax) of T5 1.0, T5 1.1 or FLAN-T5. Pickled weights
(.bin) are never read. Every array must have its place in the network and the other way round; all that
have none are listed.

The vocabulary is the folder's spiece.model, or --vocabulary: T5X checkpoints have none. Make the item ids
on it (genrec index ... --vocabulary), and tokens that they add get embeddings when training starts."""

EPILOG = """
examples:
  genrec import-weights downloads/flan-t5-base --output weights/flan_t5_base
  genrec import-weights t5x/checkpoint_1001000 --vocabulary spiece.model --output weights/t5_1_1_base
  genrec train --gin_file=gin_configs/openp5/beauty_sequential.gin --gin.MODEL_DIR=\\"runs/beauty\\" \\
    --gin.INITIAL_CHECKPOINT_PATH=\\"weights/t5_small\\"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `genrec import-weights`."""
    parser.add_argument("weights", metavar="WEIGHTS", help="a folder of weights")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to write, on a file system"
    )
    parser.add_argument(
        "--vocabulary",
        metavar="MODEL",
        help="the spiece.model that the weights were trained with (default: the one in WEIGHTS)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier import")
    multihost.add_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    """Imports, and says what was found."""
    if arguments.multihost:
        multihost.join()
    import jax

    from genrec_jax.checkpoint import import_weights
    from genrec_jax.model import t5
    from genrec_jax.training.state import number_of_parameters

    made = import_weights.import_weights(
        arguments.weights,
        arguments.output,
        vocabulary=arguments.vocabulary,
        overwrite=arguments.overwrite,
    )
    if jax.process_index() != 0:
        return
    config = made.model_config
    number = number_of_parameters(t5.abstract_graph_and_params(config)[1])
    kind = "T5 1.0" if len(config.mlp_activations) == 1 else "T5 1.1 or FLAN-T5"
    print(
        f"{kind}: {number:,} parameters, {config.num_encoder_layers} + {config.num_decoder_layers}"
        f" layers of width {config.embed_dim}; head {'tied' if config.tied_head else 'of its own'}"
    )
    if made.vocabulary is None:
        print(
            f"{arguments.weights}: no spiece.model, so training cannot start from these weights; import"
            " again with --vocabulary",
            file=sys.stderr,
        )
    else:
        print(f"vocabulary of {made.vocabulary.size:,} tokens: {made.path / 'vocabulary.model'}")
    print(f"written to {made.path}")
