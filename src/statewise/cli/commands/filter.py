"""``statewise filter``: bands one step ahead, corrected by every measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from statewise.cli.banded import (
    BandOptions,
    about_noise,
    check_files,
    deliver_bands,
    open_observed,
    percent,
    shares,
    table_console,
    tell_calibration,
)
from statewise.cli.console import UsageError
from statewise.cli.options import parse

if TYPE_CHECKING:
    from rich.console import Console

SUMMARY = """\
Predict every sample of a measured record with a band.

Outputs before t and inputs until t give the band at t; empty cells are missing.
"""


@dataclasses.dataclass(frozen=True)
class FilterOptions(BandOptions):
    """Options of ``statewise filter``."""

    adapt: Annotated[float, arg(metavar="RATE")] = 0.0
    """Widen bands that miss too often and narrow others, such as 0.05; 0 leaves them."""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(FilterOptions, arguments, "filter", SUMMARY)
    check_files(options)
    if not 0 <= options.adapt < 1:
        raise UsageError(f"--adapt is a rate of at least 0 and below 1; given {options.adapt:g}")
    model, noise, records = open_observed(options)
    parts = records.parts
    bands = {
        name: model.filter(part, interval=options.interval, adapt=options.adapt)
        for name, part in parts.items()
    }
    rows = shares(model, noise, parts, bands, options.interval)
    if options.plot is not None:
        from statewise.cli.bands_figure import draw_stretch

        draw_stretch(options.plot, model, parts, bands, "one step ahead")
    if deliver_bands(options, "filter", model, parts, bands, {"rows": rows, **about_noise(noise)}):
        console = table_console(options)
        _show(console, rows, options.interval)
        tell_calibration(console, noise, rows)


def _show(console: Console, rows: Sequence[dict[str, Any]], interval: float) -> None:
    from rich.table import Table
    from rich.text import Text

    from statewise.cli.tables import number

    for name in dict.fromkeys(row["part"] for row in rows):
        title = f"{name}: {100 * interval:g} % bands one step ahead"
        console.print(title, style="bold", markup=False)
        table = Table()
        table.add_column("output")
        held = ["held out [%]"] * any(row["held_out"] is not None for row in rows)
        for head in ("measured", "inside [%]", *held, "usual width", "errors white"):
            table.add_column(Text(head), justify="right")
        for row in rows:
            if row["part"] == name:
                width = f"{number(row['width'])} {row['unit'] or ''}".rstrip()
                cells = [row["output"], f"{row['measured']}", percent(row["inside"])]
                cells += [percent(row["held_out"])] if held else []
                table.add_row(*map(Text, [*cells, width, _white(row["white_p"])]))
        console.print(table)


def _white(p: float | None) -> str:
    if p is None:
        return "–"
    figure = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{'yes' if p >= 0.01 else 'no'}, {figure}"
