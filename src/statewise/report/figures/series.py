"""Long series as short lines that look the same, and time axes."""

from __future__ import annotations

import matplotlib.dates as mdates
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from statewise.report.words import tick

Array = npt.NDArray[np.float64]


def ticks(count: int, *, integer: bool = False) -> MaxNLocator:
    """At most ``count`` intervals between round numbers."""
    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=integer)


def as_numbers(time: np.ndarray) -> Array:
    """A time axis as float64; dates as matplotlib's days."""
    if np.asarray(time).dtype.kind == "M":
        return np.asarray(mdates.date2num(time), np.float64)
    return np.asarray(time, np.float64)


def envelope(time: Array, values: Array, columns: int) -> tuple[Array, Array]:
    """Reduce a series to at most four points per column of pixels: first, lowest, highest, last.

    A line through these points covers the same pixels as one through all samples. A column without
    any number becomes one NaN, which breaks the line.

    Source: Jugel et al., M4: a visualization-oriented time series data aggregation, 2014.

    Args:
        time: (L,) increasing.
        values: (L,), NaN where missing.
        columns: number of columns.

    Returns:
        Times and values of the points kept.
    """
    if len(values) <= 4 * columns:
        return time, values
    span = time[-1] - time[0]
    column = np.minimum(((time - time[0]) / span * columns).astype(np.int64), columns - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    stops = np.append(starts[1:], len(values))
    keep: list[int] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        part = values[start:stop]
        numbers = np.flatnonzero(np.isfinite(part))
        if not len(numbers):
            keep.append(start)
            continue
        known = part[numbers]
        chosen = {0, len(known) - 1, int(np.argmin(known)), int(np.argmax(known))}
        keep += [start + int(numbers[index]) for index in sorted(chosen)]
    return time[keep], values[keep]


def time_axis(axes: Axes, dates: bool, unit: str, *, most: int) -> None:
    """Label the horizontal axis: dates, or numbers with their unit."""
    if dates:
        locator = mdates.AutoDateLocator(minticks=3, maxticks=most)
        # Some ranges between two units have no step that fits unless a whole next unit is one.
        locator.intervald[mdates.MONTHLY] = [1, 2, 3, 4, 6, 12]
        locator.intervald[mdates.HOURLY] = [1, 2, 3, 6, 12, 24]
        locator.intervald[mdates.MINUTELY] = [1, 5, 10, 15, 30, 60]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator, show_offset=False))
        return
    axes.xaxis.set_major_locator(ticks(most))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_xlabel(f"time [{unit}]" if unit and unit != "samples" else "sample")


def value_axis(axes: Axes, most: int = 5) -> None:
    """Plain tick labels on the vertical axis."""
    axes.yaxis.set_major_locator(ticks(most))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
