"""A linear model by particles: what they find beside the Kalman filter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, Uniform

from statewise import inference
from statewise.inference import Auxiliary, Bootstrap, Guided, LinearGaussian, StateSpaceModel

#: x' = a x + w, y = x + v, with variances q and r and the stationary law as a start.
DECAY, Q, R = 0.9, 0.1, 0.1
START = Q / (1 - DECAY**2)


def series(length: int, seed: int) -> Tensor:
    """One series (1, T, 1) of the linear model."""
    rng = np.random.default_rng(seed)
    x, y = math.sqrt(START) * rng.normal(), np.empty(length)
    for t in range(length):
        y[t] = x + math.sqrt(R) * rng.normal()
        x = DECAY * x + math.sqrt(Q) * rng.normal()
    return torch.as_tensor(y).reshape(1, -1, 1)


def model() -> StateSpaceModel:
    """The model with everything known."""
    zero = torch.zeros(1, dtype=torch.float64)
    return StateSpaceModel(
        lambda: Normal(zero, math.sqrt(START)),
        lambda x, t: Normal(DECAY * x, math.sqrt(Q)),
        lambda x, t: Normal(x, math.sqrt(R)),
    )


def kalman() -> LinearGaussian:
    """The same for the Kalman filter."""
    return LinearGaussian([[DECAY]], [[1.0]], [[Q]], [[R]], P0=[[START]])


def filters(N: int) -> dict[str, Bootstrap]:
    """The bootstrap filter, the one with the optimal proposal, and the fully adapted one."""

    def best(x: Any, y: Tensor, t: int) -> Normal:
        var = START if x is None else Q
        mean = torch.zeros_like(y) if x is None else DECAY * x
        gain = var / (var + R)
        mean = (mean + gain * (y - mean)).expand(-1, N, 1)
        return Normal(mean, math.sqrt((1 - gain) * var))

    def ahead(x: Tensor, y: Tensor, t: int) -> Tensor:
        return Normal(DECAY * x, math.sqrt(Q + R)).log_prob(y).squeeze(-1)

    return {"bootstrap": Bootstrap(), "guided": Guided(best), "adapted": Auxiliary(ahead, best)}


def errors_of(y: Tensor, runs: int, N: int, method: str, way: str, **options: Any) -> Tensor:
    """Log Ẑ − log Z of so many runs of a filter on each series, (B, runs)."""
    ways = {
        "multinomial": inference.Multinomial(),
        "stratified": inference.Stratified(),
        "systematic": inference.Systematic(),
        "residual": inference.Residual(),
    }
    found = inference.particle_filter(
        model(),
        y.repeat_interleave(runs, 0),
        particles=N,
        method=filters(N)[method],
        resampling=ways[way],
        keep="mean",
        **options,
    )
    exact = inference.log_likelihood(kalman(), y)
    return found.log_likelihood.reshape(len(y), runs) - exact.unsqueeze(1)


def unknown(theta: Tensor) -> StateSpaceModel:
    """The linear model with unknown decay a and log of the standard deviation of its noise."""
    a, scale = theta[:, :1, None], theta[:, 1:2, None].exp()
    zero = torch.zeros(1, dtype=torch.float64)
    return StateSpaceModel(
        lambda: Normal(zero, math.sqrt(START)),
        lambda x, t: Normal(a * x, scale),
        lambda x, t: Normal(x, math.sqrt(R)),
    )


def prior() -> list[Any]:
    """Laws of the two parameters."""
    return [Uniform(-1.0, 1.0), Normal(math.log(math.sqrt(Q)), 1.0)]


def on_grid(y: Tensor, points: int = 201) -> tuple[float, Tensor, Tensor]:
    """Log-evidence, means and standard deviations of a and log √q by the Kalman filter."""
    a, step = torch.linspace(-1, 1, points, dtype=torch.float64), 10 / points
    b = math.log(math.sqrt(Q)) + step * (torch.arange(points).double() - (points - 1) / 2)
    rows = torch.cartesian_prod(a, b)
    model = inference.LinearGaussian(
        rows[:, :1].reshape(-1, 1, 1, 1),
        [[1.0]],
        (2 * rows[:, 1]).exp().reshape(-1, 1, 1, 1),
        [[R]],
        P0=[[START]],
    )
    logs = inference.log_likelihood(model, y.expand(len(rows), -1, -1))
    logs = (
        logs
        - math.log(2)
        + torch.distributions.Normal(math.log(math.sqrt(Q)), 1.0).log_prob(rows[:, 1])
    )
    # By the rule of trapezoids: the ends of the range of a count half.
    edge = (rows[:, 0].abs() == 1).double()
    logs = logs + math.log(2 / (points - 1) * step) - edge * math.log(2)
    total = torch.logsumexp(logs, 0)
    w = (logs - total).exp()
    mean = w @ rows
    return float(total), mean, (w @ (rows - mean).square()).sqrt()
