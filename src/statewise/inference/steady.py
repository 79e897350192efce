"""The steady state of a Kalman filter, from the discrete algebraic Riccati equation."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from statewise.inference.engine import FilterResult
from statewise.inference.linear_gaussian import LinearGaussian
from statewise.inference.moments import chol_innovation, dot, log_normal, symmetric
from statewise.lti import discrete_riccati
from statewise.ops import block_scan


@dataclasses.dataclass(frozen=True)
class SteadyState:
    """The filter that covariances settle to: x̂_t = (I − K H)(F x̂_{t−1} + c) + K (y_t − d).

    Attributes:
        model: the model.
        predicted_cov: P⁻, (b, n, n).
        cov: P after an observation, (b, n, n).
        gain: K, (b, n, p).
        innovation_cov: S = H P⁻ Hᵀ + R, (b, p, p).
        residual: of the Riccati equation, relative to its largest term, (b,).
    """

    model: LinearGaussian
    predicted_cov: Tensor
    cov: Tensor
    gain: Tensor
    innovation_cov: Tensor
    residual: Tensor

    def start(self) -> LinearGaussian:
        """The model with P⁻ for P0, whose filter is in its steady state from the first step."""
        return self.model.replace(P0=self.predicted_cov, prior_at=1)

    def filter(self, y: Any, u: Any = None) -> FilterResult:
        """Filter complete series as a linear recurrence with constant gain.

        Args:
            y: observations (B, T, p), all of them observed.
            u: inputs (B, T, m), or None.

        Raises:
            ValueError: a gap, which changes the gain.
        """
        problem = self.start().problem(y, u)
        if problem.observed is not None:
            raise ValueError("y has gaps, at which the gain is not the steady one; use filter")
        batch, length, n, p = problem.size
        H, F = problem.H[:, 0], problem.F[:, 0]
        left = torch.eye(n, dtype=F.dtype, device=F.device) - self.gain @ H
        rest = problem.y if problem.d is None else problem.y - problem.d
        known = torch.zeros_like(problem.m0).unsqueeze(1).repeat(1, length, 1)
        if problem.c is not None:
            known = known + problem.c
        known = torch.cat([problem.m0.unsqueeze(1), known[:, 1:]], 1)
        b = dot(left.unsqueeze(1), known) + dot(self.gain.unsqueeze(1), rest)
        A = (left @ F).unsqueeze(1).unsqueeze(1)
        mean = block_scan(A, b.unsqueeze(2))[0].squeeze(2)
        cov = self.cov.unsqueeze(1).expand(batch, length, n, n)
        before = torch.cat(
            [problem.m0.unsqueeze(1), dot(problem.F, mean[:, :-1]) + known[:, 1:]], 1
        )
        L = chol_innovation(self.innovation_cov).unsqueeze(1).expand(batch, length, p, p)
        count = torch.full((batch, length), float(p), dtype=mean.dtype, device=mean.device)
        return FilterResult(mean, cov, log_normal(rest - dot(problem.H, before), L, count), problem)


def steady_state(model: LinearGaussian) -> SteadyState:
    """The steady state of a model's filter.

    P⁻ = F P⁻ Fᵀ − F P⁻ Hᵀ (H P⁻ Hᵀ + R)⁻¹ H P⁻ Fᵀ + Q. Differentiable.

    Args:
        model: a model whose F, H, Q and R are constant in time; it needs no start.

    Raises:
        ValueError: parameters that vary in time, or no steady state: a mode that is neither seen
            nor stable, or one on the unit circle without noise.

    Example:
        >>> model = LinearGaussian([[1.0]], [[1.0]], [[1.0]], [[1.0]])
        >>> round(steady_state(model).predicted_cov.item(), 6)
        1.618034
    """
    F, H, Q, R = (model._constant(name) for name in ("F", "H", "Q", "R"))
    Q, R = symmetric(Q), symmetric(R)
    solution = discrete_riccati(F.mT, H.mT, Q, R)
    P = symmetric(solution.X)
    S = symmetric(H @ P @ H.mT + R)
    K = torch.cholesky_solve(H @ P, chol_innovation(S)).mT
    J = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device) - K @ H
    cov = symmetric(J @ P @ J.mT + K @ R @ K.mT)
    return SteadyState(model, P, cov, K, S, solution.residual)
