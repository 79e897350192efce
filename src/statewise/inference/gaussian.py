"""The Gaussian filter of nonlinear models: extended, unscented, cubature, as the rule is."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from statewise.inference.linear_gaussian import Problem
from statewise.inference.methods import Method
from statewise.inference.moments import (
    Moments,
    chol_start,
    dot,
    spread,
    symmetric,
    tria_sum,
    update_root,
)
from statewise.inference.nonlinear_gaussian import NonlinearProblem, evaluate, slopes
from statewise.inference.rules import Cubature, Expansion, Rule

Point = tuple[Tensor, Tensor]
"""Means (B, T, n) and factors (B, T, n, n)."""


class Root(NamedTuple):
    """A Gaussian by its mean and factor, and the log-likelihood of the step."""

    mean: Tensor
    chol: Tensor
    log_likelihood: Tensor


def expand(problem: Problem | NonlinearProblem, rule: Rule, moves: bool, at: Point) -> Expansion:
    """The expansion of f or g at Gaussians of every step."""
    return rule.expand(
        lambda x: evaluate(problem, moves, x), lambda x: slopes(problem, moves, x), *at
    )


class GaussianFilter(Method):
    """A filter that replaces f and g by affine functions with noise, and carries a factor of P.

    With z ~ N(0, I), f(m + L z) ≈ f̄ + M z + ε: L⁻ = tria([M, √Ω, √Q]), and likewise for g
    tria([[M, √Ω, √R], [L⁻, 0, 0]]) = [[√S, 0], [K √S, L]]. With :class:`FirstOrder` this is the
    extended Kalman filter; with :class:`Unscented`, :class:`Cubature` and :class:`GaussHermite`
    the filters of those names. Q, R and P0 may be singular. Gradients need full rank.

    Args:
        rule: how functions are replaced; None for :class:`Cubature`.
        iterations: updates of each step, each around what the one before found; 1 for the plain
            filter, more for the iterated extended and posterior-linearisation filters.

    Raises:
        ValueError: less than one iteration.

    Source: Särkkä, Bayesian filtering and smoothing (2013), chapters 5 and 6; García-Fernández et
    al., Posterior linearization filter (2015).
    """

    nonlinear: ClassVar[bool] = True

    def __init__(self, rule: Rule | None = None, *, iterations: int = 1) -> None:
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; at least 1 is needed")
        self.rule = Cubature() if rule is None else rule
        self.iterations = iterations

    def init(self, problem: Problem | NonlinearProblem) -> Root:
        """The prior, as a factor."""
        m = problem.m0
        return Root(m, chol_start(problem.P0), m.new_zeros(len(m)))

    def prepare(
        self, problem: Problem | NonlinearProblem, t: int | None
    ) -> Problem | NonlinearProblem:
        """The step alone."""
        assert t is not None
        return problem.steps(t, t + 1)

    def combine(self, state: Root, element: Problem | NonlinearProblem) -> Root:
        """One step."""
        now = state.mean.unsqueeze(1), state.chol.unsqueeze(1)
        if element.moves_first:
            now = self._predict(element, now)
        after, _ = self._update(element, now)
        return Root(*(x.squeeze(1) for x in after))

    def read(self, state: Root) -> Moments:
        """Mean, factor and their product."""
        m, L, ll = state
        return Moments(m, L @ L.mT, ll, L)

    def linear_problem(self, problem: Problem | NonlinearProblem, found: Moments) -> Problem:
        """The affine model that the filter has used, for smoothing."""
        if isinstance(problem, Problem):
            return problem
        assert found.chol_cov is not None
        before = before_steps(problem, found.mean, found.chol_cov)
        here = self._predict(problem, before)
        if not problem.moves_first:
            m, L = here
            here = (
                torch.cat([before[0][:, :1], m[:, 1:]], 1),
                torch.cat([before[1][:, :1], L[:, 1:]], 1),
            )
        if self.iterations > 1:
            here = self._update(problem, here)[1]
        return linearise(problem, self.rule, before, here)

    def _predict(self, problem: Problem | NonlinearProblem, at: Point) -> Point:
        e = expand(problem, self.rule, True, at)
        Q = symmetric(problem.Q)
        return e.value, tria_sum(torch.cat([e.slope, e.rest], -1), Q, e.minus)

    def _update(self, problem: Problem | NonlinearProblem, at: Point) -> tuple[Root, Point]:
        """What is known after the observations, and where g was expanded last."""
        m, L = at
        seen = problem.seen()
        row = seen.unsqueeze(-1)
        R = torch.where(row & row.mT, symmetric(problem.R), 0.0) + torch.diag_embed((~seen).to(m))
        here = at
        for k in range(self.iterations):
            e = expand(problem, self.rule, False, here)
            value, slope = e.value, e.slope
            if k:
                A, b = e.of_state(*here)
                value, slope = dot(A, m) + b, A @ L
            innovation = torch.where(seen, problem.y - value, 0.0)
            slope, rest = (torch.where(row, x, 0.0) for x in (slope, e.rest))
            minus = None if e.minus is None else torch.where(row, e.minus, 0.0)
            count = seen.sum(-1).to(m)
            after = Root(*update_root(m, L, innovation, slope, R, count, rest, minus))
            last, here = here, (after.mean, after.chol)
        return after, last  # pyright: ignore[reportPossiblyUnboundVariable]


def before_steps(problem: Problem | NonlinearProblem, mean: Tensor, chol: Tensor) -> Point:
    """What is known before each step moves; the prior where no step does."""
    start = problem.m0.unsqueeze(1), chol_start(problem.P0).unsqueeze(1)
    ended = ~problem.valid()
    mean, chol = (
        spread(ended, first.expand_as(x), x) for first, x in zip(start, (mean, chol), strict=True)
    )
    return torch.cat([start[0], mean[:, :-1]], 1), torch.cat([start[1], chol[:, :-1]], 1)


def linearise(problem: NonlinearProblem, rule: Rule, before: Point, here: Point) -> Problem:
    """The affine model with f expanded before the steps and g at them."""
    f, g = expand(problem, rule, True, before), expand(problem, rule, False, here)
    (F, c), (H, d) = f.of_state(*before), g.of_state(*here)
    return Problem(
        F=F,
        H=H,
        Q=symmetric(problem.Q) + f.covariance(),
        R=symmetric(problem.R) + g.covariance(),
        c=c,
        d=d,
        m0=problem.m0,
        P0=problem.P0,
        y=problem.y,
        observed=problem.observed,
        lengths=problem.lengths,
        moves_first=problem.moves_first,
        begins=problem.begins,
    )
