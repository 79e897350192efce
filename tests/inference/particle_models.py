"""Models whose transitions and observations are formulas, and both engines beside each other."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

from statewise.inference import (
    Multinomial,
    Residual,
    StateSpaceModel,
    Stratified,
    Systematic,
    particle_filter,
)

WIDE = torch.float64
WAYS = (Multinomial(), Stratified(), Systematic(), Residual())


def start(n=1, dtype=WIDE):
    zero = torch.zeros(n, dtype=dtype)
    return lambda: Normal(zero, 1.0)


def series(B=1, T=40, p=1, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(B, T, p)))


def turned(n):
    return 0.9 * torch.linalg.qr(series(1, n, n, seed=3)[0])[0]


def linear(dtype=WIDE):
    return StateSpaceModel(
        start(1, dtype), lambda x, t: Normal(0.9 * x, 0.5), lambda x, t: Normal(x, 0.6)
    )


def volatility():
    return StateSpaceModel(
        start(),
        lambda x, t: Normal(-1 + 0.95 * (x + 1), 0.3),
        lambda x, t: Normal(0.0, (x / 2).exp()),
    )


def growth():
    return StateSpaceModel(
        start(),
        lambda x, t: Normal(x / 2 + 25 * x / (1 + x**2) + 8 * math.cos(1.2 * t), math.sqrt(10.0)),
        lambda x, t: Normal(x**2 / 20, 1.0),
    )


def four():
    F = turned(4)
    return StateSpaceModel(
        start(4), lambda x, t: Normal(x @ F.mT, 0.5), lambda x, t: Normal(x, 0.6)
    )


def vectors():
    F, L = turned(3), torch.linalg.cholesky(0.3 * torch.eye(3, dtype=WIDE) + 0.1)
    return StateSpaceModel(
        start(3),
        lambda x, t: MultivariateNormal(torch.nn.functional.linear(x, F), scale_tril=L),
        lambda x, t: MultivariateNormal(x[..., :2], covariance_matrix=torch.eye(2, dtype=WIDE)),
    )


def swinging():
    def move(x, t):
        angle, speed = x.unbind(-1)
        return Independent(
            Normal(torch.stack([angle + 0.1 * speed, speed - angle.sin()], -1), 0.1), 1
        )

    return StateSpaceModel(
        start(2), move, lambda x, t: Independent(Normal(x[..., :1].sin(), 0.3), 1)
    )


def learned():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    net = net.double()
    return StateSpaceModel(
        start(2),
        lambda x, t: Normal(x + net(x), torch.nn.functional.softplus(x).clamp(0.2, 0.8)),
        lambda x, t: StudentT(4.0, x.sum(-1, keepdim=True), torch.sigmoid(x[..., :1])),
    )


def blend():
    weights = torch.tensor([0.3, 0.7], dtype=WIDE)
    spread = torch.tensor([0.2, 2.0], dtype=WIDE)

    def see(x, t):
        about = Normal(x.squeeze(-1).unsqueeze(-1).unsqueeze(-1).expand(*x.shape, 2), spread)
        return MixtureSameFamily(Categorical(weights.expand(*x.shape, 2)), about)

    return StateSpaceModel(
        start(), lambda x, t: Normal(torch.where(x > 0, 0.5 * x, 0.8 * x), 0.5), see
    )


MODELS = {
    "linear": (linear, 1),
    "stochastic volatility": (volatility, 1),
    "nonlinear growth": (growth, 1),
    "four states": (four, 4),
    "vectors": (vectors, 2),
    "pendulum": (swinging, 1),
    "network": (learned, 1),
    "mixture": (blend, 1),
}


def engines(model, y, *args, **options):
    return (
        particle_filter(model, y, *args, engine=engine, **options)
        for engine in ("eager", "compiled")
    )


def agree(eager, compiled, names, bound=1e-12):
    assert (eager.engine, compiled.engine) == ("eager", "compiled")
    for name in names:
        a, b = getattr(compiled, name), getattr(eager, name)
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=bound, atol=bound * (1 + float(b.abs().max())))


ALL = ("particles", "ancestors", "log_weights", "log_likelihoods", "ess")
