"""Smoothing: every state given all observations, given a few more, and drawn from its posterior."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from statewise.inference.diffuse import smooth_start
from statewise.inference.engine import FilterResult, run
from statewise.inference.linear_gaussian import Problem
from statewise.inference.methods import Kalman
from statewise.inference.moments import at, dot, psd_root, spread, tria
from statewise.inference.parallel import smooth_parallel
from statewise.ops import rts_smoother


@dataclasses.dataclass(frozen=True)
class SmootherResult:
    """Moments of every state given all observations; zeros behind the end of a series.

    Attributes:
        mean: (B, T, n).
        cov: (B, T, n, n); as ``cross``, one tensor expanded over the batch where that of the
            filter is.
        cross: Cov(x_t, x_{t−1} | y), zero at t = 0, (B, T, n, n).
        factor: L with L Lᵀ = cov where the smoother carries it, else None.
    """

    mean: Tensor
    cov: Tensor
    cross: Tensor
    factor: Tensor | None = None


def smooth(
    result: FilterResult, *, parallel: bool = False, square_root: bool = False
) -> SmootherResult:
    """The Rauch–Tung–Striebel smoother behind any filter.

    Args:
        result: what the filter found.
        parallel: as a reverse scan in O(log T) rounds. It is differentiable; the compiled loop
            that runs otherwise is not, and gives way to it where a gradient is wanted.
        square_root: carry Cholesky factors, by QR, step after step; give the filter's result of
            :class:`SquareRootKalman`.

    Raises:
        ValueError: both ways at once, or square roots after an exact diffuse start.

    Source: Rauch, Tung and Striebel (1965); Särkkä and García-Fernández (1905.13002) in parallel;
    Park and Kailath, Square-root RTS smoothing algorithms (1995).
    """
    _check(result)
    if square_root and (parallel or result.start is not None):
        raise ValueError(
            "square_root runs step by step, from a proper start; it takes neither parallel=True "
            "nor a model with an exact diffuse start"
        )
    if square_root:
        return _square_root(result)
    problem, first = result.problem, 0
    mean, cov = result.mean, result.cov
    if result.start is not None:
        first = result.start.steps - 1
        problem = problem.steps(first, problem.y.shape[1])
        mean, cov = mean[:, first:], cov[:, first:]
    inputs = (mean, cov, problem.F, problem.Q, problem.c)
    wanted = any(x is not None and x.requires_grad for x in inputs) and torch.is_grad_enabled()
    if parallel or wanted:
        found = smooth_parallel(problem, mean, cov)
        valid = problem.valid()
        mean, cov, cross = (spread(valid, x, torch.zeros_like(x)) for x in found)
    else:
        F, Q, c, lengths = problem.F, problem.Q, problem.c, problem.lengths
        mean, cov, cross = rts_smoother(mean, cov, F, Q, c=c, lengths=lengths, cross=True)
        assert cross is not None
    if result.start is not None and first:
        early = smooth_start(result.problem, result.start, mean[:, 0], cov[:, 0])
        mean, cov = torch.cat([early[0], mean], 1), torch.cat([early[1], cov], 1)
        cross = torch.cat([torch.zeros_like(cross[:, :1]), early[2], cross[:, 1:]], 1)
    return SmootherResult(mean, cov, cross)


def _check(result: FilterResult) -> None:
    if not result.smoothable:
        raise ValueError(
            "the moments come from an ensemble, whose errors a smoother would add up; filter by "
            "GaussianFilter(rule) to smooth"
        )


def _square_root(result: FilterResult) -> SmootherResult:
    problem, n = result.problem, result.mean.shape[-1]
    factors, valid = result.chol_cov, problem.valid()
    m, L = result.mean[:, -1], factors[:, -1]
    means, roots, pairs = [m], [L], []
    for t in range(result.mean.shape[1] - 2, -1, -1):
        F, c = at(problem.F, t + 1), at(problem.c, t + 1)
        m_now, L_now = result.mean[:, t], factors[:, t]
        root = psd_root(at(problem.Q, t + 1)).expand(L_now.shape)
        above, below = (
            torch.cat([F @ L_now, root], -1),
            torch.cat([L_now, torch.zeros_like(root)], -1),
        )
        whole = tria(torch.cat([above, below], -2))
        ahead, across, rest = whole[..., :n, :n], whole[..., n:, :n], whole[..., n:, n:]
        G = across @ torch.linalg.pinv(ahead)
        m_next = dot(F, m_now)
        m_next = m_next if c is None else m_next + c
        moved = tria(torch.cat([rest, G @ L], -1))
        more = valid[:, t + 1]
        between = (L @ L.mT) @ G.mT
        pairs.append(spread(more, between, torch.zeros_like(between)))
        m = spread(more, m_now + dot(G, m - m_next), m_now)
        L = spread(more, moved, L_now)
        means.append(m)
        roots.append(L)
    root, mean = torch.stack(roots[::-1], 1), torch.stack(means[::-1], 1)
    pairs.append(torch.zeros_like(L))
    return SmootherResult(mean, root @ root.mT, torch.stack(pairs[::-1], 1), root)


def smooth_lagged(result: FilterResult, lag: int) -> SmootherResult:
    """Every state given the observations up to ``lag`` steps later.

    Args:
        result: what the filter found, from a proper start.
        lag: steps to look ahead, at least 0; 0 gives the filter's moments.

    Returns:
        Means and covariances; ``cross`` is empty.

    Raises:
        ValueError: a negative lag, or a result with an exact diffuse start.
    """
    _check(result)
    if lag < 0 or result.start is not None:
        raise ValueError(
            f"lag is {lag} and the start {'proper' if result.start is None else 'diffuse'}; a lag "
            "of at least 0 and a proper start are needed"
        )
    problem = result.problem
    batch, length, _, _ = problem.size
    lag = min(lag, length - 1)
    valid = problem.valid()
    end = valid.sum(1, keepdim=True)
    steps = torch.arange(length, device=end.device)
    window = (steps[:, None] + torch.arange(lag + 1, device=end.device)).clamp_max(length - 1)
    spans = (end - steps).clamp(1, lag + 1).reshape(-1)

    def windows(x: Tensor) -> Tensor:
        """(b, t, …) as (B T, lag + 1, …), or as it is where it is one for all."""
        if x.shape[:2] == (1, 1):
            return x
        x = x.expand(batch, length, *x.shape[2:])
        return x[:, window].reshape(batch * length, lag + 1, *x.shape[2:])

    mean, cov, F, Q = (windows(x) for x in (result.mean, result.cov, problem.F, problem.Q))
    c = None if problem.c is None else windows(problem.c)
    with torch.no_grad():
        mean, cov, _ = rts_smoother(mean, cov, F, Q, c=c, lengths=spans)
    mean, cov = (x[:, 0].reshape(batch, length, *x.shape[2:]) for x in (mean, cov))
    mean, cov = (spread(valid, x, torch.zeros_like(x)) for x in (mean, cov))
    return SmootherResult(mean, cov, cov.new_zeros(0))


def sample_states(
    result: FilterResult, samples: int, *, seed: int | np.random.Generator = 0
) -> Tensor:
    """Draws of all states given all observations, (samples, B, T, n), by the simulation smoother.

    States and outputs are drawn from the model; the smoothed mean of what the data differ from
    those outputs is added. Zeros behind the end of a series. Without gradients.

    Args:
        result: what the filter found, from a proper start.
        samples: number of draws.
        seed: of the random numbers.

    Raises:
        ValueError: a result with an exact diffuse start.

    Source: Durbin and Koopman, A simple and efficient simulation smoother (2002).
    """
    _check(result)
    if result.start is not None:
        raise ValueError(
            "draws need a proper start; take model.diffuse(scale=...) with a large variance"
        )
    problem = result.problem
    batch, length, n, p = problem.size
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.as_tensor(rng.standard_normal(shape)).to(problem.y)

    with torch.no_grad():
        rootQ, rootR = psd_root(problem.Q), psd_root(problem.R)
        x = dot(psd_root(problem.P0), normal(samples, batch, n))
        states, outputs = [], []
        for t in range(length):
            if t or problem.moves_first:
                F = at(problem.F, t)
                x = dot(F, x) + dot(at(rootQ, t), normal(samples, batch, n))
            noise = dot(at(rootR, t), normal(samples, batch, p))
            states.append(x)
            outputs.append(dot(at(problem.H, t), x) + noise)
        x, y = torch.stack(states, 2), torch.stack(outputs, 2)
        seen = problem.seen()
        # The prior's mean and the offsets drop out of the difference, but stay in the data.
        rest = problem._replace(y=torch.where(seen, problem.y - y, 0.0).flatten(0, 1))
        shift = _smoothed_mean(_repeat(rest, samples)).reshape(x.shape)
        return spread(problem.valid().expand(samples, -1, -1), x + shift, torch.zeros_like(x))


def _repeat(problem: Problem, samples: int) -> Problem:
    """The problem with all but y, which has them already, for so many series more."""
    batch = problem.m0.shape[0]

    def more(x: Tensor | None) -> Tensor | None:
        if x is None or x.shape[0] == 1 != batch:
            return x
        return x.repeat(samples, *(1,) * (x.dim() - 1))

    fields = {
        name: more(getattr(problem, name))
        for name in ("F", "H", "Q", "R", "c", "d", "m0", "P0", "observed", "lengths")
    }
    return problem._replace(**fields)


def _smoothed_mean(problem: Problem) -> Tensor:
    m, P, _, _ = run(Kalman(), problem, False, True)
    found = rts_smoother(m, P, problem.F, problem.Q, c=problem.c, lengths=problem.lengths)
    return found[0]
