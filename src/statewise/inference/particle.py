"""Particle filters: any model that can be simulated and weighed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference.linear_gaussian import ends_of
from statewise.inference.moments import spread
from statewise.inference.particle_engine import ENGINES, Engine, choose, through
from statewise.inference.particle_formulas import Data
from statewise.inference.particle_laws import Stream, draw, joint_log_density, numbers
from statewise.inference.particle_methods import Auxiliary, Bootstrap, Guided
from statewise.inference.particle_result import History, ParticleResult, ParticleSummary, Summaries
from statewise.inference.quiet_laws import unchecked
from statewise.inference.resampling import Resampling, Systematic
from statewise.ops import particle_steps

__all__ = [
    "Auxiliary",
    "Bootstrap",
    "Guided",
    "ParticleResult",
    "ParticleSummary",
    "StateSpaceModel",
    "inputs_at",
    "log_density",
    "particle_filter",
    "seeded",
]

Law = Callable[..., Distribution]
Keep = Literal["all", "mean", "cov"]

_seeding = threading.RLock()


class StateSpaceModel:
    """x_0 ~ initial(), x_t ~ transition(x_{t−1}, t), y_t ~ observation(x_t, t).

    The functions return torch distributions. States are (B, N, n): B series of N particles. A
    distribution whose log-probabilities keep a last axis, such as ``Normal(0.9 * x, 1.0)``, is
    that of independent numbers. With inputs the two last functions take u_t (B, 1, m) as a third
    argument.

    The functions should depend on their arguments alone, and on tensors that do not change while
    the filter runs: it may call them more often than there are steps, or less.

    The filter checks the arguments of laws at the first two steps only. It knows laws that are
    exactly ``Normal``, ``Independent`` of that or ``MultivariateNormal`` with one covariance, and
    draws and weighs by them faster than they do.

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
    """Torch's random numbers from a seed, those of the caller left as they were.

    Torch has one generator for all threads, so one thread at a time is let in.
    """
    devices = [device] if device.type == "cuda" else []
    with _seeding, torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
        yield


@overload
def particle_filter(
    model: StateSpaceModel,
    y: Any,
    u: Any = ...,
    *,
    particles: int = ...,
    method: Bootstrap | None = ...,
    resampling: Resampling | None = ...,
    threshold: float = ...,
    lengths: Any = ...,
    keep: Literal["all"] = ...,
    seed: int | np.random.Generator = ...,
    engine: Engine = ...,
) -> ParticleResult: ...


