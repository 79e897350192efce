"""Particle filters: any model that can be simulated and weighed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference.moments import spread
from statewise.inference.resampling import Resampling, Systematic

Law = Callable[..., Distribution]


class StateSpaceModel:
    """x_0 ~ initial(), x_t ~ transition(x_{t−1}, t), y_t ~ observation(x_t, t).

    The functions return torch distributions. States are (B, N, n): B series of N particles. A
    distribution whose log-probabilities keep a last axis, such as ``Normal(0.9 * x, 1.0)``, is
    that of independent numbers. With inputs the two last functions take u_t (B, 1, m) as a third
    argument.

    Args:
        initial: of no arguments, the law of a state (n,) at the first observation.
        transition: of x_{t−1} and t, the law of x_t; t is 1 or more.
        observation: of x_t and t, the law of y_t.

    Example:
        >>> from torch.distributions import Normal
        >>> model = StateSpaceModel(
        ...     lambda: Normal(torch.zeros(1), 1.0),
        ...     lambda x, t: Normal(0.9 * x, 0.5),
        ...     lambda x, t: Normal(0.0, (x / 2).exp()),
        ... )
        >>> found = particle_filter(model, torch.randn(3, 20, 1), particles=100)
        >>> tuple(found.mean.shape), tuple(found.log_likelihood.shape)
        ((3, 20, 1), (3,))
    """

    def __init__(
        self, initial: Callable[[], Distribution], transition: Law, observation: Law
    ) -> None:
        self.initial, self.transition, self.observation = initial, transition, observation


def log_density(law: Distribution, value: Tensor, axes: int) -> Tensor:
    """Log-density with so many leading axes, later ones summed: they are independent numbers."""
    found = law.log_prob(value)
    return found.sum(tuple(range(axes, found.dim()))) if found.dim() > axes else found


def inputs_at(u: Tensor | None, t: int) -> tuple[Tensor, ...]:
    """What the functions of a model are given of the inputs."""
    return () if u is None else (u[:, t : t + 1],)


@contextmanager
def seeded(seed: int | np.random.Generator, device: torch.device) -> Iterator[None]:
    """Torch's random numbers from a seed, those of the caller left as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
        yield


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Particles move by the transition and are weighed by the observation.

    Source: Gordon, Salmond and Smith (1993).
    """

    def look_ahead(self, x: Tensor, y: Tensor, t: int, *u: Tensor) -> Tensor | None:
        """Log-weights (B, N) by which ancestors are chosen, beside their own; None for none."""
        return None

    def propose(
        self, model: StateSpaceModel, x: Tensor | None, y: Tensor, t: int, *u: Tensor
    ) -> Distribution | None:
        """The law that x_t is drawn from given x_{t−1} and y_t; None for the model's own."""
        return None


@dataclasses.dataclass(frozen=True)
class Guided(Bootstrap):
    """Particles move by a proposal that knows y_t; weights make up for it: G = f g / q.

    Attributes:
        proposal: of x_{t−1} (None at t = 0), y_t (B, 1, p) and t, the law of x_t, (B, N, n). Where
            an output is missing it is 0, and the model's own law is taken.

    Source: Doucet, Godsill and Andrieu (2000).
    """

    proposal: Callable[..., Distribution | None]

    def propose(
        self, model: StateSpaceModel, x: Tensor | None, y: Tensor, t: int, *u: Tensor
    ) -> Distribution | None:
        """What the proposal says."""
        return self.proposal(x, y, t, *u)


@dataclasses.dataclass(frozen=True)
class Auxiliary(Bootstrap):
    """Ancestors are chosen by W η with η ≈ p(y_t | x_{t−1}), and weights divided by it.

    Attributes:
        weigh: of x_{t−1}, y_t (B, 1, p) and t, log η (B, N).
        proposal: as for :class:`Guided`, or None.

    Source: Pitt and Shephard (1999).
    """

    weigh: Callable[..., Tensor]
    proposal: Callable[..., Distribution | None] | None = None

    def look_ahead(self, x: Tensor, y: Tensor, t: int, *u: Tensor) -> Tensor | None:
        """Log η."""
        return self.weigh(x, y, t, *u)

    def propose(
        self, model: StateSpaceModel, x: Tensor | None, y: Tensor, t: int, *u: Tensor
    ) -> Distribution | None:
        """What the proposal says."""
        return None if self.proposal is None else self.proposal(x, y, t, *u)


