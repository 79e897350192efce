"""``statewise data describe``: say what a data file holds."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from statewise.cli.console import UsageError, output, print_json
from statewise.cli.options import parse

if TYPE_CHECKING:
    from statewise.data import FileDescription

SUMMARY = "Say what a data file holds: columns, time axis, gaps, likely roles."


@dataclasses.dataclass(frozen=True)
class DescribeOptions:
    """Options of ``statewise data describe``."""

    file: Annotated[str, Positional, arg(metavar="FILE")]
    """A CSV, Parquet, NPZ or MAT file."""
    separator: Annotated[str | None, arg(metavar="CHAR", help_behavior_hint="")] = None
    """Separator of a text file, when it is not found right."""
    decimal: Annotated[str | None, arg(metavar="CHAR", help_behavior_hint="")] = None
    """Decimal mark of a text file, when it is not found right."""
    json: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(DescribeOptions, arguments, "data describe", SUMMARY)
    from statewise.cli.source import is_file
    from statewise.data import describe_file

    if not is_file(options.file):
        raise UsageError(f"{options.file} is the name of a benchmark; expected a data file")
    found = describe_file(options.file, separator=options.separator, decimal=options.decimal)
    if options.json:
        print_json({"command": "data describe", **found.to_dict()})
    else:
        _show(found)


def _show(found: FileDescription) -> None:
    from rich.table import Table
    from rich.text import Text

    from statewise.cli.tables import number

    console = output()
    table = Table(
        title=Text(f"{found.path}: {found.format}, {found.rows} rows"),
        title_style="bold",
        title_justify="left",
    )
    for name in ("column", "kind", "unit"):
        table.add_column(name)
    for name in ("missing", "min", "mean", "max"):
        table.add_column(name, justify="right")
    problems = [one for one in found.columns if one.problem]
    for one in found.columns:
        values = (one.minimum, one.mean, one.maximum)
        cells = [v if isinstance(v, str) else "" if v is None else number(v) for v in values]
        mark = " !" if one.problem else ""
        row = (f"{one.name}{mark}", one.kind, one.unit, str(one.missing or ""), *cells)
        table.add_row(*map(Text, row))
    console.print(table)
    lines = [f"time     {found.time or 'no column'}: {found.sampling}"]
    if found.start:
        lines.append(f"start    {found.start}")
    lines.append(f"inputs   {', '.join(found.inputs) or 'none'}")
    lines.append(f"outputs  {', '.join(found.outputs) or 'none'}")
    lines += [f"! {one.name}: {one.problem}" for one in problems]
    lines += [f"note     {note}" for note in found.notes]
    if found.inputs and found.outputs:
        words = ["statewise", "fit", found.path, "--inputs", *found.inputs, "--outputs"]
        lines += ["", f"try      {shlex.join([*words, *found.outputs])}"]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
