"""What a particle filter found: weighted particles of every step, or summaries of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from statewise.inference.moments import spread
from statewise.ops.memory import fresh

if TYPE_CHECKING:
    from statewise.inference.particle import StateSpaceModel
    from statewise.ops import ParticleSteps


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
        engine: which one ran, ``"eager"`` or ``"compiled"``.
    """

    particles: Tensor
    log_weights: Tensor
    ancestors: Tensor
    log_likelihoods: Tensor
    ess: Tensor
    model: StateSpaceModel
    u: Tensor | None
    valid: Tensor
    engine: str = "eager"

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


@dataclasses.dataclass(frozen=True)
class ParticleSummary:
    """What is known of every step without its particles, series first.

    Attributes:
        mean: filtered means (B, T, n); zeros behind the end.
        cov: filtered covariances (B, T, n, n), zeros behind the end; None where only means were
            asked for.
        particles: those of the last step of each series, (B, N, n).
        log_weights: theirs, normalised, (B, N).
        log_likelihoods: log of the estimate of p(y_t | y_1 … y_{t−1}), (B, T); the estimate of p(y)
            is unbiased, its logarithm is not.
        ess: effective sample size 1 / Σ W², (B, T).
        model: the model.
        u: inputs (B, T, m), or None.
        valid: which steps are before the end of their series, (B, T) bool.
        engine: which one ran, ``"eager"`` or ``"compiled"``.
    """

    mean: Tensor
    cov: Tensor | None
    particles: Tensor
    log_weights: Tensor
    log_likelihoods: Tensor
    ess: Tensor
    model: StateSpaceModel
    u: Tensor | None
    valid: Tensor
    engine: str = "eager"

    @property
    def log_likelihood(self) -> Tensor:
        """Log of the unbiased estimate of p(y) of each series, (B,)."""
        return self.log_likelihoods.sum(1)


class History:
    """Keeps all particles while a filter runs, steps first: a step is then in one piece."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.particles: Tensor | None = None
        self.slots: tuple[Tensor, ...] = ()

    def slot(self, t: int) -> Tensor | None:
        """Where the particles of step t may be written to, if that is known yet."""
        return self.slots[t] if self.slots else None

    def take(self, t: int, x: Tensor) -> None:
        """Keep the particles of step t, (B, N, n)."""
        if self.particles is None:
            shape = (self.length, *x.shape)
            on_cpu = x.device.type == "cpu"
            self.particles = fresh(shape, x.dtype) if on_cpu else x.new_empty(shape)
            self.slots = self.particles.unbind(0)
        elif x.dtype is not self.particles.dtype:
            wide = torch.promote_types(x.dtype, self.particles.dtype)
            self.particles = self.particles.to(wide)
            self.slots = self.particles.unbind(0)
        if x.data_ptr() != self.slots[t].data_ptr():
            self.slots[t].copy_(x)

    def weigh(self, t: int, x: Tensor, steps: ParticleSteps) -> None:
        """Nothing: the weights are kept already."""

    def result(
        self,
        steps: ParticleSteps,
        log_likelihoods: Tensor,
        model: StateSpaceModel,
        u: Tensor | None,
        valid: Tensor,
    ) -> ParticleResult:
        """All of it."""
        assert self.particles is not None
        kept = (self.particles, steps.log_weights, steps.ancestors)
        x, logs, ancestors = (one.transpose(0, 1) for one in kept)
        return ParticleResult(x, logs, ancestors, log_likelihoods, steps.ess.mT, model, u, valid)


class Summaries:
    """Keeps moments, and the last particles of each series, while a filter runs."""

    def __init__(self, valid: Tensor, covariances: bool, ragged: bool) -> None:
        self.covariances = covariances
        # At which step a series has its last particles, where not all have them at the last.
        self.ends = valid.sum(1).clamp_min(1) - 1 if ragged else None
        self.length = valid.shape[1]
        self.means: tuple[Tensor, ...] = ()
        self.covs: list[Tensor] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def slot(self, t: int) -> None:
        """None: particles are kept nowhere."""

    def take(self, t: int, x: Tensor) -> None:
        """Nothing: moments need the weights."""

    def weigh(self, t: int, x: Tensor, steps: ParticleSteps) -> None:
        """Moments of step t, which has just been weighed."""
        logs = steps.last(t)
        if not self.means:
            size = (self.length, x.shape[0], x.shape[2])
            self.means = torch.empty(size, dtype=torch.float64, device=x.device).unbind(0)
        steps.average(t, x, self.means[t])
        if self.covariances:
            change = x.double() - self.means[t].unsqueeze(1)
            self.covs.append((logs.exp().unsqueeze(-1) * change).mT @ change)
        if self.ends is None:
            self.last = (x, logs)
        elif self.last is None:
            self.last = (x.clone(), logs.clone())
        else:
            here = self.ends == t
            now = (x, logs)
            self.last = tuple(spread(here, a, b) for a, b in zip(now, self.last, strict=True))  # pyright: ignore[reportAttributeAccessIssue]

    def result(
        self,
        steps: ParticleSteps,
        log_likelihoods: Tensor,
        model: StateSpaceModel,
        u: Tensor | None,
        valid: Tensor,
    ) -> ParticleSummary:
        """All of it."""
        assert self.last is not None
        found = [torch.stack(x, 1) if x else None for x in (self.means, self.covs)]
        mean, cov = (None if x is None else spread(valid, x, torch.zeros_like(x)) for x in found)
        assert mean is not None
        rest = (log_likelihoods, steps.ess.mT, model, u, valid)
        return ParticleSummary(mean, cov, *self.last, *rest)
