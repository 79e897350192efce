"""Gaussian filters keep the filter contract, whatever their rule, on models of functions too."""

from __future__ import annotations

import pytest
import torch

from contracts.filter_suite import FilterContract, case, close, textbook
from statewise import inference
from statewise.inference import (
    Cubature,
    FirstOrder,
    GaussHermite,
    GaussianFilter,
    NonlinearGaussian,
    Unscented,
)

RULES = {
    "first order": FirstOrder(),
    "unscented": Unscented(),
    "unscented, negative weight": Unscented(kappa=-0.5, beta=0.0),
    "cubature": Cubature(),
    "Gauss-Hermite": GaussHermite(3),
}


class TestExtended(FilterContract):
    def method(self):
        return GaussianFilter(FirstOrder())


class TestUnscented(FilterContract):
    steps = 300

    def method(self):
        return GaussianFilter(Unscented())


class TestIteratedCubature(FilterContract):
    steps = 300

    def method(self):
        return GaussianFilter(Cubature(), iterations=2)


class TestGaussHermite(FilterContract):
    steps = 300

    def method(self):
        return GaussianFilter(GaussHermite(3))


def as_functions(model, *, driven=False, batched=False, **more):
    """A linear model, one for all series, as functions of one state."""

    def pick(x, t):
        return x[0, torch.clamp(t, max=x.shape[1] - 1)]

    def affine(weight, drive, offset):
        def function(x, u, t):
            y = (pick(weight, t) @ x.unsqueeze(-1)).squeeze(-1) + pick(offset, t)
            if u is None:
                return y
            return y + (pick(drive, t) @ u.unsqueeze(-1)).squeeze(-1)

        return function

    return NonlinearGaussian(
        affine(model.F, model.B, model.c),
        affine(model.H, model.D, model.d),
        model.Q,
        model.R,
        m0=model.m0,
        P0=model.P0,
        prior_at=model.prior_at,
        batched=batched,
        **more,
    )


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("prior_at", [0, 1])
@pytest.mark.parametrize("name", ["plain", "gaps", "inputs", "in time", "lengths"])
@pytest.mark.parametrize("rule", list(RULES))
def test_functions_that_are_linear_give_the_textbook(rule, name, prior_at, batched):
    model, y, options = case(name, prior_at)
    mean, cov, logs = textbook(model, y, **options)
    wrapped = as_functions(model, batched=batched)
    found = inference.filter(wrapped, y, **options, method=GaussianFilter(RULES[rule]))
    close(found.mean, mean, 1e-10)
    close(found.cov, cov, 1e-10)
    close(found.log_likelihoods, logs, 1e-10)
    expected = inference.filter(model, y, **options)
    close(found.predicted_mean, expected.predicted_mean, 1e-10)
    close(found.predicted_cov, expected.predicted_cov, 1e-10)
    close(found.innovations.nan_to_num(7.0), expected.innovations.nan_to_num(7.0), 1e-10)
    smoothed, right = inference.smooth(found), inference.smooth(expected)
    for field in ("mean", "cov", "cross"):
        close(getattr(smoothed, field), getattr(right, field), 1e-9)


@pytest.mark.parametrize("rule", list(RULES))
def test_a_stream_of_a_model_whose_transition_gets_the_last_input(rule):
    model, y, options = case("inputs")
    wrapped = as_functions(model, input_at="before")
    u = options["u"]
    late = torch.cat([torch.zeros_like(u[:, :1]), u[:, :-1]], 1)
    # f is given what came before, g what comes now; the linear model is told so by hand.
    both = torch.cat([late, u], -1)
    told = model.replace(
        B=torch.cat([model.B, torch.zeros_like(model.B)], -1),
        D=torch.cat([torch.zeros_like(model.D), model.D], -1),
    )
    expected = inference.filter(told, y, both)
    found = inference.filter(wrapped, y, u, method=GaussianFilter(RULES[rule]))
    close(found.mean, expected.mean, 1e-10)
    stream = inference.Filter(wrapped, GaussianFilter(RULES[rule]), batch=len(y))
    for t in range(y.shape[1]):
        now = stream.update(y[:, t], u[:, t])
        close(now.mean, expected.mean[:, t], 1e-10)
    close(stream.log_likelihood, expected.log_likelihood, 1e-10)


