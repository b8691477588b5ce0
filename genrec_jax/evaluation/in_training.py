"""The evaluator that the training loop asks: the same users, prompts and compiled search every time."""

from collections.abc import Callable, Mapping, Sequence

from jax.sharding import Mesh

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation import from_run
from genrec_jax.evaluation.evaluator import EvaluateConfig, Params, Scored
from genrec_jax.prompts.templates import Template


def choose_templates(
    templates: Sequence[Template], tasks: Sequence[str], wanted: Sequence[str] | None
) -> tuple[Template, ...]:
    """The templates to validate with: those wanted, or the first seen one of each trained task."""
    chosen = evaluators.choose_templates(templates, tasks, wanted)
    return chosen if wanted is not None else tuple(one for one in chosen if one.seen)


def metric_names(templates: Mapping[str, Sequence[Scored]], num_beams: int) -> list[str]:
    """The names of what `ValidationEvaluator.metrics` gives, before there is one.

    Args:
        templates: of each dataset, by its name.
        num_beams: beams, and length of the lists.
    """
    cutoff = min(10, num_beams)
    overall, own = [], []
    for dataset, chosen in templates.items():
        listed = [template for template in chosen if template.task != "rating"]
        overall = [f"{kind}@{cutoff}" for kind in ("hr", "ndcg")] if listed else []
        overall += ["auc"] if len(listed) < len(chosen) else []
        each = [f"{name}/{t.task}/{t.id}" for t in listed for name in overall if name != "auc"]
        front = f"{dataset}/" if len(templates) > 1 else ""
        own += [f"{front}{name}" for name in (*(overall if front else ()), *each)]
    return [*overall, *own]


class ValidationEvaluator:
    """Metrics of a run's parameters on the validation targets of a fixed sample of users.

    Attributes:
        evaluators: one for each dataset of the run, by name.
    """

    def __init__(
        self,
        run_dir: RunDir,
        mesh: Mesh,
        *,
        max_users: int | None = 1000,
        num_beams: int = 20,
        batch_size: int = 64,
        templates: Sequence[str] | None = None,
        seed: int = 0,
        data: from_run.DataPaths | None = None,
        before_batch: Callable[[], None] = lambda: None,
    ):
        """Prepares everything but the parameters.

        Args:
            run_dir: the run; needs no checkpoint yet.
            mesh: the mesh that the parameters live on.
            max_users: users of each dataset, a seeded sample; None for all.
            num_beams: beams, and length of the lists.
            batch_size: users searched at once.
            templates: template ids; None for the first seen one of each trained task, or for every
                task of the run's own SeqIO mixture that has a validation split.
            seed: of the sample.
            data: dataset name -> folder, where it is not the one in `run.json`.
            before_batch: called before each batch; what it raises ends the evaluation.

        Raises:
            UserError: an unknown template, or data other than the run's.
        """
        if templates is None and run_dir.mixture.get("module") is None:
            chosen = choose_templates(run_dir.templates, from_run.trained_tasks(run_dir), None)
            templates = [template.id for template in chosen]
        config = EvaluateConfig(
            split="validation",
            templates=templates,
            num_beams=num_beams,
            batch_size=batch_size,
            max_users=max_users,
            seed=seed,
        )
        self.evaluators = {
            entry.name: from_run.build(
                run_dir, config, mesh, dataset_name=entry.name, data=data, keep_prompts=True
            )
            for entry in run_dir.datasets
        }
        for evaluator in self.evaluators.values():
            evaluator.before_batch = before_batch

    def metrics(self, params: Params) -> dict[str, float]:
        """Metrics of one set of parameters; every host calls it.

        Returns:
            `Evaluator.metrics` of a run's only dataset. With several, its entries get the
            dataset's name in front (`Beauty/hr@10`), and `hr@10` and `ndcg@10` are the means over
            the datasets.
        """
        measured = {name: e.metrics(params) for name, e in self.evaluators.items()}
        if len(measured) == 1:
            return next(iter(measured.values()))
        every = list(measured.values())
        overall = [metric for metric in every[0] if "/" not in metric]
        values = {metric: sum(m[metric] for m in every) / len(every) for metric in overall}
        for name, metrics in measured.items():
            values |= {f"{name}/{metric}": value for metric, value in metrics.items()}
        return values
