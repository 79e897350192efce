"""``statewise report``: write the report of a model again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise.cli.console import UsageError, output, print_json
from statewise.cli.options import parse
from statewise.cli.source import Columns, Split

SUMMARY = """\
Judge a model on its data again and write its report.

A folder of fit knows its data and split; any other model needs DATA.
"""


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Options of ``statewise report``."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """The folder that fit wrote, or a saved model."""
    data: Annotated[str | None, Positional, arg(metavar="[DATA]", help_behavior_hint="")] = None
    """A file, "fulda", or a benchmark, instead of the data of the fit."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: beside it)")] = None
    """Folder or .html file for the report."""
    ahead: Annotated[tuple[int, ...] | None, arg(metavar="K ...", help_behavior_hint="")] = None
    """Also score predictions so many steps ahead."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""
    columns: Annotated[Columns, OmitArgPrefixes] = dataclasses.field(default_factory=Columns)
    split: Annotated[Split, OmitArgPrefixes] = dataclasses.field(default_factory=Split)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(ReportOptions, arguments, "report", SUMMARY)
    from statewise.cli.folder import RunFolder, find_model, load_estimator
    from statewise.cli.identify import report_on
    from statewise.cli.using import task_of
    from statewise.estimators import SystemIdentifier

    place = find_model(options.model)
    model = load_estimator(options.model)
    if not isinstance(model, SystemIdentifier):
        raise UsageError(
            f"{options.model} holds a {type(model).__name__}, which has no report; "
            "statewise evaluate scores it"
        )
    folder = RunFolder(place.parent if place.name == "model" else place)
    found = folder.read() or {"settings": {}, "command": f"statewise report {options.model}"}
    kept = found["settings"]
    task = task_of(options.model, kept, model, options.data, options.columns, options.split)
    ahead = options.ahead or tuple(kept.get("ahead", (1,)))
    target = Path(options.out).expanduser() if options.out else folder.path
    page = report_on(model, task, folder, found["command"], ahead, page=target)
    if options.json:
        print_json({"command": "report", "model": place, "report": page})
    else:
        output().print(f"report  {page}", markup=False, soft_wrap=True)
