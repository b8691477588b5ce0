"""The report's section on the whole catalogue's scores: true ranks, and what the beams missed."""

from genrec_jax.evaluation import results
from genrec_jax.evaluation.report_data import EvaluationView
from genrec_jax.evaluation.report_html import ABSENT, Markup, element, section, table
from genrec_jax.evaluation.report_sections import FOOTINGS, system_title


def exact_section(view: EvaluationView, *, level: int) -> Markup:
    """The section of exact ranks; empty for an evaluation without `--exact`."""
    metrics = view.metrics
    exact = metrics.get("exact")
    if not exact:
        return Markup("")
    beams = metrics["num_beams"]
    rank_rows, miss_rows = [], []
    for system, found in exact.items():
        for footing, title in FOOTINGS.items():
            if footing in found["ranks"]:
                ranks = found["ranks"][footing]
                rank_rows.append(
                    [
                        system_title(system, metrics),
                        title,
                        f"{ranks['mrr']:.4f}",
                        *(
                            ABSENT if ranks[name] is None else f"{ranks[name]:,.1f}"
                            for name in ("median_rank", "mean_rank")
                        ),
                    ]
                )
        for cutoff, beam in found["beam"].items():
            lost = beam["target_miss_rate"]
            miss_rows.append(
                [
                    system_title(system, metrics),
                    cutoff,
                    f"{beam['miss_rate']:.2%}",
                    ABSENT if lost is None else f"{lost:.2%}",
                    f"{beam['targets']:,}",
                ]
            )
    pools = {results.pool_of(system, metrics) for system in exact}
    every = {"catalogue": "item of the catalogue", "candidates": "candidate"}
    what = " and every ".join(said for pool, said in every.items() if pool in pools)
    said = (
        f"Every {what} was scored, so these are the model's own ranks, whatever"
        f" {beams} beams find of them. Where the beams miss little, more of them would change nothing."
    )
    noise = results.noise_of(metrics)
    return section(
        f"Beams against {'the whole catalogue' if 'catalogue' in pools else 'all candidates'}",
        element("p", said),
        element("p", noise, class_="notes") if noise else None,
        table(
            "True ranks of the held-out items",
            ["", "seen items", "MRR", "median rank", "mean rank"],
            rank_rows,
            numbers_from=2,
        ),
        table(
            f"What {beams} beams miss at each k: of the truly best k items, and of the held-out items"
            " that are among them",
            ["", "k", "of the best k", "of held-out items", "out of"],
            miss_rows,
        ),
        level=level,
    )
