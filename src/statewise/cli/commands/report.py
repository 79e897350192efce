"""``statewise report``: write the report of a model again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from statewise._errors import DataError
from statewise.cli.console import UsageError, output, print_json
from statewise.cli.options import parse
from statewise.cli.source import Columns, Split

if TYPE_CHECKING:
    from statewise.data import Task

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
    task = _task(options, kept, model)
    ahead = options.ahead or tuple(kept.get("ahead", (1,)))
    target = Path(options.out).expanduser() if options.out else folder.path
    page = report_on(model, task, folder, found["command"], ahead, page=target)
    if options.json:
        print_json({"command": "report", "model": place, "report": page})
    else:
        output().print(f"report  {page}", markup=False, soft_wrap=True)


def _task(options: ReportOptions, kept: dict[str, Any], model: Any) -> Task:
    """The data and split of the fit, with what the options say instead."""
    from statewise.cli.source import load_task

    data = options.data or kept.get("file") or kept.get("data")
    if not data:
        raise UsageError(
            f"{options.model} does not say which data it was made of; give DATA as well"
        )
    if options.data is None and kept.get("file") and not Path(data).is_file():
        raise DataError(f"the data of the fit, {data}, are gone; give DATA as well")
    parts = []
    for part in (options.columns, options.split):
        given = dataclasses.asdict(part)
        fallen_back = {
            name: value if value is not None else _tuple(kept.get(name))
            for name, value in given.items()
        }
        parts.append(type(part)(**fallen_back))
    columns, split = parts
    if Path(data).is_file():
        columns = dataclasses.replace(
            columns,
            inputs=columns.inputs or model.input_names_,
            outputs=columns.outputs or model.output_names_,
        )
    washout = kept.get("training.washout", 0)
    return load_task(data, columns, split, washout=washout, valid=model.valid_fraction)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
