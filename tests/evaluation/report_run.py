"""A run dir with evaluations made from known lists: what reporting needs, minus model and search."""

import functools
import json
import math
import pathlib

import numpy as np

from genrec_jax.baselines import popularity, transition
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts, splits
from genrec_jax.data.dataset import Dataset
from genrec_jax.evaluation import intervals, metrics, predictions, ranking, results
from tests.evaluation import tiny_run

BEAMS = 20


def make_reported_run(
    folder: pathlib.Path, dataset: Dataset, *, seed: int = 0, skill: float = 0.7
) -> RunDir:
    """A run whose lists hold the target among the first places for a share `skill` of the users."""
    run = tiny_run.make_run(folder, [dataset.path], steps=())
    manifest = dict(run.manifest) | {"settings": {"seed": seed, "train": {"steps": 400}}}
    artefacts.write_json(folder / "run.json", manifest)
    write_records(folder)
    for split, step in (("test", 400), ("validation", 200)):
        evaluate(run, dataset, split, step, seed, skill)
    return RunDir.load(folder)


def write_records(folder: pathlib.Path) -> None:
    """Curves that fall and rise, and a torn last line, as a killed run leaves it."""
    lines = []
    for step in range(20, 420, 20):
        common = {"step": step, "time": 1.7e9 + step, "seconds": step / 2, "examples": step * 64}
        train = {"loss": 4 * math.exp(-step / 150) + 0.8, "padding_share": 0.113}
        lines.append({**common, "kind": "train", **train, "examples_per_second": 128.0})
        if step % 100 == 0:
            hits = 0.7 * (1 - math.exp(-step / 120))
            validation = {"loss": 4 * math.exp(-step / 160) + 0.9, "hr@10": hits}
            lines.append({**common, "kind": "validation", **validation})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 4', encoding="utf-8")


def evaluate(
    run: RunDir, dataset: Dataset, split: splits.SplitName, step: int, seed: int, skill: float
) -> None:
    """Writes eval/<split>-<step> as `genrec evaluate` would, from lists drawn here."""
    part = splits.leave_one_out(dataset)
    random = np.random.default_rng(seed)
    users_E = np.arange(dataset.num_users, dtype=np.int32)
    targets_E = dataset.items_X[part.targets_U(split)]
    items_ER = np.stack([random.permutation(dataset.num_items)[:BEAMS] for _ in users_E])
    for user in np.flatnonzero(random.random(len(users_E)) < skill):
        others = items_ER[user][items_ER[user] != targets_E[user]]
        place = min(int(random.geometric(0.5)) - 1, BEAMS - 1)
        items_ER[user] = np.insert(others, place, targets_E[user])[:BEAMS]
    items_ER = items_ER.astype(np.int32)
    scores_ER = np.tile(np.log(0.5) * np.arange(1, BEAMS + 1), (len(users_E), 1))
    seen_ER = ranking.seen_items(dataset, part.targets_U(split), users_E, items_ER)
    kept_E = metrics.ranks_in_lists(items_ER, targets_E)
    excluded_E = ranking.ranks_after_striking(items_ER, seen_ER, targets_E)
    folder = run.eval_dir / f"{split}-{step}"
    folder.mkdir(parents=True)
    with predictions.writing(folder / predictions.PREDICTIONS_FILE, run.item_ids().texts) as writer:
        writer.append(
            "A1", users_E, targets_E, kept_E, excluded_E, items_ER, scores_ER.astype(np.float32)
        )
    ranks = {"model/sequential/A1": {"seen_kept": kept_E, "seen_excluded": excluded_E}}
    rankings = {
        "popularity": popularity.rank_targets,
        "transition": transition.rank_targets,
        "transition_2": functools.partial(transition.rank_targets, lag=2),
    }
    for name, rank_targets in rankings.items():
        ranks[name] = {
            footing: rank_targets(dataset, part, split, exclude_seen=exclude)
            for footing, exclude in (("seen_kept", False), ("seen_excluded", True))
        }
    config = intervals.BootstrapConfig(resamples=500)
    pairs = [("model/sequential/A1", name) for name in rankings]
    content = {
        "format_version": results.FORMAT_VERSION,
        "run_dir": str(run.path),
        "step": step,
        "checkpoint": "best",
        "split": split,
        "protocol": "leave_one_out",
        "num_beams": BEAMS,
        "length_penalty": 0.0,
        "finish_within_beams": False,
        "exact_exclusion": False,
        "history": 20,
        "users": len(users_E),
        "dataset": {
            "name": dataset.name,
            "path": str(dataset.path),
            "fingerprint": dataset.fingerprint,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "interactions": dataset.num_interactions,
        },
        "item_ids": {"method": "sequential", "parameters": {}},
        "templates": {"A1": {"task": "sequential", "seen": True}},
        "systems": results.summarise_systems(ranks, max_rank=BEAMS, config=config),
        "paired": results.compare_systems(ranks, pairs, max_rank=BEAMS, config=config),
        "interval": results.interval_entry(config),
        "lists": {"model/sequential/A1": {"seen_share": 0.05, "empty_share": 0.0}},
        "notes": ["A note on the protocol."],
        "audit": dataset.manifest["audit"],
        "oracle": dataset.manifest.get("oracle") if split == "test" else None,
        "created": f"2026-01-0{1 + seed % 9}T00:00:00+00:00",
    }
    artefacts.write_json(folder / results.METRICS_FILE, content)
