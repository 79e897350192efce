"""What the model learned, in a few plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from statewise.report.content import LayerSummary, ReportData
from statewise.report.words import count, exact, number, split_name, unit_word, unit_words

#: A pole with a damping ratio of at least this does not visibly oscillate.
SMOOTH = 0.95


def findings(data: ReportData) -> list[str]:
    """Sentences about time constants, memory, states that matter and the response of the data."""
    said = [_slowest(data.layers), _oscillation(data.layers), _memory(data), _states(data)]
    return [sentence for sentence in [*said, *_responses(data)] if sentence]


def time_words(value: float, unit: str) -> str:
    """A time with its unit in words: "34.2 days", "1 hour"; "for ever" when infinite."""
    if not math.isfinite(value):
        return "for ever"
    text = number(value, 3)
    return f"{text} {unit_word(unit) if text == '1' else unit_words(unit)}"


def _slowest(layers: Sequence[LayerSummary]) -> str:
    if not layers:
        return ""
    slow = [float(np.max(layer.time_constants)) for layer in layers]
    fast = min(float(np.min(layer.time_constants)) for layer in layers)
    first, unit = int(np.argmax(slow)), layers[0].time_unit
    if not math.isfinite(slow[first]):
        return f"The slowest mode, in {layers[first].name}, does not decay."
    words = time_words(slow[first], unit)
    return (
        f"The slowest mode decays with a time constant of {words} ({layers[first].name}); the "
        f"fastest of all has {time_words(fast, unit)}."
    )


def _oscillation(layers: Sequence[LayerSummary]) -> str:
    if not layers:
        return ""
    periods = np.concatenate([layer.periods for layer in layers])
    swings = np.concatenate([layer.damping < SMOOTH for layer in layers])
    total, some = count(len(swings)), int(swings.sum())
    if not some:
        return f"None of its {total} modes visibly oscillates: each one decays smoothly."
    unit = layers[0].time_unit
    ends = [time_words(float(pick(periods[swings])), unit) for pick in (np.min, np.max)]
    if some == 1:
        return f"One of its {total} modes oscillates, with a period of {ends[0]}."
    return (
        f"{count(some)} of its {total} modes oscillate, with periods from {ends[0]} to {ends[1]}."
    )


def _memory(data: ReportData) -> str:
    if data.memory is None or not data.layers:
        return ""
    if not math.isfinite(data.memory):
        return "A pulse on an input leaves a trace that does not fade."
    words = time_words(data.memory, data.layers[0].time_unit)
    return (
        f"Around the mean input, 99 % of the energy of its response to a pulse has passed after "
        f"{words}."
    )


def _states(data: ReportData) -> str:
    curve = data.reduction
    if curve is None:
        return ""
    total, enough = int(curve.states[0]), curve.enough
    if enough == total:
        return (
            f"All of its {count(total)} states matter: every smaller copy that was tried loses "
            f"more than {exact(curve.tolerance)} point of FIT on the {split_name(curve.split)} "
            f"data."
        )
    return (
        f"{count(enough)} of its {count(total)} states are enough: the copy reduced to them keeps "
        f"the FIT on the {split_name(curve.split)} data within {exact(curve.tolerance)} point."
    )


def _responses(data: ReportData) -> list[str]:
    found = data.comparison
    if found is None:
        return []
    shares = found.inside.mean(0)
    unsure = np.median(found.radius / np.abs(found.data), axis=0)
    sentences = []
    for j, source in enumerate(found.inputs):
        words = "" if len(found.outputs) > 1 else f" of {found.outputs[0].name}"
        what, doubt = f"response{words} to {source.name}", float(unsure[:, j].mean())
        known = f"{100 * doubt:.0f} % of their gain at the median frequency"
        if not doubt < 1:
            sentences.append(
                f"The data say too little about the {what} to judge the model by it: their "
                f"uncertainty is {known}."
            )
            continue
        sentences.append(
            f"The {what} agrees with the data at {100 * float(shares[:, j].mean()):.0f} % of the "
            f"frequencies, within the uncertainty of the data, which is {known}."
        )
    return sentences[:3]
