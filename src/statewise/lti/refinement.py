"""State-space models by prediction error, from a subspace model on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from statewise.lti import _innovations as engine
from statewise.lti._coordinates import Matrices, moved
from statewise.lti._descent import Array, Linearised, Problem, inverse_normal, minimise
from statewise.lti._hankel import Records, read_records
from statewise.lti.matrices import identity_like
from statewise.lti.polynomial_estimate import PolynomialEstimate
from statewise.lti.refined_system import RefinedSystem
from statewise.lti.state_space import StateSpace, as_tensor
from statewise.lti.subspace import SubspaceResult

Start = SubspaceResult | RefinedSystem | PolynomialEstimate | StateSpace

ITERATIONS = 100
TOLERANCE = 1e-4


@torch.no_grad()
def refine(
    start: Start | list[Start] | tuple[Start, ...],
    u: Any,
    y: Any,
    *,
    K: Any = None,
    noise: bool = True,
    direct: bool = True,
    at_rest: bool = False,
    stability: float | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> RefinedSystem:
    """Minimise det Σ e eᵀ of the one-step errors: maximum likelihood for Gaussian innovations.

    Levenberg-Marquardt with analytic sensitivities, over all entries of A, B, K, C and D but along
    those directions only that move the transfer function. The predictor A − K C stays stable:
    steps beyond are shortened. The cost has local minima: from a start with a gain, another
    descent runs from the same system without, if that is stable, and the better end is kept.

    Args:
        start: an estimate of one system by a subspace method or by prediction error, or a discrete
            system; or a list of those, from each of which a descent runs and the best is kept.
        u: inputs, (T, m) or (T,), or a list of those, of any lengths; None for a system without.
        y: outputs, (T, p) or (T,), or a list of those.
        K: gain to start from, (n, p); None for that of the estimate, 0 for a system. With a single
            start only.
        noise: whether to estimate K; False holds it at 0, which minimises the simulation error.
        direct: whether to estimate D; False holds it as it is.
        at_rest: whether records start from x_0 = 0; else x_0 is estimated for each.
        stability: a radius, at most 1, within which the poles of A have to stay too; None for no
            such bound.
        iterations: most steps.
        tolerance: length of the Gauss-Newton step, in standard errors, at which to stop.

    Returns:
        The system, its gain, covariances and how the descent ended.

    Raises:
        ValueError: channels that do not fit, a start that is not one discrete real system or whose
            predictor is not stable, or records too short.

    Source: Ljung (1999), chapters 7 and 10; McKelvey, Helmersson & Ribarits, Data driven local
    coordinates (2004).

    Example:
        >>> u = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> y = torch.cat((torch.zeros(1, 1), u[:-1]))
        >>> found = refine(StateSpace([[0.1]], [[0.5]], [[1.0]], dt=1.0), u, y)
        >>> found.converged, bool(found.fit.min() > 99.99)
        (True, True)
    """
    records = read_records(u, y)
    limit = _radius(stability)
    starts: list[Start] = list(start) if isinstance(start, (list, tuple)) else [start]
    if not starts or (K is not None and len(starts) > 1):
        raise ValueError(f"{len(starts)} starts are given; one at least is needed, for K just one")
    times = {_system_of(each).dt for each in starts}
    if len(times) > 1:
        raise ValueError(f"the starts have different sampling times: {sorted(times, key=str)}")
    weight = torch.eye(records.n_outputs, dtype=torch.float64)
    points = []
    for each in starts:
        matrices = _started(each, K, noise, records)
        _check_stable(matrices, limit)
        for some in _with_and_without_gain(matrices, limit):
            point = engine.predict(records, some, weight, at_rest)
            points.append(_normalised(point, records, at_rest))
        _check_length(records, points[-1], noise, direct, at_rest)

    def move(at: engine.Point, step: Array) -> engine.Point | None:
        basis = engine.basis_of(at, noise, direct)
        after = moved(at.matrices, basis @ torch.as_tensor(step))
        if not _within(after, limit):
            return None
        return engine.predict(records, after, at.weight, at_rest)

    def linearise(at: engine.Point) -> Linearised:
        return engine.linearise(records, at, engine.basis_of(at, noise, direct), at_rest)[0]

    problem = Problem(lambda at: at.cost, linearise, move)
    ended = [
        minimise(problem, point, iterations=iterations, tolerance=tolerance) for point in points
    ]
    found = min(ended, key=lambda descent: descent.cost)
    dt = _system_of(starts[0]).dt
    point = found.point
    basis = engine.basis_of(point, noise, direct)
    local, taken = engine.linearise(records, point, basis, at_rest)
    share = point.samples / max(point.samples - (basis.shape[1] + taken) / records.n_outputs, 1.0)
    inner = basis @ torch.as_tensor(inverse_normal(local.R)) @ basis.mT * share
    up, out = records.u_scale[0], records.y_scale[0]
    A, B, K, C, D = point.matrices
    scales = (
        torch.ones_like(A),
        (1 / up).expand_as(B),
        (1 / out).expand_as(K),
        out[:, None].expand_as(C),
        out[:, None] / up,
    )
    factor = torch.cat([scale.flatten() for scale in scales])
    A, B, K, C, D = (M * scale for M, scale in zip((A, B, K, C, D), scales, strict=True))
    covariance = point.covariance * out[:, None] * out
    run = engine.simulated(records, point)
    return RefinedSystem(
        StateSpace(A, B, C, D, dt),
        K,
        covariance,
        point.x0,
        [e * out for e in point.errors],
        _fits(records, run),
        _fits(records, point.errors),
        inner * factor[:, None] * factor,
        basis.shape[1],
        float(torch.linalg.det(covariance)),
        point.samples,
        found.iterations,
        found.converged,
        found.reason,
    )


def _system_of(start: Start) -> StateSpace:
    """The system whose states have a gain, where the start has one."""
    if isinstance(start, PolynomialEstimate):
        return start.model.innovation_form[0]
    system = start.system if isinstance(start, (SubspaceResult, RefinedSystem)) else start
    if not isinstance(system, StateSpace):
        raise TypeError(f"start is {start!r}; a StateSpace or an estimate of one is needed")
    return system


def _gain_of(start: Start) -> Tensor | None:
    if isinstance(start, PolynomialEstimate):
        return start.model.innovation_form[1]
    return start.K if isinstance(start, (SubspaceResult, RefinedSystem)) else None


def _started(start: Start, K: Any, noise: bool, records: Records) -> Matrices:
    """A, B, K, C and D in the units of the scaled records."""
    system = _system_of(start)
    if system.batch_shape or system.dt is None or system.is_complex:
        raise ValueError(f"refine starts from one discrete real system; given {system!r}")
    m, p, n = records.n_inputs, records.n_outputs, system.n_states
    if (system.n_inputs, system.n_outputs) != (m, p):
        raise ValueError(
            f"the system has {system.n_inputs} inputs and {system.n_outputs} outputs, the data "
            f"{m} and {p}"
        )
    if n == 0:
        raise ValueError("the system has no states, so that there is nothing to refine but D")
    A, B, C, D = (M.detach().cpu().to(torch.float64) for M in system.matrices)
    if not noise:
        if K is not None:
            raise ValueError("K is given and noise=False, which holds it at 0")
        gain = A.new_zeros(n, p)
    elif K is not None:
        gain = as_tensor("K", K).to(torch.float64)
    else:
        own = _gain_of(start)
        gain = A.new_zeros(n, p) if own is None else own.detach().cpu().to(torch.float64)
    if gain.shape != (n, p):
        raise ValueError(f"K has shape {tuple(gain.shape)}; {n} states and {p} outputs need it so")
    up, out = records.u_scale[0], records.y_scale[0]
    return A, B * up, gain * out, C / out[:, None], D * up / out[:, None]


def _with_and_without_gain(matrices: Matrices, limit: float | None) -> list[Matrices]:
    A, B, K, C, D = matrices
    bare = (A, B, torch.zeros_like(K), C, D)
    return [matrices, bare] if K.any() and _within(bare, limit) else [matrices]


def _radius(stability: float | None) -> float | None:
    if stability is not None and not 0 < stability <= 1:
        raise ValueError(f"stability is {stability!r}; a radius in (0, 1] is needed, or None")
    return stability


def _within(matrices: Matrices, limit: float | None) -> bool:
    A, _, K, C, _ = matrices
    if not torch.linalg.eigvals(A - K @ C).abs().max() < 1:
        return False
    return limit is None or bool(torch.linalg.eigvals(A).abs().max() < limit)


def _check_stable(matrices: Matrices, limit: float | None) -> None:
    if not _within(matrices, limit):
        A, _, K, C, _ = matrices
        inner, outer = (float(torch.linalg.eigvals(M).abs().max()) for M in (A - K @ C, A))
        bound = "" if limit is None else f", and A radius {outer:.6g}, with {limit:g} allowed"
        raise ValueError(
            f"the predictor A − K C of the start has spectral radius {inner:.6g}{bound}; start "
            f"from a system within, as identify with stability gives it, or from a gain K"
        )


def _normalised(point: engine.Point, records: Records, at_rest: bool) -> engine.Point:
    """The same system in states of unit covariance."""
    x = torch.cat(point.states)
    covariance = x.mT @ x / len(x)
    size = covariance.diagonal().mean().clamp_min(1e-300)
    eye = identity_like(covariance)
    T, info = torch.linalg.cholesky_ex(covariance + 1e-10 * size * eye)
    if int(info) or not T.isfinite().all():
        return point
    A, B, K, C, D = point.matrices
    A, B, K = (torch.linalg.solve_triangular(T, M, upper=False) for M in (A @ T, B, K))
    return engine.predict(records, (A, B, K, C @ T, D), point.weight, at_rest)


def _check_length(
    records: Records, point: engine.Point, noise: bool, direct: bool, at_rest: bool
) -> None:
    free = engine.basis_of(point, noise, direct).shape[1]
    first = 0 if at_rest else len(point.matrices[0]) * len(records.y)
    total = sum(records.lengths) * records.n_outputs
    if total <= free + first:
        raise ValueError(
            f"the records are too short: lengths {records.lengths} of {records.n_outputs} outputs "
            f"are {total} numbers for {free} parameters and {first} first states"
        )


def _fits(records: Records, rests: list[Tensor]) -> Tensor:
    shares = []
    for y, rest in zip(records.y, rests, strict=True):
        spread = (y[0] - y[0].mean(0)).norm(dim=0)
        spread = torch.where(spread > 0, spread, y[0].norm(dim=0)).clamp_min(1e-300)
        shares.append(100 * (1 - rest.norm(dim=0) / spread))
    return torch.stack(shares)