@dataclasses.dataclass(frozen=True)
class ParticleResult:
    """Weighted particles of every step, series first.

    Attributes:
        particles: (B, T, N, n).
        log_weights: normalised, (B, T, N).
        ancestors: index at the step before, (B, T, N) int64.
        log_likelihoods: log of the estimate of p(y_t | y_1 … y_{t−1}), (B, T); the estimate of p(y)
            is unbiased, its logarithm is not.
        ess: effective sample size 1 / Σ W², (B, T).
        model: the model.
        u: inputs (B, T, m), or None.
        valid: which steps are before the end of their series, (B, T) bool.
    """

    particles: Tensor
    log_weights: Tensor
    ancestors: Tensor
    log_likelihoods: Tensor
    ess: Tensor
    model: StateSpaceModel
    u: Tensor | None
    valid: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """Log of the unbiased estimate of p(y) of each series, (B,)."""
        return self.log_likelihoods.sum(1)

    @property
    def mean(self) -> Tensor:
        """Filtered means (B, T, n); zeros behind the end."""
        return self.average(self.particles)

    @property
    def cov(self) -> Tensor:
        """Filtered covariances (B, T, n, n); zeros behind the end."""
        change = self.particles - self.mean.unsqueeze(2)
        found = torch.einsum("btk,btki,btkj->btij", self.log_weights.exp(), change, change)
        return spread(self.valid, found, torch.zeros_like(found))

    def average(self, values: Tensor) -> Tensor:
        """Weighted mean over the particles of values (B, T, N, …)."""
        w = self.log_weights.exp()
        found = (w.reshape(*w.shape, *(1,) * (values.dim() - 3)) * values).sum(2)
        return spread(self.valid, found, torch.zeros_like(found))


def particle_filter(
    model: StateSpaceModel,
    y: Any,
    u: Any = None,
    *,
    particles: int = 1000,
    method: Bootstrap | None = None,
    resampling: Resampling | None = None,
    threshold: float = 0.5,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> ParticleResult:
    """Filter series by sequential Monte Carlo, all series and particles side by side.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed. Where the law of y_t is one of
            independent numbers each may be missing alone, else a step counts as missing when any
            of its outputs is.
        u: inputs (B, T, m), or None.
        particles: N.
        method: :class:`Bootstrap` (None), :class:`Guided` or :class:`Auxiliary`.
        resampling: how; None for :class:`Systematic`.
        threshold: a series is resampled where its effective sample size is below this share of N;
            above 1 for always.
        lengths: steps of each series, (B,).
        seed: of the random numbers; the same gives the same particles.

    Returns:
        Particles, weights and likelihoods. A step that no particle can have given has −∞ as its
        log-likelihood, and weights all alike.

    Raises:
        ValueError: shapes that do not fit, or fewer than one particle.

    Source: Chopin and Papaspiliopoulos, An introduction to sequential Monte Carlo (2020), ch. 10.
    """
    y = torch.as_tensor(y)
    y = y if y.is_floating_point() else y.double()
    if y.dim() != 3 or 0 in y.shape:
        raise ValueError(f"y has shape {tuple(y.shape)}; it must be (B, T, p), series first")
    if particles < 1:
        raise ValueError(f"particles is {particles}; at least 1 is needed")
    u = None if u is None else torch.as_tensor(u).to(y)
    if u is not None and (u.dim() != 3 or u.shape[:2] != y.shape[:2]):
        raise ValueError(f"u has shape {tuple(u.shape)}; y of shape {tuple(y.shape)} needs (B, T)")
    valid = torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)
    if lengths is not None:
        ends = torch.as_tensor(lengths, device=y.device).unsqueeze(1)
        valid = torch.arange(y.shape[1], device=y.device) < ends
    y = spread(valid, y, torch.full_like(y, torch.nan))
    how = (method or Bootstrap(), resampling or Systematic(), threshold)
    with torch.no_grad(), seeded(seed, y.device):
        found = list(_run(model, y, u, particles, *how))
    x, logs, ancestors, ll, ess = (torch.stack(one, 1) for one in zip(*found, strict=True))
    return ParticleResult(x, logs, ancestors, torch.where(valid, ll, 0.0), ess, model, u, valid)


