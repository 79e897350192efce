"""Data, models and comparisons of the tests of inference that need a GPU."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import Normal

from contracts.filter_suite import case
from statewise.inference import (
    Additive,
    AncestorSampling,
    AncestorTracing,
    BackwardSampling,
    ExactBackward,
    LinearGaussian,
    MetropolisBackward,
    NonlinearGaussian,
    RejectionBackward,
    StateSpaceModel,
)

DEVICE, CPU = torch.device("cuda"), torch.device("cpu")
PARAMETERS = ("F", "H", "Q", "R", "B", "D", "c", "d", "m0", "P0")
A, Q, R, P0 = 0.9, 0.5, 0.4, 1.2
BOUND = -0.5 * math.log(2 * math.pi * Q)
PRODUCT = Additive(lambda x, after, s: (x * after).sum(-1))
DRAWS = (ExactBackward(), RejectionBackward(BOUND, trials=2), MetropolisBackward())
KERNELS = (AncestorSampling(), AncestorTracing(), BackwardSampling())


def same(make, bound=1e-8):
    """What is made of tensors on the device is there, and what is made on the CPU."""
    found, expected = make(DEVICE), make(CPU)
    for a, b in zip(found, expected, strict=True):
        assert a.device.type == DEVICE.type
        b = b.detach()
        unit = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 1.0
        torch.testing.assert_close(
            a.detach().cpu(), b, rtol=bound, atol=bound * unit, equal_nan=True
        )


def moved(model, device):
    """A linear model with all of its parameters on a device."""
    given = {name: getattr(model, name) for name in PARAMETERS}
    return model.replace(**{name: x.to(device) for name, x in given.items() if x is not None})


def given(name, device):
    """A model of the filter contract and data for it, on a device."""
    model, y, options = case(name)
    options = {k: x.to(device) for k, x in options.items()}
    return moved(model, device), y.to(device), options


def normal(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def swinging(device, **more):
    """A driven pendulum whose noise is on the device."""

    def f(x, u, t):
        push = 0.0 if u is None else 0.1 * u[0]
        return torch.stack([x[0] + 0.1 * x[1], x[1] - 0.5 * torch.sin(x[0]) + push])

    Q = torch.diag(torch.tensor([0.02, 0.1], dtype=torch.float64, device=device))
    return NonlinearGaussian(
        f, lambda x, u, t: torch.sin(x[:1]) + 0.1 * x[1:], Q, [[0.1]], P0=np.eye(2), **more
    )


def driven(device, T=10):
    y, u = normal(2, T, 1), normal(2, T, 1, seed=1)
    y[0, 3:5] = torch.nan
    return y.to(device), u.to(device), torch.tensor([T, T - 3], device=device)


def name_of(x):
    return type(x).__name__


def walk(device=None):
    """A scalar linear model, driven where there are inputs."""
    zero = torch.zeros(1, dtype=torch.float64, device=device or DEVICE)
    return StateSpaceModel(
        lambda: Normal(zero, math.sqrt(P0)),
        lambda x, t, *u: Normal(A * x + (u[0] if u else 0.0), math.sqrt(Q)),
        lambda x, t, *u: Normal(x, math.sqrt(R)),
    )


def kalman(driven=False):
    more = {"B": [[1.0]]} if driven else {}
    return LinearGaussian([[A]], [[1.0]], [[Q]], [[R]], P0=[[P0]], **more)


def data(B=1, T=6, seed=0):
    """Drawn from the model, on the device."""
    rng = np.random.default_rng(seed)
    x, y = math.sqrt(P0) * rng.normal(size=(B, 1)), []
    for _ in range(T):
        y.append(x + math.sqrt(R) * rng.normal(size=x.shape))
        x = A * x + math.sqrt(Q) * rng.normal(size=x.shape)
    return torch.as_tensor(np.stack(y, 1)).to(DEVICE)


def ragged(T=8):
    """Three series, one of them shorter, with a gap, and their inputs."""
    y, u = data(3, T), 0.5 * data(3, T, 1)
    y[0, 2] = torch.nan
    return y, u, torch.tensor([T, T, T - 3])


def there(*tensors):
    """All are finite and on the device."""
    for x in tensors:
        assert x.device.type == DEVICE.type
        assert x.isfinite().all()


def twice(call):
    """What a call gives, the same again; sums by atomic additions may differ in their last bits."""
    one, two = call(), call()
    there(*one)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    return one


def near(found, exact, error, bound=6.0):
    """Within so many standard errors, and the bias that a logarithm has."""
    exact = exact.to(found.device)
    assert ((found - exact).abs() <= bound * error + 0.02).all()
