"""The figure of an identified linear system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, style, title, unit_disc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from statewise.data import Experiments
    from statewise.estimators import LinearSystem, LinearUncertainty

SHOWN = 600
"""Samples of a record that are drawn at most."""


def draw(
    model: LinearSystem, parts: dict[str, Experiments], bands: LinearUncertainty | None
) -> Figure:
    """Order, poles, gain and phase with their uncertainty, and a simulation of the last part.

    Args:
        model: the system.
        parts: records by the name of their part; the last is simulated.
        bands: how sure the system is; None where that is not known.
    """
    figure, grid = new_figure(3, 2, width=10.0, height=3.4)
    _order(grid[0, 0], model)
    _poles(grid[0, 1], model, bands)
    _gain(grid[1, 0], model, bands)
    _phase(grid[1, 1], model, bands)
    wide = figure.add_subplot(grid[2, 0].get_gridspec()[2, :])
    for axes in grid[2]:
        axes.remove()
    style(wide)
    name, records = list(parts.items())[-1]
    _run(wide, model, name, records)
    return figure


def _order(axes: Axes, model: LinearSystem) -> None:
    values, scores = model.singular_values_, model.order_scores_
    if len(values):
        shown = values[: max(12, model.order_ + 4)]
        place = np.arange(1, len(shown) + 1)
        axes.bar(place, shown, 0.6, color=COLOURS[5])
        axes.bar(place[: model.order_], shown[: model.order_], 0.6, color=COLOURS[0])
        axes.set_ylabel("singular value [-]")
        title(axes, f"Order {model.order_}: singular values (dark: kept)")
    elif scores:
        place = np.array(list(scores))
        axes.plot(place, list(scores.values()), "o-", color=COLOURS[0], ms=4, lw=1.2)
        axes.axvline(model.order_, color=MUTED, lw=0.9, ls="--")
        axes.set_ylabel(f"{model.criterion_} per sample [-]")
        title(axes, f"Order {model.order_}: {model.criterion_} (dashed: chosen)")
    else:
        title(axes, f"Order {model.order_}, as given")
        axes.set_axis_off()
        return
    axes.set_xlabel("order")
    axes.locator_params(axis="x", integer=True)


def _poles(axes: Axes, model: LinearSystem, bands: LinearUncertainty | None) -> None:
    from matplotlib.patches import Circle

    unit_disc(axes, model.poles_, label="pole")
    deviations = model.pole_deviation_ if bands is None else bands.pole_deviation
    label = "2 standard errors"
    for pole, deviation in zip(model.poles_, deviations, strict=True):
        if np.isfinite(deviation):
            ring = Circle((pole.real, pole.imag), 2 * deviation, fill=False, ec=COLOURS[1])
            axes.add_patch(ring)
            axes.plot([], [], "o", mfc="none", mec=COLOURS[1], ms=8, label=label)
            label = ""
    how = f" ({bands.how})" if bands is not None and not label else ""
    title(axes, ("Poles" if model.stable_ else "Poles: not stable") + how)
    legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _gain(axes: Axes, model: LinearSystem, bands: LinearUncertainty | None) -> None:
    omega, response, excited = _response(model, bands)
    gain = np.abs(response)
    band = None if bands is None else bands.gain_band
    _curves(axes, model, omega, gain, band, excited)
    shown = gain[..., excited.any(0)]
    if shown.any():
        axes.set_yscale("log")
        low = 0.2 * max(float(shown.min()), 1e-6 * float(shown.max()))
        axes.set_ylim(low, _top(gain, band, excited))
    axes.set_ylabel("gain [output per input unit]")
    title(axes, "Gain" + ("" if bands is None else f" ({bands.width}: {bands.how})"))
    legend(axes, loc="lower left")


def _phase(axes: Axes, model: LinearSystem, bands: LinearUncertainty | None) -> None:
    from matplotlib.ticker import MaxNLocator

    omega, response, excited = _response(model, bands)
    phase = np.degrees(np.unwrap(np.angle(response), axis=0))
    band = None if bands is None else np.degrees(bands.phase_band)
    _curves(axes, model, omega, phase, band, excited)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 1.5, 3, 4.5, 9, 10]))
    shown = phase[..., excited.any(0)]
    low, high = float(shown.min(initial=0.0)), float(shown.max(initial=0.0))
    axes.set_ylim(low - 45, high + 45)
    axes.set_ylabel("phase [degrees]")
    title(axes, "Phase" + ("" if bands is None else f" ({bands.width})"))


def _response(
    model: LinearSystem, bands: LinearUncertainty | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies in radians per sample, the response there, and where inputs have power."""
    from statewise.lti import frequency_response

    omega = np.geomspace(1e-3, 1.0, 300) * np.pi if bands is None else bands.omega
    response = frequency_response(model.system_, omega / (model.dt_ or 1.0)).numpy()
    excited = np.ones((len(omega), response.shape[-1]), bool) if bands is None else bands.excited
    return omega, response, excited


