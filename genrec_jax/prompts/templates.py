"""Prompt templates as data: reads and checks the TOML file, before rendering and compiling use it."""

import dataclasses
import pathlib
import re
import string
import tomllib
from collections.abc import Sequence
from typing import Any, Literal

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

Task = Literal[
    "sequential", "straightforward", "retrieval", "ranking", "rating", "mim", "mlm", "bpr", "ie"
]
TASKS: tuple[Task, ...] = ("sequential", "straightforward")
"""OpenP5's tasks."""

ALIGNMENT_TASKS: tuple[Task, ...] = ("retrieval", "ranking", "rating", "mim", "mlm", "bpr", "ie")
"""The alignment system's tasks; the first three are evaluated."""

SEARCHED_TASKS: tuple[Task, ...] = ("sequential", "straightforward", "retrieval")
"""Tasks whose answer is an item, looked for in the whole catalogue."""

LISTING_TASKS: tuple[Task, ...] = ("ranking", "rating", "mim", "mlm", "bpr", "ie")
"""Tasks whose prompts hold more than a user and a history."""

EVALUATED_TASKS: tuple[Task, ...] = ("retrieval", "ranking", "rating")
ITEM_FIELDS = ("title", "categories", "brand", "price", "description")

OPENP5_TEMPLATES = pathlib.Path(__file__).parent / "openp5.toml"
ALIGNMENT_TEMPLATES = pathlib.Path(__file__).parent / "alignment.toml"

# For each task the slots of its input and target: (allowed, of which needed exactly once).
_INPUT_SLOTS: dict[str, tuple[set[str], set[str]]] = {
    "sequential": ({"dataset", "user_id", "history"}, {"history"}),
    "straightforward": ({"dataset", "user_id"}, set()),
    "retrieval": ({"dataset", "history"}, {"history"}),
    "ranking": ({"dataset", "history", "candidates"}, {"history", "candidates"}),
    "rating": ({"dataset", "likes", "dislikes", "item"}, {"item"}),
    "mim": ({"dataset", "window"}, {"window"}),
    "mlm": ({"dataset", "window"}, {"window"}),
    "bpr": ({"dataset", "history", "choices"}, {"history", "choices"}),
    "ie": ({"dataset", "item_id"}, {"item_id"}),
}
_TARGET_SLOTS: dict[str, tuple[set[str], set[str]]] = {
    **dict.fromkeys(
        ("sequential", "straightforward", "retrieval", "ranking"),
        ({"dataset", "target"}, {"target"}),
    ),
    "rating": ({"answer"}, {"answer"}),
    "mim": ({"masked"}, {"masked"}),
    "mlm": ({"spans"}, {"spans"}),
    "bpr": ({"chosen"}, {"chosen"}),
    "ie": ({"value"}, {"value"}),
}
_SLOT_WORD = re.compile(r"\S*\{[^}]*\}\S*")
_ONE_TRIE = ("sequential", "straightforward", "retrieval", "ranking")
_FIELDS = {"id": str, "task": str, "seen": bool, "input": str, "target": str}
_OPTIONAL_FIELDS = {"shows": int, "field": str, "words": int}


@dataclasses.dataclass(frozen=True)
class ItemTexts:
    """How the prompts of one file write items: its `[texts]`. The defaults are OpenP5's.

    Attributes:
        item: one item, with the slots `{item_id}` and, if wanted, `{title}`.
        item_untitled: an item that has no title.
        after_item: follows every item of a list.
        between_items: stands between two items of a list; white space at both ends.
        between_candidates: stands between two candidates, which are ids alone.
        masked_item: stands in the place of a masked item.
        like: the answer for an item that the user likes.
        dislike: the answer for one that the user does not.
    """

    item: str = "{item_id}"
    item_untitled: str = "{item_id}"
    after_item: str = ""
    between_items: str = " , "
    between_candidates: str = ", "
    masked_item: str = "[masked item]"
    like: str = "yes"
    dislike: str = "no"


