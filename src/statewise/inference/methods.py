"""Kalman filters as methods of the engine: covariance, square-root and information form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from statewise.inference.linear_gaussian import Problem
from statewise.inference.moments import (
    Moments,
    at,
    chol_innovation,
    chol_start,
    dot,
    inverse_of,
    log_normal,
    observe,
    predict,
    symmetric,
    tria_sum,
    update_root,
)
from statewise.ops import kalman_filter, kalman_likelihood


class Method(ABC):
    """A filter as (init, prepare, combine, associative); an engine runs it.

    A state and an element are tensors, or NamedTuples of tensors, whose first axis is the series.
    Where ``associative`` holds, elements are states too, ``combine`` is associative, and the state
    after a step is the combination of all elements up to it.
    """

    associative: ClassVar[bool] = False
    nonlinear: ClassVar[bool] = False
    """Whether nonlinear models are filtered too."""
    smoothable: ClassVar[bool] = True
    """Whether moments of successive steps are as close as a smoother needs them."""

    @abstractmethod
    def init(self, problem: Any) -> Any:
        """The state before the first step."""

    @abstractmethod
    def prepare(self, problem: Any, t: int | None) -> Any:
        """The element of a step; of all, time on axis 1, for None (associative methods alone)."""

    @abstractmethod
    def combine(self, state: Any, element: Any) -> Any:
        """The state after an element."""

    @abstractmethod
    def read(self, state: Any) -> Moments:
        """Moments of a state; for an associative method the log-likelihood is that so far."""

    def fused(self, problem: Any) -> Moments | None:
        """All steps at once where the method has a compiled way, (B, T, …); else None."""
        return None

    def fused_likelihoods(self, problem: Any) -> Tensor | None:
        """Log-likelihoods (B, T) without moments where there is a compiled way; else None."""
        return None

    def linear_problem(self, problem: Any, found: Moments) -> Problem:
        """The linear model beside the data that what was found, (B, T, …), is exact for."""
        return problem


class Kalman(Method):
    """The Kalman filter in covariance form, updated by Joseph's formula; compiled on the CPU.

    Source: Kalman (1960).
    """

    def init(self, problem: Problem) -> Moments:
        """The prior."""
        return Moments(problem.m0, symmetric(problem.P0), problem.m0.new_zeros(len(problem.m0)))

    def prepare(self, problem: Problem, t: int | None) -> Problem:
        """The step alone."""
        assert t is not None
        return problem.steps(t, t + 1)

    def combine(self, state: Moments, element: Problem) -> Moments:
        """One step."""
        found = self.fused(element._replace(m0=state.mean, P0=state.cov))
        return Moments(found.mean[:, 0], found.cov[:, 0], found.log_likelihood[:, 0])

    def read(self, state: Moments) -> Moments:
        """The state is what is asked for."""
        return state

    def fused(self, problem: Problem) -> Moments:
        """All steps by :func:`statewise.ops.kalman_filter`."""
        tensors, options = _arguments(problem)
        return Moments(*kalman_filter(*tensors, **options))

    def fused_likelihoods(self, problem: Problem) -> Tensor:
        """By :func:`statewise.ops.kalman_likelihood`."""
        tensors, options = _arguments(problem)
        return kalman_likelihood(*tensors, **options)


def _arguments(problem: Problem) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """The problem as the operators take it."""
    observed, lengths = problem.observed, problem.lengths
    if lengths is not None and bool((lengths < 1).any()):
        # A part of a series that has ended: nothing is observed there.
        observed, lengths = problem.seen(), None
    tensors = (problem.y, problem.F, problem.H, problem.Q, problem.R, problem.m0, problem.P0)
    options = {"c": problem.c, "d": problem.d, "observed": observed, "lengths": lengths}
    return tensors, options | {"moves_first": problem.moves_first}


class _Root(NamedTuple):
    mean: Tensor
    chol: Tensor
    log_likelihood: Tensor


class SquareRootKalman(Method):
    """The Kalman filter that carries a Cholesky factor, moved and updated by QR.

    L⁻ = tria([F L, √Q]); tria([[H L⁻, √R], [L⁻, 0]]) = [[√S, 0], [K √S, L]].
    It holds in float32 where covariances lose their sign; Q, R and P0 may be singular. Gradients
    need S and the covariances of the states to be of full rank.

    Source: Park and Kailath, New square-root algorithms for Kalman filtering (1995).
    """

    def init(self, problem: Problem) -> _Root:
        """The prior, as a factor."""
        m = problem.m0
        return _Root(m, chol_start(problem.P0), m.new_zeros(len(m)))

    def prepare(self, problem: Problem, t: int | None) -> Problem:
        """The step alone."""
        assert t is not None
        return problem.steps(t, t + 1)

    def combine(self, state: _Root, element: Problem) -> _Root:
        """One step."""
        m, L = state.mean, state.chol
        if element.moves_first:
            F, c, Q = at(element.F, 0), at(element.c, 0), at(element.Q, 0)
            m = dot(F, m)
            m = m if c is None else m + c
            L = tria_sum(F @ L, Q)
        o = observe(element, 0)
        return _Root(*update_root(m, L, o.y - dot(o.H, m), o.H @ L, o.R, o.count))

    def read(self, state: _Root) -> Moments:
        """Mean, factor and their product."""
        m, L, ll = state
        return Moments(m, L @ L.mT, ll, L)


class _Information(NamedTuple):
    vector: Tensor
    matrix: Tensor
    log_likelihood: Tensor


class InformationKalman(Method):
    """The Kalman filter that carries Λ = P⁻¹ and η = Λ m.

    Λ += HᵀR⁻¹H, η += HᵀR⁻¹(y − d); with A = F⁻ᵀΛF⁻¹ a transition gives Λ⁻ = (I + A Q)⁻¹A. It
    needs transitions that can be inverted, R and P0 of full rank, and pays where there are many
    more outputs than states.
    """

    def init(self, problem: Problem) -> _Information:
        """The prior's inverse.

        Raises:
            ValueError: a prior that cannot be inverted.
        """
        L, failed = torch.linalg.cholesky_ex(symmetric(problem.P0))
        if bool(failed.any()):
            raise ValueError("the information form needs a P0 that can be inverted")
        matrix = inverse_of(L)
        return _Information(dot(matrix, problem.m0), matrix, problem.m0.new_zeros(len(L)))

    def prepare(self, problem: Problem, t: int | None) -> Problem:
        """The step alone."""
        assert t is not None
        return problem.steps(t, t + 1)

    def combine(self, state: _Information, element: Problem) -> _Information:
        """One step."""
        eta, Lam = state.vector, state.matrix
        if element.moves_first:
            F, c, Q = at(element.F, 0), at(element.c, 0), at(element.Q, 0)
            A = torch.linalg.solve(F.mT, torch.linalg.solve(F.mT, Lam).mT)
            moved = torch.linalg.solve(F.mT.expand(A.shape), eta.unsqueeze(-1))
            eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
            both = torch.linalg.solve(eye + A @ symmetric(Q), torch.cat([A, moved], -1))
            Lam, eta = symmetric(both[..., :-1]), both[..., -1]
            if c is not None:
                eta = eta + dot(Lam, c.expand(eta.shape))
        o = observe(element, 0)
        root = chol_innovation(o.R)
        weighted = torch.cholesky_solve(o.H, root)
        after, eta_after = Lam + o.H.mT @ weighted, eta + dot(weighted.mT, o.y)
        before, now = torch.linalg.cholesky(Lam), torch.linalg.cholesky(after)
        m = torch.cholesky_solve(eta.unsqueeze(-1), before).squeeze(-1)
        e = o.y - dot(o.H, m)
        # log|S| = log|R| + log|Λ| − log|Λ⁻| and eᵀS⁻¹e = eᵀR⁻¹e − gᵀΛ⁻¹g with g = HᵀR⁻¹e.
        g = dot(weighted.mT, e)
        inner = torch.linalg.solve_triangular(now, g.unsqueeze(-1), upper=False)
        ratio = (now.diagonal(dim1=-2, dim2=-1) / before.diagonal(dim1=-2, dim2=-1)).log()
        ll = log_normal(e, root, o.count) + 0.5 * inner.square().sum((-2, -1)) - ratio.sum(-1)
        return _Information(eta_after, symmetric(after), ll)

    def read(self, state: _Information) -> Moments:
        """Mean and covariance by inversion."""
        L = torch.linalg.cholesky(state.matrix)
        mean = torch.cholesky_solve(state.vector.unsqueeze(-1), L).squeeze(-1)
        return Moments(mean, inverse_of(L), state.log_likelihood)


def prediction(problem: Problem, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of every step before its observation, (B, T, …), from those after."""
    batch, P0 = len(mean), problem.P0
    if cov.stride(0) == P0.stride(0) == 0 and len(problem.F) == len(problem.Q) == 1:
        cov, P0 = cov[:1], P0[:1]
    m0, P0 = predict(problem, 0, problem.m0, symmetric(P0))
    if mean.shape[1] == 1:
        return m0.unsqueeze(1), P0.unsqueeze(1).expand(batch, -1, -1, -1)
    later = problem.steps(1, mean.shape[1])
    F, Q, c = later.F, later.Q, later.c
    m = dot(F, mean[:, :-1])
    m = m if c is None else m + c
    P = symmetric(F @ cov[:, :-1] @ F.mT + symmetric(Q))
    P = torch.cat([P0.unsqueeze(1), P], 1)
    return torch.cat([m0.unsqueeze(1), m], 1), P.expand(batch, -1, -1, -1)
