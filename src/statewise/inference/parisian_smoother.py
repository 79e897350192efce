"""Sums over smoothed paths while filtering: PaRIS, and the exact sum over all pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.inference.backward_draws import BackwardDraws, ExactBackward, backward_logs
from statewise.inference.conditional import Series, Step, checked, sampling, sweep, take
from statewise.inference.particle import Bootstrap, StateSpaceModel


@dataclasses.dataclass(frozen=True)
class Additive:
    """A sum over a path: h(x_0) + Σ_s h(x_s, x_{s+1}, s).

    Attributes:
        pair: of x_s, x_{s+1} and s. States are (A, B, N, n) with B series or chains second; values
            are (A, B, N), or (A, B, N, …) for several sums at once.
        first: of x_0 (1, B, N, n), what it adds; None for nothing.

    Example:
        >>> product = Additive(lambda x, after, s: (x * after).sum(-1))
        >>> product.of(torch.tensor([[[1.0], [2.0], [3.0]]]))
        tensor([8.], dtype=torch.float64)
    """

    pair: Callable[[Tensor, Tensor, int], Tensor]
    first: Callable[[Tensor], Tensor] | None = None

    def of(self, paths: Tensor) -> Tensor:
        """The sum along paths (B, T, n), (B, …) in float64."""
        batch, length, _ = paths.shape
        states = [paths[None, :, t : t + 1] for t in range(length)]
        found = torch.zeros(batch, dtype=torch.float64, device=paths.device)
        if self.first is not None:
            found = self.first(states[0]).double()[0, :, 0]
        for s in range(length - 1):
            value = self.pair(states[s], states[s + 1], s).double()[0, :, 0]
            found = value if s == 0 and self.first is None else found + value
        return found


class Statistic:
    """τ_t^i, the sum so far along the paths that may have led to particle i.

    Args:
        series: the model and its data.
        additive: the sum.
        draws: how many ancestors each particle averages over; None for all, by their weights.

    Attributes:
        value: τ (B, N, …) in float64; None before the first step, or while nothing is added.
    """

    def __init__(self, series: Series, additive: Additive, draws: int | None) -> None:
        self.series, self.additive, self.draws = series, additive, draws
        self.value: Tensor | None = None

    def start(self, step: Step) -> None:
        """Begin with particles of x_0."""
        first = self.additive.first
        self.value = None if first is None else first(step.x[None]).double()[0]

    def move(self, t: int, step: Step, ahead: Step, drawn: Tensor | None) -> None:
        """Go from the particles at t to those at t + 1.

        τ_{t+1}^i = M⁻¹ Σ_l (τ_t^J + h_t(x_t^J, x_{t+1}^i)) with J = J^{i,l}, or the sum over all j
        by β_t(i, j).
        """
        if drawn is None:
            logs = backward_logs(self.series, t, step, ahead.x)
            before, after = step.x.unsqueeze(0), ahead.x.transpose(0, 1).unsqueeze(2)
            added = self._added(t, before, after)
            top = logs.max(-1, keepdim=True).values
            beta = (logs - top).exp()
            beta = beta / beta.sum(-1, keepdim=True)
            own = torch.zeros_like(beta).scatter_(-1, ahead.ancestors.T.unsqueeze(-1), 1.0)
            # Where no particle can have led to one, its ancestor did, as for drawn ones.
            beta = torch.where(top > -torch.inf, beta, own)
            whole = added if self.value is None else added + self.value
            self.value = torch.einsum("kbj,kbj...->bk...", beta, whole)
            return
        added = self._added(t, take(step.x, drawn), ahead.x.unsqueeze(0))
        whole = added if self.value is None else added + take(self.value, drawn)
        self.value = whole.mean(0)

    def _added(self, t: int, before: Tensor, after: Tensor) -> Tensor:
        """What pairs add, 0 behind the end of a series, (A, B, N, …)."""
        before, after = torch.broadcast_tensors(before, after)
        value = self.additive.pair(before, after, t).double()
        if self.series.ragged:
            inside = self.series.valid[:, t + 1].reshape(1, -1, *(1,) * (value.dim() - 2))
            value = torch.where(inside, value, 0.0)
        return value

    def mean(self, step: Step) -> Tensor | None:
        """Σ_i W_t^i τ_t^i, (B, …)."""
        if self.value is None:
            return None
        return torch.einsum("bn,bn...->b...", step.log_weights.exp(), self.value)


@dataclasses.dataclass(frozen=True)
class ParisResult:
    """Smoothed sums while filtering, series first.

    Attributes:
        estimates: E[h(x_0) + Σ_{s<t} h(x_s, x_{s+1}, s) | y_0 … y_t] at every t, (B, T, …).
        log_likelihoods: log of the estimate of p(y_t | y_1 … y_{t−1}), (B, T).
    """

    estimates: Tensor
    log_likelihoods: Tensor

    @property
    def estimate(self) -> Tensor:
        """The sum given all observations, (B, …)."""
        return self.estimates[:, -1]


def paris(
    model: StateSpaceModel,
    y: Any,
    additive: Additive,
    u: Any = None,
    *,
    particles: int = 100,
    draws: int | None = 2,
    backward: BackwardDraws | None = None,
    method: Bootstrap | None = None,
    lengths: Any = None,
    seed: int | np.random.Generator = 0,
) -> ParisResult:
    """Smoothed expectations of a sum over the path, online: memory does not grow with time.

    Each particle carries τ^i, the mean sum of the paths that may have led to it, and goes on with
    the mean over a few ancestors drawn from β_t(i, j) ∝ W_t^j f(x_{t+1}^i | x_t^j). With one draw
    the variance grows as T², with two or more as T. The estimate has a bias of order 1/N, which
    :func:`parisian_gibbs` takes away.

    Args:
        model: the model.
        y: observations (B, T, p); NaN where nothing is observed.
        additive: the sum.
        u: inputs (B, T, m), or None.
        particles: N.
        draws: M, ancestors of each particle; None for the mean over all of them, O(N²) a step.
        backward: how ancestors are drawn; None for :class:`ExactBackward`.
        method: :class:`Bootstrap` (None) or :class:`Guided`.
        lengths: steps of each series, (B,); sums end with their series.
        seed: of the random numbers; the same gives the same estimate.

    Returns:
        The estimate at each step.

    Raises:
        ValueError: shapes that do not fit, no particle or no draw, or an auxiliary method.

    Source: Olsson and Westerborn, Efficient particle-based online smoothing in general hidden
    Markov models: the PaRIS algorithm (1412.7550).
    """
    series = Series.of(model, y, u, lengths)
    method = checked(particles, method, False)
    at_least_one(draws)
    statistic, backward = Statistic(series, additive, draws), backward or ExactBackward()
    found, before = [], None
    with torch.no_grad(), sampling(seed, series):
        for t, step in enumerate(sweep(series, particles, method)):
            if before is None:
                statistic.start(step)
            else:
                drawn = None
                if draws is not None:
                    drawn = backward(series, t - 1, before, step, draws)
                statistic.move(t - 1, before, step, drawn)
            found.append((statistic.mean(step), step.log_likelihood))
            before = step
    means, ll = zip(*found, strict=True)
    likely = torch.stack(ll, 1)
    nothing = (
        likely.new_zeros(likely.shape[0]) if means[-1] is None else torch.zeros_like(means[-1])
    )
    estimates = torch.stack([nothing if one is None else one for one in means], 1)
    return ParisResult(estimates, torch.where(series.valid, likely, 0.0))


def at_least_one(draws: int | None) -> None:
    """Refuse fewer draws than one.

    Raises:
        ValueError: so few.
    """
    if draws is not None and draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1, or None for all ancestors")