def _top(gain: np.ndarray, band: np.ndarray | None, excited: np.ndarray) -> float:
    """A limit that shows bands where inputs have power, but not ones that say nothing."""
    most = float(gain[..., excited.any(0)].max())
    if band is not None:
        seen = band[..., 1][np.broadcast_to(excited[:, None], gain.shape)]
        most = max(most, min(float(seen.max(initial=0.0)), 30 * most))
    return 2 * most


def _curves(
    axes: Axes,
    model: LinearSystem,
    omega: np.ndarray,
    values: np.ndarray,
    band: np.ndarray | None,
    excited: np.ndarray,
) -> None:
    """A line and its band from each input to each output, dashed where the input has no power."""
    dt, unit = (model.dt_, model.time_unit_) if model.dt_ else (1.0, "sample")
    pairs = [(i, j) for i in range(values.shape[1]) for j in range(values.shape[2])]
    for colour, (i, j) in zip(COLOURS, pairs, strict=False):
        line, seen = values[:, i, j], excited[:, j]
        label = f"{model.input_names_[j]} to {model.output_names_[i]}"
        if not seen.any():
            axes.plot([], [], color=colour, lw=1.4, label=f"{label}: the input never moved")
            continue
        axes.plot(omega / dt, np.where(seen, line, np.nan), color=colour, lw=1.4, label=label)
        axes.plot(omega / dt, line, color=colour, lw=0.9, ls=(0, (3, 3)))
        if band is not None:
            low, high = band[:, i, j].T
            axes.fill_between(omega / dt, low, high, color=colour, alpha=0.2, lw=0)
    if not excited[:, excited.any(0)].all():
        axes.plot([], [], color=MUTED, lw=0.9, ls=(0, (3, 3)), label="not excited by the input")
    axes.set_xscale("log")
    axes.set_xlim(0.8 * omega[0] / dt, 1.25 * np.pi / dt)
    axes.axvline(np.pi / dt, color=MUTED, lw=0.9, ls=":")
    axes.set_xlabel(f"frequency [rad/{unit}]; dotted: Nyquist")


def _run(axes: Axes, model: LinearSystem, name: str, records: Experiments) -> None:
    record = records[0]
    first = record.skip
    stop = min(len(record), first + SHOWN)
    time = record.times()[first:stop]
    simulated = model.simulate_experiments(records[:1])[0][first:stop]
    measured = record.y[first:stop]
    axes.plot(time, measured[:, 0], color=MUTED, lw=1.6, label="measured")
    axes.plot(time, simulated[:, 0], color=COLOURS[0], lw=1.1, label="simulated")
    unit = model.output_units_[0]
    axes.set_ylabel(f"{model.output_names_[0]} [{unit}]" if unit else model.output_names_[0])
    more = "" if stop == len(record) else f"; the first {stop - first} samples"
    axes.set_xlabel((f"time [{model.time_unit_}]" if record.dt else "sample") + more)
    title(axes, f"Free run on {name}")
    legend(axes, loc="lower right", ncols=2, bbox_to_anchor=(1.02, 0.98))
