"""The figures of ``filter``, ``smooth`` and ``forecast``: one stretch of one record, with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from statewise.analysis._drawing import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from statewise.data import Experiments, Record
    from statewise.estimators.bands import Bands
    from statewise.estimators.observed import Observed

SHOWN = 400
"""Samples that are drawn at most."""
AROUND = 2
"""Lengths of a gap or forecast that are drawn before it, at least :data:`LEAST` samples."""
LEAST = 30


def draw_stretch(
    out: str,
    model: Observed,
    parts: Mapping[str, Experiments],
    bands: Mapping[str, Sequence[Bands]],
    what: str,
) -> None:
    """Bands of the longest record behind its initial state."""
    part, record, one = _longest(parts, bands)
    samples = slice(record.skip, min(len(record), record.skip + SHOWN))
    _save(out, _figure(model, parts[part], record, one, samples, what))


def draw_gap(
    out: str,
    model: Observed,
    parts: Mapping[str, Experiments],
    bands: Mapping[str, Sequence[Bands]],
) -> None:
    """Bands around the longest gap, or of the longest record where there is none."""
    from statewise.cli.commands.smooth import longest_gap

    found = []
    for name, part in parts.items():
        for record, one in zip(part, bands[name], strict=True):
            for k in range(record.n_y):
                first, length = longest_gap(np.isnan(record.y[:, k]))
                found.append((length, first, name, record, one))
    length, first, name, record, one = max(found, key=lambda item: item[0])
    if length == 0:
        draw_stretch(out, model, parts, bands, "smoothed")
        return
    margin = max(AROUND * length, LEAST)
    samples = slice(max(first - margin, 0), min(first + length + margin, first + SHOWN))
    _save(out, _figure(model, parts[name], record, one, samples, "smoothed"))


def draw_forecast(
    out: str, model: Observed, part: Experiments, record: Record, one: Bands, origin: int
) -> None:
    """A forecast with the bands one step ahead before it.

    Args:
        out: the file.
        model: the estimator.
        part: the records that it is one of.
        record: past and future, with all that was measured.
        one: bands over it.
        origin: samples that the forecast was given.
    """
    margin = max(AROUND * (len(record) - origin), LEAST)
    samples = slice(max(origin - margin, 0), len(record))
    figure = _figure(model, part, record, one, samples, "forecast")
    time = _time(record)
    for axes in figure.axes:
        axes.axvline(time[origin - 1], color=MUTED, lw=1.0, ls=(0, (4, 2)))
    axes = figure.axes[0]
    place = axes.get_xaxis_transform()
    axes.text(
        time[origin - 1], 0.96, " forecast", transform=place, color=INK, fontsize=8.5, va="top"
    )
    _save(out, figure)


def _longest(
    parts: Mapping[str, Experiments], bands: Mapping[str, Sequence[Bands]]
) -> tuple[str, Record, Bands]:
    found = [
        (name, record, one)
        for name, part in parts.items()
        for record, one in zip(part, bands[name], strict=True)
    ]
    return max(found, key=lambda item: len(item[1]))


def _figure(
    model: Observed, part: Experiments, record: Record, one: Bands, samples: slice, what: str
) -> Figure:
    from matplotlib import dates

    time = _time(record)
    units = [f" [{unit}]" if unit else "" for unit in model.output_units_]
    labels = [f"{name}{unit}" for name, unit in zip(model.output_names_, units, strict=True)]
    labels[0] = f"{labels[0]}, {what}"
    figure = one.plot(record.y, outputs=labels, samples=samples, time=time)
    axes = figure.axes[-1]
    if time.dtype.kind == "M":
        locator = dates.AutoDateLocator(minticks=3, maxticks=8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    else:
        timed = record.t is not None or record.dt is not None
        axes.set_xlabel(f"time [{part.time_unit}]" if timed and part.time_unit else "sample")
    return figure


def _time(record: Record) -> np.ndarray:
    dates = record.dates()
    return record.times() if dates is None else dates


def _save(out: str, figure: Figure) -> None:
    from statewise._files import atomic_write

    path = Path(out).expanduser()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:].lower())
