"""Descents of polynomial models from several starts, of which the best is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from statewise.lti._descent import Array, Descent, Problem, minimise
from statewise.lti._polynomial_filters import (
    Coefficients,
    Series,
    Signals,
    Structure,
    factored,
    reflected,
    run,
    stable,
)

# Steps of every start before the best goes on alone.
TRIAL = 4
FINALISTS = 3
# Two trials whose N log(loss) differs by less are taken to be on their way to one minimum.
SAME = 1e-3
FLOOR = 1e-32


@dataclasses.dataclass(frozen=True)
class Point:
    """Coefficients with what they make of the records, and N log of the mean squared error."""

    poly: Coefficients
    signals: list[Signals]
    cost: float


def located(
    records: Sequence[Series], poly: Coefficients, structure: Structure, at_rest: bool
) -> Point:
    """A point; its cost is infinite where the predictor is not stable."""
    if not all(stable(part) for part in (poly.c, *poly.f)):
        return Point(poly, [], math.inf)
    signals = [run(record, poly, structure, at_rest) for record in records]
    power, count = sum(float(s.error @ s.error) for s in signals), sum(len(r.y) for r in records)
    if not math.isfinite(power):
        return Point(poly, [], math.inf)
    return Point(poly, signals, count * math.log(max(power / count, FLOOR)))


def best_of(
    first: dict[str, Coefficients],
    records: Sequence[Series],
    structure: Structure,
    at_rest: bool,
    iterations: int,
    tolerance: float,
) -> tuple[Descent[Point], dict[str, float]]:
    """Some steps from every start; the best of them that differ go on to the end."""

    def move(at: Point, step: Array) -> Point | None:
        after = Coefficients.of(at.poly.vector() + step, structure)
        if not all(stable(f) for f in after.f):
            return None
        held = Coefficients(after.a, after.b, reflected(after.c), after.d, after.f)
        return located(records, held, structure, at_rest)

    def descend(point: Point, steps: int) -> Descent[Point]:
        return minimise(
            Problem(
                lambda at: at.cost,
                lambda at: factored(records, at.poly, structure, at.signals),
                move,
            ),
            point,
            iterations=steps,
            tolerance=tolerance,
        )

    points = {name: located(records, poly, structure, at_rest) for name, poly in first.items()}
    trials = {
        name: descend(point, min(TRIAL, iterations))
        for name, point in points.items()
        if math.isfinite(point.cost)
    }
    if not trials:
        raise ValueError("none of the starts has a stable predictor; the data fit no such model")
    finalists: list[Descent[Point]] = []
    for trial in sorted(trials.values(), key=lambda trial: trial.cost):
        if len(finalists) < FINALISTS and all(
            trial.cost > other.cost + SAME for other in finalists
        ):
            finalists.append(trial)
    ended = [_carried_on(trial, descend, iterations) for trial in finalists]
    count = sum(len(r.y) for r in records)
    losses = {name: math.exp(trial.cost / count) for name, trial in trials.items()}
    return min(ended, key=lambda found: found.cost), losses


def _carried_on(
    trial: Descent[Point], descend: Callable[[Point, int], Descent[Point]], iterations: int
) -> Descent[Point]:
    """The descent that goes on where a trial was cut short."""
    if trial.converged or not TRIAL <= trial.iterations < iterations:
        return trial
    rest = descend(trial.point, iterations - trial.iterations)
    return dataclasses.replace(rest, iterations=trial.iterations + rest.iterations)
