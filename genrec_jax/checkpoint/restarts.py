"""What a run dir keeps of each time that its run went on under other settings, code or versions."""

import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import CONFIG, MANIFEST, RunDir, code_here, compare_settings
from genrec_jax.data import artefacts
from genrec_jax.data.dataset import Dataset
from genrec_jax.parallel import hosts


def warmup_begun(model_dir: artefacts.PathLike) -> int | None:
    """Steps of the warm-up that a run at a path or URL began as a share of its steps; None: none did.

    On several hosts each of them calls it; host 0 looks.
    """
    return hosts.from_first(functools.partial(_warmup_begun, model_dir))


def _warmup_begun(model_dir: artefacts.PathLike) -> int | None:
    if not RunDir.exists(model_dir):
        return None
    run_dir = RunDir.load(model_dir)
    rate = run_dir.settings["optimizer"]["learning_rate"]
    trained = run_dir.settings["train_steps"] != 0 and restore.open_store(run_dir).steps()
    return rate["warmup_steps"] if trained and rate["warmup_share"] is not None else None


def record(
    run_dir: RunDir,
    settings: Mapping[str, Any],
    datasets: Sequence[Dataset],
    *,
    step: int,
    operative_config: str | None = None,
) -> None:
    """Makes `run.json` and `config.gin` those of the run as it goes on; nothing where nothing is new.

    `restarts` in `run.json` gets an entry with the time, the step, each name that changed with its text
    before and after, and the `config.gin` of before where that changed.

    Args:
        run_dir: where the run goes on.
        settings: every setting, as for `RunDir.create`.
        datasets: in the mixture's order, where they are now.
        step: of the newest checkpoint.
        operative_config: what gin configured now.

    Raises:
        UserError: the folder, or the store, cannot be written.
    """
    old = run_dir.manifest
    now = code_here() | {"settings": dict(settings)}
    changes = compare_settings({name: old[name] for name in now}, now)
    restart: dict[str, Any] = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "changed": {name: [before, after] for name, before, after in changes},
    }
    file = run_dir.path / CONFIG
    config_before = file.read_text(encoding="utf-8") if file.is_file() else None
    if operative_config is not None and operative_config != config_before:
        restart["config_before"] = config_before
        with artefacts.atomic_file(file) as temporary:
            temporary.write_text(operative_config, encoding="utf-8")
    elif not changes:
        return
    entries = [
        entry | {"path": dataset.location}
        for entry, dataset in zip(old["datasets"], datasets, strict=True)
    ]
    manifest = old | now | {"model": now["settings"]["model"], "datasets": entries}
    manifest["restarts"] = [*old.get("restarts", []), restart]
    artefacts.write_json(run_dir.path / MANIFEST, manifest)
    run_dir.publish(CONFIG, MANIFEST)
