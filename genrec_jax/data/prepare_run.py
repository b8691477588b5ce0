"""`genrec prepare` as one call: reader, filters, writing."""

import dataclasses
import importlib
import inspect
import pathlib
import tempfile
from types import ModuleType
from typing import Any

from genrec_jax import progress, storage
from genrec_jax.data import artefacts, dataset, download, prepare
from genrec_jax.data.readers import staging
from genrec_jax.errors import UserError

READERS = (
    "amazon",
    "movielens",
    "movietweetings",
    "lastfm",
    "yelp",
    "taobao",
    "sequences",
    "table",
    "toystore",
    "tfds",
)


def prepare_from(
    reader: str,
    source: artefacts.PathLike | None,
    output: artefacts.PathLike,
    *,
    name: str | None = None,
    filters: prepare.Filters = prepare.FIVE_CORE,
    skip_bad_rows: bool = False,
    user_order: prepare.UserOrder = "shuffled",
    split: prepare.SplitBy = prepare.LEAVE_ONE_OUT,
    expected_counts: dict[str, int] | None = None,
    overwrite: bool = False,
    reader_options: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    show_progress: bool = False,
) -> dataset.Dataset:
    """Reads a source with one of `READERS` and writes a dataset dir.

    Args:
        reader: its name.
        source: what the reader reads; None for `toystore`.
        output: the dataset dir to write.
        name: what prompts call the dataset; the output folder's name by default.
        filters: what is dropped, see `prepare.Filters`.
        skip_bad_rows: leave bad rows out, users that cannot be split too, and count them in the manifest.
        user_order: how users are numbered, see `prepare.prepare`.
        split: what is held out for validation and test.
        expected_counts: counts that must come out, see `prepare.prepare`.
        overwrite: replace an existing dataset.
        reader_options: the reader's own keyword arguments (see `read` of its module), such as
            `{"columns": {"user": "visitor", "item": "sku"}}` of `table`; None values are left out.
        manifest: further entries for `dataset.json`.
        show_progress: on stderr.

    Raises:
        UserError: anything wrong with the input, the options or the disk; no dataset is left.
    """
    module = load_reader(reader)
    own = {key: value for key, value in (reader_options or {}).items() if value is not None}
    _check_options(reader, module, own)
    if needs_input(module) and source is None:
        raise UserError(
            f"the reader `{reader}` needs data; pass --input PATH, or from Python `source`"
        )
    if not needs_input(module) and source is not None:
        raise UserError(f"the reader `{reader}` reads nothing; leave --input out")
    artefacts.check_output(
        output,
        overwrite=overwrite,
        ours=storage.exists(storage.join(output, dataset.MANIFEST)),
        kind="a dataset dir",
    )
    if skip_bad_rows:
        filters = dataclasses.replace(filters, skip_short_users=True)
    steps = progress.Steps(enabled=show_progress)
    with (
        artefacts.disk_errors(output),
        tempfile.TemporaryDirectory(prefix="genrec-prepare-") as workspace,
        steps.running(),
    ):
        options = staging.ReadOptions(pathlib.Path(workspace), skip_bad_rows, steps)
        raw = module.read(source, options, **own)
        return prepare.prepare(
            raw,
            output,
            name=name or storage.last_name(output),
            filters=filters,
            user_order=user_order,
            split=split,
            expected_counts=expected_counts,
            overwrite=overwrite,
            manifest={"reader": reader, "reader_options": _as_json(own), **(manifest or {})},
            steps=steps,
        )


def download_for(
    reader: str, name: str, *, folder: artefacts.PathLike | None = None
) -> pathlib.Path:
    """Fetches a named download for a reader, showing progress; see `download.fetch_all`."""
    with progress.Steps(enabled=True).running() as steps:
        return download.fetch_all(name, reader=reader, folder=folder, steps=steps)


def load_reader(reader: str) -> ModuleType:
    """A reader's module: `read(path, options, **own)`, and perhaps `NEEDS_INPUT`."""
    if reader not in READERS:
        raise UserError(f"there is no reader {reader!r}; wanted one of {', '.join(READERS)}")
    return importlib.import_module(f"genrec_jax.data.readers.{reader}")


def needs_input(module: ModuleType) -> bool:
    """Whether a reader reads a path."""
    return getattr(module, "NEEDS_INPUT", True)


def own_options(module: ModuleType) -> list[str]:
    """The names of a reader's own keyword arguments."""
    parameters = inspect.signature(module.read).parameters.values()
    return [item.name for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY]


def _check_options(reader: str, module: ModuleType, own: dict[str, Any]) -> None:
    known = own_options(module)
    for key in own:
        if key not in known:
            flags = ", ".join("--" + name.replace("_", "-") for name in known) or "none"
            named = ", ".join(map(repr, known)) or "none"
            raise UserError(
                f"--{key.replace('_', '-')} means nothing to the reader `{reader}`; its own options:"
                f" {flags} (from Python, keys of reader_options: {named})"
            )


def _as_json(own: dict[str, Any]) -> dict[str, Any]:
    """Options for the manifest: paths by file name only, so that equal data give equal manifests."""
    return {
        key: value.name if isinstance(value, pathlib.PurePath) else value
        for key, value in own.items()
    }
