"""A configuration and shapes that are planned and compiled in seconds."""

import dataclasses

from genrec_jax.parallel.mesh import Sizes
from genrec_jax.training import config as config_lib
from genrec_jax.training.plan import Choice
from genrec_jax.training.plan_programs import Shapes
from tests.training import test_step

SHAPES = Shapes(rows=16, input_length=24, target_length=8, prompts=8, items=300, beams=4)


CONFIG = config_lib.TrainConfig(
    model_dir="unused",
    train_steps=1,
    # Two layers, so that there is a loop; bfloat16, as on a TPU.
    model=dataclasses.replace(
        test_step.EIGHT_HEADS, num_encoder_layers=2, num_decoder_layers=2, dtype="bfloat16"
    ),
    optimizer=test_step.OPTIMIZER,
    data=config_lib.DataConfig(datasets=["unused"], mixture="openp5", batch_size=16),
)


def on(sizes: tuple[int, int, int], remat: str = "none", microbatches: int = 1) -> Choice:
    return Choice(Sizes(*sizes), remat, microbatches)
