"""Which subspace model, and whether to refine it: chosen by simulating what was held out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from statewise.lti._cross_validation import Fold, folds_of, simulation_errors, spread
from statewise.lti._hankel import Layout, Records, layout_of, read_records, triangular_factor
from statewise.lti._order import checked_order
from statewise.lti._projections import decompose, reflect, state_model
from statewise.lti.refined_system import RefinedSystem
from statewise.lti.refinement import ITERATIONS, refine
from statewise.lti.state_space import StateSpace
from statewise.lti.subspace import LARGEST, SubspaceResult, identify
from statewise.lti.weightings import CVA, MOESP, N4SID, SSARX, Weighting

HORIZONS = (3, 5, 10, 20)
FOLDS = 4
# Steps of a refinement that is only tried.
TRIAL = 10
# Sensitivities, as numbers, beyond which a refinement is not tried for a choice.
WORK = 500_000
# A larger model must lower the error by more than this part of it.
NEAR = 0.01
ROUNDING = 1e-9


def regressed(weighting: Weighting) -> Weighting:
    """The same method with A, B, C and D from regressed states."""
    return dataclasses.replace(weighting, dynamics="states")


@dataclasses.dataclass(frozen=True)
class ValidatedCandidate:
    """A setting that was tried.

    Attributes:
        weighting: the method.
        horizon: block rows of past and future.
        order: number of states.
        errors: of each fold, the root mean square of the simulation of what was held out, in
            deviations of the outputs, mean over them.
    """

    weighting: Weighting
    horizon: int
    order: int
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """Mean over the folds."""
        return sum(self.errors) / len(self.errors)


@dataclasses.dataclass(frozen=True, eq=False)
class ValidatedResult:
    """What a cross-validated search came to.

    Attributes:
        model: the estimate from all data.
        start: the subspace model; the same where no refinement was better.
        kind: "subspace", "prediction error" or "simulation error": what ``model`` minimises.
        candidates: all settings that were tried, best first.
        refinements: by kind, the errors of refinements of the best candidate, fold by fold; empty
            where none was tried.
    """

    model: SubspaceResult | RefinedSystem
    start: SubspaceResult
    kind: str
    candidates: tuple[ValidatedCandidate, ...]
    refinements: dict[str, tuple[float, ...]]


@torch.no_grad()
def identify_validated(
    u: Any,
    y: Any,
    order: int | None = None,
    *,
    dt: float = 1.0,
    weightings: Sequence[Weighting] = (N4SID, MOESP, CVA, SSARX),
    horizons: Sequence[int] = HORIZONS,
    largest_order: int = LARGEST,
    direct: bool = True,
    stability: float = 1.0,
    folds: int = FOLDS,
    refined: bool = True,
) -> ValidatedResult:
    """Choose method, horizon and order by free-run simulations of samples that were held out.

    Each of ``folds`` blocks of the samples is simulated by models of the others, and the last third
    by models of what is before. Models are subspace models with A, B, C and D from regressed
    states. The mean error decides; of models that are equal within 1 % the smallest is taken. The
    best one is then refined by prediction error and by simulation error, where that is not too much
    work. A refinement is taken if it lowers the error by more than the standard error of the
    differences, fold by fold.

    Args:
        u: inputs, (T, m) or (T,), or a list of those, of any lengths; at least one input.
        y: outputs, (T, p) or (T,), or a list of those.
        order: number of states; None for all from 1 to ``largest_order``.
        dt: sampling time.
        weightings: methods; A comes from regressed states whatever they say.
        horizons: block rows of past and of future; those too long for the data are left out.
        largest_order: last order to try.
        direct: whether y_t may depend on u_t.
        stability: radius within which poles are kept; see :func:`identify`.
        folds: blocks, 2 at least.
        refined: whether to try refinements.

    Returns:
        The model, and all errors.

    Raises:
        ValueError: no input, records that are too short for any setting, or an option out of range.

    Example:
        >>> u = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
        >>> found = identify_validated(u, torch.cat((torch.zeros(1, 1), u[:-1])), refined=False)
        >>> found.candidates[0].order, found.candidates[0].error < 1e-9
        (1, True)
    """
    records = read_records(u, y)
    if not records.n_inputs:
        raise ValueError(
            "identify_validated simulates, which needs an input; without one, identify can choose"
        )
    if folds < 2 or not 0 < stability <= 1:
        raise ValueError(
            f"folds is {folds!r} and stability {stability!r}; at least 2 and a radius in (0, 1] "
            f"are needed"
        )
    largest = checked_order(largest_order, "largest_order")
    orders = range(1, largest + 1) if order is None else [checked_order(order)]
    methods = [regressed(weighting) for weighting in weightings]
    parts = folds_of(records, folds)
    unit = spread(records)
    found: dict[tuple[int, int, int], list[float]] = {}
    for fold in parts:
        for key, error in _judged(fold, methods, horizons, orders, direct, stability, unit).items():
            found.setdefault(key, []).append(error)
    candidates = [
        ValidatedCandidate(methods[method], rows, n, tuple(errors))
        for (method, rows, n), errors in found.items()
        if len(errors) == len(parts)
    ]
    if not candidates:
        raise ValueError(
            f"the records are too short: lengths {records.lengths} in {folds} folds allow none of "
            f"the horizons {tuple(horizons)} with the orders {list(orders)}"
        )
    candidates.sort(key=lambda one: one.error)
    limit = candidates[0].error * (1 + NEAR) + ROUNDING
    near = [one for one in candidates if one.error <= limit]
    best = min(near, key=lambda one: (one.order, one.error))
    candidates.remove(best)
    candidates.insert(0, best)
    start = _identified(u, y, best, dt, direct, stability)
    tried: dict[str, tuple[float, ...]] = {}
    if refined and _work(records, best.order) <= WORK and best.error > ROUNDING:
        tried = _refinements(parts, best, direct, stability, unit)
    kind, model = "subspace", start
    for name, errors in sorted(tried.items(), key=lambda item: sum(item[1])):
        if _better(errors, best.errors):
            with contextlib.suppress(ValueError):
                kind, model = name, _refined(start, u, y, name, direct, stability, ITERATIONS)
                break
    return ValidatedResult(model, start, kind, tuple(candidates), tried)


def _judged(
    fold: Fold,
    methods: Sequence[Weighting],
    horizons: Sequence[int],
    orders: Sequence[int],
    direct: bool,
    stability: float,
    unit: Tensor,
) -> dict[tuple[int, int, int], float]:
    """Errors of all settings that the fold allows, by method, horizon and order."""
    models: dict[int, list[tuple[tuple[int, int, int], tuple[Tensor, ...]]]] = {}
    for rows in horizons:
        try:
            layout = layout_of(fold.train, rows, 1, direct)
        except ValueError:
            continue
        R = triangular_factor(fold.train, layout, "qr")
        for index, method in enumerate(methods):
            with contextlib.suppress(RuntimeError):  # a decomposition that does not converge
                for n, system in _systems(R, layout, method, orders, stability):
                    models.setdefault(n, []).append(((index, rows, n), system))
    errors: dict[tuple[int, int, int], float] = {}
    for same in models.values():
        keys, systems = zip(*same, strict=True)
        A, B, C, D = (torch.cat(parts) for parts in zip(*systems, strict=True))
        values = simulation_errors(fold.held, (A, B, C, D), unit)
        errors.update(zip(keys, values.tolist(), strict=True))
    return errors


def _systems(
    R: Tensor, layout: Layout, method: Weighting, orders: Sequence[int], stability: float
) -> list[tuple[int, tuple[Tensor, ...]]]:
    found = decompose(R, layout, method)
    largest = min((layout.future - 1) * layout.p, found.singular_values.shape[-1])
    systems = []
    for n in orders:
        if n <= largest:
            model = state_model(found, n)
            if model.A.isfinite().all():
                A, _ = reflect(model.A, stability)
                systems.append((n, (A, model.B, model.C, model.D)))
    return systems


def _identified(
    u: Any, y: Any, best: ValidatedCandidate, dt: float, direct: bool, stability: float
) -> SubspaceResult:
    return identify(
        u,
        y,
        best.order,
        dt=dt,
        weighting=best.weighting,
        horizon=best.horizon,
        focus="states",
        direct=direct,
        stability=stability,
    )


def _work(records: Records, n: int) -> int:
    """Entries of the sensitivities of the one-step errors."""
    m, p = records.n_inputs, records.n_outputs
    return sum(records.lengths) * p * (n * (m + 2 * p) + p * m)


KINDS = {"prediction error": True, "simulation error": False}


def _refined(
    start: SubspaceResult,
    u: Any,
    y: Any,
    kind: str,
    direct: bool,
    stability: float,
    iterations: int,
) -> RefinedSystem:
    noise = KINDS[kind]
    first: SubspaceResult | StateSpace = start if noise else start.system
    return refine(
        first, u, y, noise=noise, direct=direct, stability=stability, iterations=iterations
    )


def _refinements(
    folds: Sequence[Fold], best: ValidatedCandidate, direct: bool, stability: float, unit: Tensor
) -> dict[str, tuple[float, ...]]:
    """Errors of refinements of the best candidate, fold by fold, by kind."""
    errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for fold in folds:
        u, y = [part[0] for part in fold.train.u], [part[0] for part in fold.train.y]
        start = _identified(u, y, best, 1.0, direct, stability)
        for kind, made in errors.items():
            with contextlib.suppress(ValueError):
                found = _refined(start, u, y, kind, direct, stability, TRIAL)
                A, B, C, D = (M[None] for M in found.system.matrices)
                made.append(float(simulation_errors(fold.held, (A, B, C, D), unit)))
    return {kind: tuple(made) for kind, made in errors.items() if len(made) == len(folds)}


def _better(errors: Sequence[float], than: Sequence[float]) -> bool:
    """Whether the mean difference is above its standard error."""
    gains = torch.tensor(than) - torch.tensor(errors)
    return float(gains.mean()) > float(gains.std()) / math.sqrt(len(gains))