@dataclasses.dataclass(frozen=True)
class Template:
    """One prompt with its target.

    Attributes:
        id: the name results are reported under, such as `A1`.
        task: what it asks for: `sequential` (the prompt shows the history), `straightforward` (it does
            not), or one of `ALIGNMENT_TASKS`.
        seen: whether training draws it; the others are kept for evaluation.
        input: text with slots; the files of templates list those of each task.
        target: likewise.
        shows: items of the history that it shows at most; None: as many as the run does.
        field: what an `ie` prompt asks of an item, one of `ITEM_FIELDS`.
        words: of an `ie` answer, at most; None: all.
        texts: how items are written.
    """

    id: str
    task: Task
    seen: bool
    input: str
    target: str
    shows: int | None = None
    field: str | None = None
    words: int | None = None
    texts: ItemTexts = ItemTexts()


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
    if not isinstance(rows, list) or not rows or not set(content) <= {"template", "texts"}:
        raise UserError(
            f"has the top-level entries {sorted(content)}; wanted one or more [[template]] tables, if"
            f" need be [texts], and nothing else. Compare it with {OPENP5_TEMPLATES}",
            file=file,
        )
    texts = _parse_texts(content.get("texts", {}), file)
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[", line)]
    if len(lines) != len(rows):
        lines = [None] * len(rows)
    templates: list[Template] = []
    for row, line in zip(rows, lines, strict=True):
        template = _parse_row(row, texts, file, line)
        if any(template.id == other.id for other in templates):
            raise UserError(
                f"the id {template.id!r} is used twice; give each template its own",
                file=file,
                line=line,
            )
        first = next((t for t in templates if t.task in _ONE_TRIE), template)
        if template.task in _ONE_TRIE and template.target.split() != first.target.split():
            raise UserError(
                f"template {template.id} has the target {template.target!r} and {first.id} has"
                f" {first.target!r}; wanted the same everywhere, because one trie serves them all",
                file=file,
                line=line,
            )
        templates.append(template)
    for task in (*TASKS, *ALIGNMENT_TASKS):
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


def rating_wordings(templates: Sequence[Template]) -> tuple[tuple[Template, ...], ...]:
    """The rating prompts that are asked together, a triple for each wording, seen ones first.

    A triple's first template shows likes and dislikes, the others are for histories without dislikes and
    without likes: of their kind those that stand in the file at the first one's place, or the last. Seen
    templates go with seen ones, unseen with unseen.
    """
    found = []
    for seen in (True, False):
        of_kind: dict[tuple[bool, bool], list[Template]] = {}
        for template in select(list(templates), task="rating", seen=seen):
            shown = slots(template.input)
            of_kind.setdefault(("likes" in shown, "dislikes" in shown), []).append(template)
        both, *single = (
            of_kind.get(kind, []) for kind in ((True, True), (True, False), (False, True))
        )
        if all(single):
            for place, template in enumerate(both):
                others = (kind[min(place, len(kind) - 1)] for kind in single)
                found.append((template, *others))
    return tuple(found)


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


def vocabulary_lines(templates: Sequence[Template]) -> list[str]:
    """The words that prompts have whatever they are filled with, for a vocabulary to be trained on.

    Args:
        templates: those of one file.

    Returns:
        lines of the templates' own words and of what joins items. A word that holds a slot is left out
        but for what it has beyond ASCII, all of which a vocabulary that is trained here has anyway.
    """

    def beyond_ascii(text: str) -> str:
        return " ".join(re.findall(r"[^\x00-\x7f]+", text))

    texts = templates[0].texts
    written = [text for template in templates for text in (template.input, template.target)]
    written += [texts.item, texts.item_untitled, texts.masked_item + texts.after_item]
    written += [texts.like, texts.dislike]
    written += [beyond_ascii(texts.between_candidates)]
    lines = [_SLOT_WORD.sub(lambda word: f" {beyond_ascii(word[0])} ", text) for text in written]
    lines = [line for line in lines if line.strip()]
    separator = texts.between_items.strip()
    if separator and not any(separator in line.split() for line in lines):
        lines.append(separator)
    return lines


def show_titles(templates: Sequence[Template]) -> bool:
    """Whether prompts of one file, or their answers, have items' titles in them."""
    asked = any(template.field == "title" for template in templates)
    return asked or "title" in slots(templates[0].texts.item)


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


def _parse_texts(table: Any, file: str) -> ItemTexts:
    known = {field.name for field in dataclasses.fields(ItemTexts)}
    if not isinstance(table, dict) or set(table) - known:
        raise UserError(
            f"[texts] has {sorted(table)}; wanted only {', '.join(sorted(known))}", file=file
        )
    if wrong := [name for name, text in table.items() if not isinstance(text, str)]:
        raise UserError(
            f"[texts]: {wrong[0]} is {table[wrong[0]]!r}; wanted a text in quotes", file=file
        )
    texts = ItemTexts(**table)
    for name, allowed in (("item", {"item_id", "title"}), ("item_untitled", {"item_id"})):
        try:
            found = slots(getattr(texts, name))
        except ValueError as error:
            raise UserError(f"[texts]: {name} is not well formed ({error})", file=file) from error
        if set(found) - allowed or found.count("item_id") != 1:
            raise UserError(
                f"[texts]: {name} has the slots {found}; wanted {{item_id}} once"
                + (" and, if you like, {title}" if "title" in allowed else ""),
                file=file,
            )
    if texts.between_items.strip() == texts.between_items or not (
        texts.between_items[0].isspace() and texts.between_items[-1].isspace()
    ):
        raise UserError(
            f"[texts]: between_items is {texts.between_items!r}; wanted white space at both ends. Put"
            " what is written right after an item in after_item",
            file=file,
        )
    if not texts.between_candidates[-1:].isspace():
        raise UserError(
            f"[texts]: between_candidates is {texts.between_candidates!r}; wanted white space at its end",
            file=file,
        )
    return texts


def _parse_row(row: Any, texts: ItemTexts, file: str, line: int | None) -> Template:
    def fail(message: str) -> UserError:
        return UserError(message, file=file, line=line)

    name = row.get("id", "without an id")
    for field, kind in (_FIELDS | _OPTIONAL_FIELDS).items():
        if field not in row:
            if field in _OPTIONAL_FIELDS:
                continue
            raise fail(f"template {name} has no {field!r}; wanted {', '.join(_FIELDS)}")
        if type(row[field]) is not kind:
            wanted = {bool: "true or false", int: "whole number"}.get(kind, "text in quotes")
            raise fail(f"template {name}: {field} is {row[field]!r}; wanted a {wanted}")
        if kind is int and row[field] < 1:
            raise fail(f"template {name}: {field} is {row[field]}; wanted at least 1")
    if extra := sorted(set(row) - set(_FIELDS) - set(_OPTIONAL_FIELDS)):
        raise fail(f"template {name} has {extra[0]!r}; wanted only {', '.join(_FIELDS)}")
    if row["task"] not in _INPUT_SLOTS:
        raise fail(
            f"template {name}: task is {row['task']!r}; wanted one of {', '.join(_INPUT_SLOTS)}"
        )
    if not row["id"] or re.search(r"[\s/]", row["id"]):
        raise fail(f"template id {name!r}; wanted a name without spaces and slashes")
    _check_slots(row, "input", _INPUT_SLOTS, fail)
    _check_slots(row, "target", _TARGET_SLOTS, fail)
    if row["task"] == "rating" and not {"likes", "dislikes"} & set(slots(row["input"])):
        raise fail(f"template {name}: wanted {{likes}}, {{dislikes}} or both in its input")
    if (row["task"] == "ie") != ("field" in row) or row.get("field", "title") not in ITEM_FIELDS:
        raise fail(
            f"template {name}: field is {row.get('field')!r}; wanted, for an ie template alone, one of"
            f" {', '.join(ITEM_FIELDS)}"
        )
    return Template(**row, texts=texts)


def _check_slots(
    row: dict[str, Any], field: str, rules: dict[str, tuple[set[str], set[str]]], fail: Any
) -> None:
    allowed, needed = rules[row["task"]]
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
    for slot in sorted(needed):
        if found.count(slot) != 1:
            raise fail(
                f"template {row['id']} is {row['task']}; wanted {{{slot}}} once in its {field}"
            )
