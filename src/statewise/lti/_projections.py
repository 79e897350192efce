"""From the triangular factor of the data to state sequences and models of any order.

Signals are columns of R: Q has orthonormal columns, so that all products of signals are those of
their coordinates, and nothing as long as the records is needed again.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from statewise._errors import ConvergenceError
from statewise.lti._hankel import PIVOTS, Layout
from statewise.lti._lanes import compiled_gains
from statewise.lti.matrices import hermitian, identity_like
from statewise.lti.riccati import DOUBLINGS, discrete_riccati
from statewise.lti.weightings import Weighting

RANK = 1e-12
# Variance of an innovation, relative to its output, below which data count as free of noise.
NOISE_FLOOR = 1e-16
SINGULAR = 1e-13
# From so many systems on, gains are computed by compiled code.
MANY = 4


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """The weighted singular value decomposition, before an order is chosen.

    Attributes:
        R: triangular factor, (B, width, width).
        layout: its columns.
        weighting: the method.
        singular_values: σ, (B, k), falling.
        left: Γ S^{−1/2}, (B, f p, k).
        right: states of the past are past · right · S^{−1/2}, (B, past columns, k).
    """

    R: Tensor
    layout: Layout
    weighting: Weighting
    singular_values: Tensor
    left: Tensor
    right: Tensor


@dataclasses.dataclass(frozen=True)
class StateModel:
    """Estimates of one order, from the coordinates alone.

    Attributes:
        A: dynamics, (B, n, n).
        C: output matrix, (B, p, n).
        covariance: of the rests of (x_{t+1}, y_t) regressed on (x_t, u_t), (B, n + p, n + p).
        B: input matrix of that regression, (B, n, m).
        D: direct term of that regression, (B, p, m).
    """

    A: Tensor
    C: Tensor
    covariance: Tensor
    B: Tensor
    D: Tensor


def regress(X: Tensor, Y: Tensor) -> Tensor:
    """The θ of least norm that minimises ‖Y − X θ‖."""
    Q, R = torch.linalg.qr(X)
    return divide(R, Q.mT @ Y)


def divide(R: Tensor, Y: Tensor) -> Tensor:
    """R⁺ Y of an upper triangular R, without singular values below 1e-12 of the largest."""
    if R.shape[-1] == 0:
        return Y[..., :0, :]
    if _regular(R).all():
        return torch.linalg.solve_triangular(R, Y, upper=True)
    return torch.linalg.pinv(R, rtol=RANK) @ Y


def _regular(R: Tensor) -> Tensor:
    """Whether triangular systems may be solved as they are, (B,)."""
    pivots = R.diagonal(dim1=-2, dim2=-1).abs()
    return pivots.amin(-1) > PIVOTS * 1e-4 * pivots.amax(-1)


def decompose(R: Tensor, layout: Layout, weighting: Weighting) -> Decomposition:
    """Project the future on the past, weight, and take singular values."""
    past, future = R[..., layout.both_past], R[..., layout.y_future]
    start, stop = layout.both_past.start, layout.both_past.stop
    if weighting.future == "arx":
        future = _without_future(R, layout)
        theta = regress(past, future)
        signal, white = past @ theta, future
    else:
        theta = divide(R[:, start:stop, start:stop], future[:, start:stop])
        rows = slice(start if weighting.orthogonal else 0, stop)
        signal, white = past[:, rows] @ theta, future[:, start:]
    if weighting.whiten:
        weight, back = _whitening(torch.linalg.qr(white, mode="r").R)
    else:
        weight = back = identity_like(future.mT @ future)
    small = torch.linalg.qr(signal @ weight, mode="r").R
    sigma, V = torch.linalg.svd(small, full_matrices=False)[1:]
    return Decomposition(R, layout, weighting, sigma, back @ V.mT, theta @ weight @ V.mT)


def _whitening(R: Tensor) -> tuple[Tensor, Tensor]:
    """W with Wᵀ RᵀR W = 1, without singular values below 1e-12 of the largest, and Rᵀ R W."""
    if R.shape[-2] == R.shape[-1] and _regular(R).all():
        return torch.linalg.solve_triangular(R, identity_like(R), upper=True), R.mT
    size, axes = torch.linalg.svd(R, full_matrices=False)[1:]
    kept = size > RANK * size[..., :1]
    inverse = torch.where(kept, 1 / torch.where(kept, size, 1.0), 0.0)
    return axes.mT * inverse[..., None, :], axes.mT * (size * kept)[..., None, :]


def _without_future(R: Tensor, layout: Layout) -> Tensor:
    """Future outputs less what inputs and outputs of the future add in a long ARX model."""
    m, p, lags = layout.m, layout.p, layout.past
    past = R[..., layout.both_past]
    u, y = R[..., layout.u_future], R[..., layout.y_future]
    known = torch.cat((past, u[..., :m]), -1) if layout.direct else past
    theta = regress(known, y[..., :p])
    from_u, from_y = theta[:, : lags * m], theta[:, lags * m : lags * (m + p)]
    direct = theta[:, lags * (m + p) :]
    rests = []
    for s in range(layout.future):
        rest = y[..., s * p : (s + 1) * p]
        if layout.direct:
            rest = rest - u[..., s * m : (s + 1) * m] @ direct
        back = min(s, lags)
        if back:
            rest = rest - u[..., (s - back) * m : s * m] @ from_u[:, (lags - back) * m :]
            rest = rest - y[..., (s - back) * p : s * p] @ from_y[:, (lags - back) * p :]
        rests.append(rest)
    return torch.cat(rests, -1)


def state_model(found: Decomposition, order: int) -> StateModel:
    """The estimates of one order."""
    layout, R = found.layout, found.R
    m, p = layout.m, layout.p
    root = found.singular_values[..., None, :order].sqrt()
    gain = found.right[..., :order] / root.clamp_min(torch.finfo(root.dtype).tiny)
    now, u = R[..., layout.both_past] @ gain, R[..., :m]
    after = R[..., layout.shifted_past()] @ gain
    y = R[..., layout.y_future][..., :p]
    known = torch.cat((now, u), -1)
    seen = known if layout.direct else now
    outputs = regress(seen, y)
    error = y - seen @ outputs
    # Innovations stand beside the inputs, which depend on them where a loop is closed.
    states = regress(torch.cat((known, error), -1), after)[:, : order + m]
    rest = torch.cat((after - known @ states, error), -1)
    A, C = states[:, :order].mT, outputs[:, :order].mT
    B = states[:, order:].mT
    D = outputs[:, order:].mT if layout.direct else B.new_zeros(len(B), p, m)
    if found.weighting.dynamics == "shift":
        gamma = found.left[..., :order] * root
        A, C = regress(gamma[:, :-p], gamma[:, p:]), gamma[:, :p]
    return StateModel(A, C, rest.mT @ rest, B, D)


def reflect(A: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Move eigenvalues λ outside the circle of radius ``limit`` to min(1/|λ|, limit) · λ/|λ|.

    Returns:
        The matrices, and which of the batch were changed.
    """
    poles, vectors = torch.linalg.eig(A)
    size = poles.abs()
    outside = size > limit
    moved = outside.any(-1)
    if moved.any():
        radius = torch.where(outside, (1 / size.clamp_min(1e-300)).clamp_max(limit), size)
        inside = torch.polar(radius, poles.angle())
        rebuilt = torch.linalg.solve(vectors, vectors * inside[..., None, :], left=False).real
        A = torch.where(moved[..., None, None], rebuilt, A)
    return A, moved


