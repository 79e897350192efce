"""``statewise papers``: the published systems, their claims, and the last verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from tyro.conf import arg

from statewise.cli.console import output, print_json
from statewise.cli.options import parse
from statewise.papers.registry import Paper, papers
from statewise.papers.results import Record, read_records

SUMMARY = "List the published systems inside, their claims, and the last verdicts."


@dataclasses.dataclass(frozen=True)
class PapersOptions:
    """Options of ``statewise papers``."""

    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(PapersOptions, arguments, "papers", SUMMARY)
    rows = [summary(paper) for paper in papers().values()]
    if options.json:
        print_json({"command": "papers", "papers": rows})
    else:
        _show(rows)


def summary(paper: Paper) -> dict[str, Any]:
    """One row of the table: how many claims hold, fail or were not measured, and the cost."""
    records = read_records(paper.name)
    verdicts = [verdict(records.get(claim.name), claim) for claim in paper.claims]
    return {
        "name": paper.name,
        "title": paper.title,
        "identifier": paper.identifier,
        "year": paper.year,
        "claims": len(paper.claims),
        "holds": verdicts.count("holds"),
        "fails": verdicts.count("fails"),
        "not measured": verdicts.count("not measured"),
        "seconds": sum(record.seconds for record in records.values()),
    }


def verdict(record: Record | None, claim: Any) -> str:
    """The word "holds", "fails" or "not measured"."""
    return "not measured" if record is None else record.verdict(claim)


def _show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = output()
    table = Table()
    table.add_column("paper", no_wrap=True)
    table.add_column("title")
    for name in ("year", "holds", "fails", "not measured", "cost"):
        table.add_column(name, justify="right")
    for row in rows:
        counts = [str(row[name] or "") for name in ("holds", "fails", "not measured")]
        cells = (row["name"], row["title"], str(row["year"]), *counts, duration(row["seconds"]))
        table.add_row(*map(Text, cells), style="red" if row["fails"] else None)
    console.print(table)
    total = {name: sum(row[name] for row in rows) for name in ("claims", "holds", "fails")}
    console.print(
        f"{len(rows)} papers, {total['claims']} claims: {total['holds']} hold, "
        f"{total['fails']} fail\nstatewise papers show NAME says what is claimed; "
        f"statewise papers check NAME measures it again",
        markup=False,
        soft_wrap=True,
    )


def duration(seconds: float) -> str:
    """A time in words, such as "40 s" or "3 min"."""
    if seconds == 0:
        return "–"
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.0f} min"
