"""Regressions of states on observations, and models learned from pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.filter_suite import close
from statewise import inference
from statewise.inference import (
    CholeskyNetwork,
    ConstantCovariance,
    GaussianProcess,
    KernelCovariance,
    LinearGaussian,
    NadarayaWatson,
    Pairs,
    fit_discriminative,
)
from statewise.inference.neural_law import CholeskyHead, negative_log_density
from statewise.inference.regressors import (
    Scale,
    kernel_average,
    leave_one_out,
    marginal_likelihood,
    process_covariance,
)


def pairs(N=200, p=2, n=2, seed=0):
    """States that are a bent function of what is seen, with noise that grows along it."""
    rng = np.random.default_rng(seed)
    y = torch.as_tensor(rng.normal(size=(N, p)))
    bent = torch.stack([torch.sin(y[:, 0]), y[:, 0] * y[:, 1] / 2], -1)[:, :n]
    noise = torch.as_tensor(rng.normal(size=(N, n))) * (0.1 + 0.2 * y[:, :1].abs())
    return Pairs(y, bent + noise)


def tracked(T=900, n=2, p=4, seed=0):
    """States of a linear model and what is seen of them, (1, T, ·)."""
    rng = np.random.default_rng(seed)
    F, H = 0.95 * np.linalg.qr(rng.normal(size=(n, n)))[0], rng.normal(size=(p, n))
    z = np.zeros((T, n))
    for t in range(1, T):
        z[t] = F @ z[t - 1] + 0.3 * rng.normal(size=n)
    y = z @ H.T + rng.normal(size=(T, p))
    return torch.as_tensor(z)[None] + 3.0, torch.as_tensor(y)[None] + 1.0, torch.as_tensor(F)


def error(found, z):
    return (found - z).square().mean().sqrt().item()


def test_a_kernel_average_is_the_formula():
    y, z = pairs(40)
    rng = np.random.default_rng(0)
    average = kernel_average(y, z, torch.zeros(2).double(), 0.4, rng, share=0.0 + 1e-300)
    at = pairs(7, seed=1).y
    scaled, points = (Scale.of(y)(x) for x in (at, y))
    distance = (scaled[:, None] - points).square().sum(-1)
    weight = torch.exp(-distance / (2 * 0.4**2))
    expected = weight @ z / weight.sum(-1, keepdim=True)
    close(average(at), expected, 1e-10)
    close(average(at[None])[0], expected, 1e-10)


def test_the_bandwidth_has_the_least_error_of_points_left_out():
    y, z = pairs(60)
    points = Scale.of(y)(y)
    distances, own = torch.cdist(points, points), torch.arange(60)

    def brute(h):
        total = 0.0
        for i in range(60):
            others = torch.arange(60) != i
            w = torch.exp(-0.5 * (distances[i, others] / h) ** 2)
            total += ((w @ z[others]) / w.sum() - z[i]).square().sum().item()
        return total / 60

    for h in (0.3, 0.8):
        assert leave_one_out(distances, z, own, h) == pytest.approx(brute(h), rel=1e-9)
    chosen = kernel_average(y, z, torch.zeros(2).double(), None, np.random.default_rng(0))
    best = brute(chosen.bandwidth)
    assert best <= min(brute(h) for h in (0.1, 0.2, 2.0, 5.0))
    assert best < z.var(0).sum().item() / 2


def test_far_from_the_data_nothing_is_known():
    train, held = pairs(), pairs(100, seed=1)
    S = torch.eye(2).double()
    for bandwidth in (None, 0.5):
        regression = NadarayaWatson(bandwidth, covariance=KernelCovariance(bandwidth))
        law = regression.fit(train, held, S, np.random.default_rng(0))
        f, V = law(torch.full((1, 1, 2), 1e4).double())
        close(f, torch.zeros(1, 1, 2).double(), 1e-12)
        close(V[0, 0], S, 1e-12)
        near, V = law(held.y)
        assert error(near, held.z) < 0.6 * held.z.std().item()
        assert bool((torch.linalg.eigvalsh(V) > 0).all())


def test_covariances_follow_the_noise():
    train, held = pairs(800), pairs(600, seed=1)
    law = NadarayaWatson().fit(train, held, torch.eye(2).double(), np.random.default_rng(0))
    _, V = law(torch.tensor([[0.0, 0.0], [1.8, 0.0]]).double())
    assert V[1, 0, 0] > 2 * V[0, 0, 0]
    constant = NadarayaWatson(covariance=ConstantCovariance())
    f, V = constant.fit(train, held, torch.eye(2).double(), np.random.default_rng(0))(held.y)
    left = held.z - f
    close(V[5], left.mT @ left / len(left), 1e-12)


def test_a_gaussian_process_is_the_formula_at_its_maximum():
    train, held = pairs(80), pairs(40, seed=1)
    f = GaussianProcess(steps=100).fit_mean(train, np.random.default_rng(0))
    squares = torch.cdist(f.points, f.points).square()
    at = torch.cdist(Scale.of(train.y)(held.y), f.points).square()
    for k in range(2):
        size, noise, length = f.theta[k].exp()
        K = size * torch.exp(-squares / (2 * length**2)) + noise * torch.eye(80).double()
        cross = size * torch.exp(-at / (2 * length**2))
        expected = cross @ torch.linalg.solve(K, train.z[:, k])
        torch.testing.assert_close(f(held.y)[:, k], expected, rtol=1e-5, atol=1e-6)
    theta = f.theta.clone().requires_grad_()
    value = marginal_likelihood(theta, squares, train.z)
    law = torch.distributions.MultivariateNormal(
        torch.zeros(80).double(), process_covariance(f.theta, squares)
    )
    close(value, law.log_prob(train.z.mT), 1e-9)
    (slope,) = torch.autograd.grad(value.sum(), theta)
    assert slope.abs().max() < 0.05
    assert error(f(held.y), held.z) < 0.5 * held.z.std().item()
    assert GaussianProcess(limit=30).fit_mean(train, np.random.default_rng(0)).points.shape[0] == 30


def test_the_head_gives_a_factor():
    torch.manual_seed(0)
    head = CholeskyHead(3, 4, (8,)).double()
    y = torch.randn(5, 3).double()
    f, C = head(y)
    assert not C.triu(1).any()
    assert bool((C.diagonal(dim1=-2, dim2=-1) > 0).all())
    z = torch.randn(5, 4).double()
    law = torch.distributions.MultivariateNormal(f, scale_tril=C)
    constant = 2 * np.log(2 * np.pi)
    close(-negative_log_density(f, C, z) - constant, law.log_prob(z), 1e-10)


def test_a_network_learns_and_its_errors_are_made_good():
    train, held, more = pairs(1500), pairs(600, seed=1), pairs(600, seed=2)
    S = torch.cov(train.z.mT)
    how = CholeskyNetwork((32, 32), epochs=15, batch=64, lr=1e-2)
    one, two = (how.fit(train, held, S, np.random.default_rng(seed)) for seed in (0, 0))
    f, V = one(more.y)
    assert torch.equal(f, two(more.y)[0])
    assert error(f, more.z) < 0.6 * more.z.std().item()
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(V), (more.z - f).unsqueeze(-1), upper=False
    ).squeeze(-1)
    assert (white.mT @ white / len(white) - torch.eye(2)).abs().max() < 0.3
    f, V = one(held.y)
    apart = (held.z - f).unsqueeze(-1)
    size = (apart.mT @ torch.linalg.solve(V, apart)).mean().item()
    assert size == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize(
    "regression",
    [None, NadarayaWatson(covariance=ConstantCovariance()), GaussianProcess(300, 15)],
    ids=("kernel", "constant", "process"),
)
def test_a_learned_filter_is_better_than_its_regression(regression):
    z, y, F = tracked()
    model = fit_discriminative(z[:, :600], y[:, :600], regression)
    assert (model.F - F).abs().max() < 0.2
    rest, told = z[:, 600:], y[:, 600:]
    alone, _ = model.law(told)
    found = model.filter(told)
    assert error(found.mean, rest) < error(alone, rest) < error(model.mean, rest)
    smoothed = inference.smooth(found)
    assert error(smoothed.mean, rest) < error(found.mean, rest)


def test_what_is_fitted_is_least_squares_and_nothing_that_is_missing():
    z, y, _ = tracked(T=300)
    more, seen, _ = tracked(T=200, seed=1)
    z = torch.cat([z, torch.nn.functional.pad(more, (0, 0, 0, 100), value=1e9)])
    y = torch.cat([y, torch.nn.functional.pad(seen, (0, 0, 0, 100), value=-1e9)])
    z[0, 50] = torch.nan
    y[0, 60, 1] = torch.nan
    how = NadarayaWatson(0.5, ConstantCovariance())
    model = fit_discriminative(z, y, how, lengths=[300, 200])
    known = torch.cat([z[0, :50], z[0, 51:], z[1, :200]])
    close(model.mean, known.mean(0), 1e-12)
    close(model.S, torch.cov(known.mT, correction=0), 1e-12)
    x = z - model.mean
    before = torch.cat([x[0, :49], x[0, 51:299], x[1, :199]])
    after = torch.cat([x[0, 1:50], x[0, 52:], x[1, 1:200]])
    close(model.F @ (before.mT @ before), after.mT @ before, 1e-8)
    left = after - before @ model.F.mT
    close(model.Q, left.mT @ left / len(left), 1e-10)
    still = fit_discriminative(z, y, how, lengths=[300, 200], stationary=True)
    close(still.S, still.F @ still.S @ still.F.mT + still.Q, 1e-10)


@pytest.mark.parametrize("shift", [0, 3, -2])
def test_a_delay_is_found_by_the_right_shift(shift):
    z, y, _ = tracked()
    moved = torch.roll(y, -shift, 1)
    fits = {k: fit_discriminative(z[:, :600], moved[:, :600], shift=k) for k in (-2, 0, 3)}
    errors = {
        k: error(model.filter(moved[:, 600:]).mean[:, 10:-10], z[:, 610:-10])
        for k, model in fits.items()
    }
    assert min(errors, key=errors.__getitem__) == shift


def test_a_shift_pairs_what_belongs_together():
    z, y, _ = tracked(T=300)
    how = NadarayaWatson(0.5, ConstantCovariance())
    late = fit_discriminative(z, torch.roll(y, -3, 1), how, shift=3)
    plain = fit_discriminative(z[:, 3:], y[:, 3:], how)
    at = y[:, 50:60]
    # The two differ in where the first 70 % end, and in the mean.
    assert (late.law(at)[0] - plain.law(at)[0]).abs().max() < 0.2
    close(late.law(at)[1], plain.law(at)[1], 0.1)


def test_a_linear_model_is_as_good_as_the_kalman_filter():
    z, y, _ = tracked(T=3000)
    model = fit_discriminative(
        z[:, :2000], y[:, :2000], GaussianProcess(300, 15, ConstantCovariance())
    )
    mean, cut = model.mean, y[:, :2000].mean(1)
    x, told = (z - mean)[:, :2000], y[:, :2000] - cut
    H = torch.linalg.lstsq(x[0], told[0]).solution.mT
    left = told[0] - x[0] @ H.mT
    kalman = LinearGaussian(model.F, H, model.Q, left.mT @ left / 2000, P0=model.S)
    best = error(inference.filter(kalman, y[:, 2000:] - cut).mean, (z - mean)[:, 2000:])
    assert error(model.filter(y[:, 2000:]).mean, z[:, 2000:]) < 1.1 * best


Z, Y, _ = tracked(T=20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_discriminative(Z[0], Y[0]), r"z has shape \(20, 2\)"),
        (lambda: fit_discriminative(Z, Y[:, :5]), r"y \(1, 5, 4\)"),
        (lambda: fit_discriminative(Z, Y, held=1.0), "held is 1.0"),
        (lambda: fit_discriminative(Z * torch.nan, Y), "z has 0 known steps"),
        (lambda: fit_discriminative(Z, Y, shift=19), "pairs to fit f on"),
        (lambda: fit_discriminative(Z, Y, held=0.9), "there are 2 pairs to fit f on"),
    ],
)
def test_what_cannot_be_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
