"""Residual correlations with their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from statewise.report.figures.canvas import PALETTE, figure, legend
from statewise.report.figures.series import ticks
from statewise.report.markup import Html, join
from statewise.report.words import shorten, tick

MAX_PANELS = 12


def correlations(key: str, tests: Sequence[Any], titles: Sequence[str], caption: str) -> Html:
    """One panel of stems per residual test, at most twelve.

    Args:
        key: unique name of the figure.
        tests: objects with ``lags``, ``values`` and ``bounds``.
        titles: title of each panel.
        caption: text below the figure.
    """
    tests, titles = tests[:MAX_PANELS], titles[:MAX_PANELS]

    def draw(drawing: Figure, wide: bool) -> None:
        across = _across(len(tests)) if wide else 1
        down = -(-len(tests) // across)
        grid = drawing.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(tests):
                axes.set_axis_off()
                continue
            _stems(axes, tests[index], titles[index])
            if index + across >= len(tests) or wide:
                axes.set_xlabel("lag [samples]")

    across = _across(len(tests))
    colours = [
        ("inside the bounds", "measured", "line"),
        ("outside", "second", "line"),
        ("bounds", "band", "band"),
    ]
    return figure(
        key,
        draw,
        wide=0.2 + 2.35 * -(-len(tests) // across),
        narrow=0.2 + 1.85 * len(tests),
        alt="Correlation at each lag: "
        + "; ".join(
            f"{title}: {int(np.sum(_outside(test)))} of {len(test.lags)} lags outside the bounds"
            for title, test in zip(titles, tests, strict=True)
        ),
        caption=join([legend(colours), caption]),
    )


def _across(count: int) -> int:
    """Panels in a row of the wide variant: four where that fills the rows better than three."""
    return 4 if count in (4, 7, 8) or count > 9 else min(3, count)


def _outside(test: Any) -> np.ndarray:
    """Where a correlation is out of bounds; lag 0 of an autocorrelation is always 1."""
    lags, values = np.asarray(test.lags), np.asarray(test.values, np.float64)
    own = not hasattr(test, "input")
    with np.errstate(invalid="ignore"):
        return (np.abs(values) > np.asarray(test.bounds, np.float64)) & ~(own & (lags == 0))


def _stems(axes: Axes, test: Any, title: str) -> None:
    lags = np.asarray(test.lags, np.float64)
    values = np.asarray(test.values, np.float64)
    bounds = np.asarray(test.bounds, np.float64)
    shown = lags != 0 if not hasattr(test, "input") else np.ones(len(lags), bool)
    lags, values, bounds = lags[shown], values[shown], bounds[shown]
    axes.fill_between(lags, -bounds, bounds, color=PALETTE["band"], lw=0, step="mid")
    axes.axhline(0, color=PALETTE["muted"], lw=0.6)
    outside = _outside(test)[shown]
    for where, colour in ((~outside, "measured"), (outside, "second")):
        stems = np.full((int(where.sum()), 3), np.nan)
        stems[:, 0], stems[:, 1] = 0.0, values[where]
        axes.plot(
            np.repeat(lags[where], 3),
            stems.ravel(),
            color=PALETTE[colour],
            lw=2.0,
            solid_capstyle="round",
        )
    largest = np.nanmax(np.abs(np.concatenate([values, bounds, [0.05]])))
    axes.set_ylim(-1.15 * largest, 1.15 * largest)
    axes.xaxis.set_major_locator(ticks(6, integer=True))
    axes.yaxis.set_major_locator(ticks(5))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_title(shorten(title, 26))
