"""Conditional sequential Monte Carlo: a particle filter one of whose paths is given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference import chance
from statewise.inference.linear_gaussian import ends_of
from statewise.inference.particle import (
    Auxiliary,
    Bootstrap,
    ParticleResult,
    StateSpaceModel,
    inputs_at,
    log_density,
    seeded,
)
from statewise.inference.quiet_laws import unchecked


@dataclasses.dataclass(frozen=True)
class Series:
    """A model beside the data that it is asked about, looked through once.

    Attributes:
        model: the model.
        y: observations with 0 where nothing is observed, (B, T, p).
        missing: which are not observed, (B, T, p) bool.
        valid: which steps are before the end of their series, (B, T) bool.
        u: inputs (B, T, m), or None.
        gaps: for each step, whether anything is missing in it.
        ragged: whether series end before T.
    """

    model: StateSpaceModel
    y: Tensor
    missing: Tensor
    valid: Tensor
    u: Tensor | None
    gaps: tuple[bool, ...]
    ragged: bool

    @classmethod
    def of(cls, model: StateSpaceModel, y: Any, u: Any = None, lengths: Any = None) -> Series:
        """Check data and fill their gaps.

        Raises:
            ValueError: shapes that do not fit.
        """
        y = torch.as_tensor(y)
        y = y if y.is_floating_point() else y.double()
        if y.dim() != 3 or 0 in y.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}; it must be (B, T, p), series first")
        u = None if u is None else torch.as_tensor(u).to(y)
        if u is not None and (u.dim() != 3 or u.shape[:2] != y.shape[:2]):
            raise ValueError(
                f"u has shape {tuple(u.shape)}; y of shape {tuple(y.shape)} needs (B, T, m)"
            )
        batch, length, _ = y.shape
        valid = torch.ones(batch, length, dtype=torch.bool, device=y.device)
        if lengths is not None:
            ends = ends_of(lengths, y).unsqueeze(1)
            valid = torch.arange(length, device=y.device) < ends
        missing = y.isnan() | ~valid.unsqueeze(-1)
        gaps = tuple(missing.any(-1).any(0).tolist())
        y = torch.where(missing, 0.0, y)
        return cls(model, y, missing, valid, u, gaps, lengths is not None)

    def given(self, t: int) -> tuple[Tensor, ...]:
        """What the functions of the model are given of the inputs."""
        return inputs_at(self.u, t)

    def start(self) -> Distribution:
        """The law of x_0."""
        return self.model.initial()

    def moved(self, x: Tensor, t: int) -> Distribution:
        """The law of x_t given x_{t−1} (B, K, n).

        Raises:
            ValueError: a law that is not of as many states.
        """
        law = self.model.transition(x, t, *self.given(t))
        shape = (*law.batch_shape, *law.event_shape)
        if tuple(shape) != tuple(x.shape):
            raise ValueError(
                f"the law of x_t has shape {tuple(shape)}; states are {tuple(x.shape)}, (B, N, n)"
            )
        return law

    def observed(self, x: Tensor, t: int) -> Tensor:
        """Log p(y_t | x_t) of states (B, K, n), (B, K) in float64; missing outputs count 0."""
        law, y = self.model.observation(x, t, *self.given(t)), self.y[:, t : t + 1]
        if not self.gaps[t]:
            return log_density(law, y, 2).double()
        missing = self.missing[:, t : t + 1]
        # A value that the law can have, in place of one that is missing.
        with torch.no_grad():
            inside = chance.draw(law)[:, :1].to(y)
        inside = inside.expand(y.shape) if inside.dim() == y.dim() else y
        found = law.log_prob(torch.where(missing, inside, y)).double()
        if found.dim() > 2:
            return torch.where(missing, 0.0, found).sum(-1)
        return torch.where(missing.any(-1), 0.0, found)

    def reference(self, path: Any) -> Tensor:
        """A path to condition on, as a tensor.

        Raises:
            ValueError: another shape than (B, T, n).
        """
        path = torch.as_tensor(path, device=self.y.device)
        if path.dim() != 3 or path.shape[:2] != self.y.shape[:2]:
            raise ValueError(
                f"reference has shape {tuple(path.shape)}; y of shape {tuple(self.y.shape)} needs "
                "(B, T, n), a path for each series"
            )
        return path


class Step(NamedTuple):
    """Particles of one step.

    Attributes:
        x: (B, N, n).
        log_weights: normalised, (B, N) float64.
        ancestors: index at the step before, (B, N) int64.
        log_likelihood: log of the estimate of p(y_t | y_1 … y_{t−1}), (B,).
    """

    x: Tensor
    log_weights: Tensor
    ancestors: Tensor
    log_likelihood: Tensor


@contextmanager
def sampling(seed: int | np.random.Generator, series: Series) -> Iterator[None]:
    """Random numbers from a seed, and laws that do not check their arguments at every step."""
    with seeded(seed, series.y.device), unchecked():
        yield


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, N, …) at indices (A, B, K) or (B, K)."""
    if index.dim() == 3:
        values = values.unsqueeze(0).expand(index.shape[0], *values.shape)
    axis = index.dim() - 1
    tail = values.shape[axis + 1 :]
    index = index.reshape(*index.shape, *(1,) * len(tail)).expand(*index.shape, *tail)
    return values.gather(axis, index)


