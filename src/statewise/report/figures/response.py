"""Frequency responses on a physical axis, of the blocks and of the whole model; steady states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from statewise.report.content import Channel, LayerSummary, PathSummary
from statewise.report.figures.canvas import DASHES, PALETTE, SERIES, figure, legend, log_axis
from statewise.report.figures.series import ticks
from statewise.report.markup import Html, join
from statewise.report.words import shorten, tick, unit_word, unit_words

#: Decibels are not used: a gain is a ratio of units that a reader can check.
_SPAN = 1e4
MAX_PANELS = 6


def frequency_label(unit: str) -> str:
    """Axis label of a frequency in cycles per unit of time."""
    if unit == "s":
        return "frequency [Hz]"
    return f"frequency [cycles per {unit_word(unit)}]"


def layer_responses(layers: Sequence[LayerSummary], caption: str) -> Html:
    """Singular values of every block's linear system over frequency."""
    shown = layers[:12]

    def draw(drawing: Figure, wide: bool) -> None:
        across = min(3 if wide else 1, len(shown))
        down = -(-len(shown) // across)
        grid = drawing.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(shown):
                axes.set_axis_off()
                continue
            layer = shown[index]
            frequency = layer.omega / (2 * np.pi * layer.dt)
            values = layer.singular_values
            axes.fill_between(frequency, values[:, -1], values[:, 0], color=PALETTE["band"], lw=0)
            axes.plot(frequency, values[:, -1], color=PALETTE["sixth"], lw=0.8)
            axes.plot(frequency, values[:, 0], color=PALETTE["model"], lw=1.6)
            log_axis(axes, "x", frequency[0], frequency[-1])
            _gain_axis(axes, [one.singular_values for one in shown])
            axes.set_title(layer.name.capitalize())
            if wide or index == len(shown) - 1:
                axes.set_xlabel(frequency_label(layer.time_unit))
            if index % across == 0:
                axes.set_ylabel("gain")

    across = min(3, len(shown))
    entries = [
        ("largest singular value", "model", "line"),
        ("smallest", "sixth", "line"),
        ("all others", "band", "band"),
    ]
    return figure(
        "layer-response",
        draw,
        wide=0.3 + 2.5 * -(-len(shown) // across),
        narrow=0.3 + 1.9 * len(shown),
        alt="Gain of the linear system of each block over frequency: "
        + "; ".join(
            f"{layer.name} peaks at {layer.singular_values[:, 0].max():.3g}" for layer in shown
        ),
        caption=join([legend(entries), caption]),
    )


def path_response(path: PathSummary, dt: float, unit: str, caption: str) -> Html:
    """Gain from every input to each output, linearised at the mean input."""
    outputs = path.outputs[:MAX_PANELS]
    names = [channel.name for channel in path.inputs]

    def draw(drawing: Figure, wide: bool) -> None:
        panels = _panels(drawing, len(outputs), wide)
        frequency = path.omega / (2 * np.pi * dt)
        for index, (axes, channel) in enumerate(zip(panels, outputs, strict=False)):
            for source in range(len(names)):
                gain = path.gain[:, index, source]
                axes.plot(frequency, gain, lw=1.5, **_look(source))
            log_axis(axes, "x", frequency[0], frequency[-1])
            _gain_axis(axes, [path.gain[:, index]])
            if wide or index == len(outputs) - 1:
                axes.set_xlabel(frequency_label(unit))
            axes.set_ylabel(f"gain to {shorten(channel.name)}")
            if len(outputs) == 1:
                _period_axis(axes, frequency, unit)

    return figure(
        "path-response",
        draw,
        wide=_wide_height(len(outputs)),
        narrow=0.3 + 2.3 * len(outputs),
        alt=f"Gain over frequency from {', '.join(names)} to "
        f"{', '.join(channel.name for channel in outputs)}, linearised at the mean input.",
        caption=join([_input_legend(path, outputs), caption]),
    )


def steady_curves(path: PathSummary, caption: str) -> Html:
    """Output at rest for constant inputs: one panel per input."""
    shown = range(min(len(path.inputs), MAX_PANELS))
    outputs = path.outputs[: len(SERIES)]

    def draw(drawing: Figure, wide: bool) -> None:
        across = min(4 if wide else 2, max(len(shown), 2))
        down = -(-len(shown) // across)
        grid = drawing.subplots(down, across, squeeze=False)
        moves = [np.ptp(path.steady[index]) for index in shown]
        for index, axes in enumerate(grid.flat):
            if index >= len(shown):
                axes.set_axis_off()
                continue
            channel = path.inputs[index]
            for out in range(len(outputs)):
                axes.plot(path.levels[index], path.steady[index, :, out], lw=1.6, **_look(out))
            # A curve that hardly moves stays visibly flat beside one that does.
            steady = path.steady[index][:, : len(outputs)]
            reach = max(float(np.ptp(steady)), 0.4 * float(max(moves)), 1e-12)
            middle = 0.5 * (float(steady.min()) + float(steady.max()))
            axes.set_ylim(middle - 0.56 * reach, middle + 0.56 * reach)
            if np.isfinite(channel.mean):
                axes.axvline(channel.mean, color=PALETTE["muted"], lw=0.8, ls=(0, (3, 2)))
            axes.set_xlabel(shorten(channel.label, 22))
            axes.xaxis.set_major_locator(ticks(4))
            axes.yaxis.set_major_locator(ticks(5))
            axes.xaxis.set_major_formatter(FuncFormatter(tick))
            axes.yaxis.set_major_formatter(FuncFormatter(tick))
            if index % across == 0:
                label = outputs[0].label if len(outputs) == 1 else "outputs"
                axes.set_ylabel(shorten(label))

    wide_rows = -(-len(shown) // min(4, max(len(shown), 2)))
    entries = [
        (channel.name, SERIES[index % len(SERIES)], "line") for index, channel in enumerate(outputs)
    ]
    return figure(
        "steady",
        draw,
        wide=0.3 + 2.3 * wide_rows,
        narrow=0.3 + 1.95 * -(-len(shown) // 2),
        alt="Steady output while one input is held constant: "
        + "; ".join(
            f"{path.inputs[index].name} from {path.levels[index, 0]:.4g} to "
            f"{path.levels[index, -1]:.4g} moves {outputs[0].name} from "
            f"{path.steady[index, 0, 0]:.4g} to {path.steady[index, -1, 0]:.4g}"
            for index in shown
        ),
        caption=join([legend([*entries, ("mean input", "muted", "dash")]), caption]),
    )


def static_maps(layers: Sequence[LayerSummary], caption: str) -> Html:
    """The static maps that can be drawn, one panel per block."""
    shown = [layer for layer in layers if layer.static_values is not None][:12]

    def draw(drawing: Figure, wide: bool) -> None:
        across = min(4 if wide else 2, max(len(shown), 2))
        down = -(-len(shown) // across)
        grid = drawing.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(shown):
                axes.set_axis_off()
                continue
            layer = shown[index]
            grid_points, values = layer.static_grid, layer.static_values
            many = values is not None and values.shape[1] > 1
            axes.plot(grid_points, grid_points, color=PALETTE["muted"], lw=0.7, ls=(0, (3, 2)))
            axes.plot(
                grid_points, values, color=PALETTE["model"], lw=1.0 if many else 1.8,
                alpha=0.75 if many else 1.0,
            )  # fmt: skip
            for formatter in (axes.xaxis, axes.yaxis):
                formatter.set_major_locator(ticks(5))
                formatter.set_major_formatter(FuncFormatter(tick))
            axes.set_xlabel("input η")
            if index % across == 0:
                axes.set_ylabel("output σ(η)")
            axes.set_title(f"{layer.name.capitalize()}: {layer.static}")

    rows = -(-len(shown) // min(4, max(len(shown), 2)))
    return figure(
        "static",
        draw,
        wide=0.3 + 2.4 * rows,
        narrow=0.3 + 1.95 * -(-len(shown) // 2),
        alt=f"Static map of {', '.join(layer.name for layer in shown)} as curves.",
        caption=join(
            [legend([("static map", "model", "line"), ("identity", "muted", "dash")]), caption]
        ),
    )


def _look(index: int) -> dict:
    return {
        "color": PALETTE[SERIES[index % len(SERIES)]],
        "ls": DASHES[(index // len(SERIES)) % len(DASHES)],
    }


def _input_legend(path: PathSummary, outputs: Sequence[Channel]) -> Html:
    """Inputs with the unit of their gain, where there is one output to have it."""
    entries = []
    for index, channel in enumerate(path.inputs):
        unit = ""
        if len(outputs) == 1 and (outputs[0].unit or channel.unit):
            unit = f" [{outputs[0].unit or '1'} per {channel.unit or '1'}]"
        entries.append((f"{channel.name}{unit}", SERIES[index % len(SERIES)], "line"))
    return legend(entries)


def _period_axis(axes: Axes, frequency: np.ndarray, unit: str) -> None:
    """The same axis as periods, on top."""
    top = axes.twiny()
    log_axis(top, "x", 1 / frequency[0], 1 / frequency[-1])
    top.set_xlabel(f"period [{unit_words(unit)}]")
    top.grid(False)
    top.tick_params(length=0)
    top.spines["top"].set_visible(False)


def _gain_axis(axes: Axes, values: Sequence[np.ndarray]) -> None:
    """A logarithmic gain axis that leaves out what is 10⁴ times below the largest."""
    pooled = np.concatenate([value.ravel() for value in values])
    pooled = pooled[np.isfinite(pooled) & (pooled > 0)]
    if not len(pooled):
        return
    high = float(pooled.max())
    low = max(float(pooled.min()), high / _SPAN)
    log_axis(axes, "y", low / 1.6, high * 1.6)


def _panels(drawing: Figure, count: int, wide: bool) -> list[Axes]:
    across = min(2, count) if wide else 1
    grid = drawing.subplots(-(-count // across), across, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return list(grid.flat[:count])


def _wide_height(count: int) -> float:
    return 3.2 if count == 1 else 0.3 + 2.7 * -(-count // 2)
