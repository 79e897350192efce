"""The training curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from statewise.report.figures.canvas import PALETTE, figure, legend, log_axis
from statewise.report.figures.series import envelope, ticks, value_axis
from statewise.report.markup import Html, join
from statewise.report.words import number, tick


def column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One column of the training log, NaN where a row lacks it."""
    values = [row.get(name) for row in history]
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)


def training_curve(history: Sequence[Mapping[str, Any]], caption: str) -> Html:
    """Training and validation loss over the steps, with the best validation marked."""
    step, loss, valid = (column(history, name) for name in ("step", "loss", "valid"))
    # Steps that are missing or start anew give way to the row number.
    numbered = np.isfinite(step).all() and (np.diff(step) >= 0).all()
    if not numbered:
        step = np.arange(1.0, len(history) + 1)
    entries = [("training loss", "measured", "line")]
    if np.isfinite(valid).any():
        entries += [
            ("validation error in free run", "model", "line"),
            ("best validation", "second", "dot"),
        ]

    def draw(drawing: Figure, wide: bool) -> None:
        axes = drawing.subplots()
        columns = 600 if wide else 250
        axes.plot(*envelope(step, loss, columns), color=PALETTE["measured"], lw=0.9)
        known = np.isfinite(valid)
        if known.any():
            axes.plot(step[known], valid[known], color=PALETTE["model"], lw=1.6)
            best = int(np.flatnonzero(known)[np.argmin(valid[known])])
            axes.plot(step[best], valid[best], "o", ms=6.5, color=PALETTE["second"], mew=0)
        drawn = np.concatenate([loss, valid])
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn) and (drawn > 0).all():
            low, high = float(drawn.min()), float(drawn.max())
            log_axis(axes, "y", low / 1.3, high * 1.3)
        else:
            value_axis(axes)
        axes.xaxis.set_major_locator(ticks(7 if wide else 4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(tick))
        axes.set_xlabel("step" if numbered else "row of the log")
        axes.set_ylabel("loss, error")

    finite = loss[np.isfinite(loss)]
    ends = f" from {number(finite[0], 3)} to {number(finite[-1], 3)}" if len(finite) else ""
    return figure(
        "training",
        draw,
        wide=2.7,
        narrow=2.5,
        alt=f"Training loss{ends} over {len(history)} logged steps.",
        caption=join([legend(entries), caption]),
    )
