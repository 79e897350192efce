"""``statewise papers check``: measure the claims of a published system."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from statewise.cli.commands.papers_show import about, row, show_claims
from statewise.cli.console import UsageError, output, print_json, say
from statewise.cli.options import parse
from statewise.papers.registry import Claim, Paper, Setting, find_paper, papers
from statewise.papers.results import Record, write_records

SUMMARY = (
    "Measure what is claimed of a published system: published, measured, verdict.\n\n"
    "The exit status is 0 when all measured claims hold, and 3 when one fails."
)


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Options of ``statewise papers check``."""

    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME", help_behavior_hint="")]
    """Papers as "statewise papers" names them, or all."""
    claim: Annotated[str | None, arg(metavar="CLAIM", help_behavior_hint="")] = None
    """Only this claim."""
    gpu: Annotated[bool, arg(help_behavior_hint="")] = False
    """Measure on the GPU, claims that need one too."""
    out: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Add what was found to NAME.json in this folder."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(CheckOptions, arguments, "papers check", SUMMARY)
    chosen = _chosen(options)
    from statewise.papers.run import UnmeasurableError, check_claim

    data = os.environ.get("STATEWISE_DATA")
    setting = Setting(
        device=_device(options.gpu), data=Path(data) if data else None, say=lambda line: say(line)
    )
    found: list[tuple[Paper, list[tuple[Claim, Record | None]]]] = []
    for paper, claims in chosen:
        pairs: list[tuple[Claim, Record | None]] = []
        for claim in claims:
            say(f"{paper.name}: {claim.name}")
            try:
                record = check_claim(claim, setting)
            except UnmeasurableError as reason:
                say(f"{paper.name}: {claim.name} is not measured: {reason}")
                pairs.append((claim, None))
                continue
            pairs.append((claim, record))
            if options.out is not None:
                write_records(paper.name, [record], options.out)
        found.append((paper, pairs))
    if options.json:
        rows = [about(p) | {"claims": [row(*pair) for pair in pairs]} for p, pairs in found]
        print_json({"command": "papers check", "papers": rows})
    else:
        for paper, pairs in found:
            output().print(f"{paper.name}: {paper.title}", style="bold", markup=False)
            show_claims(pairs)
    verdicts = [record.verdict(claim) for _, pairs in found for claim, record in pairs if record]
    if "fails" in verdicts:
        raise SystemExit(3)


def _chosen(options: CheckOptions) -> list[tuple[Paper, list[Claim]]]:
    if not options.names:
        raise UsageError("name a paper, or all (statewise papers lists them)")
    known = list(papers().values())
    chosen = known if "all" in options.names else [find_paper(name) for name in options.names]
    if options.claim is None:
        return [(paper, list(paper.claims)) for paper in chosen]
    if len(chosen) != 1:
        raise UsageError(f"--claim {options.claim} needs one paper; given {len(chosen)}")
    return [(chosen[0], [chosen[0].claim(options.claim)])]


def _device(gpu: bool) -> str:
    import torch

    if gpu and not torch.cuda.is_available():
        raise UsageError("--gpu was given, but torch sees no CUDA device here")
    return "cuda" if gpu else "cpu"
