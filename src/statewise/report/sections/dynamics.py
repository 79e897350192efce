"""What the model is as a dynamical system: poles, responses, static maps, steady states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from statewise.report.content import LayerSummary, ReportData
from statewise.report.figures.comparison import response_comparison_figure
from statewise.report.figures.poles import MAX_DISCS, time_constants, unit_discs
from statewise.report.figures.response import (
    layer_responses,
    path_response,
    static_maps,
    steady_curves,
)
from statewise.report.findings import SMOOTH
from statewise.report.markup import Html, el, section, table
from statewise.report.words import count, number, unit_words

#: Rows of a table of poles; the JSON twin holds all.
MAX_ROWS = 48


def path_section(data: ReportData) -> Html | None:
    """The whole model between its inputs and outputs."""
    path = data.path
    if path is None:
        return None
    dt = data.layers[0].dt if data.layers else data.data.dt or 1.0
    unit = data.layers[0].time_unit if data.layers else data.data.time_unit
    return section(
        "behaviour",
        "How the model behaves",
        el(
            "p",
            "The whole model in physical units: what it settles at when an input is held constant, "
            "and how strongly it follows slow and fast changes of an input.",
        ),
        el("h3", "Steady state"),
        steady_curves(
            path,
            "Output that the model settles at while one input is held at a level within two "
            "standard deviations of its mean and the others at their mean. A straight line is a "
            "linear system. Inputs that never stay at a level in the data make this an "
            "extrapolation.",
        ),
        el("h3", "Small signals"),
        path_response(
            path,
            dt,
            unit,
            "Gain of the model linearised at the mean input: change of the output per change of "
            "the input, for slow changes on the left and fast ones on the right.",
        ),
        *_comparison(data, dt, unit),
    )


def _comparison(data: ReportData, dt: float, unit: str) -> list[Html]:
    found = data.comparison
    if found is None:
        return []
    left = ""
    if found.left_out:
        left = (
            f" Left out: {', '.join(found.left_out)}, which the inputs shown almost determine, so "
            f"that their responses cannot be told apart; theirs are part of those shown."
        )
    return [
        el("h3", "Beside the data"),
        response_comparison_figure(
            found,
            dt,
            unit,
            "Frequency response of the training data, measured without a model (best linear "
            "approximation by local polynomials), and of the outputs that the model simulates on "
            "the same inputs, by the same method. The grey band holds noise and nonlinear "
            "distortion. Phases of the data are drawn where the gain is above its uncertainty. "
            "The linearisation is for small signals, and differs for a nonlinear system." + left,
        ),
    ]


def layers_section(data: ReportData) -> Html | None:
    """Poles, time constants, frequency responses and static maps, block by block."""
    layers = data.layers
    if not layers:
        return None
    radius = max(float(np.max(np.abs(layer.eigenvalues))) for layer in layers)
    stable = (
        f"All poles lie inside the unit circle (largest modulus {number(radius, 5)}): "
        "the model is stable."
        if radius < 1
        else f"The largest modulus of a pole is {number(radius, 5)}: the model is not stable."
    )
    more = "" if len(layers) <= MAX_DISCS else f" The first {MAX_DISCS} blocks are drawn."
    unit = unit_words(layers[0].time_unit)
    return section(
        "blocks",
        "Inside the blocks",
        el("p", stable + more),
        el("h3", "Poles"),
        unit_discs(layers, "Discrete eigenvalues of each block's linear system."),
        el("h3", "Time constants"),
        _summary_table(layers),
        time_constants(
            layers,
            f"τ = −Δt / ln|λ| in {unit}. A pole oscillates when its damping ratio is below "
            f"{SMOOTH}. The dashed line is the sampling interval: a mode faster than that is gone "
            "within a sample.",
        ),
        *(_pole_table(layer) for layer in layers),
        el("h3", "Frequency responses"),
        layer_responses(
            layers,
            "Singular values of each linear system's response, between the normalised signals "
            "inside the model.",
        ),
        *_static(layers),
    )


def _summary_table(layers: Sequence[LayerSummary]) -> Html:
    unit = unit_words(layers[0].time_unit)
    rows = []
    for layer in layers:
        tau, oscillates = layer.time_constants, layer.damping < SMOOTH
        rows.append(
            (
                layer.name,
                count(len(tau)),
                number(float(np.max(tau)), 3),
                number(float(np.median(tau)), 3),
                number(float(np.min(tau)), 3),
                count(int(oscillates.sum())),
            )
        )
    return table(
        ["block", "poles", "slowest", "median", "fastest", "oscillating"],
        rows,
        caption=f"Time constants in {unit}",
        numeric=range(1, 6),
    )


def _pole_table(layer: LayerSummary) -> Html:
    poles, tau, period = layer.eigenvalues, layer.time_constants, layer.periods
    order = np.argsort(-tau, kind="stable")[:MAX_ROWS]
    rows = [
        (
            str(rank + 1),
            number(float(np.abs(poles[index])), 5),
            number(float(np.angle(poles[index])), 3),
            number(float(tau[index]), 4),
            number(float(period[index]), 4) if layer.damping[index] < SMOOTH else "–",
            number(float(layer.damping[index]), 3),
        )
        for rank, index in enumerate(order)
    ]
    short = layer.time_unit if layer.time_unit != "samples" else "samples"
    left = len(poles) - len(rows)
    return el(
        "details",
        el("summary", f"Poles of {layer.name}"),
        table(
            ["no.", "|λ|", "arg λ [rad]", f"τ [{short}]", f"period [{short}]", "damping"],
            rows,
            caption=f"Poles of {layer.name}, the slowest first",
            numeric=range(1, 6),
        ),
        el("p", f"{count(left)} more are in the JSON twin of this page.", cls="note")
        if left > 0
        else None,
    )


def _static(layers: Sequence[LayerSummary]) -> list[Html]:
    pieces = [el("h3", "Static nonlinearities")]
    if any(layer.static_values is not None for layer in layers):
        ranges = any(layer.visited is not None for layer in layers)
        where = "the range that it sees on the data" if ranges else "± 3"
        drawn = [layer.static_note for layer in layers if layer.static_values is not None]
        caption = f"Static map of each block over {where}, in normalised units."
        pieces.append(static_maps(layers, " ".join([caption, *dict.fromkeys(filter(None, drawn))])))
    hidden = [layer for layer in layers if layer.static_values is None and layer.static_note]
    notes = dict.fromkeys(layer.static_note for layer in hidden)
    for note in notes:
        names = [layer.name for layer in hidden if layer.static_note == note]
        where = "" if len(notes) == 1 else f" ({', '.join(names)})"
        pieces.append(el("p", f"{note}{where}"))
    return pieces if len(pieces) > 1 else []
