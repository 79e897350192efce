"""Choosing the orders and the ridge of a linear model by its free-run error on data left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from statewise.data import Experiments, Record
from statewise.data.metrics import Score, rmse, score
from statewise.estimators._equation import DifferenceEquation, inputs_of
from statewise.estimators._least_squares import Orders, TriangularFactor

Array = npt.NDArray[np.float64]
Scale = tuple[Array, Array, Array, Array]

REFITS = 10  # how far down the ranking to look for a model that is still stable when solved again
SHORTEST = 4  # samples of a record for each part, below which it is not cut


class Choice(NamedTuple):
    """What :func:`choose` found.

    Attributes:
        equation: the chosen model, solved on all of the data.
        ridge: its penalty.
        tried: every candidate with its error on the data left out, best first.
        scores: of the chosen candidate on the data left out.
    """

    equation: DifferenceEquation
    ridge: float
    tried: list[dict[str, Any]]
    scores: list[Score]


def choose(
    train: Experiments,
    valid: Experiments | None,
    candidates: Sequence[Orders],
    ridges: Sequence[float],
    *,
    bias: bool,
    folds: int,
) -> Choice:
    """Try every candidate on data left out, and solve the best one again on everything.

    Args:
        train: training records.
        valid: records to choose on; None cuts each training record into ``folds`` contiguous
            parts (short records whole into one) and leaves out each part once.
        candidates: orders to choose from, smallest first.
        ridges: penalties to choose from.
        bias: whether to have a constant.
        folds: number of parts, at least 2.

    Returns:
        The choice. Stable models go before unstable ones, before and after solving again.

    Raises:
        ValueError: records too short to be cut, no complete row, or no output to choose by.
    """
    scale = scale_of(train, bias)
    if valid is None:
        parts = _parts(train, folds, max(orders.history for orders in candidates))
        usable = train.n_samples * (folds - 1) // folds
        held, whole, split = parts, train, f"{folds}-fold cross-validation"
    else:
        parts, usable = [train], train.n_samples
        held, whole, split = [valid], Experiments.concat([train, valid]), "validation"
    kept = [o for o in candidates if 3 * o.columns(train.n_y, train.n_u) <= usable - o.history]
    kept = kept or [candidates[0]]
    while True:
        largest = Orders(max(o.na for o in kept), max(o.nb for o in kept), kept[0].nk)
        factors = [factor_of(part, largest, scale, bias) for part in parts]
        if valid is None:
            factors = [TriangularFactor.combine(_without(factors, i)) for i in range(folds)]
        width = largest.columns(train.n_y, train.n_u)
        if len(kept) == 1 or min(factor.rows for factor in factors) >= 3 * width:
            break
        kept = [o for o in kept if o.na + o.nb < max(k.na + k.nb for k in kept)] or kept[:1]
    together = Experiments.concat(held)
    trials = []
    for orders in kept:
        solutions = [factor.solve(orders, ridges) for factor in factors]
        for ridge, solution in zip(ridges, zip(*solutions, strict=True), strict=True):
            equations = [DifferenceEquation(orders, a, b, c, *scale) for a, b, c in solution]
            error = _relative_error(together, _outputs(equations, held), scale[3])
            trials.append((not all(e.stable for e in equations), error, ridge, equations))
    trials.sort(key=lambda trial: trial[:2])
    best, final = 0, None
    for index, (_, _, ridge, equations) in enumerate(trials[:REFITS]):
        again = solve(whole, equations[0].orders, ridge, bias)
        if final is None or again.stable:
            best, final = index, again
        if again.stable:
            break
    assert final is not None
    tried = [
        dataclasses.asdict(equations[0].orders)
        | {"ridge": ridge, "error": error, "stable": not unstable}
        for unstable, error, ridge, equations in trials
    ]
    scores = score(together, _outputs(trials[best][3], held), split=split)
    return Choice(final, trials[best][2], tried, scores)


def solve(train: Experiments, orders: Orders, ridge: float, bias: bool) -> DifferenceEquation:
    """Solve one model on all complete rows of ``train``; ``ValueError`` when there is none."""
    scale = scale_of(train, bias)
    solution = factor_of(train, orders, scale, bias).solve(orders, (ridge,))[0]
    return DifferenceEquation(orders, *solution, *scale)


def factor_of(train: Experiments, orders: Orders, scale: Scale, bias: bool) -> TriangularFactor:
    """Fold the scaled records into a triangular factor."""
    u_mean, u_std, y_mean, y_std = scale
    return TriangularFactor.of(
        [(inputs_of(record) - u_mean) / u_std for record in train],
        [(record.y - y_mean) / y_std for record in train],
        [record.skip for record in train],
        orders,
        bias,
    )


def scale_of(experiments: Experiments, bias: bool) -> Scale:
    """Mean and standard deviation (about zero without bias) of inputs and outputs; constants: 1."""
    values = []
    for signals in ([inputs_of(r) for r in experiments], [r.y for r in experiments]):
        whole = np.concatenate(signals)
        count = np.maximum((~np.isnan(whole)).sum(axis=0), 1)
        mean = np.nansum(whole, axis=0) / count if bias else np.zeros(whole.shape[1])
        std = np.sqrt(np.nansum((whole - mean) ** 2, axis=0) / count)
        negligible = std <= 1e-14 * np.abs(mean)
        values += [mean, np.where(negligible | (std == 0.0), 1.0, std)]
    return values[0], values[1], values[2], values[3]


def _parts(train: Experiments, folds: int, history: int) -> list[Experiments]:
    """Cut the records into contiguous parts; short records go whole to one part each.

    Later parts carry ``history`` samples of context; the start of a record gives up as many.
    """
    parts: list[list[Experiments]] = [[] for _ in range(folds)]
    for index, record in enumerate(train):
        alone = train[index : index + 1]
        if len(record) - record.skip >= SHORTEST * folds:
            pieces = list(alone.split_time((1.0 / folds,) * folds, context=history))
            places = list(range(folds))
        else:
            pieces, places = [alone], [index % folds]
        pieces[0] = pieces[0].map(lambda r: r.part(0, len(r), skip=_context(r, history)))
        for place, piece in zip(places, pieces, strict=True):
            parts[place].append(piece)
    if not all(parts):
        raise ValueError(
            f"the training data ({train!r}) are too short to be cut into {folds} parts to choose "
            f"the orders and the ridge: give valid=, fewer folds, or fix them"
        )
    return [Experiments.concat(pieces) for pieces in parts]


def _context(record: Record, history: int) -> int:
    return min(max(record.skip, history), len(record) - 1)


def _without(factors: list[TriangularFactor], index: int) -> list[TriangularFactor]:
    return factors[:index] + factors[index + 1 :]


def _outputs(equations: Sequence[DifferenceEquation], held: Sequence[Experiments]) -> list[Array]:
    pairs = zip(equations, held, strict=True)
    return [equation.free_run(record) for equation, part in pairs for record in part]


def _relative_error(experiments: Experiments, computed: list[Array], y_std: Array) -> float:
    """Mean over the outputs of RMSE / ``y_std`` after ``skip``; ranks candidates.

    Unlike NRMSE it stays defined where the measured outputs are constant; an output that is never
    observed is left out.
    """
    pairs = list(zip(experiments, computed, strict=True))
    y = np.concatenate([record.y[record.skip :] for record, _ in pairs])
    y_hat = np.concatenate([output[record.skip :] for record, output in pairs])
    observed = np.flatnonzero(~np.isnan(y).all(axis=0))
    if not observed.size:
        raise ValueError("the data left out have no observed output to choose by")
    return float(np.mean(rmse(y[:, observed], y_hat[:, observed]) / y_std[observed]))