def polynomial(n, degree, generator):
    """A random polynomial of n variables and its terms, as powers and weights."""
    powers = torch.cartesian_prod(*[torch.arange(degree + 1)] * n).reshape(-1, n)
    powers = powers[powers.sum(1) <= degree]
    return powers, torch.randn(len(powers), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "degree"),
    [(Unscented(), 3), (Unscented(0.5, 0.0, 1.0), 3), (Cubature(), 3), (GaussHermite(3), 5)],
)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_mean_of_a_polynomial_is_exact(rule, degree, n):
    g = torch.Generator().manual_seed(n)
    powers, weights = polynomial(n, degree, g)
    m = torch.randn(n, generator=g, dtype=torch.float64)
    L = torch.randn(n, n, generator=g, dtype=torch.float64).tril()

    def function(x):
        return ((x.unsqueeze(-2) ** powers).prod(-1) * weights).sum(-1, keepdim=True)

    found = rule.expand(function, None, m[None], L[None])
    # A Gauss-Hermite rule of ten points is exact far beyond these degrees.
    expected = GaussHermite(10).expand(function, None, m[None], L[None])
    close(found.value, expected.value, 1e-11)
    if degree == 5:
        # Second moments of a quadratic are of degree four.
        powers, weights = polynomial(n, 2, g)
        found = rule.expand(function, None, m[None], L[None])
        expected = GaussHermite(10).expand(function, None, m[None], L[None])
        close(found.slope, expected.slope, 1e-11)
        close(found.covariance(), expected.covariance(), 1e-11)


def test_moments_of_a_square_are_known():
    # x ~ N(m, s²): E x² = m² + s², Cov(x², x) = 2 m s², Var x² = 2 s⁴ + 4 m² s².
    m, s = 1.5, 0.75
    for rule in (GaussHermite(3), Unscented(kappa=2.0, beta=0.0)):
        found = rule.expand(
            lambda x: x**2, None, torch.tensor([[m]]).double(), torch.tensor([[[s]]]).double()
        )
        total = (found.slope @ found.slope.mT + found.covariance()).item()
        assert abs(found.value.item() - (m * m + s * s)) < 1e-14
        assert abs(found.slope.item() * s - 2 * m * s * s) < 1e-14
        assert abs(total - (2 * s**4 + 4 * m * m * s * s)) < 1e-13


