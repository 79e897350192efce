"""Priors of parameters: a law, a law for each number, or a log-density."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from statewise.inference.particle import StateSpaceModel

Prior = Distribution | Sequence[Distribution] | Callable[[Tensor], Tensor]
ModelOf = Callable[[Tensor], StateSpaceModel]


def prior_density(prior: Prior, theta: Tensor) -> Tensor:
    """Log p(θ) of (B, k), (B,) in float64; −∞ outside of the support.

    Args:
        prior: a torch distribution of vectors (k,) or of k independent numbers, one distribution
            for each of the k numbers, or a function of θ (B, k) that gives (B,). Distributions may
            be on another device than θ.
        theta: (B, k).

    Raises:
        ValueError: another number of laws than of parameters, or a result that is not (B,).
    """
    if isinstance(prior, Distribution):
        found = _inside(prior, theta)
    elif callable(prior):
        found = prior(theta)
    else:
        _check_count(prior, theta.shape[1])
        found = torch.stack([_inside(law, theta[:, i]) for i, law in enumerate(prior)]).sum(0)
    if tuple(found.shape) != (len(theta),):
        raise ValueError(
            f"the log-density of the prior has shape {tuple(found.shape)}; θ of shape "
            f"{tuple(theta.shape)} needs ({len(theta)},)"
        )
    return torch.where(found.isnan(), -torch.inf, found.double())


def _inside(law: Distribution, theta: Tensor) -> Tensor:
    """Log-density (B,), without asking for it where the law is 0; θ goes where the law is."""
    possible = law.sample()
    device, theta = theta.device, theta.to(possible.device)
    inside = law.support.check(theta) if law.support is not None else torch.ones_like(theta) > 0
    if inside.dim() < theta.dim() and law.event_shape:
        safe = torch.where(inside.unsqueeze(-1), theta, possible.to(theta))
    else:
        safe = torch.where(inside, theta, possible.to(theta))
    found = torch.where(inside, law.log_prob(safe), -torch.inf).to(device)
    return found.flatten(1).sum(1) if found.dim() > 1 else found


def prior_sample(prior: Prior, count: int) -> Tensor:
    """Draws (count, k) from a prior.

    Raises:
        ValueError: a prior that is a log-density alone.
    """
    if isinstance(prior, Distribution):
        drawn = prior.sample(torch.Size((count,)))
        return drawn.reshape(count, -1).double()
    if callable(prior):
        raise ValueError("a prior that is a function cannot be drawn from; give start")
    drawn = [law.sample(torch.Size((count,))).reshape(count) for law in prior]
    return torch.stack(drawn, 1).double()


def _check_count(laws: Sequence[Distribution], k: int) -> None:
    if len(laws) != k:
        raise ValueError(f"the prior has {len(laws)} laws; there are {k} parameters")


def widened(model: StateSpaceModel, batch: int, particles: int) -> StateSpaceModel:
    """The model with a first law of one state for each series, (B, 1, n), made one of (B, N, n)."""

    def initial() -> Distribution:
        law = model.initial()
        shape = (*law.batch_shape, *law.event_shape)
        if len(shape) != 3 or shape[:2] == (batch, particles):
            return law
        return law.expand(torch.Size((batch, particles, *law.batch_shape[2:])))

    return StateSpaceModel(initial, model.transition, model.observation)
