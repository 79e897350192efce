"""The compiled engine of particle filters beside the eager one."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from particle_models import (
    ALL,
    MODELS,
    WAYS,
    WIDE,
    agree,
    engines,
    linear,
    series,
    start,
    volatility,
)
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    Normal,
    Poisson,
)

from statewise import inference
from statewise.inference import (
    LinearGaussian,
    Multinomial,
    StateSpaceModel,
    Systematic,
    particle_filter,
)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("name", list(MODELS))
def test_particles_are_those_of_the_eager_engine(name):
    build, p = MODELS[name]
    y = series(2, 30, p)
    y[1, 4] = torch.nan
    y[0, 7, -1] = torch.nan
    lengths = torch.tensor([30, 17])
    # A series multiplies rounding: a chaotic model by more than a stable one.
    bound = 1e-9 if name == "nonlinear growth" else 1e-12
    agree(*engines(build(), y, particles=60, lengths=lengths, seed=3), ALL, bound)
    given = {"particles": 60, "lengths": lengths, "keep": "cov", "seed": 3}
    kept = ("mean", "cov", "particles", "log_weights", "log_likelihoods", "ess")
    agree(*engines(build(), y, **given), kept, bound)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
@pytest.mark.parametrize("way", WAYS, ids=lambda x: type(x).__name__)
def test_every_resampling(way, threshold):
    given = {"particles": 50, "resampling": way, "threshold": threshold, "seed": 1}
    agree(*engines(volatility(), series(2, 100), **given), ALL)


def test_rows_of_parameters_and_inputs():
    a, u = 0.5 + 0.1 * series(5, 1), series(5, 30, 2, seed=1)
    model = StateSpaceModel(
        start(2),
        lambda x, t, u: Normal(a * x + u, a.exp()),
        lambda x, t, u: Normal(x[..., :1] + u[..., 1:], 0.4),
    )
    agree(*engines(model, series(5, 30), u, particles=40), ALL)


def test_single_precision():
    y = series(2, 30).float()
    eager, compiled = engines(linear(torch.float32), y, particles=50)
    assert compiled.particles.dtype == torch.float32
    agree(eager, compiled, ("particles", "log_likelihoods"), 1e-5)


@pytest.mark.parametrize("way", [Systematic(), Multinomial()], ids=lambda x: type(x).__name__)
def test_the_likelihood_is_unbiased(way):
    """The mean of Ẑ / Z over 2000 runs is 1 within four standard errors."""
    y = series(1, 8)
    y[0, 2] = torch.nan
    exact = inference.filter(
        LinearGaussian([[0.9]], [[1.0]], [[0.25]], [[0.36]], P0=[[1.0]]), y
    ).log_likelihood
    found = particle_filter(
        linear(), y.expand(2000, -1, -1), particles=20, resampling=way, engine="compiled", seed=1
    )
    ratio = (found.log_likelihood - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(2000)


def test_values_that_a_law_cannot_have_are_told_as_before(monkeypatch):
    # Other tests compile by torch, which turns these checks off for the whole process.
    monkeypatch.setattr(Distribution, "_validate_args", True)
    model = StateSpaceModel(
        start(), linear().transition, lambda x, t: Normal(x, torch.full_like(x, -1.0))
    )
    for engine in ("eager", "compiled"):
        with pytest.raises(ValueError, match="scale"):
            particle_filter(model, series(), particles=9, engine=engine)
    model = StateSpaceModel(start(), linear().transition, lambda x, t: Poisson(x.exp()))
    with pytest.raises(ValueError, match="support"):
        particle_filter(model, series(), particles=9, engine="compiled")


@pytest.mark.parametrize(
    ("see", "draw"),
    [
        (lambda x, t: Poisson(x.exp()), lambda r: r.poisson(2.0, (1, 40, 1))),
        (lambda x, t: Bernoulli(logits=x), lambda r: r.integers(0, 2, (1, 40, 1))),
        (lambda x, t: Independent(Poisson(x.exp()), 1), lambda r: r.poisson(2.0, (1, 40, 1))),
    ],
)
def test_counts(see, draw):
    y = torch.as_tensor(draw(np.random.default_rng(0))).double()
    y[0, 3] = torch.nan
    model = StateSpaceModel(start(), lambda x, t: Normal(0.9 * x, 0.3), see)
    agree(*engines(model, y, particles=40), ALL)


def test_threads_filter_side_by_side():
    model, y = volatility(), series()
    runs = [particle_filter(model, y, particles=50, seed=s).log_likelihood for s in range(6)]
    with ThreadPoolExecutor(3) as pool:
        again = pool.map(
            lambda s: particle_filter(model, y, particles=50, seed=s).log_likelihood, range(6)
        )
    assert torch.equal(torch.stack(runs), torch.stack(list(again)))


def test_parameters_are_read_at_every_call():
    theta = torch.tensor(0.5, dtype=WIDE)
    model = StateSpaceModel(
        start(), lambda x, t: Normal(theta * x, 0.5), lambda x, t: Normal(x, 0.6)
    )
    before = particle_filter(model, series(), particles=20)
    theta.fill_(0.9)
    agree(*engines(model, series(), particles=20), ALL)
    after = particle_filter(model, series(), particles=20)
    assert not torch.equal(before.particles, after.particles)


UNARY = [
    torch.sin,
    torch.tanh,
    torch.sigmoid,
    lambda a: a**2,
    lambda a: (-a.abs()).exp(),
    lambda a: torch.log1p(a * a),
    lambda a: a.clamp(-1, 1),
    lambda a: torch.nn.functional.softplus(a, beta=2.0),
    lambda a: 1 / (1 + a.square()),
    lambda a: torch.relu(a) - 0.3,
    lambda a: a.flip(-1),
    lambda a: a - a.mean(-1, keepdim=True),
    lambda a: torch.logsumexp(a, -1, keepdim=True) + a,
    lambda a: torch.nn.functional.silu(a),
    lambda a: torch.rsub(a, 2.0, alpha=0.5),
    lambda a: torch.cat([a[..., 1:], a[..., :1] * 0.5], -1),
]
BINARY = [
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    lambda a, b: torch.where(a < b, a, b + 1),
    lambda a, b: a / (1 + b.abs()),
    lambda a, b: torch.add(a, b, alpha=-0.5),
    lambda a, b: torch.addcmul(a, a, b, value=0.1),
    lambda a, b: torch.where((a > b) & ~(b >= 0), a, -b),
]


@st.composite
def trees(draw, depth=4):
    """An expression of x (…, 2), a matrix and a vector."""
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind == 0:
        return draw(
            st.sampled_from([lambda x, M, v: x, lambda x, M, v: x @ M, lambda x, M, v: v + 0 * x])
        )
    inner = draw(trees(depth - 1))
    if kind < 4:
        f = draw(st.sampled_from(UNARY))
        return lambda x, M, v: f(inner(x, M, v))
    other, g = draw(trees(depth - 1)), draw(st.sampled_from(BINARY))
    return lambda x, M, v: g(inner(x, M, v), other(x, M, v))


@settings(max_examples=60, deadline=None)
@given(trees(), trees(), st.integers(0, 100))
def test_random_expressions(move, see, seed):
    M, v = series(1, 2, 2, seed)[0], series(1, 1, 2, seed)[0, 0]
    model = StateSpaceModel(
        start(2),
        lambda x, t: Normal(torch.tanh(move(x, M, v)), 0.5),
        lambda x, t: Normal(torch.tanh(see(x, M, v)), 0.5),
    )
    agree(*engines(model, series(1, 6, 2), particles=16, seed=seed), ALL, 1e-10)
