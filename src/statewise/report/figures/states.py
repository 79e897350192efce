"""Hankel singular values of the blocks, and the fit of reduced copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from statewise.report.content import LayerSummary, ReductionCurve
from statewise.report.figures.canvas import DASHES, PALETTE, SERIES, figure, legend, log_axis
from statewise.report.figures.series import ticks, value_axis
from statewise.report.markup import Html, join
from statewise.report.words import exact, number, split_name

MAX_BLOCKS = 12
#: Values are drawn down to this share of the largest.
_SPAN = 1e-6


def hankel_values(layers: Sequence[LayerSummary], caption: str) -> Html:
    """Hankel singular values, one line per block, at most twelve."""
    shown = [layer for layer in layers if len(layer.hankel)][:MAX_BLOCKS]
    largest = max(float(layer.hankel[0]) for layer in shown)

    def draw(drawing: Figure, wide: bool) -> None:
        axes = drawing.subplots()
        for index, layer in enumerate(shown):
            values = np.where(layer.hankel > _SPAN * largest, layer.hankel, np.nan)
            axes.plot(
                np.arange(1, len(values) + 1), values, marker="o", ms=3.6, mew=0, lw=1.0,
                color=PALETTE[SERIES[index % len(SERIES)]],
                ls=DASHES[(index // len(SERIES)) % len(DASHES)],
            )  # fmt: skip
        least = min(float(layer.hankel.min()) for layer in shown)
        log_axis(axes, "y", max(least, _SPAN * largest) / 1.6, 1.6 * largest)
        axes.set_xlim(0, 1 + max(len(layer.hankel) for layer in shown))
        axes.xaxis.set_major_locator(ticks(8 if wide else 5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(tick_integer))
        axes.set_xlabel("state, the most important first")
        axes.set_ylabel("Hankel singular value")

    entries = [
        (layer.name, SERIES[index % len(SERIES)], "dot") for index, layer in enumerate(shown)
    ]
    return figure(
        "hankel",
        draw,
        wide=3.0,
        narrow=2.7,
        alt="Hankel singular values: "
        + "; ".join(
            f"{layer.name} from {number(float(layer.hankel[0]), 3)} to "
            f"{number(float(layer.hankel[-1]), 3)}"
            for layer in shown
        ),
        caption=join([legend(entries), caption]),
    )


def reduction_figure(curve: ReductionCurve, caption: str) -> Html:
    """FIT of reduced copies against the states that they keep."""
    order = np.argsort(curve.states)
    states, fit = curve.states[order], curve.fit[order]
    floor = float(curve.fit[0]) - curve.tolerance

    def draw(drawing: Figure, wide: bool) -> None:
        axes = drawing.subplots()
        axes.axhline(floor, color=PALETTE["muted"], lw=0.9, ls=(0, (3, 2)))
        axes.plot(states, fit, "o-", color=PALETTE["model"], lw=1.4, ms=5, mew=0)
        enough = states == curve.enough
        axes.plot(states[enough], fit[enough], "o", color=PALETTE["second"], ms=7.5, mew=0)
        axes.set_xlim(0, 1.03 * float(states[-1]))
        axes.xaxis.set_major_locator(ticks(8 if wide else 5, integer=True))
        # A copy far worse than the mean of the data must not hide what the others do.
        known = fit[np.isfinite(fit)]
        low = max(float(known.min()), float(curve.fit[0]) - 60.0) if len(known) else floor
        span = max(float(known.max(initial=floor)) - low, 2 * curve.tolerance)
        axes.set_ylim(low - 0.08 * span, low + 1.1 * span)
        value_axis(axes)
        axes.set_xlabel("states kept")
        axes.set_ylabel("FIT [%]")

    entries = [
        ("reduced copy", "model", "dot"),
        ("smallest within the loss", "second", "dot"),
        (f"{exact(curve.tolerance)} point below the full model", "muted", "dash"),
    ]
    return figure(
        "reduction",
        draw,
        wide=2.8,
        narrow=2.6,
        alt=f"FIT on the {split_name(curve.split)} data against states kept: "
        + "; ".join(f"{n}: {number(float(f), 3)}" for n, f in zip(states, fit, strict=True)),
        caption=join([legend(entries), caption]),
    )


def tick_integer(value: float, _position: int | None = None) -> str:
    """A whole number as a tick label."""
    return f"{value:.0f}"
