"""How the training went."""

from __future__ import annotations

import numpy as np

from statewise.report.content import ReportData
from statewise.report.figures.training import column, training_curve
from statewise.report.markup import Html, section
from statewise.report.words import count, number


def training_section(data: ReportData) -> Html | None:
    """The training curve, or None without a log."""
    if not data.history:
        return None
    valid, step = column(data.history, "valid"), column(data.history, "step")
    caption = "Loss over the training steps."
    if np.isfinite(valid).any():
        best = int(np.nanargmin(valid))
        at = f" at step {count(int(step[best]))}" if np.isfinite(step[best]) else ""
        caption = (
            f"Loss over the training steps. The lowest validation error is {number(valid[best])}"
            f"{at}."
        )
    seconds = column(data.history, "seconds")
    if np.isfinite(seconds).any():
        caption += f" The log spans {number(float(np.nanmax(seconds)), 3)} seconds."
    return section("training", "Training", training_curve(data.history, caption))
