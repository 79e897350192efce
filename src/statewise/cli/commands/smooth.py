"""``statewise smooth``: fill the gaps of a measured record with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise.cli.banded import (
    BandOptions,
    about_noise,
    check_files,
    deliver_bands,
    held_out,
    open_observed,
    percent,
    table_console,
    tell_calibration,
)
from statewise.cli.options import parse

if TYPE_CHECKING:
    from rich.console import Console

    from statewise.data import Experiments
    from statewise.estimators.bands import Bands
    from statewise.estimators.noise_model import NoiseModel
    from statewise.estimators.observed import Observed

SUMMARY = """\
Fill the gaps of a measured record, with bands.

Measurements on both sides of a gap and the inputs inside it are used.
"""


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(BandOptions, arguments, "smooth", SUMMARY)
    check_files(options)
    model, noise, records = open_observed(options)
    parts = records.parts
    bands = {name: model.smooth(part, interval=options.interval) for name, part in parts.items()}
    rows = _gaps(model, noise, parts, bands, options.interval)
    if options.plot is not None:
        from statewise.cli.bands_figure import draw_gap

        draw_gap(options.plot, model, parts, bands)
    if deliver_bands(options, "smooth", model, parts, bands, {"rows": rows, **about_noise(noise)}):
        console = table_console(options)
        _show(console, rows, options.interval)
        tell_calibration(console, noise, rows)
        if not any(row["missing"] for row in rows):
            console.print("there are no gaps to fill", style="italic", markup=False)


def _gaps(
    model: Observed,
    noise: NoiseModel,
    parts: Mapping[str, Experiments],
    bands: Mapping[str, Sequence[Bands]],
    interval: float,
) -> list[dict[str, Any]]:
    """One row per part and output: what is missing, and how wide the bands there are."""
    rows = []
    for name, part in parts.items():
        for k, channel in enumerate(model.output_names_):
            missing = [np.isnan(record.y[:, k]) for record in part]
            widths = [
                (one.upper - one.lower)[gone, k]
                for one, gone in zip(bands[name], missing, strict=True)
            ]
            width, count = np.concatenate(widths), sum(int(gone.sum()) for gone in missing)
            longest = max(longest_gap(gone)[1] for gone in missing)
            reach = (longest + 1) // 2
            rows.append(
                {
                    "part": name,
                    "output": channel,
                    "unit": model.output_units_[k],
                    "measured": part.n_samples - count,
                    "missing": count,
                    "longest_gap": longest,
                    "width": float(np.median(width)) if count else None,
                    "held_out": held_out(noise.coverage_inside, k, interval, reach)
                    if count
                    else None,
                }
            )
    return rows


def longest_gap(missing: np.ndarray) -> tuple[int, int]:
    """Where the longest run of True begins, and its length; (0, 0) without one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(int)))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(begins):
        return 0, 0
    at = int(np.argmax(lengths))
    return int(begins[at]), int(lengths[at])


def _show(console: Console, rows: Sequence[dict[str, Any]], interval: float) -> None:
    from rich.table import Table
    from rich.text import Text

    from statewise.cli.tables import number

    for name in dict.fromkeys(row["part"] for row in rows):
        title = f"{name}: gaps filled, {100 * interval:g} % bands"
        console.print(title, style="bold", markup=False)
        table = Table()
        table.add_column("output")
        held = ["held out [%]"] * any(row["held_out"] is not None for row in rows)
        for head in ("measured", "missing", "longest gap", "width in gaps", *held):
            table.add_column(Text(head), justify="right")
        for row in rows:
            if row["part"] == name:
                unit = row["unit"] if row["missing"] and row["unit"] else ""
                width = f"{number(row['width'])} {unit}".rstrip()
                cells = [row["output"], f"{row['measured']}", f"{row['missing']}"]
                cells += [f"{row['longest_gap']}", width]
                table.add_row(*map(Text, [*cells, percent(row["held_out"])][: 5 + len(held)]))
        console.print(table)
