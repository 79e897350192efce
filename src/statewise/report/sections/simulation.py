"""Measured against simulated."""

from __future__ import annotations

import numpy as np

from statewise.report.content import ReportData, Trace
from statewise.report.figures.simulation import overview
from statewise.report.headline import SEEN, best_baseline
from statewise.report.markup import Html, el, join, section
from statewise.report.stretches import stretches
from statewise.report.words import count, number, split_name, stamp

#: More figures than these would make the page heavy; the numbers of all are in the JSON twin.
MAX_TEST, MAX_VALID = 6, 2


def simulation_section(data: ReportData) -> Html | None:
    """Test records with their worst and a typical stretch; validation records folded away."""
    tests = [trace for trace in data.traces if trace.split not in SEEN]
    valid = [trace for trace in data.traces if trace.split in SEEN]
    if not tests and not valid:
        return None
    tests = _in_turn(tests)
    other = best_baseline(data)
    pieces: list[Html | None] = [
        el(
            "p",
            "The simulation runs freely: it sees the inputs and, for its initial state, the "
            "skipped start of the record. The worst stretch is the one with the largest error "
            "energy; half of all stretches of that length are better than the typical one.",
        )
    ]
    pieces += [
        _one(f"trace-{index}", trace, data, other) for index, trace in enumerate(tests[:MAX_TEST])
    ]
    pieces.append(_left_out(len(tests) - MAX_TEST))
    if valid:
        figures = [
            _one(f"valid-{index}", trace, data, None, zoom=False)
            for index, trace in enumerate(valid[:MAX_VALID])
        ]
        left = _left_out(len(valid) - MAX_VALID)
        pieces.append(el("details", el("summary", "Validation records"), *figures, left))
    return section("simulation", "Measured and simulated", *pieces)


def _one(key: str, trace: Trace, data: ReportData, other: str | None, *, zoom: bool = True) -> Html:
    found = stretches(trace, data.model.name) if zoom else []
    record = f", record {trace.record}" if trace.record else ""
    sentences = [f"{trace.label}, {split_name(trace.split)}{record}."]
    for stretch in found:
        begin = stamp(trace.time[stretch.first], trace.time_unit)
        end = stamp(trace.time[stretch.stop - 1], trace.time_unit)
        unit = f" {trace.unit}" if trace.unit else ""
        sentences.append(
            f"{stretch.kind.capitalize()} stretch: {begin} to {end} "
            f"({count(stretch.stop - stretch.first)} samples), RMSE {number(stretch.rmse)}{unit}."
        )
    gaps = int(np.sum(~np.isfinite(np.asarray(trace.measured, np.float64))))
    if gaps:
        sentences.append(f"{count(gaps)} measured values are missing; gaps break the line.")
    return overview(key, trace, data.model.name, found, join(sentences, " "), other)


def _in_turn(traces: list[Trace]) -> list[Trace]:
    """The first record of every test set and output, then the second, and so on."""
    seen: dict[tuple[str, str], int] = {}
    ranks = []
    for trace in traces:
        key = trace.split, trace.channel
        ranks.append(seen.get(key, 0))
        seen[key] = ranks[-1] + 1
    order = sorted(range(len(traces)), key=lambda index: ranks[index])
    return [traces[index] for index in order]


def _left_out(number_of: int) -> Html | None:
    if number_of <= 0:
        return None
    return el("p", f"{count(number_of)} more traces are in the JSON twin of this page.", cls="note")
