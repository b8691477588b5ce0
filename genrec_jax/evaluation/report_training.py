"""The report's sections on training: learning curves, cost, and every setting of the run."""

from collections.abc import Mapping
from typing import Any

from genrec_jax.evaluation import report_plots
from genrec_jax.evaluation.report_data import RunView, curve
from genrec_jax.evaluation.report_html import Markup, definitions, element, section, table
from genrec_jax.evaluation.report_plots import Line, Panel
from genrec_jax.evaluation.report_sections import moment, system_title
from genrec_jax.progress import duration

HIT_RATIO = "hr@"


def training_section(run: RunView, *, salt: str, level: int) -> Markup:
    """Losses and validation hit ratio against the step, and what training cost."""
    names = dict.fromkeys(
        name for record in run.records if record.get("kind") == "validation" for name in record
    )
    losses = [name for name in names if name == "loss" or name.startswith("loss/")]
    ratios = [name for name in names if HIT_RATIO in name]
    if len(ratios) == 2:  # one template: its own curve is the mean's
        ratios = ratios[:1]
    reference = _reference(run)
    lines = [_line(run, "validation", name, name.replace("hr@", "HR@")) for name in ratios]
    if reference is not None and lines:
        steps = [step for line in lines for step in line.steps]
        if steps:
            ends = [min(steps), max(steps)]
            lines.append(Line(ends, [reference[1]] * 2, reference[0], dashed=True))
    areas = [_line(run, "validation", name, None) for name in names if name == "auc"]
    panels = [
        Panel(
            "Loss per target token",
            [
                _line(run, "train", "loss", "training"),
                *(_line(run, "validation", name, _loss_label(name)) for name in losses),
            ],
        ),
        Panel("Validation hit ratio", lines, from_zero=True),
        Panel("Validation AUC-ROC of ratings", areas),
    ]
    picture = report_plots.curves(panels, salt=f"{salt}c", caption="Learning curves.")
    return section("Training", picture, _cost(run), level=level)


def settings_section(run: RunView, *, level: int) -> Markup:
    """Everything in run.json that the run depends on."""
    manifest = run.run.manifest
    versions = ", ".join(f"{name} {value}" for name, value in manifest.get("versions", {}).items())
    summary = definitions(
        [
            ("Run dir", run.run.location),
            ("Commit", manifest.get("git_commit") or "not a checkout"),
            ("Started", moment(manifest.get("created"))),
            ("Versions", versions or None),
            ("Best checkpoint by", manifest.get("selection", {}).get("metric")),
            ("Training prompts cut", _cut(manifest.get("mixture", {}))),
        ]
    )
    rows = []
    for part in ("model", "mixture", "settings"):
        rows += [[f"{part}.{name}", value] for name, value in _flatten(manifest.get(part, {}))]
    made = table("Every setting", ["setting", "value"], rows, numbers_from=99)
    details = element("details", element("summary", f"All {len(rows)} settings"), made)
    return section("Settings", summary, details, level=level)


def _cut(mixture: dict[str, Any]) -> str | None:
    """The share of an epoch's prompts that lose their oldest items; None where that is not known."""
    shares = mixture.get("cut_shares")
    if shares is None:
        return None
    limit = f"to the limit of {mixture['max_input_length']:,} tokens"
    cut = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
    return f"{cut} lose oldest items {limit}" if cut else f"none lose items {limit}"


def _line(run: RunView, kind: str, name: str, label: str | None) -> Line:
    steps, values = curve(run.records, kind, name)
    return Line(steps, values, label)


def _loss_label(name: str) -> str:
    """`loss/sequential` as `validation, sequential`."""
    return ", ".join(["validation", *name.split("/")[1:]])


def _reference(run: RunView) -> tuple[str, float] | None:
    """The higher of the two transition floors, where a validation evaluation measured them."""
    for metrics in (*(view.metrics for view in run.evaluations), *run.others):
        floors = [
            (estimate["value"], system_title(system, metrics).lower())
            for system in ("transition", "transition_2")
            if system in metrics["systems"] and metrics["split"] == "validation"
            for estimate in [metrics["systems"][system]["seen_kept"].get("hr@10")]
            if estimate is not None
        ]
        if floors:
            value, name = max(floors)
            return name, value
    return None


def _cost(run: RunView) -> Markup:
    train = [record for record in run.records if record.get("kind") == "train"]
    if not train:
        return element("p", "No training record (metrics.jsonl) in the run dir.")
    last = train[-1]

    def mean(name: str) -> float | None:
        values = [record[name] for record in train if isinstance(record.get(name), int | float)]
        return sum(values) / len(values) if values else None

    padding, waiting, speed = map(
        mean, ("padding_share", "input_wait_share", "examples_per_second")
    )
    return definitions(
        [
            ("Steps", f"{last['step']:,}"),
            ("Training time", duration(last["seconds"]) if "seconds" in last else None),
            ("Examples seen", f"{last['examples']:,.0f}" if "examples" in last else None),
            ("Examples per second", None if speed is None else f"{speed:,.0f}"),
            ("Padding in batches", None if padding is None else f"{padding:.1%}"),
            ("Time waiting for input", None if waiting is None else f"{waiting:.1%}"),
        ]
    )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, str(value)))
    return found
