"""The registry as pages of the documentation."""

from __future__ import annotations

import os
from pathlib import Path

from statewise._files import write_text
from statewise.papers.registry import Claim, Paper, papers
from statewise.papers.results import Record, read_records
from statewise.papers.survey_page import coverage_page


def write_pages(folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``index.md``, ``coverage.md`` and a page for each paper, in MyST Markdown.

    Args:
        folder: where to; it is made when it is not there. Other pages in it are removed.

    Returns:
        The paths that were written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    pages = {"index": _index(list(papers().values())), "coverage": coverage_page(papers())}
    pages |= {name: _page(paper) for name, paper in papers().items()}
    for old in target.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    written = []
    for name, text in pages.items():
        path = target / f"{name}.md"
        # An unchanged page keeps its date, so that it is not built again.
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        written.append(path)
    return written


def _index(known: list[Paper]) -> str:
    lines = [
        "# Published systems",
        "",
        "Every system below is inside Statewise, and each row counts the claims that judge it.",
        "`statewise papers` prints this table, `statewise papers check NAME` measures a system",
        "again on your machine, and a claim that fails stays in the table.",
        "",
        "| paper | title | year | holds | fails | not measured |",
        "|---|---|---|---|---|---|",
    ]
    for paper in known:
        records = read_records(paper.name)
        verdicts = [_verdict(claim, records.get(claim.name)) for claim in paper.claims]
        counts = [str(verdicts.count(word)) for word in ("holds", "fails", "not measured")]
        cells = [f"[{paper.name}]({paper.name}.md)", paper.title, str(paper.year), *counts]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "The [coverage map](coverage.md) says which architectures of the field are here."]
    contents = "\n".join(["coverage", *(f"{paper.name} <{paper.name}>" for paper in known)])
    lines += ["", "```{toctree}", ":hidden:", "", contents, "```", ""]
    return "\n".join(lines)


def _page(paper: Paper) -> str:
    records = read_records(paper.name)
    uses = ", ".join(f"`{name}`" for name in paper.uses)
    lines = [
        f"# {paper.title}",
        "",
        f"{paper.identifier}, {paper.year}. {paper.says}",
        "",
        f"Here: {uses}. Measured by `statewise papers check {paper.name}`.",
        "",
        "| claim | must be | published | measured | verdict |",
        "|---|---|---|---|---|",
    ]
    for claim in paper.claims:
        record = records.get(claim.name)
        unit = f" {claim.unit}" if claim.unit else ""
        measured = "–" if record is None else f"{record.value:.4g}"
        published = "–" if claim.published is None else f"{claim.published:g}"
        lines.append(
            f"| {claim.name} | {claim.must}{unit} | {published} | {measured} | "
            f"{_verdict(claim, record)} |"
        )
    for claim in paper.claims:
        lines += ["", f"**{claim.name}.** {_safe(claim.statement)}"]
        record = records.get(claim.name)
        if record is not None:
            lines += ["", *_found(record)]
    return "\n".join([*lines, ""])


def _found(record: Record) -> list[str]:
    parts = [f"{_safe(name)}: {value:.4g}" for name, value in record.details.items()]
    runs = [f"{record.seeds} seeds"] if record.seeds > 1 else []
    lines = ["; ".join([*runs, *parts]), _safe(record.remark)]
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    lines.append(f"{record.date}, {record.machine}, {record.seconds:.3g} s; {versions}")
    return [f"- {line}" for line in lines if line]


def _verdict(claim: Claim, record: Record | None) -> str:
    return "not measured" if record is None else record.verdict(claim)


def _safe(text: str) -> str:
    """Text in which bars, stars and dollars stand for themselves."""
    for sign in "|*$_<":
        text = text.replace(sign, f"\\{sign}")
    return text