def pendulum(**more):
    """A pendulum whose horizontal position is seen, as in Särkkä (2013), example 5.1."""
    dt, q = 0.05, 0.1
    g = 9.8

    def f(x, u, t):
        return torch.stack([x[0] + dt * x[1], x[1] - g * dt * torch.sin(x[0])])

    def seen(x, u, t):
        return torch.sin(x[:1])

    Q = q * torch.tensor([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    start = torch.tensor([1.2, 0.0], dtype=torch.float64)
    return NonlinearGaussian(f, seen, Q, [[0.1]], m0=start, P0=0.1 * eye, **more)


def simulate(model, T, seed):
    g = torch.Generator().manual_seed(seed)

    def normal(P):
        L = torch.linalg.cholesky(P)
        return L @ torch.randn(len(P), generator=g, dtype=torch.float64)

    zero = torch.tensor(0)
    x = model.m0[0] + normal(model.P0[0])
    xs, ys = [], []
    for t in range(T):
        if t:
            x = model.functions.f(x, None, zero + t) + normal(model.Q[0, 0])
        xs.append(x)
        ys.append(model.functions.g(x, None, zero + t) + normal(model.R[0, 0]))
    return torch.stack(xs), torch.stack(ys)


@pytest.mark.parametrize("rule", [FirstOrder(), Unscented(), Cubature(), GaussHermite(3)])
@pytest.mark.parametrize("iterations", [1, 3])
def test_gradient_of_the_likelihood_of_a_pendulum(rule, iterations):
    model = pendulum()
    _, y = simulate(model, 5, 3)
    y[2] = torch.nan
    method = GaussianFilter(rule, iterations=iterations)

    def function(Q, R, m0, P0):
        parts = {"Q": (Q + Q.mT) / 2, "R": R, "m0": m0, "P0": (P0 + P0.mT) / 2}
        return inference.log_likelihood(model.replace(**parts), y[None], method=method)

    leaves = [getattr(model, k).clone().requires_grad_() for k in ("Q", "R", "m0", "P0")]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-5)


def test_a_gradient_reaches_the_functions_themselves():
    y = torch.tensor([[[0.3], [0.9], [0.1]]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)

    def function(a, rule):
        model = NonlinearGaussian(
            lambda x, u, t: torch.sin(a * x), lambda x, u, t: x + a * x**3, one, one, P0=one
        )
        return inference.log_likelihood(model, y, method=GaussianFilter(rule))

    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for rule in (FirstOrder(), Cubature()):
        assert torch.autograd.gradcheck(lambda a, rule=rule: function(a, rule), a, atol=1e-6)


def on_a_grid(model, y, low, high, points):
    """Filtered means and variances and log p(y) of a scalar model by integration on a grid."""
    x = torch.linspace(low, high, points, dtype=torch.float64)
    step, zero = x[1] - x[0], torch.tensor(0)

    def density(e, variance):
        return torch.exp(-0.5 * e * e / variance) / (2 * torch.pi * variance).sqrt()

    moved = torch.func.vmap(lambda x: model.functions.f(x, None, zero))(x[:, None])[:, 0]
    kernel = density(x[:, None] - moved, model.Q[0, 0, 0, 0])
    seen = torch.func.vmap(lambda x: model.functions.g(x, None, zero))(x[:, None])[:, 0]
    p = density(x - model.m0[0, 0], model.P0[0, 0, 0])
    means, variances, logs = [], [], []
    for t, value in enumerate(y):
        if t:
            p = step * kernel @ p
        total = torch.ones((), dtype=torch.float64)
        if not value.isnan():
            p = p * density(value - seen, model.R[0, 0, 0, 0])
            total = step * p.sum()
            p = p / total
        logs.append(total.log())
        mean = step * (p * x).sum()
        means.append(mean)
        variances.append(step * (p * (x - mean) ** 2).sum())
    return torch.stack(means), torch.stack(variances), torch.stack(logs)


@pytest.mark.parametrize(
    ("rule", "iterations", "bound", "nats"),
    [
        (FirstOrder(), 1, 0.1, 0.5),
        (FirstOrder(), 3, 0.1, 0.5),
        (Unscented(), 1, 0.05, 0.2),
        (Cubature(), 1, 0.05, 0.2),
        (GaussHermite(5), 1, 0.05, 0.2),
        (GaussHermite(5), 3, 0.05, 0.2),
    ],
)
def test_a_mildly_nonlinear_scalar_model_beside_a_grid(rule, iterations, bound, nats):
    # Means within so many standard deviations of the exact filter's on average; first order is
    # blind to the curvature that moves them.
    model = NonlinearGaussian(
        lambda x, u, t: 0.8 * x + 0.1 * torch.sin(2 * x),
        lambda x, u, t: x + 0.02 * x**3,
        [[0.1]],
        [[0.2]],
        P0=[[0.5]],
    )
    _, y = simulate(model, 60, 0)
    y[10:13] = torch.nan
    mean, variance, logs = on_a_grid(model, y[:, 0], -6.0, 6.0, 1000)
    found = inference.filter(model, y[None], method=GaussianFilter(rule, iterations=iterations))
    off = (found.mean[0, :, 0] - mean) / variance.sqrt()
    assert off.square().mean().sqrt() < bound
    assert (found.cov[0, :, 0, 0] / variance).log().abs().mean() < bound
    assert abs(found.log_likelihood.item() - logs.sum().item()) < nats


def test_what_cannot_be_is_said():
    model = pendulum()
    y = torch.zeros(1, 3, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="Kalman needs a linear model"):
        inference.filter(model, y, method=inference.Kalman())
    with pytest.raises(ValueError, match="at least 2"):
        GaussHermite(1)
    with pytest.raises(ValueError, match="no points for 2 states"):
        inference.filter(model, y, method=GaussianFilter(Unscented(kappa=-2.0)))
    with pytest.raises(ValueError, match="iterations is 0"):
        GaussianFilter(iterations=0)
    eye = torch.eye(2)
    short = NonlinearGaussian(lambda x, u, t: x[:1], lambda x, u, t: x[:1], eye, [[1.0]], P0=eye)
    with pytest.raises(ValueError, match=r"gave the shape \(1,\) .* must be \(2,\)"):
        inference.filter(short, y)
    with pytest.raises(ValueError, match="P0 has shape"):
        model.replace(P0=[[1.0]])
    with pytest.raises(TypeError, match="not \\['f'\\]"):
        model.replace(f=None)
    with pytest.raises(ValueError, match="input_at is 'later'"):
        pendulum(input_at="later")
    one = [[1.0]]
    odd = NonlinearGaussian(
        lambda x, u, t: x**2, lambda x, u, t: x, [[1e-9]], one, m0=[0.0], P0=one
    )
    with pytest.raises(ValueError, match="without negative weights"):
        inference.filter(odd, y, method=GaussianFilter(Unscented(alpha=0.5, beta=-1.0, kappa=0.0)))
