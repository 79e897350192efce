"""SMC²: parameters and states by particles of particle filters, as observations come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.inference.chain_diagnostics import named
from statewise.inference.conditional import Series
from statewise.inference.evidence_error import relative_variance
from statewise.inference.linear_gaussian import ends_of
from statewise.inference.particle import Bootstrap, particle_filter, seeded
from statewise.inference.particle_metropolis import RandomWalk
from statewise.inference.particle_step import Cloud, advance
from statewise.inference.prior_law import ModelOf, Prior, prior_density, prior_sample, widened
from statewise.inference.resampling import Resampling, Systematic
from statewise.inference.row_likelihood import MethodOf
from statewise.inference.smc2_result import SMC2Result

#: Share of N below which the states of a filter are resampled.
RESAMPLE = 0.5


class SMC2:
    """Parameters θ^m, m = 1 … M, each with a particle filter of N states, weighted online.

    An observation multiplies the weight of θ^m by p̂(y_t | y_1 … y_{t−1}, θ^m). When the effective
    number of θ falls they are resampled and moved by particle Metropolis–Hastings steps, with a
    normal proposal of their weighted mean and covariance and the estimates of the whole past. When
    fewer moves than ``least`` are accepted N is doubled: filters are run anew and weights
    multiplied by Ẑ_new / Ẑ_old, which leaves the evidence as it is. All filters are rows of one.

    Args:
        model: of θ (B, k), the model of B rows; see :func:`pmmh`.
        prior: as for :func:`pmmh`; draws from it begin unless ``start`` is given.
        thetas: M.
        particles: N to begin with.
        start: draws from the prior (M, k), for a prior that is a log-density alone.
        threshold: θ are moved when their effective number is below this share of M.
        moves: Metropolis steps each time.
        least: acceptance below which N is doubled.
        most: N at most.
        proposal: None for the independent normal one, or a :class:`RandomWalk` whose Σ is the
            covariance of the θ and whose s is 2.38 / √k.
        method: a method of :func:`particle_filter`, or a function of θ (B, k) that gives one.
        resampling: of states; None for :class:`Systematic`.
        names: of the parameters.
        seed: of the random numbers.

    Attributes:
        steps: observations so far.
        particles: N.

    Raises:
        ValueError: fewer than two θ, no particle, or a prior that cannot be drawn from.

    Source: Chopin, Jacob and Papaspiliopoulos, SMC² (1101.1528).
    """

    def __init__(
        self,
        model: ModelOf,
        prior: Prior,
        *,
        thetas: int = 256,
        particles: int = 100,
        start: Any = None,
        threshold: float = 0.5,
        moves: int = 3,
        least: float = 0.2,
        most: int = 100_000,
        proposal: RandomWalk | None = None,
        method: Bootstrap | MethodOf | None = None,
        resampling: Resampling | None = None,
        names: Sequence[str] | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        if thetas < 2 or particles < 1 or moves < 1:
            raise ValueError(
                f"thetas is {thetas}, particles {particles} and moves {moves}; at least 2, 1 and 1 "
                "are needed"
            )
        self.model, self.prior, self.method = model, prior, method
        self.thetas, self.particles, self.most = thetas, particles, most
        self.threshold, self.moves, self.least = threshold, moves, least
        self.proposal = proposal
        self.resampling = resampling or Systematic()
        self.steps = 0
        self._rng = np.random.default_rng(seed)
        self._names = names
        self._start = start
        self._y: list[Tensor] = []
        self._u: list[Tensor] = []
        self._track: list[dict[str, Any]] = []
        self._cloud: Cloud | None = None

    def update(self, y: Any, u: Any = None) -> None:
        """Take one observation of every series in.

        Args:
            y: (S, p), of series that share θ; NaN where nothing is observed.
            u: inputs (S, m), or None.

        Raises:
            ValueError: shapes that do not fit, or inputs at some steps only.
        """
        y = torch.as_tensor(y)
        y = y if y.is_floating_point() else y.double()
        if y.dim() != 2 or (self._y and y.shape != self._y[0].shape):
            want = tuple(self._y[0].shape) if self._y else "(S, p)"
            raise ValueError(f"y has shape {tuple(y.shape)}; it must be {want}")
        if self.steps and (u is None) != (not self._u):
            raise ValueError("inputs were given at some steps and not at others")
        self._y.append(y)
        if u is not None:
            self._u.append(torch.as_tensor(u).to(y))
        with torch.no_grad(), seeded(self._rng, y.device):
            if self.steps == 0:
                self._begin(y.device)
            self._step()
        self.steps += 1

    def _begin(self, device: torch.device) -> None:
        M = self.thetas
        theta = prior_sample(self.prior, M) if self._start is None else self._start
        self.theta = torch.as_tensor(theta, dtype=torch.float64, device=device)
        if self.theta.dim() != 2 or len(self.theta) != M:
            raise ValueError(f"start has shape {tuple(self.theta.shape)}; {M} θ need ({M}, k)")
        self._labels = named(self._names, self.theta.shape[1])
        self.log_weights = torch.full((M,), -math.log(M), dtype=torch.float64, device=device)
        self.log_likelihoods = torch.zeros_like(self.log_weights)
        self.log_evidence = torch.zeros((), dtype=torch.float64, device=device)
        self._roots = torch.arange(M, device=device)
        self._resampled = 0

    def _step(self) -> None:
        found = advance(self._series(self.theta), self._cloud, self.steps, *self._how(self.theta))
        self._cloud, gained = found[0], self._of_theta(found[1])
        logs = self.log_weights + gained
        total = torch.logsumexp(logs, 0)
        alive = total > -torch.inf
        self.log_weights = torch.where(alive, logs - total, -math.log(self.thetas))
        self.log_likelihoods = self.log_likelihoods + gained
        self.log_evidence = self.log_evidence + total
        W = self.log_weights.exp()
        track = self._summary(W)
        if bool(alive) and float(track["ess"]) < self.threshold * self.thetas:
            track["acceptance"] = self._rejuvenate(W)
        self._track.append(track)

    def _summary(self, W: Tensor) -> dict[str, Any]:
        cloud = self._cloud
        assert cloud is not None
        variance = relative_variance(
            self._roots[None], self.log_weights[None], torch.tensor([self._resampled]).to(W)
        )
        mean = (cloud.log_weights.exp().unsqueeze(-1) * cloud.x).sum(1)
        return {
            "log_evidence": self.log_evidence,
            "standard_error": variance[0].clamp_min(0).sqrt(),
            "ess": 1 / W.square().sum(),
            "particles": self.particles,
            "acceptance": math.nan,
            "mean": W @ self.theta,
            "state": torch.einsum("m,msn->sn", W, mean.reshape(self.thetas, -1, mean.shape[-1])),
        }

    def _rejuvenate(self, W: Tensor) -> float:
        """Resample θ, move them, and double N where too few moved; the share that did."""
        mean = W @ self.theta
        change = self.theta - mean
        cov = (W.unsqueeze(1) * change).mT @ change
        cov = cov + torch.diag(1e-9 * cov.diagonal() + 1e-300)
        index = Systematic()(W[None])[0]
        self._choose(index)
        law = torch.distributions.MultivariateNormal(mean, cov)
        accepted = [self._move(law) for _ in range(self.moves)]
        share = sum(accepted) / len(accepted)
        if share < self.least and 2 * self.particles <= self.most:
            self.exchange(2 * self.particles)
        return share

    def _choose(self, index: Tensor) -> None:
        assert self._cloud is not None
        rows = self._rows(index)
        self.theta, self._roots = self.theta[index], self._roots[index]
        self.log_likelihoods = self.log_likelihoods[index]
        self._cloud = Cloud(*(x[rows] for x in self._cloud))
        self.log_weights = torch.full_like(self.log_weights, -math.log(self.thetas))
        self._resampled += 1

    def _rows(self, index: Tensor) -> Tensor:
        """Rows of the filters of θ with these indices, those of one θ one after another."""
        series = len(self._y[0])
        each = torch.arange(series, device=index.device)
        return (index.unsqueeze(1) * series + each).flatten()

    def _move(self, law: torch.distributions.MultivariateNormal) -> float:
        """One Metropolis step of every θ; Ẑ of the current ones are those that they came with."""
        assert self._cloud is not None
        if self.proposal is None:
            proposed = law.sample(torch.Size((self.thetas,)))
            back = law.log_prob(self.theta) - law.log_prob(proposed)
        else:
            noise = torch.randn_like(self.theta) @ law.scale_tril.mT
            proposed = self.theta + 2.38 / math.sqrt(self.theta.shape[1]) * noise
            back = torch.zeros_like(self.log_weights)
        prior = prior_density(self.prior, proposed)
        inside = prior.isfinite()
        asked = torch.where(inside.unsqueeze(1), proposed, self.theta)
        cloud, ll = self._filtered(asked)
        ratio = ll + prior - self.log_likelihoods - prior_density(self.prior, self.theta) + back
        taken = (torch.rand_like(ratio).log() < ratio) & inside & (ll > -torch.inf)
        self.theta = torch.where(taken.unsqueeze(1), proposed, self.theta)
        self.log_likelihoods = torch.where(taken, ll, self.log_likelihoods)
        wide = taken.repeat_interleave(len(self._y[0]))
        self._cloud = Cloud(
            torch.where(wide[:, None, None], cloud.x, self._cloud.x),
            torch.where(wide[:, None], cloud.log_weights, self._cloud.log_weights),
        )
        return float(taken.double().mean())

    def exchange(self, particles: int) -> None:
        """Run every filter anew with N particles; weights are multiplied by Ẑ_new / Ẑ_old.

        Both products of prior and Ẑ have the same marginal law of θ and the same constant, so the
        evidence does not change.

        Args:
            particles: the new N.
        """
        self.particles = particles
        self._cloud, ll = self._filtered(self.theta)
        alive = (self.log_weights > -torch.inf) & (self.log_likelihoods > -torch.inf)
        logs = torch.where(alive, self.log_weights + ll - self.log_likelihoods, -torch.inf)
        self.log_weights = logs - torch.logsumexp(logs, 0)
        self.log_likelihoods = ll

    def _filtered(self, theta: Tensor) -> tuple[Cloud, Tensor]:
        """Particles after all observations so far and log Ẑ of them, (M,)."""
        series = self._series(theta)
        N, method, resampling, threshold = self._how(theta)
        found = particle_filter(
            widened(series.model, len(series.y), N),
            torch.where(series.missing, torch.nan, series.y),
            series.u,
            particles=N,
            method=method,
            resampling=resampling,
            threshold=threshold,
            keep="mean",
            seed=self._rng,
        )
        return Cloud(found.particles, found.log_weights), self._of_theta(found.log_likelihood)

    def _of_theta(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.thetas, -1).sum(1)

    def _each(self, theta: Tensor) -> Tensor:
        return theta.repeat_interleave(len(self._y[0]), 0)

    def _how(self, theta: Tensor) -> tuple[int, Bootstrap, Resampling, float]:
        method = self.method
        if method is not None and not isinstance(method, Bootstrap):
            method = method(self._each(theta))
        return self.particles, method or Bootstrap(), self.resampling, RESAMPLE

    def _series(self, theta: Tensor) -> Series:
        repeated = [
            torch.stack(x, 1).repeat(self.thetas, 1, 1) if x else None for x in (self._y, self._u)
        ]
        return Series.of(self.model(self._each(theta)), *repeated)

    def result(self) -> SMC2Result:
        """What is known after the observations so far.

        Raises:
            ValueError: no observation yet.
        """
        if not self._track:
            raise ValueError("there is no observation yet; call update")

        def path(key: str) -> Tensor:
            return torch.stack([torch.as_tensor(track[key]) for track in self._track])

        return SMC2Result(
            self.theta,
            self.log_weights,
            path("log_evidence"),
            path("standard_error"),
            path("ess"),
            path("acceptance"),
            path("particles"),
            path("mean"),
            path("state").transpose(0, 1),
            self._labels,
        )


def smc2(
    model: ModelOf, prior: Prior, y: Any, u: Any = None, *, lengths: Any = None, **options: Any
) -> SMC2Result:
    """The posterior of parameters and the evidence of a model by SMC², one pass over the data.

    Args:
        model: of θ (B, k), the model of B rows; see :func:`pmmh`.
        prior: as for :func:`pmmh`.
        y: observations (S, T, p) of series that share θ; NaN where nothing is observed.
        u: inputs (S, T, m), or None.
        lengths: steps of each series, (S,); None for all.
        options: of :class:`SMC2`.

    Raises:
        ValueError: shapes that do not fit, and what :class:`SMC2` raises.

    Source: Chopin, Jacob and Papaspiliopoulos, SMC² (1101.1528).
    """
    y = torch.as_tensor(y)
    if y.dim() != 3 or 0 in y.shape:
        raise ValueError(f"y has shape {tuple(y.shape)}; it must be (S, T, p), series first")
    u = None if u is None else torch.as_tensor(u)
    if u is not None and (u.dim() != 3 or u.shape[:2] != y.shape[:2]):
        raise ValueError(f"u has shape {tuple(u.shape)}; y of shape {tuple(y.shape)} needs (S, T)")
    if lengths is not None:
        y = y if y.is_floating_point() else y.double()
        behind = torch.arange(y.shape[1], device=y.device) >= ends_of(lengths, y).unsqueeze(1)
        y = y.masked_fill(behind.unsqueeze(-1), torch.nan)
    run = SMC2(model, prior, **options)
    for t in range(y.shape[1]):
        run.update(y[:, t], None if u is None else u[:, t])
    return run.result()
