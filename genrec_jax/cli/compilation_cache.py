"""Compiled programs kept between processes, for every subcommand that computes; needs no gin."""

import os
import pathlib

VARIABLE = "GENREC_COMPILATION_CACHE"


def use() -> None:
    """Keeps compiled programs in a folder, unless the environment names none (an empty string)."""
    import jax

    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "genrec_jax" / "compiled"
    folder = os.environ.get(VARIABLE, str(default))
    if folder:
        path = pathlib.Path(folder).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a home that cannot be written only costs compile time
        jax.config.update("jax_compilation_cache_dir", str(path))