@overload
def particle_filter(
    model: StateSpaceModel,
    y: Any,
    u: Any = ...,
    *,
    particles: int = ...,
    method: Bootstrap | None = ...,
    resampling: Resampling | None = ...,
    threshold: float = ...,
    lengths: Any = ...,
    keep: Literal["mean", "cov"],
    seed: int | np.random.Generator = ...,
    engine: Engine = ...,
) -> ParticleSummary: ...


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
    keep: Keep = "all",
    seed: int | np.random.Generator = 0,
    engine: Engine = "auto",
) -> ParticleResult | ParticleSummary:
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
        keep: ``"all"`` for particles, weights and ancestors of every step, (n + 2) N numbers each;
            ``"mean"`` for means, likelihoods and the last particles; ``"cov"`` for covariances too.
        seed: of the random numbers; the same gives the same particles.
        engine: ``"eager"`` calls the model's functions at every step. ``"compiled"`` calls them a
            few times, reads off what they compute, and does all steps in one compiled call with the
            same random numbers; results agree to rounding. ``"auto"`` takes that from 30 steps on
            where it can. It can for :class:`Bootstrap`, a resampling of this package, tensors on
            the CPU, and a model that is the same elementary formula at every step, its transition
            ``Normal``, ``Independent`` of that or ``MultivariateNormal`` with one covariance; the
            log, and the error for ``"compiled"``, say why it cannot.

    Returns:
        Particles, weights and likelihoods, or :class:`ParticleSummary` without the particles. A
        step that no particle can have given has −∞ as its
        log-likelihood, and weights all alike.

    Raises:
        ValueError: shapes that do not fit, fewer than one particle, another ``keep`` or
            ``engine``, or a model that the engine asked for cannot run.

    Source: Chopin and Papaspiliopoulos, An introduction to sequential Monte Carlo (2020), ch. 10.
    """
    y = torch.as_tensor(y)
    y = y if y.is_floating_point() else y.double()
    if y.dim() != 3 or 0 in y.shape:
        raise ValueError(f"y has shape {tuple(y.shape)}; it must be (B, T, p), series first")
    if particles < 1:
        raise ValueError(f"particles is {particles}; at least 1 is needed")
    if keep not in ("all", "mean", "cov"):
        raise ValueError(f"keep is {keep!r}; it must be 'all', 'mean' or 'cov'")
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; it must be 'auto', 'eager' or 'compiled'")
    u = None if u is None else torch.as_tensor(u).to(y)
    if u is not None and (u.dim() != 3 or u.shape[:2] != y.shape[:2]):
        raise ValueError(f"u has shape {tuple(u.shape)}; y of shape {tuple(y.shape)} needs (B, T)")
    valid = torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)
    if lengths is not None:
        ends = ends_of(lengths, y).unsqueeze(1)
        valid = torch.arange(y.shape[1], device=y.device) < ends
    y = spread(valid, y, torch.full_like(y, torch.nan))
    with torch.no_grad(), seeded(seed, y.device):
        run = _Run(model, y, u, particles, method or Bootstrap(), resampling or Systematic())
        return run.through(threshold, keep, valid, lengths is not None, engine)


class _Run:
    """One filter on its way through time."""

    def __init__(
        self,
        model: StateSpaceModel,
        y: Tensor,
        u: Tensor | None,
        particles: int,
        method: Bootstrap,
        resampling: Resampling,
    ) -> None:
        self.model, self.u, self.method, self.resampling = model, u, method, resampling
        self.batch, self.length, self.outputs = y.shape
        self.count, self.device = particles, y.device
        self.stream = Stream(int(torch.randint(2**62, ())), y.device)
        missing = y.isnan()
        # Asked once, because every question makes a GPU wait.
        self.gaps = missing.any(-1).any(0).tolist()
        self.y, self.missing = y.split(1, 1), missing.unbind(1)
        self.whole, self.absent = y.nan_to_num(0.0, torch.inf, -torch.inf), missing
        self.filled = self.whole.split(1, 1)
        self.rows = y.double().transpose(0, 1).contiguous().unbind(0)
        self.seen = type(method).propose is not Bootstrap.propose
        self.looks = type(method).look_ahead is not Bootstrap.look_ahead

    def through(
        self, threshold: float, keep: Keep, valid: Tensor, ends: bool, engine: Engine
    ) -> ParticleResult | ParticleSummary:
        """Filter all steps."""
        first, ratio = self._move(None, 0, None)
        data, scheme = Data(first, self.whole, self.u), self.resampling.scheme()
        known = choose(engine, self.model, self.method, scheme, data)
        if known is not None:
            assert isinstance(scheme, str)
            return through(
                self.model,
                known,
                data,
                self.absent,
                key=self.stream.key,
                scheme=scheme,
                threshold=threshold,
                keep=keep,
                valid=valid,
            )
        self.steps = steps = particle_steps(
            self.length,
            self.batch,
            self.count,
            threshold=threshold,
            scheme=scheme,
            history=keep == "all",
            device=self.device,
        )
        history = History(self.length) if keep == "all" else Summaries(valid, keep == "cov", ends)
        x = first
        with ExitStack() as stack:
            for t in range(self.length):
                if t == 2:
                    stack.enter_context(unchecked())
                if t:
                    x = self._choose(x, t) if self.looks else x
                    x, ratio = self._move(x, t, history.slot(t))
                history.take(t, x)
                ahead = None if self.looks or t + 1 == self.length else x
                moved = self._weigh(x, t, ratio, ahead)
                history.weigh(t, x, steps)
                x = x if moved is None else moved
        ll = torch.where(valid, steps.log_likelihoods.mT, 0.0)
        return history.result(steps, ll, self.model, self.u, valid)

    def _chance(self) -> Tensor | None:
        count = self.steps.uniforms()
        return self.stream.uniform((self.batch, count)) if count else None

    def _choose(self, x: Tensor, t: int) -> Tensor:
        ahead = self.method.look_ahead(x, self.filled[t], t, *inputs_at(self.u, t))
        if ahead is not None:
            self._fits("log-weights of look_ahead", ahead)
            ahead = ahead.double()
            if self.gaps[t]:
                ahead = torch.where(self.missing[t].any(-1, keepdim=True), 0.0, ahead)
        return self.steps.choose(t, x, self._chance(), ahead)

    def _fits(self, name: str, found: Tensor) -> None:
        """Whether there is one number for each particle."""
        if found.shape != (self.batch, self.count):
            raise ValueError(
                f"{name} have shape {tuple(found.shape)}; they must be "
                f"{(self.batch, self.count)}, (B, N), one for each particle x_t (B, N, n)"
            )

    def _move(self, x: Tensor | None, t: int, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Particles of step t, and the log-ratio of their density to that of a proposal."""
        given = inputs_at(self.u, t)
        lead = (self.batch, self.count)
        law = self.model.initial() if x is None else self.model.transition(x, t, *given)
        guide = None
        if self.seen:
            guide = self.method.propose(self.model, x, self.filled[t], t, *given)
        if guide is None:
            return _draw(law, lead, x, self.stream, out), None
        if x is not None and not self.gaps[t]:
            _check(law, x)
            drawn = _draw(guide, lead, x, self.stream, out)
            return drawn, _density(law, drawn) - _density(guide, drawn)
        own = _draw(law, lead, x, self.stream)
        gap = self.missing[t].any(-1, keepdim=True)
        drawn = torch.where(gap.unsqueeze(-1), own, _draw(guide, lead, own, self.stream))
        ratio = _density(law, drawn) - _density(guide, drawn)
        return drawn, torch.where(gap, 0.0, ratio)

    def _weigh(
        self, x: Tensor, t: int, ratio: Tensor | None, ahead: Tensor | None
    ) -> Tensor | None:
        law = self.model.observation(x, t, *inputs_at(self.u, t))
        u = None if ahead is None else self._chance()
        known = None if ratio is not None else numbers(law)
        if known is not None and known.loc.shape == (self.batch, self.count, self.outputs):
            return self.steps.weigh_normal(t, self.rows[t], *known, ahead, u)
        gain = None
        if not self.gaps[t]:
            gain = joint_log_density(law, self.y[t])
        if gain is None:
            gain = _weigh(law, self.y[t], self.missing[t], self.gaps[t])
        self._fits("log-densities of y_t, added up over its outputs,", gain)
        gain = gain.double() if ratio is None else gain.double() + ratio.double()
        return self.steps.weigh(t, gain, ahead, u)


def _check(law: Distribution, x: Tensor) -> None:
    """Whether a law is that of states x."""
    if law.batch_shape + law.event_shape != x.shape:
        raise ValueError(
            f"the law of x_t has shape {tuple(law.batch_shape + law.event_shape)}; states are "
            f"{tuple(x.shape)}, (B, N, n)"
        )


def _density(law: Distribution, x: Tensor) -> Tensor:
    return log_density(law, x, 2).double()


def _draw(
    law: Distribution,
    lead: tuple[int, int],
    x: Tensor | None,
    stream: Stream,
    out: Tensor | None = None,
) -> Tensor:
    """A state (B, N, n) for each particle, whatever axes the law has already."""
    if x is not None:
        _check(law, x)
        return draw(law, stream, out)
    shape = law.batch_shape + law.event_shape
    if len(shape) not in (1, 3):
        raise ValueError(
            f"the first law has shape {tuple(shape)}; it must be that of a state, (n,), or of all, "
            "(B, N, n)"
        )
    return law.sample(lead if len(shape) == 1 else ())


def _weigh(law: Distribution, y: Tensor, missing: Tensor, gaps: bool) -> Tensor:
    """Log p(y_t | x_t) of the observed outputs, (B, N) in float64."""
    if not gaps:
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