def kalman_gain(A: Tensor, C: Tensor, covariance: Tensor) -> Tensor:
    """The gain of the stationary Kalman predictor, (B, n, p); 0 where the data have no noise.

    Where the Riccati equation has no stabilising solution, the regression S R⁻¹ of next states on
    innovations is taken if it gives a stable predictor, and 0 if not.
    """
    n, p = A.shape[-1], C.shape[-2]
    eye = identity_like(covariance[..., n:, n:])
    Q, S = hermitian(covariance[..., :n, :n]), covariance[..., :n, n:]
    bare = hermitian(covariance[..., n:, n:])
    largest = bare.diagonal(dim1=-2, dim2=-1).amax(-1)
    # Innovations of an order too low may lie in fewer directions than there are outputs.
    R = bare + (NOISE_FLOOR + SINGULAR * largest)[..., None, None] * eye
    noisy = largest > NOISE_FLOOR
    K = A.new_zeros(len(A), n, p)
    if noisy.any():
        K[noisy] = _gains(*(M[noisy] for M in (A, C, Q, R, S)))
    return K


def _gains(A: Tensor, C: Tensor, Q: Tensor, R: Tensor, S: Tensor) -> Tensor:
    if len(A) >= MANY:
        found = compiled_gains(A, C, Q, R, S, DOUBLINGS)
        if found is not None:
            K, settled = found
            left = ~(settled & (torch.linalg.eigvals(A - K @ C).abs() < 1).all(-1))
            # One by one, so that those without a solution do not spoil the others.
            for k in left.nonzero().flatten().tolist():
                K[k] = _gains(*(M[k : k + 1] for M in (A, C, Q, R, S)))[0]
            return K
    try:
        return discrete_riccati(A.mT, C.mT, Q, R, S, method="doubling").gain.mT
    except (ValueError, ConvergenceError, RuntimeError):
        if len(A) > 1:
            parts = zip(A, C, Q, R, S, strict=True)
            return torch.cat([_gains(*(M[None] for M in part)) for part in parts])
    K = S @ torch.linalg.pinv(R, hermitian=True)
    stable = torch.linalg.eigvals(A - K @ C).abs().amax(-1) < 1
    return torch.where(stable[:, None, None], K, 0.0)
