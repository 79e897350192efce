"""Iterated smoothers: linear models, the most probable trajectory, and a turning target."""

from __future__ import annotations

import pytest
import torch

from contracts.filter_suite import case, close
from inference.test_gaussian_filters import as_functions, pendulum, simulate
from statewise import inference
from statewise.inference import Cubature, FirstOrder, GaussHermite, NonlinearGaussian, Unscented

RULES = [FirstOrder(), Unscented(), Cubature(), GaussHermite(3)]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("prior_at", [0, 1])
@pytest.mark.parametrize("name", ["gaps", "inputs", "in time", "lengths"])
@pytest.mark.parametrize("rule", RULES)
def test_on_a_linear_model_one_round_is_the_smoother(rule, name, prior_at, parallel):
    model, y, options = case(name, prior_at)
    start = torch.zeros(3, 12, 3, dtype=torch.float64)
    found = inference.smooth_iterated(
        as_functions(model), y, **options, rule=rule, start=start, parallel=parallel, rounds=2
    )
    expected = inference.filter(model, y, **options)
    close(found.filtered.mean, expected.mean, 1e-9)
    close(found.filtered.log_likelihood, expected.log_likelihood, 1e-9)
    expected = inference.smooth(expected)
    for field in ("mean", "cov", "cross"):
        close(getattr(found.smoothed, field), getattr(expected, field), 1e-9)
    assert found.changes[1] < 1e-9


@pytest.mark.parametrize("rule", RULES)
def test_parallel_rounds_are_the_others(rule):
    _, y = simulate(pendulum(), 60, 1)
    y[20:25] = torch.nan
    one = inference.smooth_iterated(pendulum(), y[None], rule=rule)
    two = inference.smooth_iterated(pendulum(), y[None], rule=rule, parallel=True)
    assert one.converged
    assert two.converged
    close(two.smoothed.mean, one.smoothed.mean, 1e-6)
    close(two.smoothed.cov, one.smoothed.cov, 1e-6)


def log_posterior(model, x, y):
    """log p(x, y) up to a constant; x (T, n)."""

    def half(e, P):
        return -0.5 * (e * torch.linalg.solve(P, e.mT).mT).sum()

    t = torch.arange(len(x))
    moved = torch.func.vmap(lambda x, t: model.functions.f(x, None, t))(x[:-1], t[1:])
    seen = torch.func.vmap(lambda x, t: model.functions.g(x, None, t))(x, t)
    e = y - seen
    e = e[~e.isnan().any(-1)]
    return (
        half((x[0] - model.m0[0])[None], model.P0[0])
        + half(x[1:] - moved, model.Q[0, 0])
        + half(e, model.R[0, 0])
    )


@pytest.mark.parametrize("parallel", [False, True])
def test_with_first_order_it_ends_at_the_most_probable_trajectory(parallel):
    model = pendulum()
    _, y = simulate(model, 40, 2)
    y[5:9] = torch.nan
    found = inference.smooth_iterated(
        model, y[None], rule=FirstOrder(), rounds=60, tolerance=1e-11, parallel=parallel
    )
    x = found.smoothed.mean[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_posterior(model, x, y), x)
    # In units of the posterior's own standard deviations.
    unit = found.smoothed.cov[0].diagonal(dim1=-2, dim2=-1).sqrt()
    assert (slope * unit).abs().max() < 1e-7
    plain = inference.smooth(
        inference.filter(model, y[None], method=inference.GaussianFilter(FirstOrder()))
    )
    better, worse = (log_posterior(model, z, y).item() for z in (x.detach(), plain.mean[0]))
    assert better > worse


def test_series_are_apart():
    model = pendulum()
    ys = torch.stack([simulate(model, 30, seed)[1] for seed in (3, 4)])
    ends = torch.tensor([30, 17])
    both = inference.smooth_iterated(model, ys, lengths=ends, rounds=40, tolerance=1e-10)
    for i, stop in enumerate(ends.tolist()):
        alone = inference.smooth_iterated(model, ys[i : i + 1, :stop], rounds=40, tolerance=1e-10)
        close(both.smoothed.mean[i, :stop], alone.smoothed.mean[0], 1e-8)
        assert not both.smoothed.mean[i, stop:].any()


