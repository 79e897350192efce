"""Ways to draw paths backwards, fixed lags, and transitions that forbid both."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from statewise import inference
from statewise.inference import (
    ExactBackward,
    GenealogyBackward,
    Guided,
    LinearGaussian,
    MetropolisBackward,
    RejectionBackward,
    StateSpaceModel,
    particle_filter,
    sample_paths,
    smooth_particles,
    smooth_particles_lagged,
)

A, Q, R, P0 = 0.9, 0.5, 0.4, 1.2
ZERO = torch.zeros(1, dtype=torch.float64)
BOUND = -0.5 * math.log(2 * math.pi * Q)
WAYS = {
    "exact": ExactBackward(),
    "rejection": RejectionBackward(BOUND),
    "rejection, few trials": RejectionBackward(BOUND, trials=1),
    "metropolis": MetropolisBackward(1),
    "metropolis, 3 steps": MetropolisBackward(3),
}


def walk():
    return StateSpaceModel(
        lambda: Normal(ZERO, math.sqrt(P0)),
        lambda x, t, *u: Normal(A * x + (u[0] if u else 0.0), math.sqrt(Q)),
        lambda x, t, *u: Normal(x, math.sqrt(R)),
    )


def kalman(u=False):
    driven = {"B": [[1.0]]} if u else {}
    return LinearGaussian([[A]], [[1.0]], [[Q]], [[R]], P0=[[P0]], **driven)


def data(B=1, T=8, seed=0):
    rng = np.random.default_rng(seed)
    x, y = math.sqrt(P0) * rng.normal(size=(B, 1)), []
    for _ in range(T):
        y.append(x + math.sqrt(R) * rng.normal(size=x.shape))
        x = A * x + math.sqrt(Q) * rng.normal(size=x.shape)
    return torch.as_tensor(np.stack(y, 1))


def best(x, y, t, *u):
    mean = torch.zeros_like(y) if x is None else A * x + (u[0] if u else 0.0)
    var = P0 if x is None else Q
    gain = var / (var + R)
    return Normal((mean + gain * (y - mean)).expand(-1, 150, 1), math.sqrt((1 - gain) * var))


@pytest.mark.parametrize("name", ["exact", "rejection", "rejection, few trials"])
def test_given_the_particles_draws_have_the_smoothing_weights(name):
    runs = particle_filter(walk(), data(T=6), particles=5, seed=0)
    w = smooth_particles(runs).exp()[0]
    paths = sample_paths(runs, 20_000, backward=WAYS[name], seed=1)[:, 0]
    for t in range(6):
        share = (paths[:, t] == runs.particles[0, t, :, 0]).double().mean(0)
        assert ((share - w[t]).abs() <= 5 * (w[t] * (1 - w[t]) / 20_000).sqrt() + 1e-4).all()


def test_a_long_chain_has_the_smoothing_weights_too():
    runs = particle_filter(walk(), data(T=6), particles=5, seed=0)
    w = smooth_particles(runs).exp()[0]
    paths = sample_paths(runs, 20_000, backward=MetropolisBackward(40), seed=1)[:, 0]
    for t in range(6):
        share = (paths[:, t] == runs.particles[0, t, :, 0]).double().mean(0)
        assert ((share - w[t]).abs() <= 5 * (w[t] * (1 - w[t]) / 20_000).sqrt() + 1e-3).all()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", list(WAYS))
def test_paths_are_those_of_kalman(name, guided):
    """Means and covariances of neighbours, with inputs, for a filter that is guided or not."""
    y, u = data(T=10, seed=3), 0.3 * data(T=10, seed=9)
    whole = inference.smooth(inference.filter(kalman(u=True), y, u))
    runs = particle_filter(
        walk(),
        y.expand(60, -1, -1),
        u.expand(60, -1, -1),
        particles=150,
        method=Guided(best) if guided else None,
        seed=2,
    )
    paths = sample_paths(runs, 150, backward=WAYS[name], seed=4)[..., 0]
    each = paths.mean(0)
    error = (each.mean(0) - whole.mean[0, :, 0]).abs()
    assert (error <= 5 * each.std(0) / math.sqrt(60) + 0.01).all()
    pooled = paths.flatten(0, 1)
    change = pooled - pooled.mean(0)
    lag = (change[:, 1:] * change[:, :-1]).mean(0)
    torch.testing.assert_close(lag, whole.cross[0, 1:, 0, 0], rtol=0, atol=0.03)
    torch.testing.assert_close(change.square().mean(0), whole.cov[0, :, 0, 0], rtol=0, atol=0.03)


def test_a_lag_takes_so_many_observations_more():
    y = data(B=2, T=9, seed=5)
    lengths = torch.tensor([9, 6])
    runs = particle_filter(walk(), y.repeat(60, 1, 1), particles=400, lengths=lengths.repeat(60))
    assert torch.equal(smooth_particles_lagged(runs, 0), runs.log_weights)
    for lag in (1, 3, 50):
        logs = smooth_particles_lagged(runs, lag)
        total = torch.logsumexp(logs, -1)
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)
        mean = (logs.exp().unsqueeze(-1) * runs.particles).sum(2)[..., 0].reshape(60, 2, 9)
        for series, end in enumerate((9, 6)):
            for t in range(end):
                seen = y[series : series + 1, : min(t + lag + 1, end)]
                exact = inference.smooth(inference.filter(kalman(), seen)).mean[0, t, 0]
                one = mean[:, series, t]
                assert (one.mean() - exact).abs() <= 5 * one.std() / math.sqrt(60) + 0.01
    assert torch.equal(smooth_particles_lagged(runs, 3)[1::2, 6:], runs.log_weights[1::2, 6:])


def test_genealogies_are_the_longest_lag():
    runs = particle_filter(walk(), data(T=12), particles=6, seed=3, threshold=1.1)
    w = smooth_particles_lagged(runs, 11).exp()[0]
    paths = sample_paths(runs, 20_000, backward=GenealogyBackward(), seed=1)[:, 0]
    index = torch.arange(6)
    for t in range(11, -1, -1):
        share = (paths[:, t] == runs.particles[0, t, :, 0]).double().mean(0)
        assert ((share - w[t]).abs() <= 5 * (w[t] * (1 - w[t]) / 20_000).sqrt() + 1e-4).all()
        direct = torch.zeros(6).double().index_add(0, index, runs.log_weights[0, -1].exp())
        torch.testing.assert_close(w[t], direct)
        index = runs.ancestors[0, t][index]
    assert (w > 0).sum(-1).diff().min() >= 0


def test_backward_draws_keep_more_states_than_genealogies():
    runs = particle_filter(walk(), data(T=60, seed=1), particles=50)
    counts = {
        name: len(sample_paths(runs, 200, backward=way)[:, 0, 0].unique())
        for name, way in (WAYS | {"genealogy": GenealogyBackward()}).items()
    }
    assert counts.pop("genealogy") <= 3
    assert min(counts.values()) >= 8


def companion(noise):
    """An autoregression of order 2, whose second state holds the first one of a step ago."""

    def move(x, t):
        first = 1.2 * x[..., :1] - 0.5 * x[..., 1:]
        scale = torch.tensor([0.5, noise], dtype=x.dtype)
        return Normal(torch.cat([first, x[..., :1]], -1), scale, validate_args=False)

    return StateSpaceModel(
        lambda: Normal(torch.zeros(2, dtype=torch.float64), 1.0),
        move,
        lambda x, t: Normal(x[..., :1], 0.5),
    )


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_singular_transitions_are_told(noise):
    runs = particle_filter(companion(noise), data(B=2, T=10), particles=100)
    for way in (ExactBackward(), MetropolisBackward()):
        with pytest.warns(UserWarning, match="singular"):
            paths = sample_paths(runs, 20, backward=way)
        # The second state is the first of the step before, on every path.
        assert (paths[:, :, 1:, 1] - paths[:, :, :-1, 0]).abs().max() < 1e-7
    with pytest.warns(UserWarning, match="singular"):
        w = smooth_particles(runs)
    torch.testing.assert_close(w.exp(), smooth_particles_lagged(runs, 9).exp(), rtol=0, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_paths(runs, 20, backward=GenealogyBackward())
        smooth_particles(particle_filter(companion(0.5), data(B=2, T=10), particles=100))


def test_lengths_and_seeds():
    runs = particle_filter(walk(), data(B=2, T=7), particles=60, lengths=torch.tensor([7, 3]))
    for way in WAYS.values():
        one, two = (sample_paths(runs, 5, backward=way, seed=3) for _ in range(2))
        assert torch.equal(one, two)
        assert tuple(one.shape) == (5, 2, 7, 1)
        assert not one[:, 1, 3:].any()
        assert one[:, 1, :3].all()
    assert torch.equal(
        sample_paths(runs, 5, seed=3), sample_paths(runs, 5, backward=ExactBackward(), seed=3)
    )


def test_arguments_that_do_not_fit():
    runs = particle_filter(walk(), data(), particles=20)
    with pytest.raises(ValueError, match="bound is -3"):
        sample_paths(runs, 50, backward=RejectionBackward(-3.0))
    with pytest.raises(ValueError, match="samples is 0"):
        sample_paths(runs, 0)
    with pytest.raises(ValueError, match="lag is -1"):
        smooth_particles_lagged(runs, -1)
