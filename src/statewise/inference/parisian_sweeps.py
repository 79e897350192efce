"""Parisian particle Gibbs: smoothed sums whose bias falls geometrically with the sweeps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.inference import chance
from statewise.inference.backward_draws import BackwardDraws, ExactBackward
from statewise.inference.conditional import Series, Step, checked, sampling, sweep, take
from statewise.inference.parisian_smoother import Additive, Statistic, at_least_one
from statewise.inference.particle import Bootstrap, StateSpaceModel
from statewise.inference.path_kernels import trace
from statewise.inference.quiet_laws import unchecked


@dataclasses.dataclass(frozen=True)
class SmoothedPairs:
    """Weighted pairs (x_s, x_{s+1}) of one sweep, from which any sum is averaged afterwards.

    Σ_i W_T^i τ_T^i is linear in h: the weight of a particle is what its later ones pass back to it,
    w_t^j = M⁻¹ Σ_{i,l} w_{t+1}^i 1{J^{i,l} = j}, w_T = W_T.

    Attributes:
        states: T tensors (B, N, n).
        draws: T − 1 tensors of ancestors (M, B, N).
        weights: T tensors (B, N) in float64.
        series: the model and its data.
    """

    states: tuple[Tensor, ...]
    draws: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    series: Series

    @classmethod
    def of(
        cls, series: Series, states: list[Tensor], draws: list[Tensor], last: Tensor
    ) -> SmoothedPairs:
        """Pass the weights of the last step (B, N) back."""
        weights = [last]
        for drawn in reversed(draws):
            share = (weights[-1] / drawn.shape[0]).expand(drawn.shape)
            lanes = [x.transpose(0, 1).flatten(1) for x in (drawn, share)]
            weights.append(torch.zeros_like(last).scatter_add(1, *lanes))
        return cls(tuple(states), tuple(draws), tuple(weights[::-1]), series)

    @classmethod
    def join(cls, parts: list[SmoothedPairs]) -> SmoothedPairs:
        """The pairs of several sweeps, each counting alike."""
        states = tuple(torch.cat(x, 1) for x in zip(*(one.states for one in parts), strict=True))
        shifts, at = [], 0
        for one in parts:
            shifts.append(at)
            at += one.weights[0].shape[1]
        draws = tuple(
            torch.cat([x + shift for x, shift in zip(drawn, shifts, strict=True)], 2)
            for drawn in zip(*(one.draws for one in parts), strict=True)
        )
        weights = zip(*(one.weights for one in parts), strict=True)
        shares = tuple(torch.cat(x, 1) / len(parts) for x in weights)
        return cls(states, draws, shares, parts[0].series)

    @classmethod
    def along(cls, series: Series, paths: Tensor) -> SmoothedPairs:
        """The pairs of whole paths (S, B, T, n), each counting alike."""
        count, batch, length, _ = paths.shape
        own = torch.arange(count, device=paths.device).expand(1, batch, count)
        even = torch.full((batch, count), 1 / count, dtype=torch.float64, device=paths.device)
        states = paths.permute(2, 1, 0, 3).unbind(0)
        return cls(states, (own,) * (length - 1), (even,) * length, series)

    def mean(self, additive: Additive) -> Tensor:
        """The smoothed sum (B, …), differentiable in what the sum depends on."""
        found = torch.zeros(self.weights[0].shape[0], dtype=torch.float64, device=self.device)
        if additive.first is not None:
            value = additive.first(self.states[0][None]).double()[0]
            found = torch.einsum("bn,bn...->b...", self.weights[0], value)
        for s, drawn in enumerate(self.draws):
            before, after = take(self.states[s], drawn), self.states[s + 1][None]
            value = additive.pair(before, after.expand_as(before), s).double()
            share = self.weights[s + 1] / drawn.shape[0]
            if self.series.ragged:
                share = torch.where(self.series.valid[:, s + 1, None], share, 0.0)
            term = torch.einsum("bn,mbn...->b...", share, value)
            found = term if s == 0 and additive.first is None else found + term
        return found

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.weights[0].device


class ParisianGibbs:
    """One sweep of Parisian particle Gibbs, from a path to an estimate and the next path.

    The kernel draws torch's random numbers, as :func:`torch.manual_seed` sets them, and with
    :class:`ExactBackward` or :class:`MetropolisBackward` waits nowhere for a device, so that a
    sweep can be captured as a CUDA graph where the model waits nowhere either.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed. B is of chains or series.
        additive: the sum; None for sweeps whose pairs are asked for instead.
        u: inputs (B, T, m), or None.
        particles: N, with the reference; at least 2.
        draws: M, ancestors of each particle; None for the mean over all of them.
        backward: how ancestors are drawn; None for :class:`ExactBackward`.
        method: :class:`Bootstrap` (None) or :class:`Guided`.
        lengths: steps of each series, (B,).

    Raises:
        ValueError: shapes that do not fit, fewer than two particles, no draw, or an auxiliary
            method.

    Source: Cardoso, Janati El Idrissi, Le Corff, Moulines and Olsson (2301.00900).
    """

    def __init__(
        self,
        model: StateSpaceModel,
        y: Any,
        additive: Additive | None,
        u: Any = None,
        *,
        particles: int = 100,
        draws: int | None = 2,
        backward: BackwardDraws | None = None,
        method: Bootstrap | None = None,
        lengths: Any = None,
    ) -> None:
        self.series = Series.of(model, y, u, lengths)
        self.method = checked(particles, method, True)
        at_least_one(draws)
        self.particles, self.draws, self.additive = particles, draws, additive
        self.backward = backward or ExactBackward()

    @torch.no_grad()
    def __call__(self, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """Σ_i W^i τ^i (B, …) and the next path (B, T, n).

        Args:
            reference: the path before (B, T, n); None for a sweep of plain PaRIS.

        Raises:
            ValueError: a kernel without a sum.
        """
        if self.additive is None:
            raise ValueError("additive is None, so there is no sum to estimate; give an Additive")
        statistic = Statistic(self.series, self.additive, self.draws)
        steps, _, path = self._sweep(reference, statistic)
        found = statistic.mean(steps[-1])
        return (torch.zeros_like(steps[-1].log_likelihood) if found is None else found), path

    @torch.no_grad()
    def pairs(self, reference: Tensor | None) -> tuple[SmoothedPairs, Tensor]:
        """The weighted pairs of a sweep and the next path (B, T, n).

        Args:
            reference: the path before (B, T, n); None for a sweep of plain PaRIS.
        """
        steps, draws, path = self._sweep(reference, None)
        last = steps[-1].log_weights.exp()
        return SmoothedPairs.of(self.series, [one.x for one in steps], draws, last), path

    def _sweep(
        self, reference: Tensor | None, statistic: Statistic | None
    ) -> tuple[list[Step], list[Tensor], Tensor]:
        with unchecked():
            return self._steps(reference, statistic)

    def _steps(
        self, reference: Tensor | None, statistic: Statistic | None
    ) -> tuple[list[Step], list[Tensor], Tensor]:
        steps: list[Step] = []
        kept: list[Tensor] = []
        for t, step in enumerate(sweep(self.series, self.particles, self.method, reference)):
            if steps:
                before = steps[-1]
                drawn = self.backward(self.series, t - 1, before, step, self.draws or 1)
                if statistic is not None:
                    all_ = self.draws is None
                    statistic.move(t - 1, before, step, None if all_ else drawn)
                # Later draws of a chain are further from the ancestor; of independent ones any do.
                kept.append(drawn if statistic is None else drawn[-1])
            elif statistic is not None:
                statistic.start(step)
            steps.append(step)
        last = chance.pick(steps[-1].log_weights.exp(), 1)
        routes = kept if statistic is not None else [drawn[-1] for drawn in kept]
        return steps, kept, trace([step.x for step in steps], routes, last)


@dataclasses.dataclass(frozen=True)
class ParisianResult:
    """Estimates of every sweep.

    Attributes:
        estimates: μ[l], (S, B, …).
        burn: sweeps that are left out of the average.
        reference: the last path (B, T, n), from which the chains go on.
    """

    estimates: Tensor
    burn: int
    reference: Tensor

    @property
    def estimate(self) -> Tensor:
        """Roll-out estimate (S − burn)⁻¹ Σ_{l > burn} μ[l] of each chain, (B, …)."""
        return self.estimates[self.burn :].mean(0)

    @property
    def mean(self) -> Tensor:
        """Mean over the chains, which must be of one series, (…)."""
        return self.estimate.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of ``mean`` from how far chains are apart, (…); NaN for a single one."""
        if self.estimate.shape[0] < 2:
            return torch.full_like(self.mean, torch.nan)
        return self.estimate.std(0) / math.sqrt(self.estimate.shape[0])