def sweep(
    series: Series,
    particles: int,
    method: Bootstrap,
    reference: Tensor | None = None,
    ancestor_sampling: bool = False,
) -> Iterator[Step]:
    """Steps of a particle filter that resamples by multinomial draws before each step.

    With a reference the last slot is its own, and so is the ancestor of that slot unless ancestor
    sampling draws it. Random numbers are torch's; nothing in the loop waits for the device.
    """
    model, batch, N = series.model, series.y.shape[0], particles
    least, x = math.log(N), None
    stay = torch.arange(N, device=series.y.device).expand(batch, N)
    ancestors, logs = stay, torch.zeros(batch, N, dtype=torch.float64, device=stay.device)
    for t in range(series.y.shape[1]):
        pinned = None if reference is None else reference[:, t : t + 1]
        if x is None:
            before, law = None, series.start()
        else:
            ancestors = chance.pick(logs.exp(), N if pinned is None else N - 1)
            if pinned is not None:
                last = stay[:, -1:]
                if ancestor_sampling:
                    last = _linked(series.moved(x, t), pinned, logs, last)
                ancestors = torch.cat([ancestors, last], 1)
            before = take(x, ancestors)
            law = series.moved(before, t)
        guide = method.propose(model, before, series.y[:, t : t + 1], t, *series.given(t))
        drawn = _states(law, batch, N)
        if guide is not None:
            proposed = _states(guide, batch, N)
            if series.gaps[t]:
                gap = series.missing[:, t].any(-1)[:, None, None]
                proposed = torch.where(gap, drawn, proposed)
            drawn = proposed
        if pinned is not None:
            drawn = torch.cat([drawn[:, :-1], pinned.to(drawn)], 1)
        logs = series.observed(drawn, t)
        if guide is not None:
            ratio = (log_density(law, drawn, 2) - log_density(guide, drawn, 2)).double()
            if series.gaps[t]:
                ratio = torch.where(series.missing[:, t].any(-1, keepdim=True), 0.0, ratio)
            logs = logs + ratio
        total = torch.logsumexp(logs, -1, keepdim=True)
        logs = torch.where(total > -torch.inf, logs - total, -least)
        x = drawn
        yield Step(x, logs, ancestors, total.squeeze(-1) - least)


def _linked(law: Distribution, pinned: Tensor, logs: Tensor, last: Tensor) -> Tensor:
    """An ancestor (B, 1) of the pinned state, by W_{t−1} f(x*_t | x_{t−1}); its own if none can."""
    logs = logs + log_density(law, pinned, 2).double()
    top = logs.max(-1, keepdim=True).values
    fine = top > -torch.inf
    found = chance.pick((logs - torch.where(fine, top, 0.0)).exp(), 1)
    return torch.where(fine, found, last)


def _states(law: Distribution, batch: int, N: int) -> Tensor:
    """A state (B, N, n) for each particle, whatever axes the law has already.

    Raises:
        ValueError: a law that is neither of one state, nor of one for each series, nor of all.
    """
    shape = (*law.batch_shape, *law.event_shape)
    if len(shape) == 1:
        return chance.draw(law, (batch, N))
    if len(shape) != 3 or shape[0] not in (1, batch) or shape[1] not in (1, N):
        raise ValueError(
            f"the first law has shape {tuple(shape)}; it must be that of a state, (n,), of one for "
            f"each series, (B, 1, n), or of all, (B, N, n), here with B = {batch} and N = {N}"
        )
    if tuple(shape[:2]) != (batch, N):
        law = law.expand(torch.Size((batch, N, *law.batch_shape[2:])))
    return chance.draw(law)


def checked(particles: int, method: Bootstrap | None, conditional: bool) -> Bootstrap:
    """The method, if a filter with a pinned path can use it.

    Raises:
        ValueError: too few particles, or a method that looks ahead.
    """
    if particles < 1 + conditional:
        raise ValueError(
            f"particles is {particles}; at least {1 + conditional} "
            f"{'are' if conditional else 'is'} needed"
            f"{', the reference and one beside it' if conditional else ''}"
        )
    if isinstance(method, Auxiliary):
        raise ValueError(
            "method is Auxiliary, which chooses ancestors by what comes; give Bootstrap or Guided"
        )
    return method or Bootstrap()


def conditional_particles(
    model: StateSpaceModel,
    y: Any,
    reference: Any,
    u: Any = None,
    *,
    particles: int = 100,
    method: Bootstrap | None = None,
    ancestor_sampling: bool = False,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> ParticleResult:
    """Conditional SMC: N − 1 particles move as in a filter, the last one along a given path.

    x_t^N = x*_t with A_t^N = N, or with ancestor sampling A_t^N ∝ W_{t−1}^i f(x*_t | x_{t−1}^i).
    All others have ancestors A ~ W_{t−1}, drawn independently at every step.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed, which weighs 1. B is of series,
            or of chains on one series.
        reference: the path x* (B, T, n); behind the end of a series it must go on too.
        u: inputs (B, T, m), or None.
        particles: N, with the reference; at least 2.
        method: :class:`Bootstrap` (None) or :class:`Guided`.
        ancestor_sampling: draw who the reference descends from.
        lengths: steps of each series, (B,).
        seed: of the random numbers; the same gives the same particles.

    Returns:
        Particles as of a filter; behind the end of a series they go on without weights. Its
        likelihoods are no estimates, since one particle is given.

    Raises:
        ValueError: shapes that do not fit, fewer than two particles, or an auxiliary method.

    Source: Andrieu, Doucet and Holenstein, Particle Markov chain Monte Carlo methods (2010);
    Lindsten, Jordan and Schön (1401.0604) for ancestor sampling.
    """
    series = Series.of(model, y, u, lengths)
    method = checked(particles, method, True)
    path = series.reference(reference)
    with torch.no_grad(), sampling(seed, series):
        found = list(sweep(series, particles, method, path, ancestor_sampling))
    x, logs, ancestors, ll = (torch.stack(one, 1) for one in zip(*found, strict=True))
    ess = 1 / logs.exp().square().sum(-1)
    ll = torch.where(series.valid, ll, 0.0)
    return ParticleResult(x, logs, ancestors, ll, ess, model, series.u, series.valid)
