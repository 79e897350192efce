"""A stochastic volatility model and particle Gibbs for its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from statewise import inference
from statewise.inference import StateSpaceModel


def volatility(theta: Tensor) -> StateSpaceModel:
    """Log-variance x with mean μ, y ~ N(0, e^x); θ = (μ, artanh φ, log σ)."""
    mu, phi, sd = theta[:, :1, None], theta[:, 1:2, None].tanh(), theta[:, 2:3, None].exp()
    return StateSpaceModel(
        lambda: Normal(mu, sd / (1 - phi.square()).sqrt()),
        lambda x, t: Normal(mu + phi * (x - mu), sd),
        lambda x, t: Normal(0.0, (x / 2).exp()),
    )


def gibbs(y: Tensor, sweeps: int, chains: int, start: Tensor, prior: Any) -> Tensor:
    """Draws (S, B, 3) of θ by particle Gibbs: a path given θ, then Metropolis steps given it."""

    def density(theta: Tensor, x: Tensor) -> Tensor:
        mu, phi, sd = theta[:, :1], theta[:, 1:2].tanh(), theta[:, 2:3].exp()
        first = Normal(mu, sd / (1 - phi.square()).sqrt()).log_prob(x[:, :1])
        moves = Normal(mu + phi * (x[:, :-1] - mu), sd).log_prob(x[:, 1:])
        return prior.log_prob(theta).sum(-1) + first.sum(-1) + moves.sum(-1)

    random = torch.Generator().manual_seed(6)
    rows, theta, path, found = y.expand(chains, -1, -1), start.clone(), None, []
    scale = torch.tensor([0.3, 0.3, 0.15], dtype=torch.float64)
    for sweep in range(sweeps):
        model = volatility(theta)
        path = inference.particle_gibbs(model, rows, path, particles=20, seed=sweep).reference
        x = path[..., 0]
        now = density(theta, x)
        for _ in range(10):
            noise = torch.randn(theta.shape, generator=random, dtype=torch.float64)
            proposed = theta + scale * noise
            then = density(proposed, x)
            u = torch.rand(chains, generator=random, dtype=torch.float64)
            taken = u.log() < then - now
            theta = torch.where(taken.unsqueeze(1), proposed, theta)
            now = torch.where(taken, then, now)
        found.append(theta)
    return torch.stack(found)
