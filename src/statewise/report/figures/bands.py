"""Bands over stretches of a record: one step ahead, and a forecast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from statewise.report.certainty import BandTrace
from statewise.report.figures.canvas import PALETTE, figure, legend
from statewise.report.figures.series import as_numbers, time_axis, value_axis
from statewise.report.markup import Html, join
from statewise.report.words import shorten, stamp

TITLES = {
    "worst": "One step ahead, worst stretch of the free run",
    "typical": "A forecast, typical stretch",
}


def bands(key: str, traces: Sequence[BandTrace], interval: float, caption: str) -> Html:
    """One panel for each stretch of an output, or for each state.

    Args:
        key: unique name of the figure.
        traces: the stretches.
        interval: percent that the bands should hold.
        caption: text below the figure.
    """
    entries = [("measured", "measured", "dot")] * any(
        np.isfinite(trace.measured).any() for trace in traces
    )
    entries += [("expected", "model", "line"), (f"{interval:g} % interval", "range", "band")]
    if any(trace.origin < len(trace.mean) for trace in traces):
        entries.append(("forecast from here", "muted", "dash"))

    def draw(drawing: Figure, wide: bool) -> None:
        shape = (1, len(traces)) if wide else (len(traces), 1)
        grid = drawing.subplots(*shape, squeeze=False)
        for axes, trace in zip(grid.flat, traces, strict=True):
            _panel(axes, trace)
            dates = trace.time.dtype.kind == "M"
            time_axis(axes, dates, trace.time_unit, most=6 if wide else 5)

    return figure(
        key,
        draw,
        wide=2.9,
        narrow=2.4 * len(traces),
        alt="; ".join(_alt(trace, interval) for trace in traces) + ".",
        caption=join([legend(entries), caption]),
    )


def _panel(axes: Axes, trace: BandTrace) -> None:
    time = as_numbers(trace.time)
    axes.fill_between(time, trace.lower, trace.upper, color=PALETTE["range"], lw=0)
    axes.plot(time, trace.mean, color=PALETTE["model"], lw=1.3)
    axes.plot(time, trace.measured, ".", color=PALETTE["measured"], ms=3.6)
    if trace.origin < len(time):
        at = float(time[max(trace.origin - 1, 0)])
        axes.axvline(at, color=PALETTE["muted"], lw=1.0, ls=(0, (4, 2)))
    if len(time) > 1:
        axes.set_xlim(float(time[0]), float(time[-1]))
    value_axis(axes)
    axes.set_ylabel(shorten(f"{trace.channel} [{trace.unit}]" if trace.unit else trace.channel))
    axes.set_title(TITLES.get(trace.kind, ""))


def _alt(trace: BandTrace, interval: float) -> str:
    known = np.isfinite(trace.measured)
    inside = known & (trace.measured >= trace.lower) & (trace.measured <= trace.upper)
    begin = stamp(trace.time[0], trace.time_unit)
    if not known.any():
        return f"{trace.channel} from {begin} with {interval:g} % intervals"
    return (
        f"{trace.channel} from {begin} with {interval:g} % intervals, "
        f"{int(inside.sum())} of {int(known.sum())} measurements inside"
    )