def _run(
    model: StateSpaceModel,
    y: Tensor,
    u: Tensor | None,
    N: int,
    method: Bootstrap,
    resampling: Resampling,
    threshold: float,
) -> Iterator[tuple[Tensor, ...]]:
    batch, length, _ = y.shape
    stay = torch.arange(N, device=y.device).expand(batch, N)
    x: Tensor | None = None
    logs = torch.full((batch, N), -math.log(N), dtype=torch.float64, device=y.device)
    for t in range(length):
        now, missing = y[:, t : t + 1], y[:, t].isnan()
        given, gap = inputs_at(u, t), missing.any(-1, keepdim=True)
        filled = now.nan_to_num()
        ancestors = stay
        if x is not None:
            chosen = logs
            ahead = method.look_ahead(x, filled, t, *given)
            if ahead is not None:
                ahead = torch.where(gap, 0.0, ahead.double())
                chosen = logs + ahead
            total = torch.logsumexp(chosen, -1, keepdim=True)
            usable = total > -torch.inf
            W = torch.where(usable, chosen - total, -math.log(N)).exp()
            poor = (1 / W.square().sum(-1, keepdim=True) < threshold * N) & usable
            if bool(poor.any()):
                ancestors = torch.where(poor, resampling(W), stay)
                even = (total - math.log(N)).expand(batch, N)
                if ahead is not None:
                    even = even - ahead.gather(1, ancestors)
                logs = torch.where(poor, even, logs)
                x = x.gather(1, ancestors.unsqueeze(-1).expand(x.shape))
        law = model.initial() if x is None else model.transition(x, t, *given)
        guide = method.propose(model, x, filled, t, *given)
        drawn = _draw(law, (batch, N), x)
        if guide is not None:
            drawn = torch.where(gap.unsqueeze(-1), drawn, _draw(guide, (batch, N), drawn))
            ratio = log_density(law, drawn, 2) - log_density(guide, drawn, 2)
            logs = logs + torch.where(gap, 0.0, ratio.double())
        x = drawn
        logs = logs + _weigh(model.observation(x, t, *given), now, missing)
        total = torch.logsumexp(logs, -1, keepdim=True)
        logs = torch.where(total > -torch.inf, logs - total, -math.log(N))
        yield x, logs, ancestors, total.squeeze(-1), 1 / logs.exp().square().sum(-1)


def _draw(law: Distribution, lead: tuple[int, int], x: Tensor | None) -> Tensor:
    """A state (B, N, n) for each particle, whatever axes the law has already."""
    shape = (*law.batch_shape, *law.event_shape)
    if x is not None:
        if tuple(shape) != tuple(x.shape):
            raise ValueError(
                f"the law of x_t has shape {tuple(shape)}; states are {tuple(x.shape)}, (B, N, n)"
            )
        return law.sample()
    if len(shape) not in (1, 3):
        raise ValueError(
            f"the first law has shape {tuple(shape)}; it must be that of a state, (n,), or of all, "
            "(B, N, n)"
        )
    return law.sample(lead if len(shape) == 1 else ())


def _weigh(law: Distribution, y: Tensor, missing: Tensor) -> Tensor:
    """Log p(y_t | x_t) of the observed outputs, (B, N) in float64."""
    if not bool(missing.any()):
        return log_density(law, y, 2).double()
    gap = missing.any(-1, keepdim=True)
    found = law.log_prob(torch.where(missing.unsqueeze(1), _inside(law, y), y)).double()
    if found.dim() > 2:
        return torch.where(missing.unsqueeze(1), 0.0, found).sum(-1)
    return torch.where(gap, 0.0, found)


def _inside(law: Distribution, y: Tensor) -> Tensor:
    """A value that the law can have, in place of one that is missing."""
    value = law.sample()[:, :1].to(y)
    return value.expand(y.shape) if value.dim() == y.dim() else torch.zeros_like(y)
