"""SeqIO's offline cache of a task, written without Apache Beam; `use_cached=True` reads it."""

import json
import pathlib
from typing import Any

import numpy as np

from genrec_jax.data import artefacts
from genrec_jax.pipeline import seqio_runtime


def write_cache(
    task_name: str,
    cache_dir: artefacts.PathLike,
    *,
    num_shards: int = 16,
    overwrite: bool = False,
) -> pathlib.Path:
    """Caches every split of one task, as `seqio_cache_tasks` does on one machine.

    Read it back with `seqio.add_global_cache_dirs([cache_dir])` and `use_cached=True`. The cache
    freezes the examples: every epoch sees the same templates.

    Args:
        task_name: a registered task; a mixture is cached by caching its tasks.
        cache_dir: the folder of all caches; the task gets a folder in it.
        num_shards: files for each split.
        overwrite: replace an existing cache.

    Returns:
        The task's folder.

    Raises:
        UserError: it is cached already, the disk is full, or SeqIO is absent.
    """
    seqio, tf = seqio_runtime.import_seqio()
    task = seqio.TaskRegistry.get(task_name)
    target = pathlib.Path(cache_dir) / seqio.get_task_dir_from_name(task_name)
    with artefacts.atomic_directory(target, overwrite=overwrite) as folder:
        for split in task.splits:
            # A shuffled source makes neighbours unrelated, as Beam's reshuffle does.
            examples = task.source.get_dataset(split=split, shuffle=split == "train", seed=0)
            examples = task.preprocess_precache(examples, seed=None)
            info, stats = _write_split(seqio, tf, task, examples, folder, split, num_shards)
            _write_json(seqio.get_cached_info_path(str(folder), split), info)
            _write_json(seqio.get_cached_stats_path(str(folder), split), stats)
        (folder / "COMPLETED").write_text("")
    return target


def _write_split(
    seqio: Any, tf: Any, task: Any, examples: Any, folder: pathlib.Path, split: str, num_shards: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """Deals the examples out to the shards in turn; returns what SeqIO's two JSON files hold."""
    prefix = seqio.get_cached_tfrecord_prefix(str(folder), split)
    paths = [f"{prefix}-{shard:05d}-of-{num_shards:05d}" for shard in range(num_shards)]
    writers = [tf.io.TFRecordWriter(path) for path in paths]
    stats = {"examples": 0}
    for example in examples.as_numpy_iterator():
        writers[stats["examples"] % num_shards].write(
            seqio.dict_to_tfexample(example).SerializeToString()
        )
        stats["examples"] += 1
        for name, feature in task.output_features.items():
            special = (feature.vocabulary.eos_id, feature.vocabulary.pad_id)
            tokens = int((~np.isin(example[name], special)).sum())
            stats[f"{name}_tokens"] = stats.get(f"{name}_tokens", 0) + tokens
            stats[f"{name}_max_tokens"] = max(stats.get(f"{name}_max_tokens", 0), tokens)
    for writer in writers:
        writer.close()
    features = {
        name: {
            "shape": [None, *spec.shape[1:]] if spec.shape.rank else [],
            "dtype": spec.dtype.name,
        }
        for name, spec in examples.element_spec.items()
    }
    info = {"num_shards": num_shards, "features": features, "seqio_version": seqio.__version__}
    return info, stats


def _write_json(path: str, value: Any) -> None:
    pathlib.Path(path).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
