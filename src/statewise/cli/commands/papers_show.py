"""``statewise papers show``: what is claimed of a published system, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

from tyro.conf import Positional, arg

from statewise.cli.commands.papers import duration, verdict
from statewise.cli.console import output, print_json
from statewise.cli.options import parse
from statewise.cli.tables import number
from statewise.papers.registry import Claim, Paper, find_paper
from statewise.papers.results import Record, read_records

SUMMARY = "Say what is claimed of a published system, and what was measured last."


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """Options of ``statewise papers show``."""

    name: Annotated[str, Positional, arg(metavar="NAME")]
    """A paper as "statewise papers" names it."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ShowOptions, arguments, "papers show", SUMMARY)
    paper = find_paper(options.name)
    records = read_records(paper.name)
    if options.json:
        claims = [row(claim, records.get(claim.name)) for claim in paper.claims]
        print_json({"command": "papers show", **about(paper), "claims": claims})
        return
    console = output()
    console.print(paper.title, style="bold", markup=False)
    console.print(f"{paper.identifier}, {paper.year}\n\n{paper.says}", markup=False)
    console.print(f"here    {', '.join(paper.uses)}\n", markup=False)
    show_claims([(claim, records.get(claim.name)) for claim in paper.claims])


def about(paper: Paper) -> dict[str, Any]:
    """What is known of a paper, JSON-ready."""
    names = ("name", "title", "identifier", "year", "says", "uses")
    return {name: getattr(paper, name) for name in names}


def row(claim: Claim, record: Record | None) -> dict[str, Any]:
    """A claim and its record, JSON-ready."""
    found = None if record is None else dataclasses.asdict(record)
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "published": claim.published,
        "must": str(claim.must),
        "unit": claim.unit,
        "device": claim.device,
        "data": claim.data,
        "verdict": verdict(record, claim),
        "measured": found,
    }


def show_claims(found: Sequence[tuple[Claim, Record | None]]) -> None:
    """Print published | measured | verdict, claim by claim."""
    from rich.table import Table
    from rich.text import Text

    console = output()
    table = Table()
    for name in ("claim", "must be", "published", "measured", "verdict", "cost"):
        table.add_column(name, justify="left" if name in ("claim", "verdict") else "right")
    for claim, record in found:
        judged = verdict(record, claim)
        unit = f" {claim.unit}" if claim.unit else ""
        cells = (
            claim.name,
            f"{claim.must}{unit}",
            number(claim.published),
            "–" if record is None else number(record.value),
            judged,
            "–" if record is None else duration(record.seconds),
        )
        table.add_row(*map(Text, cells), style="red" if judged == "fails" else None)
    console.print(table)
    for claim, record in found:
        console.print(f"{claim.name}: {claim.statement}", markup=False)
        if record is not None:
            details = [f"{name} {number(value)}" for name, value in record.details.items()]
            runs = [f"{record.seeds} seeds"] if record.seeds > 1 else []
            where = [f"{record.machine}, {record.date}"]
            for line in ("; ".join([*runs, *details]), record.remark, *where):
                if line:
                    console.print(f"    {line}", markup=False, style="dim")
