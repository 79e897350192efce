"""Poles of the linear systems: in the unit disc, and as time constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from statewise.report.content import LayerSummary
from statewise.report.figures.canvas import PALETTE, figure, legend, log_axis
from statewise.report.markup import Html, join
from statewise.report.words import number, unit_words

MAX_DISCS = 12


def unit_discs(layers: Sequence[LayerSummary], caption: str) -> Html:
    """One unit disc per block, at most twelve."""
    layers = layers[:MAX_DISCS]

    def draw(drawing: Figure, wide: bool) -> None:
        across = min(4 if wide else 2, max(len(layers), 2))
        down = -(-len(layers) // across)
        grid = drawing.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index < len(layers):
                _disc(axes, layers[index])
            else:
                axes.set_axis_off()

    wide_across = min(4, max(len(layers), 2))
    wide_rows, narrow_rows = -(-len(layers) // wide_across), -(-len(layers) // 2)
    entries = [("pole", "model", "dot")]
    if any(layer.paired for layer in layers):
        entries.append(("its conjugate", "sixth", "dot"))
    return figure(
        "poles",
        draw,
        wide=0.1 + wide_rows * min(9.8 / wide_across, 3.2) * 1.08,
        narrow=0.1 + narrow_rows * 2.35,
        alt="Poles in the unit disc: "
        + "; ".join(
            f"{layer.name}: {len(layer.eigenvalues)} poles, largest modulus "
            f"{number(float(np.max(np.abs(layer.eigenvalues))), 4)}"
            for layer in layers
        ),
        caption=join([legend(entries), caption]),
    )


def time_constants(layers: Sequence[LayerSummary], caption: str) -> Html:
    """Time constants of all blocks on one logarithmic axis, one row per block."""

    def draw(drawing: Figure, wide: bool) -> None:
        axes = drawing.subplots()
        _rows(axes, layers, wide)

    unit = unit_words(layers[0].time_unit)
    height = 0.75 + 0.42 * len(layers)
    return figure(
        "time-constants",
        draw,
        wide=height,
        narrow=height + 0.1,
        alt=f"Time constants in {unit}, one row per block: "
        + "; ".join(
            f"{layer.name} from {number(float(np.min(layer.time_constants)), 3)} to "
            f"{number(float(np.max(layer.time_constants)), 3)}"
            for layer in layers
        ),
        caption=join(
            [
                legend([("oscillates", "second", "dot"), ("decays smoothly", "model", "dot")]),
                caption,
            ]
        ),
    )


def _disc(axes: Axes, layer: LayerSummary) -> None:
    axes.add_patch(Circle((0, 0), 1.0, fill=False, ec=PALETTE["muted"], lw=0.9))
    for radius in (0.25, 0.5, 0.75):
        axes.add_patch(Circle((0, 0), radius, fill=False, ec=PALETTE["line"], lw=0.5))
    axes.axhline(0, color=PALETTE["line"], lw=0.5)
    axes.axvline(0, color=PALETTE["line"], lw=0.5)
    poles = np.asarray(layer.eigenvalues)
    size = 4.2 if len(poles) <= 64 else 2.6
    if layer.paired:
        axes.plot(poles.real, -poles.imag, "o", ms=size, mfc="none", mec=PALETTE["sixth"], mew=0.9)
    axes.plot(poles.real, poles.imag, "o", ms=size, color=PALETTE["model"], mew=0, alpha=0.85)
    reach = max(1.08, 1.05 * float(np.max(np.abs(poles))))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.grid(False)
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1], ["−i", "0", "i"])
    axes.set_xticklabels(["−1", "0", "1"])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(layer.name.capitalize())


def _rows(axes: Axes, layers: Sequence[LayerSummary], wide: bool) -> None:
    finite = []
    for row, layer in enumerate(layers):
        tau, smooth = layer.time_constants, layer.damping >= 0.95
        known = np.isfinite(tau) & (tau > 0)
        finite.append(tau[known])
        for where, colour in ((known & ~smooth, "second"), (known & smooth, "model")):
            place = np.full(int(where.sum()), row)
            axes.plot(tau[where], place, "o", ms=5.5, color=PALETTE[colour], mew=0, alpha=0.7)
    values = np.concatenate([*finite, [layers[0].dt]])
    log_axis(axes, "x", 0.5 * float(values.min()), 2 * float(values.max()))
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_yticks(range(len(layers)), [layer.name for layer in layers])
    axes.axvline(layers[0].dt, color=PALETTE["muted"], lw=0.8, ls=(0, (3, 2)))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    unit = unit_words(layers[0].time_unit)
    axes.set_xlabel(f"time constant [{unit}]" + ("; dashed: sampling interval" if wide else ""))
