"""Reads a TensorFlow Datasets builder such as `movielens/1m-ratings`; TensorFlow is imported here only.

`--input` is the builder's name. Its features are found by their usual names or given with
`--columns user=...,item=...`.
"""

import dataclasses
import itertools
from typing import Any

import polars as pl

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import item_table, staging
from genrec_jax.errors import UserError

BLOCK_ROWS = 200_000
USUAL_NAMES = {
    "user": ("user_id", "user", "customer_id", "reviewerID"),
    "item": ("movie_id", "item_id", "product_id", "asin", "item"),
    "timestamp": ("timestamp", "unixReviewTime"),
    "rating": ("user_rating", "rating", "overall", "star_rating"),
    "title": ("movie_title", "product_title", "title"),
}


def read(
    path: artefacts.PathLike,
    options: staging.ReadOptions,
    *,
    columns: str | None = None,
    data_dir: artefacts.PathLike | None = None,
    split: str = "train",
) -> rawlog.RawLog:
    """Reads one split of a builder, in its stored order.

    Args:
        path: the builder's name, `name/config` and perhaps `:version`.
        options: see `ReadOptions`.
        columns: features by name: `user=user_id,item=movie_id,timestamp=timestamp`; nested ones
            with slashes, `item=data/asin`.
        data_dir: where TensorFlow Datasets keeps its data.
        split: which split.

    Raises:
        UserError: tensorflow-datasets is not installed, no such builder, or a feature is missing.
    """
    name = str(path)
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            "the reader `tfds` needs TensorFlow Datasets; install it with `pip install"
            " 'genrec-jax[seqio]'`, or download the data and use another reader"
        ) from error
    tf.config.set_visible_devices([], "GPU")
    try:
        builder: Any = tfds.builder(name, data_dir=None if data_dir is None else str(data_dir))
        builder.download_and_prepare()
        read_config = tfds.ReadConfig(interleave_cycle_length=1)
        examples = tfds.as_numpy(
            builder.as_dataset(split=split, shuffle_files=False, read_config=read_config)
        )
    except Exception as error:  # whatever TensorFlow Datasets raises, of any type
        first_line = str(error).strip().partition("\n")[0]
        raise UserError(
            f"TensorFlow Datasets cannot load it ({type(error).__name__}: {first_line}); wanted a builder"
            " such as movielens/1m-ratings, prepared or downloadable",
            file=name,
        ) from error
    stage = staging.Stage(options)
    base = stage.begin_file(name)
    titles: dict[str, Any] = {}
    features: dict[str, str] | None = None
    stream = iter(examples)
    done = 0
    with options.steps.step(f"reading {name}") as advance:
        while block := list(itertools.islice(stream, BLOCK_ROWS)):
            if features is None:
                features = _features(block[0], columns, name)
            values = {
                ours: [_text(_pick(example, theirs)) for example in block]
                for ours, theirs in features.items()
            }
            for item, title in zip(values["item"], values.pop("title", ()), strict=False):
                titles[str(item)] = title
            frame = pl.DataFrame(values, schema=dict.fromkeys(values, pl.String))
            frame = staging.check_numbers(frame).with_columns(
                (pl.int_range(pl.len(), dtype=pl.Int64) + base + done + 1).alias("row")
            )
            got = pl.struct(list(values)).struct.json_encode().alias("got")
            stage.add(frame.with_columns(got), wanted="a user, an item, and numbers where named")
            done += len(block)
            advance(done)
    items = None
    if titles:
        items = item_table.frame([{"item": key, "title": title} for key, title in titles.items()])
    timed = features is not None and "timestamp" in features
    log = stage.finish(sources=(), items=items, order_trusted=not timed)
    return dataclasses.replace(
        log, manifest={"tfds": {"builder": builder.info.full_name, "split": split}}
    )


def _features(example: dict[str, Any], columns: str | None, name: str) -> dict[str, str]:
    if columns is not None:
        found = dict(part.split("=", 1) for part in columns.split(",") if "=" in part)
    else:
        found = {
            ours: theirs
            for ours, candidates in USUAL_NAMES.items()
            for theirs in candidates
            if theirs in example
        }
    for needed in ("user", "item"):
        if needed not in found or _pick(example, found[needed]) is None:
            raise UserError(
                f"has the features {', '.join(example)}; wanted one for the {needed}. Name it:"
                " --columns user=FEATURE,item=FEATURE,timestamp=FEATURE",
                file=name,
            )
    return found


def _pick(example: dict[str, Any], feature: str) -> Any:
    value: Any = example
    for part in feature.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