def parisian_gibbs(
    model: StateSpaceModel,
    y: Any,
    additive: Additive,
    reference: Any = None,
    u: Any = None,
    *,
    sweeps: int = 8,
    burn: int | None = None,
    particles: int = 100,
    draws: int | None = 2,
    backward: BackwardDraws | None = None,
    method: Bootstrap | None = None,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> ParisianResult:
    """Smoothed expectations of a sum over the path, with a bias that sweeps make vanish.

    Each sweep is PaRIS on the particles of conditional SMC. The pinned path's ancestor in the
    filter is its own, but the ancestors in its sum are drawn as for all others. Each particle
    carries one path of drawn ancestors, and the next reference is one of these by the last
    weights, which leaves the posterior alone. Every sweep averages over all particles.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed. For several chains on one series
            repeat it, as by ``y.expand(chains, -1, -1)``.
        additive: the sum.
        reference: the path to start from (B, T, n); None for one of a sweep of PaRIS, which is not
            among the estimates.
        u: inputs (B, T, m), or None.
        sweeps: S.
        burn: sweeps left out of the average; None for half of them.
        particles: N, with the reference; a fifth of the length of the series or more.
        draws: M, ancestors of each particle; None for the mean over all of them, O(N²) a step.
        backward: how ancestors are drawn; None for :class:`ExactBackward`.
        method: :class:`Bootstrap` (None) or :class:`Guided`.
        lengths: steps of each series, (B,); sums end with their series.
        seed: of the random numbers; the same gives the same estimates.

    Raises:
        ValueError: shapes that do not fit, fewer than two particles, no draw, an auxiliary method,
            or no sweep behind ``burn``.

    Example:
        >>> from torch.distributions import Normal
        >>> model = StateSpaceModel(
        ...     lambda: Normal(torch.zeros(1), 1.0),
        ...     lambda x, t: Normal(0.9 * x, 0.5),
        ...     lambda x, t: Normal(x, 0.5),
        ... )
        >>> y = torch.randn(1, 20, 1).expand(4, -1, -1)
        >>> product = Additive(lambda x, after, s: (x * after).sum(-1))
        >>> found = parisian_gibbs(model, y, product, particles=20, sweeps=4)
        >>> tuple(found.estimates.shape), tuple(found.mean.shape)
        ((4, 4), ())

    Source: Cardoso, Janati El Idrissi, Le Corff, Moulines and Olsson, State and parameter learning
    with PaRIS particle Gibbs (2301.00900).
    """
    options = {"particles": particles, "draws": draws, "backward": backward, "method": method}
    kernel = ParisianGibbs(model, y, additive, u, lengths=lengths, **options)
    burn = sweeps // 2 if burn is None else burn
    if not 0 <= burn < sweeps:
        raise ValueError(f"burn is {burn} and sweeps {sweeps}; at least one sweep must be left")
    path = None if reference is None else kernel.series.reference(reference)
    found = []
    with sampling(seed, kernel.series):
        if path is None:
            _, path = kernel(None)
        for _ in range(sweeps):
            mean, path = kernel(path)
            found.append(mean)
    return ParisianResult(torch.stack(found), burn, path)
