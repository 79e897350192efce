"""The Kalman filter, its adjoint and the smoother as readable loops over time.

B series, T steps, n states, p outputs. Equation numbers are those of README.md. An output that is
not observed gets a row of zeros in H, a unit variance in R and a zero innovation, which is the
same as deleting it, but for log 2π, which is counted by what is observed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

Parameters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


class Update(NamedTuple):
    """What one observation gives, from the prediction of its step."""

    H: Tensor
    R: Tensor
    K: Tensor
    inverse: Tensor
    e: Tensor
    w: Tensor
    log_det: Tensor


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any real floating-point type."""
    return None


def not_positive(series: int, step: int) -> ValueError:
    """The error for an innovation whose covariance cannot be inverted."""
    return ValueError(
        f"kalman_filter: the covariance of the innovation of series {series} at step {step} is not "
        f"positive definite; R, or Q and P0 through H, must give every observed output some "
        f"variance, and no parameter may hold NaN"
    )


def _symmetric(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def _at(x: Tensor, t: int) -> Tensor:
    return x[:, min(t, x.shape[1] - 1)]


def _dot(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)


def _outer(x: Tensor, y: Tensor) -> Tensor:
    return x.unsqueeze(-1) * y.unsqueeze(-2)


def _predict(parameters: Parameters, t: int, m: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Equation (1)."""
    F, c = _at(parameters[0], t), parameters[4]
    m = _dot(F, m)
    if c is not None:
        m = m + _at(c, t)
    return m, _symmetric(F @ P @ F.mT + _symmetric(_at(parameters[2], t)))


def _look(parameters: Parameters, t: int, y: Tensor, seen: Tensor, m: Tensor, P: Tensor) -> Update:
    """Equations (2): innovation, gain and what else an update needs; ``seen`` is (B, p)."""
    d = parameters[5]
    H = torch.where(seen.unsqueeze(-1), _at(parameters[1], t), 0.0)
    both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    R = torch.where(both, _symmetric(_at(parameters[3], t)), 0.0) + torch.diag_embed((~seen).to(m))
    e = y if d is None else y - _at(d, t)
    e = torch.where(seen, e, 0.0) - _dot(H, m)
    V = H @ P
    L, failed = torch.linalg.cholesky_ex(_symmetric(V @ H.mT + R))
    if failed.any():
        raise not_positive(int(failed.argmax()), t)
    # The forward-mode derivative of torch.cholesky_inverse is wrong in torch 2.13.
    inverse = torch.cholesky_solve(torch.eye(L.shape[-1]).to(L).expand_as(L), L)
    log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Update(H, R, torch.cholesky_solve(V, L).mT, inverse, e, _dot(inverse, e), log_det)


def _seen(y: Tensor, observed: Tensor | None, valid: Tensor | None, t: int) -> Tensor:
    seen = torch.ones_like(y[:, t], dtype=torch.bool) if observed is None else observed[:, t]
    return seen if valid is None else seen & valid[:, t, None]


def _valid(y: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Which steps are before the end of their series, (B, T)."""
    if lengths is None:
        return None
    return torch.arange(y.shape[1], device=y.device) < lengths.unsqueeze(-1)


def forward(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Filtered means (B, T, n), covariances (B, T, n, n) and log-likelihoods (B, T).

    Zeros behind the end of a series. The last, (B, T) bool, says that no step kept the covariance
    of the step before without computing it.
    """
    parameters = (F, H, Q, R, c, d)
    valid = _valid(y, lengths)
    eye = torch.eye(F.shape[-1], dtype=y.dtype, device=y.device)
    m, P = m0, _symmetric(P0)
    means, covariances, terms = [], [], []
    for t in range(y.shape[1]):
        if t or moves_first:
            m, P = _predict(parameters, t, m, P)
        seen = _seen(y, observed, valid, t)
        u = _look(parameters, t, y[:, t], seen, m, P)
        m = m + _dot(u.K, u.e)
        J = eye - u.K @ u.H
        P = _symmetric(J @ P @ J.mT + u.K @ u.R @ u.K.mT)
        count = seen.sum(-1).to(m)
        terms.append(-0.5 * (count * math.log(2 * math.pi) + u.log_det + (u.e * u.w).sum(-1)))
        means.append(m)
        covariances.append(P)
    found = [torch.stack(x, 1) for x in (means, covariances, terms)]
    if valid is not None:
        found = [
            torch.where(valid.reshape(*valid.shape, *(1,) * (x.dim() - 2)), x, 0.0) for x in found
        ]
    return found[0], found[1], found[2], torch.zeros_like(found[2], dtype=torch.bool)


def forward_shared(
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    moves_first: bool,
    stores: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The filter of series that differ in y, m0 and offsets alone; covariances are (1, T, n, n)."""
    seen = torch.ones_like(y[:1], dtype=torch.bool) if observed is None else observed[:1]
    return forward(y, *parameters, start[0], start[1][:1], seen, None, moves_first)[:3]


def likelihood(
    y: Tensor,
    F: Tensor,
    H: Tensor,
    Q: Tensor,
    R: Tensor,
    c: Tensor | None,
    d: Tensor | None,
    m0: Tensor,
    P0: Tensor,
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> Tensor:
    """Log-likelihoods (B, T) alone."""
    return forward(y, F, H, Q, R, c, d, m0, P0, observed, lengths, moves_first)[2]


def likelihood_backward(
    gll: Tensor,
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    lengths: Tensor | None,
    moves_first: bool,
) -> tuple[Tensor, ...]:
    """Gradients of y, F, H, Q, R, c, d, m0 and P0 from those of the log-likelihoods."""
    m, P, _, still = forward(y, *parameters, *start, observed, lengths, moves_first)
    slopes = (None, None, gll)
    return backward(slopes, y, parameters, start, observed, lengths, (m, P, still), moves_first)


def backward(
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    y: Tensor,
    parameters: Parameters,
    start: tuple[Tensor, Tensor],
    observed: Tensor | None,
    lengths: Tensor | None,
    found: tuple[Tensor, Tensor, Tensor],
    moves_first: bool,
) -> tuple[Tensor, ...]:
    """Gradients of y, F, H, Q, R, c, d, m0 and P0, by equations (5) to (7)."""
    gm, gP, gll = gradients
    batch, length, _ = y.shape
    F, _, _, _, c, d = parameters
    valid = _valid(y, lengths)
    g = torch.zeros_like(start[0])
    G = torch.zeros_like(start[1])
    sums = [y.new_zeros(0) if x is None else x.new_zeros(batch, *x.shape[1:]) for x in parameters]
    dy = torch.zeros_like(y)

    def add(k: int, t: int, value: Tensor, now: Tensor | None) -> None:
        if now is not None:
            value = torch.where(now.reshape(-1, *(1,) * (value.dim() - 1)), value, 0.0)
        sums[k][:, min(t, sums[k].shape[1] - 1)] += value

    for t in reversed(range(length)):
        now = None if valid is None else valid[:, t]
        add_g, add_G = torch.zeros_like(g), torch.zeros_like(G)
        add_g = add_g if gm is None else gm[:, t]
        add_G = add_G if gP is None else _symmetric(gP[:, t])
        slope = y.new_zeros(batch) if gll is None else gll[:, t]
        if now is not None:
            add_g = torch.where(now[:, None], add_g, 0.0)
            add_G = torch.where(now[:, None, None], add_G, 0.0)
            slope = torch.where(now, slope, 0.0)
        g, G = g + add_g, G + add_G
        m_before, P_before = (
            (found[0][:, t - 1], found[1][:, t - 1]) if t else (start[0], _symmetric(start[1]))
        )
        moves = bool(t or moves_first)
        m, P = _predict(parameters, t, m_before, P_before) if moves else (m_before, P_before)
        seen = _seen(y, observed, valid, t)
        u = _look(parameters, t, y[:, t], seen, m, P)
        XG = u.K.mT @ G
        kg = _dot(u.K.mT, g)
        pulled = u.inverse - _outer(u.w, u.w)
        dR = XG @ u.K - _symmetric(_outer(kg, u.w)) - slope[:, None, None] / 2 * pulled
        dd = slope[:, None] * u.w - kg
        m_now, P_now = found[0][:, t], found[1][:, t]
        dH = _outer(u.w, _dot(P_now, g)) + _outer(dd, m_now) - slope[:, None, None] * u.K.mT
        dH = dH - 2 * XG @ P_now
        both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
        add(1, t, torch.where(seen.unsqueeze(-1), dH, 0.0), now)
        add(3, t, torch.where(both, dR, 0.0), now)
        dd = torch.where(seen, dd, 0.0)
        if d is not None:
            add(5, t, dd, now)
        dy[:, t] = -dd
        Z = dR @ u.H / 2 - XG + _outer(u.w, g) / 2
        G = G + u.H.mT @ Z + Z.mT @ u.H
        g = g + _dot(u.H.mT, dd)
        if moves:
            if c is not None:
                add(4, t, g, now)
            add(2, t, G, now)
            Ft = _at(F, t)
            T1 = G @ Ft
            add(0, t, 2 * T1 @ P_before + _outer(g, m_before), now)
            G_before, g_before = _symmetric(Ft.mT @ T1), _dot(Ft.mT, g)
            if now is not None:
                G_before = torch.where(now[:, None, None], G_before, 0.0)
                g_before = torch.where(now[:, None], g_before, 0.0)
            g, G = g_before, G_before
    gathered = [
        s if x is None or x.shape[0] == batch else s.sum(0, keepdim=True)
        for s, x in zip(sums, parameters, strict=True)
    ]
    return (dy, *gathered, g, G)


def smooth(
    m: Tensor,
    P: Tensor,
    F: Tensor,
    Q: Tensor,
    c: Tensor | None,
    lengths: Tensor | None,
    cross: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed means and covariances by equations (8), and Cov(x_t, x_{t−1}) or nothing."""
    parameters: Parameters = (F, F, Q, Q, c, None)
    valid = _valid(m, lengths)
    n, length = F.shape[-1], m.shape[1]
    eye = torch.eye(n, dtype=m.dtype, device=m.device)
    ms, Ps = m.clone(), P.clone()
    both = torch.zeros_like(P) if cross else m.new_zeros(0)
    for t in reversed(range(length - 1)):
        Ft = _at(F, t + 1)
        m_next, P_next = _predict(parameters, t + 1, m[:, t], P[:, t])
        G = P[:, t] @ Ft.mT @ torch.linalg.pinv(P_next, hermitian=True)
        J = eye - G @ Ft
        later = Ps[:, t + 1] + _symmetric(_at(Q, t + 1))
        mean = m[:, t] + _dot(G, ms[:, t + 1] - m_next)
        covariance = _symmetric(J @ P[:, t] @ J.mT + G @ later @ G.mT)
        between = Ps[:, t + 1] @ G.mT
        if valid is not None:
            more = valid[:, t + 1, None]
            mean = torch.where(more, mean, m[:, t])
            covariance = torch.where(more[:, None], covariance, P[:, t])
            between = torch.where(more[:, None], between, 0.0)
        ms[:, t], Ps[:, t] = mean, covariance
        if cross:
            both[:, t + 1] = between
    return ms, Ps, both


def smooth_shared(
    m: Tensor, P: Tensor, F: Tensor, Q: Tensor, c: Tensor | None, cross: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The smoother of series with one filtered covariance, (1, T, n, n), as are those it gives."""
    return smooth(m, P, F, Q, c, None, cross)
