"""Measured against simulated: the whole record, the error, and two stretches seen closely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from statewise.report.content import Trace
from statewise.report.figures.canvas import PALETTE, figure, legend
from statewise.report.figures.series import as_numbers, envelope, time_axis, value_axis
from statewise.report.markup import Html, join
from statewise.report.stretches import Stretch
from statewise.report.words import number, shorten, stamp

COLUMNS = {True: 720, False: 300}


def overview(
    key: str,
    trace: Trace,
    method: str,
    found: Sequence[Stretch],
    caption: str,
    other: str | None = None,
) -> Html:
    """The whole record with the error below, and the stretches beside each other.

    Args:
        key: unique name of the figure.
        trace: measured and simulated output.
        method: the identified model.
        found: the stretches to zoom on.
        caption: text below the figure.
        other: a baseline to draw in the stretches as well.
    """
    compared = other if other in trace.simulated and found else None
    entries = [("measured", "measured", "line"), (method, "model", "line")]
    if compared is not None:
        entries.append((compared, "second", "dash"))
    if trace.skip:
        entries.append(("sets the initial state, not scored", "line", "band"))
    entries += [
        (f"{stretch.kind} stretch", "worst" if stretch.kind == "worst" else "band", "band")
        for stretch in found
    ]

    def draw(drawing: Figure, wide: bool) -> None:
        _draw(drawing, wide, trace, method, found, compared)

    zooms = len(found)
    return figure(
        key,
        draw,
        wide=3.5 + (2.5 if zooms else 0),
        narrow=3.7 + 2.2 * zooms,
        alt=_alt(trace, method, found),
        caption=join([legend(entries), caption]),
    )


def _draw(
    drawing: Figure,
    wide: bool,
    trace: Trace,
    method: str,
    found: Sequence[Stretch],
    other: str | None,
) -> None:
    zooms = len(found)
    rows: list[Any]
    if wide:
        rows = [["all"] * 2, ["error"] * 2]
        rows += [[stretch.kind for stretch in found] * (3 - zooms)] if zooms else []
        heights = [2.3, 0.9] + [2.4] * bool(zooms)
    else:
        rows = [["all"], ["error"], *([stretch.kind] for stretch in found)]
        heights = [2.2, 1.0] + [2.1] * zooms
    panels = drawing.subplot_mosaic(rows, height_ratios=heights)
    time = as_numbers(trace.time)
    dates = trace.time.dtype.kind == "M"
    columns = COLUMNS[wide]
    _whole(panels["all"], time, trace, method, found, columns)
    _error(panels["error"], time, trace, method, found, columns)
    panels["error"].sharex(panels["all"])
    panels["all"].tick_params(labelbottom=False)
    time_axis(panels["error"], dates, trace.time_unit, most=9 if wide else 5)
    for stretch in found:
        axes = panels[stretch.kind]
        _zoom(axes, time, trace, method, other, stretch)
        time_axis(axes, dates, trace.time_unit, most=6 if wide else 5)
    drawing.align_ylabels([panels["all"], panels["error"]])


def _whole(
    axes: Axes,
    time: np.ndarray,
    trace: Trace,
    method: str,
    found: Sequence[Stretch],
    columns: int,
) -> None:
    _shade(axes, time, trace.skip, found)
    measured = np.asarray(trace.measured, np.float64)
    axes.plot(*envelope(time, measured, columns), color=PALETTE["measured"], lw=1.0)
    simulated = np.asarray(trace.simulated.get(method, np.full(len(time), np.nan)), np.float64)
    axes.plot(*envelope(time, simulated, columns), color=PALETTE["model"], lw=0.9)
    _limits(axes, time)
    _range(axes, [measured, simulated[trace.skip :]])
    value_axis(axes)
    axes.set_ylabel(shorten(trace.label))
    axes.set_title("Whole record")


def _error(
    axes: Axes,
    time: np.ndarray,
    trace: Trace,
    method: str,
    found: Sequence[Stretch],
    columns: int,
) -> None:
    _shade(axes, time, trace.skip, found)
    axes.axhline(0, color=PALETTE["muted"], lw=0.6)
    if method in trace.simulated:
        error = trace.errors(method)
        axes.plot(*envelope(time, error, columns), color=PALETTE["model"], lw=0.8)
        _range(axes, [error])
    value_axis(axes, 4)
    axes.set_ylabel("error")


def _zoom(
    axes: Axes,
    time: np.ndarray,
    trace: Trace,
    method: str,
    other: str | None,
    stretch: Stretch,
) -> None:
    place = slice(stretch.first, stretch.stop)
    lines = [np.asarray(trace.measured[place], np.float64)]
    axes.plot(time[place], lines[0], color=PALETTE["measured"], lw=1.6)
    if other is not None:
        lines.append(np.asarray(trace.simulated[other][place], np.float64))
        axes.plot(time[place], lines[-1], color=PALETTE["second"], lw=1.1, ls=(0, (4, 2)))
    lines.append(np.asarray(trace.simulated[method][place], np.float64))
    axes.plot(time[place], lines[-1], color=PALETTE["model"], lw=1.4)
    _limits(axes, time[place])
    _range(axes, lines)
    value_axis(axes)
    axes.set_ylabel(shorten(trace.label))
    unit = f" {trace.unit}" if trace.unit else ""
    axes.set_title(f"{stretch.kind.capitalize()} stretch: RMSE {number(stretch.rmse, 3)}{unit}")


def _shade(axes: Axes, time: np.ndarray, skip: int, found: Sequence[Stretch]) -> None:
    if skip:
        axes.axvspan(time[0], time[skip], color=PALETTE["line"], alpha=0.4, lw=0)
    for stretch in found:
        colour = PALETTE["worst" if stretch.kind == "worst" else "band"]
        axes.axvspan(time[stretch.first], time[stretch.stop - 1], color=colour, lw=0)


def _limits(axes: Axes, time: np.ndarray) -> None:
    if len(time) > 1:
        axes.set_xlim(float(time[0]), float(time[-1]))


def _range(axes: Axes, lines: Sequence[np.ndarray]) -> None:
    """Vertical limits that ignore what is not finite."""
    values = np.concatenate(lines)
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    axes.set_ylim(low - margin, high + margin)


def _alt(trace: Trace, method: str, found: Sequence[Stretch]) -> str:
    record = f" of record {trace.record}" if trace.record else ""
    text = (
        f"{trace.channel} measured and simulated by {method} over {len(trace.time)} samples"
        f"{record}, with the error below"
    )
    zooms = [
        f"{stretch.kind} stretch from {stamp(trace.time[stretch.first], trace.time_unit)}, "
        f"RMSE {number(stretch.rmse, 3)} {trace.unit}".rstrip()
        for stretch in found
    ]
    return "; ".join([text, *zooms]) + "."
