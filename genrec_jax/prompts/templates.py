"""Prompt templates as data: reads and checks the TOML file, before rendering and compiling use it."""

import dataclasses
import pathlib
import re
import string
import tomllib
from typing import Any, Literal

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

Task = Literal["sequential", "straightforward"]
TASKS: tuple[Task, ...] = ("sequential", "straightforward")
OPENP5_TEMPLATES = pathlib.Path(__file__).parent / "openp5.toml"

_INPUT_SLOTS = {
    "sequential": {"dataset", "user_id", "history"},
    "straightforward": {"dataset", "user_id"},
}
_TARGET_SLOTS = {"dataset", "target"}
_FIELDS = {"id": str, "task": str, "seen": bool, "input": str, "target": str}


@dataclasses.dataclass(frozen=True)
class Template:
    """One prompt with its target.

    Attributes:
        id: the name results are reported under, such as `A1`.
        task: `sequential` (the prompt shows the history) or `straightforward` (it does not).
        seen: whether training draws it; the others are kept for evaluation.
        input: text with the slots `{dataset}`, `{user_id}` and, if sequential, `{history}`.
        target: text with the slots `{dataset}` and `{target}`.
    """

    id: str
    task: Task
    seen: bool
    input: str
    target: str


def load_templates(path: artefacts.PathLike | None = None) -> tuple[Template, ...]:
    """Reads a templates file; without a path, OpenP5's 22 templates.

    Args:
        path: a TOML file laid out like `openp5.toml`, which explains itself at its top.

    Raises:
        UserError: the file is missing, is not TOML, or a template breaks the rules; it names the
            line where it can.
    """
    file = OPENP5_TEMPLATES if path is None else pathlib.Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read ({error}); wanted a TOML file of prompt templates. Copy"
            f" {OPENP5_TEMPLATES} and edit the copy",
            file=str(file),
        ) from error
    return parse_templates(text, file=str(file))


def parse_templates(text: str, *, file: str = "templates") -> tuple[Template, ...]:
    """The templates in the text of a TOML file.

    Args:
        text: what the file holds; a run dir stores this text.
        file: the name that errors give.

    Raises:
        UserError: as `load_templates`.
    """
    try:
        content = tomllib.loads(text.removeprefix("\ufeff"))  # which some editors put first
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line (\d+)", str(error))
        raise UserError(
            f"is not TOML ({error}); compare it with {OPENP5_TEMPLATES}",
            file=file,
            line=int(place.group(1)) if place else None,
        ) from error
    rows = content.get("template")
    if not isinstance(rows, list) or not rows or set(content) != {"template"}:
        raise UserError(
            f"has the top-level entries {sorted(content)}; wanted one or more [[template]] tables and"
            f" nothing else. Compare it with {OPENP5_TEMPLATES}",
            file=file,
        )
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[", line)]
    if len(lines) != len(rows):
        lines = [None] * len(rows)
    templates: list[Template] = []
    for row, line in zip(rows, lines, strict=True):
        template = _parse_row(row, file, line)
        if any(template.id == other.id for other in templates):
            raise UserError(
                f"the id {template.id!r} is used twice; give each template its own",
                file=file,
                line=line,
            )
        if template.target.split() != (templates or [template])[0].target.split():
            raise UserError(
                f"template {template.id} has the target {template.target!r} and {templates[0].id} has"
                f" {templates[0].target!r}; wanted the same everywhere, because one trie serves them all",
                file=file,
                line=line,
            )
        templates.append(template)
    for task in TASKS:
        if select(templates, task=task) and not select(templates, task=task, seen=True):
            raise UserError(f"no {task} template has seen = true; training needs one", file=file)
    return tuple(templates)


def select(
    templates: tuple[Template, ...] | list[Template],
    *,
    task: Task | None = None,
    seen: bool | None = None,
) -> tuple[Template, ...]:
    """The templates of one task, or seen in training, or both, in file order."""
    return tuple(
        template
        for template in templates
        if (task is None or template.task == task) and (seen is None or template.seen == seen)
    )


def find(templates: tuple[Template, ...] | list[Template], template_id: str) -> Template:
    """The template of that id.

    Raises:
        UserError: there is none; it lists those there are.
    """
    for template in templates:
        if template.id == template_id:
            return template
    known = ", ".join(template.id for template in templates)
    raise UserError(f"there is no template {template_id!r}; wanted one of {known}")


def slots(text: str) -> list[str]:
    """The slot names in a template's text, in order.

    Raises:
        ValueError: unbalanced braces, or a slot with a conversion, an index or a format.
    """
    names = []
    for _, name, format_spec, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if not name.isidentifier() or format_spec or conversion:
            raise ValueError(f"the slot {{{name}}} is not a plain name")
        names.append(name)
    return names


def _parse_row(row: Any, file: str, line: int | None) -> Template:
    def fail(message: str) -> UserError:
        return UserError(message, file=file, line=line)

    name = row.get("id", "without an id")
    for field, kind in _FIELDS.items():
        if field not in row:
            raise fail(f"template {name} has no {field!r}; wanted {', '.join(_FIELDS)}")
        if type(row[field]) is not kind:
            raise fail(
                f"template {name}: {field} is {row[field]!r}; wanted a"
                f" {'true or false' if kind is bool else 'text in quotes'}"
            )
    if extra := sorted(set(row) - set(_FIELDS)):
        raise fail(f"template {name} has {extra[0]!r}; wanted only {', '.join(_FIELDS)}")
    if row["task"] not in TASKS:
        raise fail(f"template {name}: task is {row['task']!r}; wanted one of {', '.join(TASKS)}")
    if not row["id"] or re.search(r"[\s/]", row["id"]):
        raise fail(f"template id {name!r}; wanted a name without spaces and slashes")
    _check_slots(row, "input", _INPUT_SLOTS[row["task"]], fail)
    _check_slots(row, "target", _TARGET_SLOTS, fail)
    if row["task"] == "sequential" and slots(row["input"]).count("history") != 1:
        raise fail(f"template {name} is sequential; wanted {{history}} once in its input")
    if slots(row["target"]).count("target") != 1:
        raise fail(f"template {name}: wanted {{target}} once in its target")
    return Template(**row)


def _check_slots(row: dict[str, Any], field: str, allowed: set[str], fail: Any) -> None:
    choices = ", ".join(f"{{{slot}}}" for slot in sorted(allowed))
    try:
        found = slots(row[field])
    except ValueError as error:
        raise fail(
            f"template {row['id']}: {field} is not well formed ({error}); wanted the slots {choices}, and"
            " a literal brace written twice"
        ) from error
    if wrong := sorted(set(found) - allowed):
        raise fail(
            f"template {row['id']}: {field} has the slot {{{wrong[0]}}}; wanted, for a {row['task']}"
            f" template, {choices}"
        )
