"""Builds the report's HTML from Python values; whatever is not markup already is escaped."""

import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already. Everything else that gets into a page is escaped."""

    __slots__ = ()


ABSENT = Markup("&ndash;")
VOID = frozenset({"br", "col", "hr", "meta"})


def escape(value: object) -> Markup:
    """A value as HTML text; markup stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One element, such as `element("td", "a < b", class_="number")`.

    Args:
        tag: its name.
        children: contents; None is left out, what is not `Markup` is escaped.
        attributes: an underscore at the end is dropped, others become hyphens; None is left out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """Parts one after the other; None is left out."""
    return Markup(separator.join(escape(part) for part in parts if part is not None))


def interval(low: float, high: float) -> Markup:
    """Two ends of an interval, with a dash between them."""
    return join([f"{low:.4f}", f"{high:.4f}"], "&ndash;")


def section(title: str, *children: object, id_: str | None = None, level: int = 2) -> Markup:
    """A section under a heading; nothing when it has no content."""
    content = [child for child in children if child]
    if not content:
        return Markup("")
    return element("section", element(f"h{level}", title), *content, id=id_)


def table(
    caption: str,
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    row_classes: Sequence[str | None] = (),
    numbers_from: int = 1,
) -> Markup:
    """A table whose first column heads the rows; wide ones scroll on their own.

    Args:
        caption: what it shows; read out before it.
        header: the columns' names.
        rows: one sequence of cells a row.
        row_classes: a CSS class for each row, or None.
        numbers_from: the first column that holds numbers, aligned right.
    """

    def css(column: int) -> str | None:
        return "number" if column >= numbers_from else None

    heads = [
        element("th", cell, scope="col", class_=css(column)) for column, cell in enumerate(header)
    ]
    body = []
    for place, row in enumerate(rows):
        cells = [
            element("td", cell, class_=css(column)) if column else element("th", cell, scope="row")
            for column, cell in enumerate(row)
        ]
        body.append(
            element("tr", *cells, class_=row_classes[place] if place < len(row_classes) else None)
        )
    if not body:
        return Markup("")
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
    )
    return element("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)


def definitions(entries: Iterable[tuple[str, object]]) -> Markup:
    """Names and values as a description list; entries of None are left out."""
    pairs = [
        element("div", element("dt", name), element("dd", value))
        for name, value in entries
        if value is not None
    ]
    return element("dl", *pairs) if pairs else Markup("")
