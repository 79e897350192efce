"""Gradients of the likelihood by Fisher's identity, from smoothed pairs of states."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.inference.backward_draws import BackwardDraws, flatten, pair_logs, unflatten
from statewise.inference.conditional import Series, sampling
from statewise.inference.parisian_smoother import Additive
from statewise.inference.parisian_sweeps import ParisianGibbs, SmoothedPairs
from statewise.inference.particle import Bootstrap, StateSpaceModel, log_density
from statewise.inference.path_kernels import PathKernel, particle_gibbs

Build = Callable[[Tensor], StateSpaceModel]


def log_joint(model: StateSpaceModel, y: Any, u: Any = None, *, lengths: Any = None) -> Additive:
    """Log p(x_0 … x_T, y_0 … y_T) as a sum over the path, differentiable in the model.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed, which adds nothing.
        u: inputs (B, T, m), or None.
        lengths: steps of each series, (B,).
    """
    return joint_of(Series.of(model, y, u, lengths))


def joint_of(series: Series) -> Additive:
    """Log f + log g of a series as a sum over the path."""

    def pair(before: Tensor, after: Tensor, s: int) -> Tensor:
        return pair_logs(series, s, before, after).double() + seen(after, s + 1)

    def first(x: Tensor) -> Tensor:
        return log_density(series.start(), x[0], 2).double()[None] + seen(x, 0)

    def seen(x: Tensor, t: int) -> Tensor:
        return unflatten(series.observed(flatten(x), t), len(x))

    return Additive(pair, first)


class ScoreRule(ABC):
    """How states are smoothed for a gradient."""

    @abstractmethod
    def pairs(
        self, series: Series, method: Bootstrap | None, reference: Tensor | None
    ) -> tuple[SmoothedPairs, Tensor | None]:
        """Weighted pairs of states, and the path from which the next estimate goes on."""


def _kernel(series: Series, method: Bootstrap | None, **options: Any) -> ParisianGibbs:
    y = torch.where(series.missing, torch.nan, series.y)
    lengths = series.valid.sum(1) if series.ragged else None
    return ParisianGibbs(series.model, y, None, series.u, method=method, lengths=lengths, **options)


@dataclasses.dataclass(frozen=True)
class ParisScore(ScoreRule):
    """One sweep of PaRIS, anew each time; biased by about 1/N.

    Attributes:
        particles: N.
        draws: M.
        backward: how ancestors are drawn; None for :class:`ExactBackward`.
    """

    particles: int = 100
    draws: int = 2
    backward: BackwardDraws | None = None

    def pairs(
        self, series: Series, method: Bootstrap | None, reference: Tensor | None
    ) -> tuple[SmoothedPairs, Tensor | None]:
        """Pairs of all particles; the path is let be."""
        kernel = _kernel(series, method, **_options(self))
        return kernel.pairs(None)[0], reference


@dataclasses.dataclass(frozen=True)
class ParisianScore(ScoreRule):
    """Sweeps of Parisian particle Gibbs, the last path kept for the next estimate.

    Attributes:
        particles: N, with the reference.
        sweeps: S.
        burn: sweeps left out of the average; None for half of them.
        draws: M.
        backward: how ancestors are drawn; None for :class:`ExactBackward`.
    """

    particles: int = 25
    sweeps: int = 4
    burn: int | None = None
    draws: int = 2
    backward: BackwardDraws | None = None

    def pairs(
        self, series: Series, method: Bootstrap | None, reference: Tensor | None
    ) -> tuple[SmoothedPairs, Tensor | None]:
        """Pairs of all particles of the sweeps behind ``burn``.

        Raises:
            ValueError: no sweep is left.
        """
        burn = self.sweeps // 2 if self.burn is None else self.burn
        if not 0 <= burn < self.sweeps:
            raise ValueError(
                f"burn is {burn} and sweeps {self.sweeps}; at least one sweep must be left"
            )
        kernel = _kernel(series, method, **_options(self))
        if reference is None:
            _, reference = kernel.pairs(None)
        found = []
        for _ in range(self.sweeps):
            pairs, reference = kernel.pairs(reference)
            found.append(pairs)
        return SmoothedPairs.join(found[burn:]), reference


def _options(rule: ParisScore | ParisianScore) -> dict[str, Any]:
    return {"particles": rule.particles, "draws": rule.draws, "backward": rule.backward}


@dataclasses.dataclass(frozen=True)
class GibbsScore(ScoreRule):
    """Sweeps of particle Gibbs, one path each, the last kept for the next estimate.

    Attributes:
        particles: N, with the reference.
        sweeps: S.
        burn: sweeps left out of the average; None for half of them.
        kernel: how paths are drawn; None for :class:`AncestorSampling`.
    """

    particles: int = 25
    sweeps: int = 4
    burn: int | None = None
    kernel: PathKernel | None = None

    def pairs(
        self, series: Series, method: Bootstrap | None, reference: Tensor | None
    ) -> tuple[SmoothedPairs, Tensor | None]:
        """Pairs along the paths behind ``burn``.

        Raises:
            ValueError: no sweep is left.
        """
        burn = self.sweeps // 2 if self.burn is None else self.burn
        if not 0 <= burn < self.sweeps:
            raise ValueError(
                f"burn is {burn} and sweeps {self.sweeps}; at least one sweep must be left"
            )
        found = particle_gibbs(
            series.model,
            torch.where(series.missing, torch.nan, series.y),
            reference,
            series.u,
            sweeps=self.sweeps,
            particles=self.particles,
            kernel=self.kernel,
            method=method,
            lengths=series.valid.sum(1) if series.ragged else None,
            seed=int(torch.randint(2**62, ())),
        )
        return SmoothedPairs.along(series, found.paths[burn:]), found.reference


class Score(NamedTuple):
    """A gradient.

    Attributes:
        gradient: of the log-likelihood, of the shape of the parameters.
        reference: a path (B, T, n) from which the next estimate can go on, or None.
    """

    gradient: Tensor
    reference: Tensor | None


def score(
    build: Build,
    theta: Any,
    y: Any,
    u: Any = None,
    *,
    reference: Any = None,
    rule: ScoreRule | None = None,
    method: Bootstrap | None = None,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> Score:
    """The gradient of log p(y) by Fisher's identity, without a derivative of any resampling.

    ∇ log p(y) = E[∇ log p(x_0) + Σ ∇ log f(x_t | x_{t−1}) + Σ ∇ log g(y_t | x_t) | y].

    Args:
        build: a differentiable function from parameters to a model.
        theta: where. A vector (k,) is of all series, whose gradients add up; parameters (B, k), of
            which ``build`` makes a model with a row for each series, have a gradient in each row.
        y: observations (B, T, p); NaN where nothing is observed.
        u: inputs (B, T, m), or None.
        reference: a path to go on from (B, T, n), for the rules that keep one.
        rule: :class:`ParisianScore` (None), :class:`ParisScore` or :class:`GibbsScore`.
        method: :class:`Bootstrap` (None) or :class:`Guided`.
        lengths: steps of each series, (B,).
        seed: of the random numbers; the same gives the same gradient.

    Raises:
        ValueError: shapes that do not fit, or a model that does not depend on the parameters.

    Source: Cappé, Moulines and Rydén, Inference in hidden Markov models (2005), section 10.2;
    Cardoso and others (2301.00900).
    """
    y = torch.as_tensor(y)
    at = torch.as_tensor(theta).to(y.device)
    series = Series.of(build(at.detach()), y, u, lengths)
    path = None if reference is None else series.reference(reference)
    rule = rule or ParisianScore()
    with sampling(seed, series):
        return slope_of(
            at, series, rule, method, path, lambda x, s: joint_of(with_model(s, build(x)))
        )


def with_model(series: Series, model: StateSpaceModel) -> Series:
    """The same data under another model."""
    return dataclasses.replace(series, model=model)


def slope_of(
    theta: Tensor,
    series: Series,
    rule: ScoreRule,
    method: Bootstrap | None,
    reference: Tensor | None,
    terms: Callable[[Tensor, Series], Additive],
) -> Score:
    """The gradient of E[terms] in the parameters that the terms are given, states held."""
    with torch.no_grad():
        pairs, reference = rule.pairs(series, method, reference)
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        total = pairs.mean(terms(theta, series)).sum()
        if not total.requires_grad:
            raise ValueError(
                f"what build makes of parameters of shape {tuple(theta.shape)} does not depend on "
                "them in a way that torch can differentiate"
            )
        (gradient,) = torch.autograd.grad(total, theta)
    return Score(gradient, reference)
