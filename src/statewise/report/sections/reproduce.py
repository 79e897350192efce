"""How to make the result again."""

from __future__ import annotations

from typing import Any

from statewise.report.content import ReportData
from statewise.report.markup import Html, el, section
from statewise.report.words import number


def reproduce_section(data: ReportData) -> Html:
    """Command, versions, seed, and further notes."""
    command = None
    if data.command:
        command = el("pre", el("code", data.command), tabindex="0")
    facts = {"report made": data.created.replace("T", " "), **data.environment}
    items = [el("div", el("dt", key), el("dd", _value(value))) for key, value in facts.items()]
    notes = [el("li", note) for note in data.notes]
    return section(
        "reproduce",
        "Make it again",
        command,
        el("dl", *items, cls="facts"),
        el("h3", "Notes") if notes else None,
        el("ul", *notes) if notes else None,
    )


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return number(value, 6) if isinstance(value, float) else str(value)
