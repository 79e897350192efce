"""A state-space system from a frequency response: subspace start and weighted least squares."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from statewise.lti._coordinates import Matrices, moved, response_sensitivity, tangent_complement
from statewise.lti._descent import Array, Linearised, Problem, minimise, triangle
from statewise.lti._projections import reflect
from statewise.lti.state_space import StateSpace, as_tensor, checked_dt

LIMIT = 0.9999


@dataclasses.dataclass(frozen=True, eq=False)
class FrequencyFit:
    """A system fitted to a frequency response.

    Attributes:
        system: A, B, C and D, discrete.
        response: its frequency response at the frequencies of the data, (F, p, m).
        loss: mean of |G − Ĝ|²/variance over all entries. With true variances of the data, about 1
            if the system is of the right order, and more if it is too small.
        iterations: steps of the descent.
        converged: whether it ended at a minimum.
        reason: why it ended.
    """

    system: StateSpace
    response: Tensor
    loss: float
    iterations: int
    converged: bool
    reason: str


@torch.no_grad()
def fit_frequency_response(
    response: Any,
    frequency: Any,
    order: int,
    *,
    dt: float = 1.0,
    variance: Any = None,
    direct: bool = True,
    stable: bool = True,
    iterations: int = 100,
    tolerance: float = 1e-4,
) -> FrequencyFit:
    """Minimise Σ |G(ω_k) − Ĝ(e^{iω_k dt})|²/variance over systems of one order.

    The start is the best of some frequency-domain subspace estimates: the range of the block rows
    z^r G, with those of z^r I projected out, gives A and C, and least squares B and D. Then
    Levenberg-Marquardt over all matrices.

    Args:
        response: G, (F, p, m) complex, or (F,) of one input and output.
        frequency: ω in radians per unit of time, (F,), from 0 to π/dt.
        order: number of states.
        dt: sampling time.
        variance: of the entries of ``response``, (F, p, m) or what broadcasts; None for equal ones.
        direct: whether there is a direct term; False holds D at 0.
        stable: whether the poles have to stay within the unit circle.
        iterations: most steps.
        tolerance: length of the Gauss-Newton step, in standard errors, at which to stop.

    Returns:
        The system and its misfit.

    Raises:
        ValueError: shapes that do not fit, frequencies beyond the Nyquist frequency, variances that
            are not positive, or too few frequencies.

    Source: McKelvey, Akcay & Ljung, Subspace-based multivariable system identification from
    frequency response data (1996), algorithm 2; Pintelon & Schoukens, System Identification: A
    Frequency Domain Approach, 2nd ed. (2012), chapter 9.
    """
    G, points, weight = _problem(response, frequency, order, dt, variance)
    first = _starts(G, points, weight, order, direct, stable)
    count = 2 * G.numel()
    signal = float((weight * G.abs()).square().mean())

    def misfit(at: Matrices) -> float:
        A, B, _, C, D = at
        poles = torch.linalg.eigvals(A).abs().max()
        if not poles.isfinite() or (stable and not poles < 1):
            return math.inf
        rest = weight * (StateSpace(A, B, C, D, dt)(points) - G)
        return float(rest.abs().square().mean())

    def cost(at: Matrices) -> float:
        value = misfit(at)
        return count * math.log(max(value, 1e-300)) if math.isfinite(value) else math.inf

    def move(at: Matrices, step: Array) -> Matrices | None:
        after = moved(at, tangent_complement(at, False, direct) @ torch.as_tensor(step))
        return after if math.isfinite(misfit(after)) else None

    def linearise(at: Matrices) -> Linearised:
        basis = tangent_complement(at, False, direct)
        value, J = response_sensitivity(at, points, basis)
        rest = (weight * (value - G)).reshape(-1)
        rows = (weight[..., None] * J).reshape(len(rest), -1)
        stacked = torch.cat((rows, rest[:, None]), 1)
        R = triangle(torch.cat((stacked.real, stacked.imag)).numpy())
        d = basis.shape[1]
        power = float(rest.abs().square().sum())
        return Linearised(
            R[:d, :d], R[:d, d], power / count, power / count * 2 / signal, basis.numpy()
        )

    start = min(first, key=misfit)
    problem = Problem(cost, linearise, move)
    found = minimise(problem, start, iterations=iterations, tolerance=tolerance)
    A, B, _, C, D = found.point
    system = StateSpace(A, B, C, D, dt)
    return FrequencyFit(
        system,
        system(points),
        misfit(found.point),
        found.iterations,
        found.converged,
        found.reason,
    )


def _problem(
    response: Any, frequency: Any, order: int, dt: float, variance: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """G (F, p, m), z (F,) and weights 1/σ (F, p, m)."""
    G = as_tensor("response", response).to(torch.complex128).cpu()
    w = as_tensor("frequency", frequency)
    step = checked_dt(dt)
    if step is None:
        raise ValueError("dt is None; fit_frequency_response finds discrete systems")
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"order is {order!r}; a whole number of at least 1 is needed")
    G = G[:, None, None] if G.dim() == 1 else G
    if G.dim() != 3 or w.dim() != 1 or w.is_complex() or len(w) != len(G) or not G.numel():
        raise ValueError(
            f"response has shape {tuple(G.shape)} and frequency {tuple(w.shape)}; (F, p, m) or "
            f"(F,) and (F,), real, are needed"
        )
    w = w.to(torch.float64).cpu()
    if not (G.isfinite().all() and w.isfinite().all()):
        raise ValueError("the response or its frequencies hold values that are not finite")
    if (w < 0).any() or (w * step > math.pi * (1 + 1e-9)).any():
        raise ValueError(
            f"frequencies lie between {float(w.min()):.6g} and {float(w.max()):.6g}; 0 to the "
            f"Nyquist frequency {math.pi / step:.6g} is possible"
        )
    if variance is None:
        weight = torch.ones(G.shape, dtype=torch.float64)
    else:
        spread = as_tensor("variance", variance).to(torch.float64).cpu()
        spread = spread[:, None, None] if spread.dim() == 1 else spread
        if not (spread.isfinite().all() and (spread > 0).all()):
            raise ValueError("a variance is not positive and finite")
        weight = (1 / spread.sqrt()).expand(G.shape)
    _, p, m = G.shape
    least = 2 * math.ceil(order / p + 1) * p + 2 * m
    if 2 * len(w) * m < least + order:
        raise ValueError(f"{len(w)} frequencies are too few for order {order}")
    angle = w * step
    return G, torch.polar(torch.ones_like(angle), angle), weight


def _starts(
    G: Tensor, points: Tensor, weight: Tensor, order: int, direct: bool, stable: bool
) -> list[Matrices]:
    """Estimates with several numbers of block rows, weighted by frequency and not."""
    count, p, m = G.shape
    least = math.ceil(order / p) + 1
    most = max(least, (2 * count * m - order) // (p + m) - 1)
    sizes = sorted({min(most, max(least, rows)) for rows in (least, 2 * order, 4 * order)})
    by_frequency = weight.square().mean((1, 2)).sqrt()
    found = []
    for rows in sizes:
        for scale in (by_frequency, torch.ones_like(by_frequency)):
            A, C = _dynamics(G, points, scale, order, rows)
            if stable:
                A, _ = reflect(A[None], LIMIT)
                A = A[0]
            B, D = _inputs(G, points, weight, A, C, direct)
            matrices = (A, B, A.new_zeros(order, p), C, D)
            if all(M.isfinite().all() for M in matrices):
                found.append(matrices)
    return found


def _dynamics(
    G: Tensor, points: Tensor, scale: Tensor, order: int, rows: int
) -> tuple[Tensor, Tensor]:
    """A and C by shift invariance."""
    count, p, m = G.shape
    powers = points[:, None] ** torch.arange(rows)
    weighted = scale[:, None, None] * G
    Y = torch.einsum("fr,fom->rofm", powers, weighted).reshape(rows * p, count * m)
    unit = scale[:, None, None] * torch.eye(m, dtype=G.dtype)
    U = torch.einsum("fr,fim->rifm", powers, unit).reshape(rows * m, count * m)
    U, Y = (torch.cat((M.real, M.imag), 1) for M in (U, Y))
    R = torch.linalg.qr(torch.cat((U, Y)).mT, mode="r").R
    left = torch.linalg.svd(R[rows * m :, rows * m :].mT)[0][:, :order]
    return torch.linalg.lstsq(left[:-p], left[p:]).solution, left[:p]


def _inputs(
    G: Tensor, points: Tensor, weight: Tensor, A: Tensor, C: Tensor, direct: bool
) -> tuple[Tensor, Tensor]:
    """B and D by weighted least squares, input by input."""
    (count, p, m), n = G.shape, len(A)
    left = points[:, None, None] * torch.eye(n) - A
    out = torch.linalg.solve(left.mT, C.mT.to(G.dtype).expand(count, n, p)).mT
    through = torch.eye(p, dtype=G.dtype).expand(count, p, p)
    rows = torch.cat((out, through), 2) if direct else out
    B, D = A.new_zeros(n, m), A.new_zeros(p, m)
    for j in range(m):
        left_side = (weight[:, :, j, None] * rows).flatten(0, 1)
        right = (weight[:, :, j] * G[:, :, j]).flatten()
        M, y = (torch.cat((x.real, x.imag)) for x in (left_side, right))
        theta = torch.linalg.lstsq(M, y[:, None], driver="gelsd").solution[:, 0]
        B[:, j] = theta[:n]
        if direct:
            D[:, j] = theta[n:]
    return B, D
