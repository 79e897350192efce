"""The figure of ``statewise compare``: outputs over each other, and their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statewise.analysis._drawing import COLOURS, INK, legend, new_figure, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from statewise.data import Experiments

SHOWN = 600
"""Samples that are drawn at most."""
OUTPUTS = 3


def draw(runs: dict[str, list[np.ndarray]], records: Experiments, model: Any) -> Figure:
    """Measured and computed outputs of the longest record behind its initial state.

    Args:
        runs: outputs of every record by the name of the model.
        records: the measured records.
        model: an estimator with the names of the outputs.
    """
    index = max(range(len(records)), key=lambda k: len(records[k]))
    record = records[index]
    stop = min(len(record), record.skip + SHOWN)
    part = slice(record.skip, stop)
    time, count = record.times()[part], min(OUTPUTS, record.n_y)
    figure, grid = new_figure(2 * count, 1, width=9.5, height=2.4, sharex=True)
    for i in range(count):
        above, below = grid[2 * i, 0], grid[2 * i + 1, 0]
        measured = record.y[part, i]
        above.plot(time, measured, color=INK, lw=2.0, alpha=0.5, label="measured")
        for k, (name, outputs) in enumerate(runs.items()):
            colour = COLOURS[k % len(COLOURS)]
            dash = "-" if k < len(COLOURS) else "--"
            computed = outputs[index][part, i]
            above.plot(time, computed, color=colour, lw=1.0, ls=dash, label=name)
            below.plot(time, computed - measured, color=colour, lw=1.0, ls=dash)
        unit = f" [{model.output_units_[i]}]" if model.output_units_[i] else ""
        above.set_ylabel(f"{model.output_names_[i]}{unit}")
        below.set_ylabel(f"error{unit}")
        spread = float(np.nanstd(measured)) or 1.0
        low, high = np.nanmin(measured) - spread, np.nanmax(measured) + spread
        # A model that runs away must not hide the others.
        above.set_ylim(max(above.get_ylim()[0], low), min(above.get_ylim()[1], high))
        reach = min(float(np.abs(below.get_ylim()).max()), 3 * spread)
        below.set_ylim(-reach, reach)
        title(below, "Computed minus measured")
    whole = "" if stop == len(record) else f", samples {record.skip + 1}–{stop} of {len(record)}"
    title(grid[0, 0], f"Free run{whole}")
    legend(grid[0, 0], loc="upper left", bbox_to_anchor=(1.0, 1.0))
    grid[-1, 0].set_xlabel(f"time [{records.time_unit}]" if record.dt else "sample")
    return figure