def coordinated_turn(dt=0.5):
    """A target that turns at an unknown rate, seen by range and bearing."""

    def f(x, u, t):
        w = x[4]
        s, c = torch.sin(w * dt), torch.cos(w * dt)
        along, across = dt * torch.sinc(w * dt / torch.pi), (1 - c) / w
        return torch.stack(
            [
                x[0] + along * x[2] - across * x[3],
                x[1] + across * x[2] + along * x[3],
                c * x[2] - s * x[3],
                s * x[2] + c * x[3],
                w,
            ]
        )

    def g(x, u, t):
        return torch.stack([x[:2].norm(), torch.atan2(x[1], x[0])])

    one = torch.eye(2, dtype=torch.float64)
    Q = torch.zeros(5, 5, dtype=torch.float64)
    Q[:2, :2], Q[2:4, 2:4] = 0.1 * dt**3 / 3 * one, 0.1 * dt * one
    Q[:2, 2:4] = Q[2:4, :2] = 0.1 * dt**2 / 2 * one
    Q[4, 4] = 2e-4 * dt
    R = torch.diag(torch.tensor([1.0, 0.03**2], dtype=torch.float64))
    m0 = torch.tensor([40.0, 20.0, -5.0, 2.0, 0.15], dtype=torch.float64)
    P0 = torch.diag(torch.tensor([4.0, 4.0, 1.0, 1.0, 0.01], dtype=torch.float64))
    return NonlinearGaussian(f, g, Q, R, m0=m0, P0=P0)


def particles(model, y, count, seed):
    """Filtered means and log p(y) by a bootstrap filter with systematic resampling."""
    g = torch.Generator().manual_seed(seed)
    n = model.states
    Q, P, R = (torch.linalg.cholesky(x) for x in (model.Q[0, 0], model.P0[0], model.R[0, 0]))
    f = torch.func.vmap(lambda x: model.functions.f(x, None, torch.tensor(0)))
    h = torch.func.vmap(lambda x: model.functions.g(x, None, torch.tensor(0)))
    normal = lambda: torch.randn(count, n, generator=g, dtype=torch.float64)  # noqa: E731
    x = model.m0[0] + normal() @ P.mT
    means, spreads, total = [], [], 0.0
    for t, value in enumerate(y):
        if t:
            x = f(x) + normal() @ Q.mT
        white = torch.linalg.solve_triangular(R, (value - h(x)).mT, upper=False)
        logs = -0.5 * white.square().sum(0) - R.diagonal().log().sum()
        logs = logs - 0.5 * len(value) * torch.log(torch.tensor(2 * torch.pi))
        w = torch.softmax(logs, 0)
        total += (torch.logsumexp(logs, 0) - torch.log(torch.tensor(float(count)))).item()
        mean = w @ x
        means.append(mean)
        spreads.append((w @ (x - mean).square()).sqrt())
        places = (torch.arange(count) + torch.rand((), generator=g)) / count
        x = x[torch.searchsorted(w.cumsum(0), places).clamp_max(count - 1)]
    return torch.stack(means), torch.stack(spreads), total


def test_a_coordinated_turn_beside_particles():
    # Means within a fifth of a standard deviation of those of 100 000 particles, on average.
    model = coordinated_turn()
    x, y = simulate(model, 40, 5)
    mean, spread, total = particles(model, y, 100_000, 0)
    for rule in RULES:
        found = inference.filter(model, y[None], method=inference.GaussianFilter(rule))
        off = (found.mean[0] - mean) / spread
        assert off.square().mean().sqrt() < 0.2
        assert abs(found.log_likelihood.item() - total) < 1.0
        smoothed = inference.smooth_iterated(model, y[None], rule=rule)
        assert smoothed.converged
        filtered, later = ((z[0] - x)[:, :2].norm() for z in (found.mean, smoothed.smoothed.mean))
        assert later < filtered


def test_what_cannot_be_is_said():
    y = torch.zeros(1, 3, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="rounds is 0"):
        inference.smooth_iterated(pendulum(), y, rounds=0)
    with pytest.raises(ValueError, match=r"start has shape \(3,\)"):
        inference.smooth_iterated(pendulum(), y, start=[0.0, 0.0, 0.0])
