"""The questions of ``statewise analyze`` and their answers as numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from statewise.analysis import (
    Blocks,
    Gain,
    InUnits,
    Linearisation,
    Memory,
    Sensitivity,
    blocks,
    equilibria,
    gain,
    linearise,
    memory,
    sensitivity,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from statewise.data import Experiments

LONGEST = 2000
"""Samples of data on which gradients are followed, one by one."""
LAGS = 400
"""Largest lag of the gradients that memory is measured by."""
COUNTS = 0.01
"""Hankel values above this part of the largest count as needed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What was found, and its numbers.

    Attributes:
        numbers: everything, by question.
        blocks: the linear systems of the blocks.
        gain: certified bounds.
        memory: how far back the model looks.
        small: the linearisation, or None where there is no equilibrium.
        inputs: effects of the inputs; None without data.
    """

    numbers: dict[str, Any]
    blocks: Blocks
    gain: Gain
    memory: Memory
    small: Linearisation | None
    inputs: Sensitivity | None


def ask(
    model: Any, layer: InUnits, records: Experiments | None, at: tuple[float, ...] | None
) -> Answers:
    """Ask a model all questions.

    Args:
        model: the fitted estimator.
        layer: its network in units of the data.
        records: records whose inputs are used, or None.
        at: constant input to linearise at; None for the mean of the training.
    """
    dt = getattr(model, "nominal_dt_", model.dt_)
    time = {"dt": dt, "time_unit": model.time_unit_ if dt is not None else None}
    centre = np.array(layer.normaliser.u_mean if at is None else at, np.float64)
    notes = []
    if getattr(model, "transform", None) is not None:
        notes.append(f"outputs are those behind {model.transform!r}, which is not undone here")
    found = blocks(layer, u=centre, **time)
    bound = gain(layer)
    data = None if records is None else _inputs(layer, records)
    lags = None if data is None else min(LAGS, len(data) // 2)
    look = memory(layer, data, lags=lags, **time)
    small, point = None, None
    places = equilibria(layer, centre)
    if places.points:
        point = places.points[0]
        small = linearise(layer, centre, point.state, **time)
    else:
        notes.append("no equilibrium was found under the input of the operating point")
    effects = None
    if data is not None and layer.d_input:
        effects = sensitivity(
            layer, data, inputs=list(model.input_names_), outputs=list(model.output_names_), **time
        )
    numbers = {
        "kind": type(model).__name__,
        "inputs": list(model.input_names_),
        "outputs": list(model.output_names_),
        "input_units": list(model.input_units_),
        "output_units": list(model.output_units_),
        "dt": dt,
        "time_unit": model.time_unit_ if dt is not None else "sample",
        "blocks": [
            _block(one, _length(look, one.name), _bound(bound, one.name)) for one in found.blocks
        ],
        "gain": {
            "bound": bound.bound,
            "product": bound.product,
            "certified": bound.certified,
            "reasons": list(bound.reasons),
            "blocks": [dataclasses.asdict(one) for one in bound.blocks],
        },
        "memory": {
            "fraction": look.fraction,
            "model": look.model.length * (dt or 1.0),
            "blocks": {one.name: one.length * (dt or 1.0) for one in look.blocks},
            "horizon": look.horizon * (dt or 1.0) if data is not None else None,
            "lags": look.lags * (dt or 1.0),
            "gradients": look.gradients,
        },
        "operating_point": _point(small, point, len(places.points)),
        "sensitivity": None if effects is None else effects.to_dicts(),
        "warnings": [*found.warnings, *notes],
    }
    return Answers(numbers, found, bound, look, small, effects)


def figures(answers: Answers) -> dict[str, Figure]:
    """A figure for every question that has an answer, by name."""
    parts: dict[str, Any] = {
        "blocks": answers.blocks if answers.blocks.blocks else None,
        "gain": answers.gain,
        "memory": answers.memory,
        "linearisation": answers.small,
        "sensitivity": answers.inputs,
    }
    found = {name: part.plot() for name, part in parts.items() if part is not None}
    if "linearisation" in found:
        _name_channels(found["linearisation"], answers.numbers)
    return found


def _name_channels(figure: Figure, numbers: dict[str, Any]) -> None:
    """Let a legend of u1 and y1 speak of the channels."""
    names = {
        f"u{j} to y{i}": f"{source} to {target}"
        for i, target in enumerate(numbers["outputs"], 1)
        for j, source in enumerate(numbers["inputs"], 1)
    }
    for axes in figure.axes:
        legend = axes.get_legend()
        for text in [] if legend is None else legend.get_texts():
            text.set_text(names.get(text.get_text(), text.get_text()))


def _inputs(layer: InUnits, records: Experiments) -> np.ndarray:
    """Inputs of the longest record, missing ones at their mean, shortened."""
    longest = max(records, key=len)
    assert longest.u is not None
    u = longest.u[:LONGEST]
    return np.where(np.isfinite(u), u, layer.normaliser.u_mean)


def _block(one: Any, memory_: float, bound: Any) -> dict[str, Any]:
    hankel = np.atleast_2d(one.hankel)
    largest = hankel.max(initial=0.0)
    order = np.argsort(-np.abs(one.poles.ravel()), kind="stable")
    return {
        "name": one.name,
        "linear": one.linear,
        "states": one.poles.size,
        "poles": one.poles.ravel()[order],
        "time_constants": one.time_constants.ravel()[order],
        "natural_frequencies": one.natural_frequencies.ravel()[order],
        "damping": one.damping.ravel()[order],
        "zeros": list(one.zeros),
        "hankel": one.hankel,
        "needed": int((hankel > COUNTS * largest).sum()) if hankel.size else None,
        "memory": memory_,
        "gain": None if bound is None else bound.bound,
        "gain_reason": None if bound is None else bound.reason,
        "omega": one.omega,
        "response": one.response,
        "warnings": list(one.warnings),
    }


def _length(look: Memory, name: str) -> float:
    return next((one.length * look.dt for one in look.blocks if one.name == name), math.nan)


def _bound(bound: Gain, name: str) -> Any:
    return next((one for one in bound.blocks if one.name == name), None)


def _point(small: Linearisation | None, point: Any, count: int) -> dict[str, Any] | None:
    if small is None:
        return None
    from statewise.lti import dc_gain

    try:
        constant = dc_gain(small.system)
    except ValueError:  # an integrator
        constant = None
    A, B, C, D = small.system.matrices
    return {
        "u": small.u,
        "y": small.y,
        "stable": point.stable,
        "equilibria": count,
        "eigenvalues": point.eigenvalues,
        "constant_gain": constant,
        "A": A,
        "B": B,
        "C": C,
        "D": D,
    }
