"""Particle marginal Metropolis–Hastings: parameters of a model by unbiased likelihoods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statewise.inference.chain_diagnostics import (
    ChainSummary,
    ess_bulk,
    ess_tail,
    named,
    rhat,
    summarise_chains,
    to_arviz,
)
from statewise.inference.particle import Bootstrap, seeded
from statewise.inference.prior_law import ModelOf, Prior, prior_density, prior_sample
from statewise.inference.resampling import Resampling
from statewise.inference.row_likelihood import MethodOf, RowLikelihood, Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class RandomWalk:
    """θ' = θ + s L ε with L Lᵀ = Σ; s and Σ are learned in the burn-in and then stay.

    Σ follows the covariance of all chains of one posterior, log s the acceptance: log s changes by
    γ_i (α − target), with γ_i = (i + 1)^−0.6, between 2.38 / √k and a quarter of it, since noise of
    the likelihood may keep the acceptance below any target.

    Attributes:
        covariance: Σ at the start, (k, k) or (k,) for a diagonal; None for the spread of starts.
        target: acceptance below which steps shrink; noise of the likelihood lowers what is best.
        adapt: learn s and Σ in the burn-in; s is otherwise 2.38 / √k.

    Source: Haario, Saksman and Tamminen, An adaptive Metropolis algorithm (2001); Andrieu and
    Thoms, A tutorial on adaptive MCMC (2008), algorithm 4; Sherlock et al. (1309.7209) for the
    acceptance under noise.
    """

    covariance: Any = None
    target: float = 0.15
    adapt: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class PMMHResult:
    """Chains of parameters; with separate posteriors one more axis S of series leads all tensors.

    Attributes:
        chains: θ after the burn-in, (C, D, k).
        log_likelihood: the estimate log Ẑ that each draw was accepted with, (C, D).
        log_prior: (C, D).
        acceptance: share of accepted proposals after the burn-in, (C,).
        covariance: of the proposal after the burn-in, s² Σ, (k, k).
        particles: N of the filter.
        names: of the k parameters.
    """

    chains: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    acceptance: Tensor
    covariance: Tensor
    particles: int
    names: tuple[str, ...]

    @property
    def rhat(self) -> np.ndarray:
        """R̂ of each parameter; see :func:`~statewise.inference.rhat`."""
        return rhat(self.chains)

    @property
    def ess_bulk(self) -> np.ndarray:
        """Effective draws for means and medians of each parameter."""
        return ess_bulk(self.chains)

    @property
    def ess_tail(self) -> np.ndarray:
        """Effective draws for the quantiles of 5 % and 95 %."""
        return ess_tail(self.chains)

    def of(self, series: int) -> PMMHResult:
        """The chains of one series, where posteriors are separate.

        Raises:
            ValueError: there is one posterior for all series.
        """
        if self.chains.dim() == 3:
            raise ValueError(
                "all series have one posterior; pmmh(separate=True) gives each its own"
            )
        return PMMHResult(
            self.chains[series],
            self.log_likelihood[series],
            self.log_prior[series],
            self.acceptance[series],
            self.covariance[series],
            self.particles,
            self.names,
        )

    def summary(self) -> ChainSummary:
        """Moments, quantiles and diagnostics of each parameter."""
        return summarise_chains(self.chains, names=self.names)

    def to_arviz(self) -> Any:
        """The chains for ArviZ; see :func:`~statewise.inference.to_arviz`."""
        total = self.log_likelihood + self.log_prior
        return to_arviz(self.chains, names=self.names, statistics={"lp": total})

    def plot(self) -> Figure:
        """Traces of the chains and their histograms, a row for each parameter."""
        from matplotlib.figure import Figure

        if self.chains.dim() != 3:
            raise ValueError("posteriors are separate; plot those of one series, .of(i)")
        count = len(self.names)
        figure = Figure(figsize=(8.0, 2.0 * count), layout="constrained")
        grid = figure.subplots(count, 2, squeeze=False)
        chains = self.chains.detach().cpu().numpy()
        for (left, right), name, values in zip(grid, self.names, chains.T, strict=True):
            left.plot(values, lw=0.6)
            left.set_ylabel(name)
            right.hist(list(values.T), 30, density=True, histtype="step")
        grid[-1, 0].set_xlabel("draw")
        grid[-1, 1].set_xlabel("value")
        return figure


class _Walk:
    """The proposal while it learns: s and Σ of each of G posteriors."""

    def __init__(self, walk: RandomWalk, theta: Tensor) -> None:
        groups, _, k = theta.shape
        self.walk, self.k, self.count = walk, k, 0
        self.mean = theta.mean(1)
        self.largest = math.log(2.38 / math.sqrt(k))
        self.log_scale = theta.new_full((groups,), self.largest)
        if walk.covariance is None:
            spread = theta.var(1) if theta.shape[1] > 1 else torch.zeros_like(self.mean)
            least = (0.1 * self.mean.abs().clamp_min(0.1)).square()
            self.cov = torch.diag_embed(torch.where(spread > 0, spread, least))
        else:
            given = torch.as_tensor(walk.covariance).to(theta)
            given = torch.diag(given) if given.dim() == 1 else given
            if tuple(given.shape) != (k, k):
                raise ValueError(
                    f"covariance has shape {tuple(given.shape)}; {k} parameters need ({k}, {k})"
                )
            self.cov = given.expand(groups, k, k).clone()

    def covariance(self) -> Tensor:
        """S² Σ, (G, k, k)."""
        return (2 * self.log_scale).exp()[:, None, None] * self.cov

    def propose(self, theta: Tensor) -> Tensor:
        """(G, C, k)."""
        cov = self.covariance()
        ridge = 1e-9 * torch.diag_embed(cov.diagonal(dim1=1, dim2=2))
        root = torch.linalg.cholesky(cov + ridge)
        return theta + torch.randn_like(theta) @ root.mT

    def learn(self, theta: Tensor, probability: Tensor) -> None:
        """After a step of the burn-in: where the chains are, and how likely they moved, (G, C)."""
        if not self.walk.adapt:
            return
        self.count += 1
        rate = (self.count + 1) ** -0.6
        moved = self.log_scale + rate * (probability.mean(1) - self.walk.target)
        self.log_scale = moved.clamp(self.largest - math.log(4), self.largest)
        change = theta - self.mean.unsqueeze(1)
        self.cov = self.cov + rate * (change.mT @ change / theta.shape[1] - self.cov)
        self.mean = self.mean + rate * change.mean(1)


def pmmh(
    model: ModelOf,
    prior: Prior,
    y: Any,
    u: Any = None,
    *,
    draws: int = 1000,
    burn_in: int = 1000,
    chains: int = 4,
    start: Any = None,
    particles: int = 100,
    method: Bootstrap | MethodOf | None = None,
    resampling: Resampling | None = None,
    threshold: float = 0.5,
    lengths: Any = None,
    proposal: RandomWalk | None = None,
    separate: bool = False,
    names: Sequence[str] | None = None,
    seed: int | np.random.Generator = 0,
) -> PMMHResult:
    """Draw parameters from p(θ | y) by Metropolis–Hastings with likelihoods of particle filters.

    θ' is accepted with probability min(1, Ẑ' p(θ') / (Ẑ p(θ))). The estimate Ẑ of the current θ is
    kept until one is accepted; since it is unbiased, the chain has the exact posterior for every
    N, though with few particles it stays where Ẑ was lucky. :func:`tune_particles` finds N. All
    chains and series are rows of one filter.

    Args:
        model: of θ (B, k), the model of B rows, whose laws broadcast over (B, N, n), as with
            ``theta[:, :1, None]``; the first law may be (n,), (B, 1, n) or (B, N, n).
        prior: a torch distribution of (k,), one for each of the k numbers, or a function of θ
            (B, k) that gives log p(θ), (B,); models are asked only where it is finite.
        y: observations (S, T, p); NaN where nothing is observed.
        u: inputs (S, T, m), or None.
        draws: D, kept of each chain.
        burn_in: steps before them, in which the proposal learns.
        chains: C.
        start: θ (k,) or (C, k), or (S, C, k) with separate posteriors; None to draw from the prior.
        particles: N.
        method: a method of :func:`particle_filter`, or a function of θ (B, k) that gives one.
        resampling: as for :func:`particle_filter`.
        threshold: as for :func:`particle_filter`.
        lengths: steps of each series, (S,).
        proposal: None for :class:`RandomWalk` with its defaults.
        separate: a posterior for each series, rather than one of all of them together.
        names: of the parameters.
        seed: of the random numbers.

    Raises:
        ValueError: shapes that do not fit, or a start to which the prior gives no density.

    Source: Andrieu, Doucet and Holenstein, Particle Markov chain Monte Carlo methods (2010),
    section 2.4.2; Andrieu and Roberts, The pseudo-marginal approach (2009).
    """
    if draws < 1 or burn_in < 0 or chains < 1:
        raise ValueError(
            f"draws is {draws}, burn_in {burn_in} and chains {chains}; draws and chains are at "
            "least 1, burn_in 0"
        )
    rng = np.random.default_rng(seed)
    data = Rows.of(y, u, lengths, chains, separate)
    device = data.y.device
    groups = len(data.y) // chains if separate else 1
    theta = _starts(prior, start, groups, chains, rng, device)
    k = theta.shape[-1]
    labels = named(names, k)
    options = {"resampling": resampling, "threshold": threshold}
    likelihood = RowLikelihood(model, data, particles, method, options)
    with torch.no_grad(), seeded(rng, device):
        lp = prior_density(prior, theta.flatten(0, 1)).reshape(groups, chains)
        if not bool(lp.isfinite().all()):
            raise ValueError("the prior gives a start no density; start within its support")
        ll = likelihood(theta.flatten(0, 1), rng).reshape(groups, chains)
        walk = _Walk(proposal or RandomWalk(), theta)
        kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for step in range(burn_in + draws):
            proposed = walk.propose(theta)
            new_lp = prior_density(prior, proposed.flatten(0, 1)).reshape(groups, chains)
            inside = new_lp.isfinite()
            # A model need not exist where the prior is 0.
            asked = torch.where(inside.unsqueeze(-1), proposed, theta)
            new_ll = likelihood(asked.flatten(0, 1), rng).reshape(groups, chains)
            ratio = torch.where(
                inside & (new_ll > -torch.inf), new_ll + new_lp - ll - lp, -torch.inf
            )
            taken = torch.rand_like(ratio).log() < ratio
            theta = torch.where(taken.unsqueeze(-1), proposed, theta)
            ll, lp = torch.where(taken, new_ll, ll), torch.where(taken, new_lp, lp)
            if step < burn_in:
                walk.learn(theta, ratio.exp().clamp_max(1))
            else:
                kept.append((theta, ll, lp, taken))
    path, lls, lps, moves = (torch.stack(one, 2) for one in zip(*kept, strict=True))
    found = PMMHResult(path, lls, lps, moves.double().mean(2), walk.covariance(), particles, labels)
    return found if separate else found.of(0)


def _starts(
    prior: Prior,
    start: Any,
    groups: int,
    chains: int,
    rng: np.random.Generator,
    device: torch.device,
) -> Tensor:
    if start is None:
        with seeded(rng, device):
            drawn = prior_sample(prior, groups * chains)
        return drawn.reshape(groups, chains, -1).to(device)
    start = torch.as_tensor(start, dtype=torch.float64, device=device)
    if start.dim() not in (1, 2, 3):
        raise ValueError(f"start has shape {tuple(start.shape)}; it must be (k,) or (C, k)")
    try:
        return start.expand(groups, chains, start.shape[-1]).clone()
    except RuntimeError as error:
        raise ValueError(
            f"start has shape {tuple(start.shape)}; {chains} chains of each of {groups} posteriors "
            f"need ({start.shape[-1]},), ({chains}, k) or ({groups}, {chains}, k)"
        ) from error
