"""Spike trains whose coupling between neurons switches with a hidden Markov state."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from statewise.inference.hidden_markov import HiddenMarkov
from statewise.inference.regressions import CallableEmission


class CouplingPrior(ABC):
    """How the couplings (S, N, N) of S states are written and what is known of them."""

    @abstractmethod
    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Parameters to begin with, from couplings (S, N, N)."""

    @abstractmethod
    def couplings(self, parameters: dict[str, Tensor], *, hard: bool = True) -> Tensor:
        """Couplings (S, N, N), from neuron on the last axis to neuron on the one before.

        Args:
            parameters: as from :meth:`start`.
            hard: with the likeliest types, where the prior has types; else as they are fitted.
        """

    @abstractmethod
    def log_prior(self, parameters: dict[str, Tensor]) -> Tensor:
        """Log-density of the parameters, a number."""


@dataclasses.dataclass(frozen=True)
class FreeCouplings(CouplingPrior):
    """Each state has couplings of its own: the plain HMM-GLM."""

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The couplings."""
        return {"weight": weight}

    def couplings(self, parameters: dict[str, Tensor], *, hard: bool = True) -> Tensor:
        """The parameters as they are."""
        return parameters["weight"]

    def log_prior(self, parameters: dict[str, Tensor]) -> Tensor:
        """Zero."""
        return parameters["weight"].new_zeros(())


@dataclasses.dataclass(frozen=True)
class GaussianCouplings(FreeCouplings):
    """w_s ~ N(w_0, σ²) with w_0 the mean over the states.

    Attributes:
        sigma: σ.
    """

    sigma: float = 1 / 3

    def log_prior(self, parameters: dict[str, Tensor]) -> Tensor:
        """−Σ (w_s − w_0)² / 2σ², up to a constant."""
        change = parameters["weight"] - parameters["weight"].mean(0)
        return -0.5 * change.square().sum() / self.sigma**2


FLOOR = -20.0
"""Lowest logarithm of a type's share in the density, which has no maximum inside the simplex."""


@dataclasses.dataclass(frozen=True)
class OneHotCouplings(CouplingPrior):
    """w_s = strength_s (a_s,exc − a_s,inh): a type among inhibitory, none and excitatory.

    The types of all states are drawn about one learned law, the anatomical prior
    π⁰ = softmax(A⁰): a_s ~ Gumbel-softmax(π⁰, τ), whose density is

        log p(a) = log Γ(K) + (K−1) log τ − K log Σ_i π_i a_i^−τ + Σ_i (log π_i − (τ+1) log a_i).

    Fitting raises it with the likelihood, over shares a inside the simplex; what is found are the
    likeliest types.

    Attributes:
        temperature: τ; below 2 the density draws shares to the corners.
    """

    temperature: float = 0.5

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Strengths |w|, the share of its sign growing with it; the law of all states even."""
        size = weight.abs().clamp_min(0.05)
        none = torch.full_like(weight, 0.5)
        return {
            "strength": torch.log(torch.expm1(size)),
            "types": torch.stack([-3 * weight, none, 3 * weight], -1),
            "anatomy": weight.new_zeros(*weight.shape[1:], 3),
        }

    def couplings(self, parameters: dict[str, Tensor], *, hard: bool = True) -> Tensor:
        """Strength times excitatory less inhibitory share."""
        types = parameters["types"]
        a = torch.softmax(types, -1)
        if hard:
            a = nn.functional.one_hot(types.argmax(-1), 3).to(types)
        return softplus(parameters["strength"]) * (a[..., 2] - a[..., 0])

    def log_prior(self, parameters: dict[str, Tensor]) -> Tensor:
        """The sum of log p(a) over couplings and states."""
        log_a = torch.log_softmax(parameters["types"], -1).clamp_min(FLOOR)
        log_pi = torch.log_softmax(parameters["anatomy"], -1)
        return gumbel_softmax_density(log_a, log_pi, self.temperature).sum()


def gumbel_softmax_density(log_a: Tensor, log_pi: Tensor, temperature: float) -> Tensor:
    """Log-density at shares a (…, K) on the simplex, as logarithms, about a law π (…, K).

    Source: Maddison, Mnih and Teh, The concrete distribution (1611.00712), equation 10.
    """
    K = log_a.shape[-1]
    spread = torch.logsumexp(log_pi - temperature * log_a, -1)
    sides = (log_pi - (temperature + 1) * log_a).sum(-1)
    return math.lgamma(K) + (K - 1) * math.log(temperature) - K * spread + sides


def exponential_basis(length: int, decay: float = 2.0) -> Tensor:
    """Weights of the last ``length`` bins, the latest first: exp(−k / decay), summing to 1."""
    x = torch.exp(-torch.arange(length, dtype=torch.float64) / decay)
    return x / x.sum()


def history(counts: Tensor, basis: Tensor) -> Tensor:
    """Σ_k φ_k x_{t−k}, k from 1: what came before each bin, (B, T, N); 0 before the first."""
    counts = counts.double()
    padded = nn.functional.pad(counts, (0, 0, len(basis), 0))[:, :-1]
    return padded.unfold(1, len(basis), 1) @ basis.flip(0)


def log_rates(h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Rates softplus(b + W_s h) and their logarithms, (B, T, S, N)."""
    eta = torch.einsum("btn,smn->btsm", h, weight) + bias
    rate = softplus(eta)
    # Below −30 softplus is e^η to the last bit, and its logarithm η.
    return rate, torch.where(eta < -30, eta, rate.clamp_min(1e-20).log())


