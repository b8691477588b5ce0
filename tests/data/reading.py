"""Helpers of the reader tests: one call from a file to rows."""

import importlib

from genrec_jax.data.readers import staging


def read(reader, path, tmp_path, *, skip_bad_rows=False, **own):
    """The raw log that a reader makes of `path`."""
    workspace = tmp_path / f"workspace{len(list(tmp_path.glob('workspace*')))}"
    workspace.mkdir()
    module = importlib.import_module(f"genrec_jax.data.readers.{reader}")
    return module.read(path, staging.ReadOptions(workspace, skip_bad_rows), **own)


def rows(log, *columns):
    """Rows in file order, as tuples of the asked-for columns."""
    return log.interactions.lazy().sort("row").select(columns).collect().rows()
