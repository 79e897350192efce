"""Smoothers of nonlinear models that linearise around what they found, again and again."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from statewise.inference.engine import FilterResult, run
from statewise.inference.gaussian import GaussianFilter, before_steps, linearise
from statewise.inference.linear_gaussian import Problem
from statewise.inference.methods import Kalman
from statewise.inference.moments import chol_start
from statewise.inference.nonlinear_gaussian import NonlinearGaussian, NonlinearProblem
from statewise.inference.parallel import ParallelKalman
from statewise.inference.rules import Cubature, Rule
from statewise.inference.smoother import SmootherResult, smooth


@dataclasses.dataclass(frozen=True)
class IteratedSmoothing:
    """Where an iterated smoother ended.

    Attributes:
        smoothed: moments of every state given all observations.
        filtered: the filter through the last affine model.
        changes: largest move of a mean in each round, in standard deviations.
        converged: whether the last move was below the tolerance.
    """

    smoothed: SmootherResult
    filtered: FilterResult
    changes: list[float]
    converged: bool


def smooth_iterated(
    model: NonlinearGaussian,
    y: Any,
    u: Any = None,
    *,
    mask: Any = None,
    lengths: Any = None,
    rule: Rule | None = None,
    start: Any = None,
    rounds: int = 30,
    tolerance: float = 1e-8,
    parallel: bool = False,
) -> IteratedSmoothing:
    """Smooth by rounds of linearising around the smoothed trajectory and smoothing that.

    With :class:`FirstOrder` the rounds are those of Gauss and Newton towards the most probable
    trajectory (iterated extended smoother); with rules on points, iterated posterior linearisation.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        mask: (B, T) or (B, T, p) bool, True where y is observed.
        lengths: steps of each series, (B,).
        rule: how functions are replaced; None for :class:`Cubature`.
        start: means to begin around, (B, T, n), with the covariance P0; None for a filter, step
            after step, and smoother with the rule. A start far away may lead to another mode.
        rounds: most rounds.
        tolerance: move of all means, in standard deviations, that ends them.
        parallel: each round in O(log T) steps, by :class:`ParallelKalman`.

    Raises:
        ValueError: a number of rounds below 1, or shapes that do not fit.

    Source: Bell, The iterated Kalman smoother as a Gauss–Newton method (1994); García-Fernández,
    Svensson and Särkkä, Iterated posterior linearization smoother (2017); in parallel, Yaghoobi et
    al. (2207.00426).
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    rule = Cubature() if rule is None else rule
    given = model.problem(y, u, mask=mask, lengths=lengths)
    problem = _with_start(given) if given.moves_first else given
    batch, length, n, _ = problem.size
    if start is not None:
        mean = torch.as_tensor(start).to(problem.y)
        if tuple(mean.shape) != (batch, given.y.shape[1], n):
            raise ValueError(
                f"start has shape {tuple(mean.shape)}; it must be {(batch, given.y.shape[1], n)}"
            )
        if given.moves_first:
            mean = torch.cat([problem.m0.unsqueeze(1), mean], 1)
    else:
        mean = None
    if mean is None:
        method = GaussianFilter(rule)
        found = run(method, problem, False, True)
        first = FilterResult(*found[:3], method.linear_problem(problem, found), found.chol_cov)
        smoothed = smooth(first)
        mean, chol = smoothed.mean, chol_start(smoothed.cov)
    else:
        chol = chol_start(problem.P0).unsqueeze(1).expand(batch, length, n, n)
    changes: list[float] = []
    for _ in range(rounds):
        here = _inside(problem, mean, chol)
        affine = linearise(problem, rule, before_steps(problem, mean, chol), here)
        filtered = _filter(affine, parallel)
        smoothed = smooth(filtered, parallel=parallel)
        variance = smoothed.cov.diagonal(dim1=-2, dim2=-1)
        move = torch.where(variance > 0, (smoothed.mean - mean).square() / variance, 0.0)
        changes.append(move[problem.valid()].max().sqrt().item())
        mean, chol = smoothed.mean, chol_start(smoothed.cov)
        if changes[-1] <= tolerance:
            break
    if given.moves_first:
        smoothed, filtered = _without_start(smoothed, filtered)  # pyright: ignore
    return IteratedSmoothing(smoothed, filtered, changes, changes[-1] <= tolerance)  # pyright: ignore


def _filter(problem: Problem, parallel: bool) -> FilterResult:
    method = ParallelKalman() if parallel else Kalman()
    found = run(method, problem, parallel, True)
    return FilterResult(*found[:3], problem, found.chol_cov)


def _inside(problem: NonlinearProblem, mean: Tensor, chol: Tensor) -> tuple[Tensor, Tensor]:
    """Moments at the steps, those of the prior behind the end of a series."""
    start = problem.m0.unsqueeze(1), chol_start(problem.P0).unsqueeze(1)
    valid = problem.valid()
    return (
        torch.where(valid.unsqueeze(-1), mean, start[0]),
        torch.where(valid.unsqueeze(-1).unsqueeze(-1), chol, start[1]),
    )


def _with_start(problem: NonlinearProblem) -> NonlinearProblem:
    """The problem with a step before the first, at which nothing is observed."""

    def repeat(x: Tensor | None) -> Tensor | None:
        return x if x is None else torch.cat([x[:, :1], x], 1)

    def vary(x: Tensor) -> Tensor:
        return x if x.shape[1] == 1 else torch.cat([x[:, :1], x], 1)

    seen = torch.ones_like(problem.y, dtype=torch.bool)
    seen = seen if problem.observed is None else problem.observed
    return problem._replace(
        Q=vary(problem.Q),
        R=vary(problem.R),
        y=torch.cat([torch.zeros_like(problem.y[:, :1]), problem.y], 1),
        observed=torch.cat([torch.zeros_like(seen[:, :1]), seen], 1),
        lengths=None if problem.lengths is None else problem.lengths + 1,
        moves_first=False,
        u=repeat(problem.u),
        u_move=repeat(problem.u_move),
        first=problem.first - 1,
    )


def _without_start(
    smoothed: SmootherResult, filtered: FilterResult
) -> tuple[SmootherResult, FilterResult]:
    """Results without the step that was put in front."""
    problem = filtered.problem.steps(1, filtered.mean.shape[1])
    problem = problem._replace(begins=True)
    cross = torch.cat([torch.zeros_like(smoothed.cross[:, :1]), smoothed.cross[:, 2:]], 1)
    return (
        SmootherResult(smoothed.mean[:, 1:], smoothed.cov[:, 1:], cross),
        FilterResult(
            filtered.mean[:, 1:], filtered.cov[:, 1:], filtered.log_likelihoods[:, 1:], problem
        ),
    )
