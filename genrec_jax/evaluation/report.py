"""Run dirs -> one self-contained HTML page: the last arrow of the flow."""

import importlib.resources
import os
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence

from genrec_jax import storage
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.evaluation import (
    report_compare,
    report_exact,
    report_headline,
    report_pairs,
    report_papers,
    report_ratings,
    report_sections,
    report_training,
)
from genrec_jax.evaluation.report_data import EvaluationView, RunView, read_run
from genrec_jax.evaluation.report_html import Markup, element, escape, join, section

NUM_EXAMPLES = 6
MARK = '<meta name="generator" content="genrec_jax">'


def write_report(
    run_dirs: RunDir | artefacts.PathLike | Sequence[RunDir | artefacts.PathLike],
    output: artefacts.PathLike,
    *,
    paper_figures: artefacts.PathLike | None = None,
    data: Mapping[str, artefacts.PathLike] | None = None,
    title: str | None = None,
    num_examples: int = NUM_EXAMPLES,
    overwrite: bool = False,
    notify: Callable[[str], None] = lambda said: None,
) -> artefacts.PathLike:
    """Writes the page. It needs nothing else: no script, no font, no picture is fetched.

    Args:
        run_dirs: what `genrec train` wrote, opened or not, one or a list; several are compared, seeds of
            one setting averaged.
        output: the .html file to write; an earlier report there is replaced.
        paper_figures: a CSV file of published figures to stand beside ours, with the columns
            `paper,table,task,dataset,method,metric,value,note`.
        data: dataset name or fingerprint -> folder, where a dataset has moved since training.
        title: of the page; made from the runs' names when not given.
        num_examples: users to show for each evaluation.
        overwrite: replace a file that is no report, too.
        notify: told in one line of each run whose figures are not of its best checkpoint; the page says
            it too.

    Returns:
        The file written.

    Raises:
        UserError: no run dir, a broken metrics file, a CSV without the columns, or an output that
            is something else than a report.
    """
    run_dirs = [run_dirs] if isinstance(run_dirs, RunDir) else storage.listed(run_dirs)
    if not run_dirs:
        raise UserError("got no run dir; wanted one or more that `genrec train` wrote")
    target = storage.join(output)
    if storage.exists(target) and (storage.is_folder(target) or not overwrite):
        _check_replaceable(target)
    figures = report_papers.read_figures(paper_figures) if paper_figures is not None else ()
    runs = [
        read_run(path, name=name, data=data or {}, num_examples=num_examples)
        for path, name in zip(run_dirs, run_names(run_dirs), strict=True)
    ]
    page = render(runs, figures=figures, title=title)
    with artefacts.atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for said in checkpoint_alarms(runs):
        notify(said)
    return target


def checkpoint_alarms(runs: Sequence[RunView]) -> list[str]:
    """A sentence on each evaluation whose figures are not of its run's best checkpoint."""
    return [
        f"{run.name}, {view.metrics['dataset']['name']}: {view.checkpoint.alarm}"
        for run in runs
        for view in run.evaluations
        if view.checkpoint.alarm is not None
    ]


def run_names(run_dirs: Sequence[RunDir | artefacts.PathLike]) -> list[str]:
    """The shortest tails of the paths that tell the runs apart.

    Raises:
        UserError: one run dir was named twice.
    """
    run_dirs = [run.location if isinstance(run, RunDir) else run for run in run_dirs]
    parts = [
        tuple(os.fspath(path).rstrip("/").split("/"))
        if storage.is_remote(path)
        else pathlib.Path(path).resolve().parts
        for path in run_dirs
    ]
    if len(set(parts)) < len(parts):
        raise UserError("the same run dir was named twice; name each once")
    depth = 1
    while len({one[-depth:] for one in parts}) < len(parts):
        depth += 1
    return ["/".join(one[-depth:]) for one in parts]


def render(
    runs: Sequence[RunView],
    *,
    figures: Sequence[report_papers.Figure] = (),
    title: str | None = None,
) -> str:
    """The page as HTML text."""
    title = title or ("Report: " + ", ".join(run.name for run in runs))
    several = len(runs) > 1
    body: list[object] = [
        element("header", element("h1", title), _subtitle(runs)),
        *(report_sections.audit_warning(view) for run in runs for view in run.evaluations),
        *map(report_sections.checkpoint_warning, checkpoint_alarms(runs)),
    ]
    if several:
        body += [report_compare.comparison(runs), report_pairs.against_each_other(runs)]
    for number, run in enumerate(runs):
        content = _run(run, figures, salt=f"r{number}", level=3 if several else 2)
        body.append(
            element("section", element("h2", run.name), *content, class_="run", id=f"run-{number}")
            if several
            else join(content)
        )
    template = _resource("report.html")
    return string.Template(template).substitute(
        title=escape(title), style=_resource("report.css"), body=join(body)
    )


def _run(
    run: RunView, figures: Sequence[report_papers.Figure], *, salt: str, level: int
) -> list[Markup]:
    parts: list[Markup] = []
    for number, view in enumerate(run.evaluations):
        content = _evaluation(view, figures, salt=f"{salt}e{number}", level=level)
        if len(run.evaluations) > 1:
            name = view.metrics["dataset"]["name"]
            parts.append(section(name, *content, level=level))
        else:
            parts += content
    if not run.evaluations:
        said = (
            f"Not evaluated yet: run `genrec evaluate {run.run.location}`, then this report again."
        )
        parts.append(element("p", said, class_="alarm"))
    parts.append(report_training.training_section(run, salt=salt, level=level))
    parts.append(report_compare.other_evaluations(run, level=level))
    parts.append(report_training.settings_section(run, level=level))
    return parts


def _evaluation(
    view: EvaluationView, figures: Sequence[report_papers.Figure], *, salt: str, level: int
) -> list[Markup]:
    return [
        report_headline.headline(view, salt=salt, level=level),
        report_sections.facts(view),
        report_sections.results_tables(view, level=level),
        report_ratings.ratings_section(view, level=level),
        report_exact.exact_section(view, level=level),
        report_papers.beside_papers(view, figures, level=level),
        report_sections.comparisons(view, level=level),
        report_sections.examples_section(view, level=level),
        report_sections.audit_section(view, level=level),
    ]


def _check_replaceable(target: artefacts.PathLike) -> None:
    if not storage.is_folder(target) and MARK.encode() in storage.read_head(target, 4000):
        return
    raise UserError(
        "exists and is no report of genrec_jax; wanted a new file or an earlier report. Choose another"
        " --output, or pass --overwrite to replace the file",
        file=str(target),
    )


def _subtitle(runs: Sequence[RunView]) -> Markup:
    names = {name: None for run in runs for name in (entry.name for entry in run.run.datasets)}
    said = f"{', '.join(names)} · {len(runs)} run{'s' if len(runs) > 1 else ''} · genrec_jax"
    return element("p", said, class_="subtitle")


def _resource(name: str) -> str:
    return (
        importlib.resources.files("genrec_jax.evaluation")
        .joinpath(name)
        .read_text(encoding="utf-8")
    )