@dataclasses.dataclass(frozen=True)
class SwitchingGLM:
    """A fitted HMM-GLM: x_tn ~ Poisson(softplus(b_n + Σ_m w^s_nm Σ_k φ_k x_{t−k,m})).

    Attributes:
        transition: (S, S).
        bias: (N,), shared by the states.
        weight: couplings (S, N, N), the hard ones.
        basis: φ, (K,).
        objective: log-likelihood and log-prior at the end of the fit, per bin.
    """

    transition: Tensor
    bias: Tensor
    weight: Tensor
    basis: Tensor
    objective: float

    def markov(self) -> HiddenMarkov:
        """The hidden Markov model of counts (B, T, N), which begin with silence."""
        S, N, _ = self.weight.shape

        def emission(y: Tensor, u: Tensor | None) -> Tensor:
            rate, logs = log_rates(history(y, self.basis), self.weight, self.bias)
            x = y.unsqueeze(2)
            return (x * logs - rate - torch.lgamma(x + 1)).sum(-1)

        even = self.transition.new_full((S,), 1 / S)
        return HiddenMarkov(even, self.transition, CallableEmission(emission, S, N))


def fit_switching_glm(
    counts: Any,
    states: int,
    prior: CouplingPrior,
    *,
    basis: Tensor | None = None,
    turns: int = 40,
    inner: int = 10,
    lr: float = 0.05,
    stay: float = 0.98,
    restarts: int = 1,
    start: SwitchingGLM | None = None,
    seed: int | np.random.Generator = 0,
) -> SwitchingGLM:
    """Fit an HMM-GLM by generalised EM: forward-backward, then Adam on bias and couplings.

    Args:
        counts: spikes in each bin, (B, T, N).
        states: S.
        prior: of the couplings.
        basis: φ; None for :func:`exponential_basis` of 5 bins.
        turns: of EM.
        inner: Adam steps in each.
        lr: of Adam.
        stay: probability of staying in a state, at the start.
        restarts: the best of so many, by the objective.
        start: a fit to go on from, with this prior; None for small random couplings.
        seed: of the starts.

    Raises:
        ValueError: counts of another shape.

    Source: Li et al., One-hot generalized linear model for switching brain state discovery
    (2310.15263).
    """
    x = torch.as_tensor(counts, dtype=torch.float64)
    if x.dim() != 3:
        raise ValueError(f"counts have shape {tuple(x.shape)}; they must be (B, T, N)")
    rng = np.random.default_rng(seed)
    phi = (exponential_basis(5) if basis is None else basis.double()).to(x.device)
    found = [
        _fit(x, states, prior, phi, turns, inner, lr, stay, start, rng) for _ in range(restarts)
    ]
    return max(found, key=lambda one: one.objective)


def _fit(
    x: Tensor,
    states: int,
    prior: CouplingPrior,
    phi: Tensor,
    turns: int,
    inner: int,
    lr: float,
    stay: float,
    start: SwitchingGLM | None,
    rng: np.random.Generator,
) -> SwitchingGLM:
    h, neurons = history(x, phi), x.shape[-1]
    if start is None:
        bias = torch.log(torch.expm1(x.mean((0, 1)).clamp_min(1e-3)))
        weight = torch.as_tensor(0.1 * rng.standard_normal((states, neurons, neurons))).to(x)
    else:
        bias, weight = start.bias.to(x), start.weight.to(x)
    parameters = {"bias": bias, **prior.start(weight)}
    leaves = {k: v.clone().requires_grad_() for k, v in parameters.items()}
    optimiser = torch.optim.Adam(list(leaves.values()), lr=lr)
    off = (1 - stay) / max(states - 1, 1)
    transition = x.new_full((states, states), off if states > 1 else 1.0)
    transition = transition.fill_diagonal_(stay if states > 1 else 1.0)
    transition = transition if start is None else start.transition.to(x)
    even = x.new_full((states,), 1 / states)
    bins = x.shape[0] * x.shape[1]

    def terms(*, hard: bool) -> Tensor:
        rate, logs = log_rates(h, prior.couplings(leaves, hard=hard), leaves["bias"])
        return (x.unsqueeze(2) * logs - rate).sum(-1)

    def model(*, hard: bool) -> HiddenMarkov:
        e = terms(hard=hard).detach()
        return HiddenMarkov(even, transition, CallableEmission(lambda y, u: e, states, neurons))

    for _ in range(turns):
        found = model(hard=False).smooth(x, pairs=False)
        if states > 1:
            total = found.pairs.sum((0, 1)) + 1e-3
            transition = total / total.sum(-1, keepdim=True)
        for _ in range(inner):
            optimiser.zero_grad()
            value = (found.mean * terms(hard=False)).sum() + prior.log_prior(leaves)
            (-value / bins).backward()
            optimiser.step()
    with torch.no_grad():
        value = model(hard=True).filter(x).log_likelihood.sum() + prior.log_prior(leaves)
        weight = prior.couplings(leaves).detach()
    return SwitchingGLM(transition, leaves["bias"].detach(), weight, phi, float(value) / bins)
