"""What metrics.json says of an evaluation beside its figures: protocol, data, search, audit, notes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts, audit
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation import from_run, ranking
from genrec_jax.evaluation.evaluator import EvaluateConfig, Evaluator, Scored
from genrec_jax.evaluation.reference_ranks import has_users
from genrec_jax.evaluation.task_evaluator import PROTOCOL, TASK
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.pipeline.alignment_choices import CANDIDATE_SEED


def foreseen(run: RunDir, config: EvaluateConfig) -> dict[str, Any]:
    """What an evaluation will say that tells whether runs can be compared: see `results`.

    The `systems` are the model's rows by name alone. They are missing for a SeqIO mixture whose tasks
    `config` does not name: these are known only once they have been read.

    Raises:
        UserError: the run has no such template.
    """
    known = {"split": config.split, **_sample(config), "dtype": _dtype(run, config)}
    if run.mixture.get("module") is not None:
        named = {f"model/{TASK}/{name}": {} for name in config.templates or ()}
        return known | {"protocol": PROTOCOL} | ({"systems": named} if named else {})
    templates = [
        template
        for template in evaluators.choose_templates(
            run.templates, from_run.trained_tasks(run), config.templates
        )
        if template.task != "rating"  # is no row of a table of lists
    ]
    return known | {
        "protocol": "the split's own",
        "templates": {template.id: {"task": template.task} for template in templates},
        "candidates": _candidates(run, templates),
        "systems": {evaluators.system_name(template): {} for template in templates},
    }


def describe(
    run: RunDir,
    evaluator: Evaluator,
    config: EvaluateConfig,
    dataset_name: str,
    ranks: Mapping[str, ranking.UserRanks],
) -> dict[str, Any]:
    """The entries from `max_users` to `oracle`, the audit made anew among them; see `results`."""
    dataset = evaluator.dataset
    tasks = from_run.trained_tasks(run)
    index = artefacts.read_json(
        run.dataset(dataset_name).folder / item_ids_lib.MANIFEST,
        wanted="the description of the run's item ids",
        remedy="Run `genrec train` again",
    )
    return {
        **_sample(config),
        "protocol": evaluator.protocol,
        "remarks": list(evaluator.remarks),
        "num_beams": config.num_beams,
        "length_penalty": config.length_penalty,
        "finish_within_beams": config.finish_within_beams,
        "exact_exclusion": config.exact_exclusion,
        "exact_block": config.exact_block if config.exact else None,
        "dtype": _dtype(run, config),
        "history": run.mixture["history"],
        "candidates": _candidates(run, evaluator.templates),
        "dataset": {
            "name": dataset_name,
            "path": dataset.location,
            "fingerprint": dataset.fingerprint,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "interactions": dataset.num_interactions,
            "split": dataset.manifest.get("split", {}),
        },
        "item_ids": {"method": index["method"], "parameters": index["parameters"]},
        "templates": {
            template.id: {
                "task": template.task,
                "seen": template.seen,
                "trained": None if template.seen is None else template.task in tasks,
            }
            for template in evaluator.asked()
        },
        "audit": _audit(run, evaluator, dataset_name, ranks, index.get("audit", [])),
        "oracle": (
            dataset.manifest.get("oracle")
            if config.split == "test" and has_users(evaluator)
            else None
        ),
    }


def _sample(config: EvaluateConfig) -> dict[str, Any]:
    sampled = config.max_users is not None
    return {"max_users": config.max_users, "sample_seed": config.seed if sampled else None}


def _dtype(run: RunDir, config: EvaluateConfig) -> str:
    return config.dtype or run.model_config.dtype


def _candidates(run: RunDir, templates: Sequence[Scored]) -> dict[str, int] | None:
    """What decides, with the dataset and the split, which candidates a user's ranking has."""
    if all(template.task != "ranking" for template in templates):
        return None
    return {"number": run.mixture["num_candidates"], "seed": CANDIDATE_SEED}


def _audit(
    run: RunDir,
    evaluator: Evaluator,
    dataset_name: str,
    ranks: Mapping[str, ranking.UserRanks],
    of_index: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The leakage audit made anew on what was evaluated, and what only indexing could check."""
    dataset, splits = evaluator.dataset, evaluator.splits
    ids = run.item_ids(dataset_name)
    made_anew = [
        *audit.audit_dataset(dataset, splits),
        *audit.audit_item_ids(dataset, splits, ids.texts, ordered=ids.ordered),
    ]
    for template in evaluator.templates:
        if evaluator.users_of(template) is not None:
            scored = ranks[evaluators.system_name(template)]
            users_E = scored.users_E
            made_anew.append(
                audit.audit_predictions(
                    dataset, splits, evaluator.split, users_E, scored.targets_U[users_E]
                )
            )
            break
    checks = {result.check for result in made_anew}
    return [
        *map(dataclasses.asdict, made_anew),
        *(entry for entry in of_index if entry["check"] not in checks),
    ]


def notes(config: EvaluateConfig, evaluator: Evaluator) -> list[str]:
    """The `notes` entry: where this departs from the published protocol."""
    if not evaluator.templates:  # ratings alone
        return []
    found = [
        f"Every system's list is cut at {config.num_beams} items, the number of beams, before anything"
        " is measured."
    ]
    if has_users(evaluator):
        found.append(
            "Without items of the history: the model searched a second time, in a catalogue that lacks"
            " them."
            if config.exact_exclusion
            else "Without items of the history: they are struck from the model's list, which is then"
            " shorter, while the baselines rank all that is left. This understates the model at large"
            " cutoffs; `--exact-exclusion` searches a second time instead."
        )
    if config.exact:
        found.append(
            "Rows `exact/...` rank every item of the catalogue by its score, without beams; like the"
            " other rows they are cut before HR, NDCG and MRR are taken, and their full MRR is apart."
        )
    if config.max_users is not None:
        found.append(
            f"Only a random sample of at most {config.max_users} {evaluator.unit} was scored for each row"
            f" (seed {config.seed})."
        )
    if (config.num_beams, config.length_penalty, config.finish_within_beams) != (10, 1.0, True):
        found.append(
            "The search is this project's own; OpenP5's published numbers have 10 beams, length"
            " penalty 1.0 and Hugging Face's rule for finished lists (`--num-beams 10"
            " --length-penalty 1 --finish-within-beams`)."
        )
    return found
