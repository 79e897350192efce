"""The exact diffuse start: states with infinite variance, until the data have told them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from statewise.inference.linear_gaussian import Problem
from statewise.inference.moments import (
    at,
    chol_innovation,
    dot,
    inverse_of,
    log_normal,
    observe,
    spread,
    symmetric,
)

SINGULAR = 1e-9
"""Smallest eigenvalue, beside a diagonal of ones, of an information matrix that is inverted."""


@dataclasses.dataclass(frozen=True)
class DiffuseStart:
    """The steps until all unknown states are determined.

    With x_1 = m + A δ + …, δ unknown, every mean is m_t + M_t δ.

    Attributes:
        steps: how many steps it took, the last of them the first with proper moments.
        mean: filtered mean of that last step, (B, n).
        cov: its covariance, (B, n, n).
        log_likelihoods: the diffuse log-likelihood of these steps, (B, steps).
        means: m_t (B, steps, n), filtered, for δ = 0.
        covs: covariances given δ, (B, steps, n, n).
        slopes: M_t (B, steps, n, q), filtered.
        delta: mean of δ given these steps, (B, q).
        delta_cov: its covariance, (B, q, q).
    """

    steps: int
    mean: Tensor
    cov: Tensor
    log_likelihoods: Tensor
    means: Tensor
    covs: Tensor
    slopes: Tensor
    delta: Tensor
    delta_cov: Tensor


def collapse(problem: Problem, unknown: Tensor) -> DiffuseStart:
    """Filter until the unknown states are determined, and replace them by what is then known.

    The likelihood is lim log p(y) + (q/2) log κ for a variance κ → ∞ of the q unknown states.

    Args:
        problem: the model beside the data, its P0 the covariance of what is known.
        unknown: (n,) bool.

    Raises:
        ValueError: data that end before the states are determined, or an innovation that has no
            variance once they are given.

    Source: de Jong, The diffuse Kalman filter (1991).
    """
    batch, length, n, _ = problem.size
    m, P = problem.m0, symmetric(problem.P0)
    M = torch.eye(n, dtype=m.dtype, device=m.device)[:, unknown].expand(batch, n, -1)
    q = M.shape[-1]
    W, w = m.new_zeros(batch, q, q), m.new_zeros(batch, q)
    eye = torch.eye(n, dtype=m.dtype, device=m.device)
    valid = problem.valid()
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    terms: list[Tensor] = []
    for t in range(length):
        if t or problem.moves_first:
            F, c = at(problem.F, t), at(problem.c, t)
            m, M = dot(F, m), F @ M
            m = m if c is None else m + c
            P = symmetric(F @ P @ F.mT + symmetric(at(problem.Q, t)))
        o = observe(problem, t)
        V = o.H @ P
        L = chol_innovation(V @ o.H.mT + o.R)
        e, E = o.y - dot(o.H, m), o.H @ M
        K = torch.cholesky_solve(V, L).mT
        solved = torch.cholesky_solve(torch.cat([E, e.unsqueeze(-1)], -1), L)
        W = symmetric(W + E.mT @ solved[..., :q])
        w = w + dot(E.mT, solved[..., q])
        m, M = m + dot(K, e), M - K @ E
        J = eye - K @ o.H
        P = symmetric(J @ P @ J.mT + K @ o.R @ K.mT)
        term = log_normal(e, L, o.count)
        terms.append(spread(valid[:, t], term, torch.zeros_like(term)))
        rows.append((m, P, M))
        if _determined(W):
            break
    else:
        raise ValueError(
            f"the diffuse start is not over after {length} steps: the observations do not "
            f"determine the {q} unknown states of every series"
        )
    if not bool(valid[:, len(rows) - 1].all()):
        raise ValueError(
            f"a series ends before step {len(rows)}, at which the {q} unknown states of every "
            "series are determined"
        )
    L = torch.linalg.cholesky(W)
    delta = torch.cholesky_solve(w.unsqueeze(-1), L).squeeze(-1)
    delta_cov = inverse_of(L)
    log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    terms[-1] = terms[-1] + 0.5 * ((w * delta).sum(-1) - log_det)
    means, covs, slopes = (torch.stack(x, 1) for x in zip(*rows, strict=True))
    mean, cov = m + dot(M, delta), symmetric(P + M @ delta_cov @ M.mT)
    found = torch.stack(terms, 1)
    return DiffuseStart(len(rows), mean, cov, found, means, covs, slopes, delta, delta_cov)


def _determined(W: Tensor) -> bool:
    """Whether information matrices can be inverted, whatever the units of the states."""
    W = W.detach()
    diagonal = W.diagonal(dim1=-2, dim2=-1)
    if not bool((diagonal > 0).all()):
        return False
    scale = diagonal.rsqrt()
    scaled = scale.unsqueeze(-1) * W * scale.unsqueeze(-2)
    return bool((torch.linalg.eigvalsh(scaled)[..., 0] > SINGULAR).all())


def smooth_start(
    problem: Problem, start: DiffuseStart, mean: Tensor, cov: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed moments of the steps before the last of the start, and their Cov(x_{t+1}, x_t).

    Backwards through (x_t, δ): given δ, x_t | x_{t+1} is that of the smoother with known δ.

    Args:
        problem: the model beside the data.
        start: what the filter did.
        mean: smoothed mean of the last step of the start, (B, n).
        cov: its covariance.

    Returns:
        Means (B, steps − 1, n), covariances, and Cov(x_{t+1}, x_t) (B, steps − 1, n, n).
    """
    k, n = start.steps - 1, mean.shape[-1]
    q = start.delta.shape[-1]
    eye = torch.eye(n, dtype=mean.dtype, device=mean.device)
    # δ follows x at the last step by regression, both as known then.
    cross = start.delta_cov @ start.slopes[:, k].mT
    reg = cross @ torch.linalg.pinv(start.cov, hermitian=True)
    delta = start.delta + dot(reg, mean - start.mean)
    joint = reg @ cov
    delta_cov = symmetric(start.delta_cov - reg @ cross.mT + reg @ cov @ reg.mT)
    means, covs, pairs = [], [], []
    for t in range(k - 1, -1, -1):
        F, c, Q = at(problem.F, t + 1), at(problem.c, t + 1), at(problem.Q, t + 1)
        m, P, M = start.means[:, t], start.covs[:, t], start.slopes[:, t]
        m_next, M_next = dot(F, m), F @ M
        m_next = m_next if c is None else m_next + c
        Q = symmetric(Q)
        P_next = symmetric(F @ P @ F.mT + Q)
        G = P @ F.mT @ torch.linalg.pinv(P_next, hermitian=True)
        J = eye - G @ F
        rest = J @ P @ J.mT + G @ Q @ G.mT
        map_ = torch.cat([G, M - G @ M_next], -1)
        whole = torch.cat([torch.cat([cov, joint.mT], -1), torch.cat([joint, delta_cov], -1)], -2)
        mean = m - dot(G, m_next) + dot(map_, torch.cat([mean, delta], -1))
        moved = whole @ map_.mT
        pairs.append(moved[..., :n, :])
        cov = symmetric(rest + map_ @ moved)
        joint = moved[..., n : n + q, :]
        means.append(mean)
        covs.append(cov)
    if not k:
        return start.means[:, :0], start.covs[:, :0], start.covs[:, :0]
    return (
        torch.stack(means[::-1], 1),
        torch.stack(covs[::-1], 1),
        torch.stack(pairs[::-1], 1),
    )
