"""Compiled programs kept between processes, for every command and for `genrec_jax.load`."""

import os
import pathlib

import jax

from genrec_jax import storage

VARIABLE = "GENREC_COMPILATION_CACHE"


def use() -> pathlib.Path | None:
    """Keeps compiled programs in a folder from now on.

    The folder is the one that JAX was already told of (`JAX_COMPILATION_CACHE_DIR`), or else the one
    that the environment variable `GENREC_COMPILATION_CACHE` names (an empty text: none), or else
    `compiled` in `storage.cache_root()`: `~/.cache/genrec_jax/compiled`.

    Returns:
        the folder; None where programs are not kept.
    """
    set_before = jax.config.jax_compilation_cache_dir
    if set_before:
        return pathlib.Path(set_before)
    folder = os.environ.get(VARIABLE, str(storage.cache_root() / "compiled"))
    if not folder:
        return None
    path = pathlib.Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # a home that cannot be written only costs compile time
    jax.config.update("jax_compilation_cache_dir", str(path))
    return path
