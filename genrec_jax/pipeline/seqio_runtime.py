"""Imports SeqIO and TensorFlow when needed, and keeps them off the accelerators."""

import contextlib
import os
from typing import Any

from genrec_jax.errors import UserError


def import_seqio() -> tuple[Any, Any]:
    """Imports SeqIO and TensorFlow, and hides GPUs and TPUs from TensorFlow: JAX needs their memory.

    Returns:
        The modules `seqio` and `tensorflow`.

    Raises:
        UserError: they are not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import seqio
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"SeqIO cannot be imported ({error}); it is optional. Install it with `pip install"
            " 'genrec-jax[seqio]'`, or train one of the built-in mixtures, which need none of it"
        ) from error
    for kind in ("GPU", "TPU"):
        with contextlib.suppress(
            RuntimeError
        ):  # TensorFlow is in use already: too late to hide them
            tf.config.set_visible_devices([], kind)
    return seqio, tf
