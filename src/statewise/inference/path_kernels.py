"""Particle Gibbs: Markov chains on whole paths whose law in the long run is the posterior."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.inference import chance
from statewise.inference.backward_draws import backward_logs
from statewise.inference.conditional import Series, Step, checked, sampling, sweep, take
from statewise.inference.particle import Bootstrap, StateSpaceModel


class PathKernel(ABC):
    """A way to go from one path to the next that leaves the posterior p(x_0 … x_T | y) alone."""

    @abstractmethod
    def __call__(
        self, series: Series, particles: int, method: Bootstrap, path: Tensor | None
    ) -> Tensor:
        """The next path (B, T, n); from None a first one."""


def trace(states: list[Tensor], indices: list[Tensor], last: Tensor) -> Tensor:
    """Paths (B, T, n) from the slots (B, 1) at the end back along indices (B, N) to the start."""
    path = [take(states[-1], last)]
    for x, index in zip(reversed(states[:-1]), reversed(indices), strict=True):
        last = index.gather(1, last)
        path.append(take(x, last))
    return torch.cat(path[::-1], 1)


def _traced(steps: list[Step]) -> Tensor:
    last = chance.pick(steps[-1].log_weights.exp(), 1)
    return trace([step.x for step in steps], [step.ancestors for step in steps[1:]], last)


@dataclasses.dataclass(frozen=True)
class AncestorTracing(PathKernel):
    """Plain particle Gibbs: a particle of the last step and its ancestors.

    Early states stay for long, since few ancestors are left far back; it needs particles in
    proportion to the length of the series.

    Source: Andrieu, Doucet and Holenstein, Particle Markov chain Monte Carlo methods (2010).
    """

    def __call__(
        self, series: Series, particles: int, method: Bootstrap, path: Tensor | None
    ) -> Tensor:
        """The next path (B, T, n)."""
        return _traced(list(sweep(series, particles, method, path)))


@dataclasses.dataclass(frozen=True)
class AncestorSampling(PathKernel):
    """The reference's ancestor is drawn at each step, which breaks it into pieces (PGAS).

    Source: Lindsten, Jordan and Schön, Particle Gibbs with ancestor sampling (1401.0604).
    """

    def __call__(
        self, series: Series, particles: int, method: Bootstrap, path: Tensor | None
    ) -> Tensor:
        """The next path (B, T, n)."""
        return _traced(list(sweep(series, particles, method, path, ancestor_sampling=True)))


@dataclasses.dataclass(frozen=True)
class BackwardSampling(PathKernel):
    """The next path is drawn backwards through all particles, by W_t^i f(x_{t+1} | x_t^i).

    Source: Whiteley, discussion of Andrieu, Doucet and Holenstein (2010).
    """

    def __call__(
        self, series: Series, particles: int, method: Bootstrap, path: Tensor | None
    ) -> Tensor:
        """The next path (B, T, n)."""
        steps = list(sweep(series, particles, method, path))
        index = chance.pick(steps[-1].log_weights.exp(), 1)
        found = [take(steps[-1].x, index)]
        for t in range(len(steps) - 2, -1, -1):
            own = steps[t + 1].ancestors.gather(1, index)
            logs = backward_logs(series, t, steps[t], found[-1])[0]
            top = logs.max(-1, keepdim=True).values
            drawn = chance.pick((logs - top).exp(), 1)
            index = torch.where(top > -torch.inf, drawn, own)
            found.append(take(steps[t].x, index))
        return torch.cat(found[::-1], 1)


@dataclasses.dataclass(frozen=True)
class GibbsResult:
    """Paths of every sweep, chains first within a sweep.

    Attributes:
        paths: (S, B, T, n); behind the end of a series they go on without observations.
        update_rate: share of sweeps that changed a state, (B, T).
    """

    paths: Tensor
    update_rate: Tensor

    @property
    def reference(self) -> Tensor:
        """The last path (B, T, n), from which a chain goes on."""
        return self.paths[-1]


def particle_gibbs(
    model: StateSpaceModel,
    y: Any,
    reference: Any = None,
    u: Any = None,
    *,
    sweeps: int = 1,
    particles: int = 20,
    kernel: PathKernel | None = None,
    method: Bootstrap | None = None,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> GibbsResult:
    """Draw paths from the posterior by a Markov chain; chains and series run side by side.

    Every number of particles from 2 on leaves the posterior alone; more of them mix faster. To
    learn parameters too, draw them given the path between calls with ``sweeps=1``.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed. For several chains on one series
            repeat it, as by ``y.expand(chains, -1, -1)``.
        reference: the path to start from (B, T, n); None for one of a particle filter.
        u: inputs (B, T, m), or None.
        sweeps: how many paths to draw one after the other.
        particles: N, with the reference; at least 2.
        kernel: :class:`AncestorSampling` (None), :class:`BackwardSampling` or
            :class:`AncestorTracing`.
        method: :class:`Bootstrap` (None) or :class:`Guided`.
        lengths: steps of each series, (B,).
        seed: of the random numbers; the same gives the same paths.

    Raises:
        ValueError: shapes that do not fit, no sweep, fewer than two particles, or an auxiliary
            method.

    Source: Andrieu, Doucet and Holenstein, Particle Markov chain Monte Carlo methods (2010).
    """
    series = Series.of(model, y, u, lengths)
    method, kernel = checked(particles, method, True), kernel or AncestorSampling()
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; at least 1 is needed")
    path = None if reference is None else series.reference(reference)
    changed = torch.zeros(series.y.shape[:2], dtype=torch.float64, device=series.y.device)
    found = []
    with torch.no_grad(), sampling(seed, series):
        if path is None:
            path = kernel(series, particles, method, None)
        for _ in range(sweeps):
            after = kernel(series, particles, method, path)
            changed += (after != path).any(-1)
            path = after
            found.append(path)
    return GibbsResult(torch.stack(found), changed / sweeps)
