"""HTML as nested calls; every text that is not already markup is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

VOID = frozenset({"br", "hr", "meta", "img", "col"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(value: Any) -> Html:
    """Turn a value into markup; an :class:`Html` stays as it is."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(printable(str(value)), quote=True))


def printable(text: str) -> str:
    """Text without control characters and lone surrogates, which no page may hold."""
    kept = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text)
    return kept.encode("utf-8", "replace").decode("utf-8")


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Put pieces one after another; None is left out."""
    return Html(escape(between).join(escape(part) for part in parts if part is not None))


def el(name: str, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: tag name.
        *children: markup, text to escape, or None to leave out.
        **attributes: ``cls`` becomes ``class``, an underscore becomes a hyphen; None and False are
            left out, True stands alone.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
        written.append(f" {label}" if value is True else f' {label}="{escape(str(value))}"')
    opening = f"<{name}{''.join(written)}>"
    if name in VOID:
        return Html(opening)
    return Html(f"{opening}{join(children)}</{name}>")


def table(
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str,
    numeric: Iterable[int] = (),
    cls: str = "",
) -> Html:
    """A table in its own scrolling container; the first cell of a row is its header.

    Args:
        head: column headers.
        rows: cells.
        caption: said to screen readers and shown above.
        numeric: columns aligned as numbers.
        cls: class of the table.
    """
    right = set(numeric)
    header = el(
        "tr",
        *(
            el("th", cell, scope="col", cls="num" if index in right else None)
            for index, cell in enumerate(head)
        ),
    )
    body = [
        el(
            "tr",
            *(
                el(
                    "td" if index else "th",
                    cell,
                    scope=None if index else "row",
                    cls="num" if index in right else None,
                )
                for index, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    return scroll(
        el(
            "table",
            el("caption", caption),
            el("thead", header),
            el("tbody", *body),
            cls=cls or None,
        ),
        caption,
    )


def scroll(content: Html, label: str) -> Html:
    """A container that scrolls sideways by itself; the keyboard reaches it."""
    return el("div", content, cls="scroll", tabindex="0", role="region", aria_label=label)


def section(key: str, title: str, *children: Any) -> Html:
    """A section of the page with its heading."""
    heading = el("h2", title, id=f"{key}-title")
    return el("section", heading, *children, id=key, aria_labelledby=f"{key}-title")
