"""The figure of an identified linear system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statewise.analysis._drawing import COLOURS, MUTED, legend, new_figure, title, unit_disc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from statewise.data import Experiments
    from statewise.estimators import LinearSystem

SHOWN = 600
"""Samples of a record that are drawn at most."""


def draw(model: LinearSystem, parts: dict[str, Experiments]) -> Figure:
    """Order, poles and gain with their uncertainty, and a simulation of the last part.

    Args:
        model: the system.
        parts: records by the name of their part; the last is simulated.
    """
    figure, grid = new_figure(2, 2, width=10.0, height=3.6)
    _order(grid[0, 0], model)
    _poles(grid[0, 1], model)
    _gain(grid[1, 0], model)
    name, records = list(parts.items())[-1]
    _run(grid[1, 1], model, name, records)
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


def _poles(axes: Axes, model: LinearSystem) -> None:
    from matplotlib.patches import Circle

    unit_disc(axes, model.poles_, label="pole")
    label = "2 standard errors"
    for pole, deviation in zip(model.poles_, model.pole_deviation_, strict=True):
        if np.isfinite(deviation):
            ring = Circle((pole.real, pole.imag), 2 * deviation, fill=False, ec=COLOURS[1])
            axes.add_patch(ring)
            axes.plot([], [], "o", mfc="none", mec=COLOURS[1], ms=8, label=label)
            label = ""
    title(axes, "Poles" if model.stable_ else "Poles: not stable")
    legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _gain(axes: Axes, model: LinearSystem) -> None:
    from statewise.lti import frequency_response

    dt, unit = (model.dt_, model.time_unit_) if model.dt_ else (1.0, "sample")
    given = bool(len(model.response_deviation_))
    omega = (model.omega_ if given else np.geomspace(1e-3, 1.0, 300) * np.pi) / dt
    system = model.system_
    response = np.abs(frequency_response(system, omega).numpy())
    count = 0
    for i in range(system.n_outputs):
        for j in range(system.n_inputs):
            if count == len(COLOURS):
                break
            colour, line = COLOURS[count], response[:, i, j]
            label = f"{model.input_names_[j]} to {model.output_names_[i]}"
            axes.plot(omega, line, color=colour, lw=1.3, label=label)
            if given:
                spread = 2 * model.response_deviation_[:, i, j]
                low = np.maximum(line - spread, 1e-3 * line)
                axes.fill_between(omega, low, line + spread, color=colour, alpha=0.2, lw=0)
            count += 1
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.2 * max(float(response.min()), 1e-6 * float(response.max())))
    axes.axvline(np.pi / dt, color=MUTED, lw=0.8, ls="--")
    axes.set_xlabel(f"frequency [rad/{unit}]; dashed: Nyquist")
    axes.set_ylabel("gain [output per input unit]")
    title(axes, "Gain" + (" (band: 2 standard errors)" if given else ""))
    legend(axes, loc="lower left")


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
