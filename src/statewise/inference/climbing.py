"""Learning by stochastic approximation: maximum likelihood, and proposals by their score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference.backward_draws import flatten, unflatten
from statewise.inference.conditional import Series, sampling
from statewise.inference.fisher_score import (
    Build,
    ParisianScore,
    Score,
    ScoreRule,
    joint_of,
    slope_of,
    with_model,
)
from statewise.inference.parisian_smoother import Additive
from statewise.inference.particle import (
    Bootstrap,
    Guided,
    StateSpaceModel,
    inputs_at,
    log_density,
)

Propose = Callable[[Tensor], Callable[..., Distribution | None]]


def _proposed(series: Series, propose: Callable[..., Distribution | None]) -> Additive:
    """Log q of the path, of the steps that are proposed by q."""

    def at(x: Tensor | None, after: Tensor, t: int) -> Tensor:
        law = propose(x, series.y[:, t : t + 1], t, *inputs_at(series.u, t))
        if law is None:
            return torch.zeros(after.shape[:2], dtype=torch.float64, device=after.device)
        found = log_density(law, after, 2).double()
        gap = series.missing[:, t].any(-1, keepdim=True)
        return torch.where(gap, 0.0, found) if series.gaps[t] else found

    def pair(before: Tensor, after: Tensor, s: int) -> Tensor:
        before, after = torch.broadcast_tensors(before, after)
        return unflatten(at(flatten(before), flatten(after), s + 1), len(before))

    return Additive(pair, lambda x: at(None, x[0], 0)[None])


@dataclasses.dataclass(frozen=True)
class Climb:
    """Parameters on their way up.

    Attributes:
        thetas: of every step, the start first, (steps + 1, …).
        slopes: gradients by which they moved, per observed step of a series, (steps, …).
        reference: a path (B, T, n) to go on from, or None.
    """

    thetas: Tensor
    slopes: Tensor
    reference: Tensor | None

    @property
    def theta(self) -> Tensor:
        """The last parameters."""
        return self.thetas[-1]

    def average(self, share: float = 0.5) -> Tensor:
        """The mean of a last share of the steps, less noisy than the last of them.

        Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging (1992).
        """
        count = max(1, round(share * len(self.slopes)))
        return self.thetas[-count:].mean(0)


def climb_likelihood(
    build: Build,
    y: Any,
    u: Any = None,
    *,
    start: Any,
    reference: Any = None,
    rule: ScoreRule | None = None,
    steps: int = 100,
    rate: Any = 0.1,
    decay: float = 0.6,
    hold: int = 0,
    longest: float | None = None,
    method: Bootstrap | None = None,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> Climb:
    """Maximum likelihood by stochastic approximation.

    θ_{n+1} = θ_n + γ_n Ĥ(θ_n), γ_n = rate · max(1, n + 1 − hold)^{−decay}, Ĥ the estimate of
    ∇ log p(y) by :func:`score`, divided by the number of observed steps.

    Args:
        build: a differentiable function from parameters to a model.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        start: first parameters: a vector (k,) for all series, or chains on one, together; or
            (B, k) for as many climbs side by side, each on its own row of y.
        reference: a path to go on from (B, T, n).
        rule: :class:`ParisianScore` (None), :class:`ParisScore` or :class:`GibbsScore`.
        steps: how many.
        rate: γ at first, a number or one for each parameter.
        decay: between ½ and 1 for convergence; 0 for constant steps.
        hold: steps before γ falls.
        longest: norm of a step at most, longer ones are shortened; None for no bound.
        method: :class:`Bootstrap` (None) or :class:`Guided`.
        lengths: steps of each series, (B,).
        seed: of the random numbers; the same gives the same climb.

    Raises:
        ValueError: shapes that do not fit, or parameters that stop being finite.

    Source: Cardoso and others (2301.00900), section 4.
    """

    def slope(theta: Tensor, path: Tensor | None) -> Score:
        series = with_model(blank, build(theta))
        return slope_of(
            theta, series, rule_, method, path, lambda x, s: joint_of(with_model(s, build(x)))
        )

    rule_ = rule or ParisianScore()
    y = torch.as_tensor(y)
    first = torch.as_tensor(start).to(y.device)
    with torch.no_grad():
        blank = Series.of(build(first), y, u, lengths)
    how = _Steps(steps, rate, decay, hold, longest)
    with sampling(seed, blank):
        return _climb(slope, first, blank, reference, how)


def fit_proposal(
    model: StateSpaceModel,
    propose: Propose,
    y: Any,
    u: Any = None,
    *,
    start: Any,
    reference: Any = None,
    rule: ScoreRule | None = None,
    steps: int = 100,
    rate: Any = 0.1,
    decay: float = 0.6,
    hold: int = 0,
    longest: float | None = None,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> Climb:
    """Markov score climbing: fit a proposal by the gradient of E[log q(x_0 … x_T) | y].

    That maximum has the least divergence from the posterior to q, KL(p ‖ q), the side that keeps q
    wide enough to be a proposal; and the particles that estimate it move by q already.

    Args:
        model: the model, which stays.
        propose: from parameters to a proposal for :class:`Guided`.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        start: first parameters.
        reference: a path to go on from (B, T, n).
        rule: :class:`ParisianScore` (None), :class:`ParisScore` or :class:`GibbsScore`.
        steps: how many.
        rate: as in :func:`climb_likelihood`, and so are the next three.
        decay: power by which it falls.
        hold: steps before it falls.
        longest: norm of a step at most.
        lengths: steps of each series, (B,).
        seed: of the random numbers; the same gives the same climb.

    Raises:
        ValueError: shapes that do not fit, or parameters that stop being finite.

    Source: Naesseth, Lindsten and Blei, Markovian score climbing (2003.10374).
    """
    rule_, series = rule or ParisianScore(), Series.of(model, y, u, lengths)

    def slope(theta: Tensor, path: Tensor | None) -> Score:
        guided = Guided(propose(theta))
        return slope_of(theta, series, rule_, guided, path, lambda x, s: _proposed(s, propose(x)))

    how = _Steps(steps, rate, decay, hold, longest)
    with sampling(seed, series):
        return _climb(slope, torch.as_tensor(start).to(series.y.device), series, reference, how)


class _Steps(NamedTuple):
    """How many steps and how long ones."""

    count: int
    rate: Any
    decay: float
    hold: int
    longest: float | None


def _climb(
    slope: Callable[[Tensor, Tensor | None], Score],
    theta: Tensor,
    series: Series,
    reference: Any,
    how: _Steps,
) -> Climb:
    path = None if reference is None else series.reference(reference)
    rate = torch.as_tensor(how.rate, dtype=theta.dtype, device=theta.device)
    count = series.valid.sum(1, keepdim=True) if theta.dim() > 1 else series.valid.sum()
    thetas, slopes, theta = [theta.detach()], [], theta.detach()
    for n in range(how.count):
        gradient, path = slope(theta, path)
        gradient = gradient / count
        move = rate * max(1, n + 1 - how.hold) ** -how.decay * gradient
        if how.longest is not None:
            norm = move.norm(dim=-1, keepdim=True)
            move = move * (how.longest / norm).clamp_max(1.0)
        theta = theta + move
        if not bool(theta.isfinite().all()):
            raise ValueError(
                f"the parameters are no longer finite after {n + 1} of {how.count} steps with rate "
                f"{how.rate}; give a smaller rate, or a longest step"
            )
        thetas.append(theta)
        slopes.append(gradient)
    return Climb(torch.stack(thetas), torch.stack(slopes), path)
