"""Gain and phase of the model beside those of the data with their uncertainty."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from statewise.report.content import ResponseComparison
from statewise.report.figures.canvas import PALETTE, figure, legend, log_axis
from statewise.report.figures.response import frequency_label
from statewise.report.markup import Html, join
from statewise.report.words import shorten, tick

MAX_PAIRS = 6
#: The gain axis ends so far below its largest value.
_SPAN = 1e3


def response_comparison_figure(
    found: ResponseComparison, dt: float, unit: str, caption: str
) -> Html:
    """Bode diagrams, one for each input and output, at most six."""
    pairs = [(i, j) for i in range(len(found.outputs)) for j in range(len(found.inputs))]
    pairs = pairs[:MAX_PAIRS]

    def draw(drawing: Figure, wide: bool) -> None:
        across = min(3, len(pairs)) if wide else 1
        down = -(-len(pairs) // across)
        grid = drawing.subplots(2 * down, across, squeeze=False, height_ratios=[1.6, 1.0] * down)
        for axes in grid.flat:
            axes.set_axis_off()
        for index, (i, j) in enumerate(pairs):
            row, column = divmod(index, across)
            gain, phase = grid[2 * row, column], grid[2 * row + 1, column]
            for axes in (gain, phase):
                axes.set_axis_on()
            _pair(gain, phase, found, i, j, dt)
            phase.set_xlabel(frequency_label(unit))
            if column == 0:
                gain.set_ylabel("gain")
                phase.set_ylabel("phase [°]")

    rows = -(-len(pairs) // min(3, len(pairs)))
    entries = [
        ("data", "measured", "line"),
        ("uncertainty of the data (95 %)", "line", "band"),
        ("model", "model", "line"),
        ("model, linearised at the mean input", "second", "dash"),
    ]
    return figure(
        "response-comparison",
        draw,
        wide=0.2 + 4.1 * rows,
        narrow=0.2 + 3.9 * len(pairs),
        alt="Gain and phase over frequency of data and model: "
        + "; ".join(
            f"{found.inputs[j].name} to {found.outputs[i].name}, "
            f"{100 * float(found.inside[:, i, j].mean()):.0f} % of the frequencies agree"
            for i, j in pairs
        ),
        caption=join([legend(entries), caption]),
    )


def _pair(gain: Axes, phase: Axes, found: ResponseComparison, i: int, j: int, dt: float) -> None:
    frequency = found.omega / (2 * np.pi * dt)
    data, radius, model, linear = (
        values[:, i, j] for values in (found.data, found.radius, found.model, found.linearised)
    )
    size = np.abs(data)
    top = 1.6 * float(max((size + radius).max(), np.abs(model).max(), np.abs(linear).max()))
    drawn = np.concatenate([size, np.abs(model)])
    bottom = max(float(drawn.min()) / 2.5, top / _SPAN)
    gain.fill_between(
        frequency, np.maximum(size - radius, bottom), size + radius, color=PALETTE["line"], lw=0
    )
    gain.plot(frequency, size, color=PALETTE["measured"], lw=1.2)
    gain.plot(frequency, np.abs(linear), color=PALETTE["second"], lw=1.3, ls=(0, (5, 2)))
    gain.plot(frequency, np.abs(model), color=PALETTE["model"], lw=1.7)
    log_axis(gain, "y", bottom, top)
    source, sink = found.inputs[j], found.outputs[i]
    units = f" [{sink.unit or '1'} per {source.unit or '1'}]" if sink.unit or source.unit else ""
    gain.set_title(f"{shorten(source.name, 14)} to {shorten(sink.name, 14)}{units}")

    known = radius < size
    turn = np.where(known, np.degrees(np.angle(data)), np.nan)
    spread = np.degrees(np.arcsin(np.minimum(radius / np.maximum(size, 1e-300), 1.0)))
    # A band that passes ±180° goes on at the other edge.
    for shift in (-360.0, 0.0, 360.0):
        phase.fill_between(
            frequency, turn - spread + shift, turn + spread + shift, color=PALETTE["line"], lw=0
        )
    phase.plot(frequency, turn, ".", ms=4, color=PALETTE["measured"], mew=0)
    dashed = {"color": PALETTE["second"], "lw": 1.3, "ls": (0, (5, 2))}
    phase.plot(frequency, _broken(np.degrees(np.angle(linear))), **dashed)
    phase.plot(frequency, _broken(np.degrees(np.angle(model))), color=PALETTE["model"], lw=1.7)
    phase.set_ylim(-180, 180)
    phase.yaxis.set_major_locator(MultipleLocator(90))
    phase.yaxis.set_major_formatter(FuncFormatter(tick))
    for axes in (gain, phase):
        log_axis(axes, "x", frequency[0], frequency[-1], most=5)
    gain.set_xticklabels([])


def _broken(angle: np.ndarray) -> np.ndarray:
    """Angles in degrees without the jumps between −180 and 180."""
    jumps = np.abs(np.diff(angle, prepend=angle[:1])) > 180
    return np.where(jumps, np.nan, angle)
