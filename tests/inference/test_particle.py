"""Particle filters and smoothers beside the Kalman filter, and resampling by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MultivariateNormal, Normal

from statewise import inference
from statewise.inference import (
    Auxiliary,
    Bootstrap,
    CategoricalEmission,
    Guided,
    HiddenMarkov,
    LinearGaussian,
    Multinomial,
    Residual,
    StateSpaceModel,
    Stratified,
    Systematic,
    particle_filter,
    sample_paths,
    smooth_particles,
)

A, Q, R = 0.9, 0.5, 0.4
WAYS = (Multinomial(), Stratified(), Systematic(), Residual())
P0 = torch.tensor([1.2], dtype=torch.float64)


def walk(u=False):
    return StateSpaceModel(
        lambda: Normal(torch.zeros_like(P0), P0.sqrt()),
        lambda x, t, *given: Normal(A * x + (given[0] if u else 0.0), math.sqrt(Q)),
        lambda x, t, *given: Normal(x, math.sqrt(R)),
    )


def kalman(u=False):
    driven = {"B": [[1.0]]} if u else {}
    return LinearGaussian([[A]], [[1.0]], [[Q]], [[R]], P0=[[P0.item()]], **driven)


def data(B=1, T=8, seed=0):
    """Drawn from the model."""
    rng = np.random.default_rng(seed)
    x, y = math.sqrt(P0.item()) * rng.normal(size=(B, 1)), []
    for _ in range(T):
        y.append(x + math.sqrt(R) * rng.normal(size=x.shape))
        x = A * x + math.sqrt(Q) * rng.normal(size=x.shape)
    return torch.as_tensor(np.stack(y, 1))


def best(x, y, t, *u):
    """The law of x_t given x_{t−1} and y_t."""
    mean, var = (torch.zeros_like(y), P0) if x is None else (A * x, torch.full_like(P0, Q))
    gain = var / (var + R)
    return Normal(mean + gain * (y - mean), ((1 - gain) * var).sqrt())


def first_fits(x, y, t, *u):
    """The same, with a law for every particle at the first step too."""
    law = best(x, y, t)
    return law if x is not None else Normal(law.loc.expand(-1, 20, 1), law.scale)


METHODS = {
    "bootstrap": Bootstrap(),
    "guided": Guided(first_fits),
    "auxiliary": Auxiliary(
        lambda x, y, t: Normal(A * x, math.sqrt(Q + R)).log_prob(y).squeeze(-1), first_fits
    ),
    "auxiliary, crude": Auxiliary(
        lambda x, y, t: Normal(A * x, 2 * math.sqrt(Q + R)).log_prob(y).squeeze(-1)
    ),
}


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
@pytest.mark.parametrize("way", WAYS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("name", list(METHODS))
def test_the_likelihood_is_unbiased(name, way, threshold):
    """Over 2000 runs of 20 particles the mean of Ẑ / Z is 1 within four standard errors."""
    y = data(T=5)
    y[0, 2] = torch.nan
    exact = inference.filter(kalman(), y).log_likelihood
    found = particle_filter(
        walk(),
        y.expand(2000, -1, -1),
        particles=20,
        method=METHODS[name],
        resampling=way,
        threshold=threshold,
        seed=1,
    )
    ratio = (found.log_likelihood - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(2000)
    if threshold > 1 and isinstance(way, Multinomial):
        assert (found.ancestors[:, 2] != torch.arange(20)).any(-1).all()
    if threshold == 0:
        assert (found.ancestors == torch.arange(20)).all()


@pytest.mark.parametrize("name", ["guided", "auxiliary"])
def test_a_gap_in_one_series_leaves_the_others_guided(name):
    y = data(B=1, T=6).expand(600, -1, -1).clone()
    whole = particle_filter(walk(), y, particles=20, method=METHODS[name])
    y[300:, 3] = torch.nan
    exact = inference.filter(kalman(), y).log_likelihood
    found = particle_filter(walk(), y, particles=20, method=METHODS[name])
    for part in (slice(300), slice(300, 600)):
        ratio = (found.log_likelihood - exact)[part].exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(300)
    spread = found.log_likelihood[:300].std() / whole.log_likelihood[:300].std()
    assert 0.75 < spread < 1.3


def test_twenty_good_particles_do_better_than_a_hundred():
    y = data(T=30)
    wide, narrow = (
        particle_filter(walk(), y.expand(400, -1, -1), particles=N, method=METHODS[k], seed=0)
        for k, N in (("bootstrap", 100), ("auxiliary", 20))
    )
    assert narrow.log_likelihood.std() < wide.log_likelihood.std()
    mean, sd = wide.log_likelihood.mean(), wide.log_likelihood.std()
    exact = inference.filter(kalman(), y).log_likelihood
    # The logarithm is low by half its variance, of a log-normal estimate.
    assert (mean - exact + sd**2 / 2).abs() < 0.3 * sd


def test_moments_are_those_of_kalman():
    y = data(B=3, T=12)
    y[1, 4:7] = torch.nan
    u = 0.2 * data(B=3, T=12, seed=5)
    lengths = torch.tensor([12, 12, 5])
    exact = inference.filter(kalman(u=True), y, u, lengths=lengths)
    runs = [
        particle_filter(walk(u=True), y, u, particles=2000, lengths=lengths, seed=s)
        for s in range(20)
    ]
    for pick in ("mean", "cov", "log_likelihoods"):
        values = torch.stack([getattr(one, pick) for one in runs])
        error = (values.mean(0) - getattr(exact, pick)).abs()
        assert (error <= 5 * values.std(0) / math.sqrt(20) + 2e-3).all()
        assert not values[:, 2, 5:].any()


def test_outputs_that_are_missing_alone():
    H = torch.tensor([[1.0], [-0.5]], dtype=torch.float64)
    model = StateSpaceModel(
        walk().initial, walk().transition, lambda x, t: Normal(x @ H.T, math.sqrt(R))
    )
    y = torch.cat([data(seed=1), data(seed=2)], -1)
    y[0, 1, 0] = y[0, 5] = torch.nan
    linear = LinearGaussian([[A]], H, [[Q]], R * np.eye(2), P0=[[P0.item()]])
    exact = inference.filter(linear, y).log_likelihood
    found = particle_filter(model, y.expand(1000, -1, -1), particles=50).log_likelihood
    ratio = (found - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(1000)


def test_discrete_states_are_those_of_the_forward_recursion():
    P = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]], dtype=torch.float64)
    E = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], dtype=torch.float64)
    start = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    model = StateSpaceModel(
        lambda: Categorical(start.unsqueeze(0)),
        lambda x, t: Categorical(P[x.long()]),
        lambda x, t: Categorical(E[x.long()]),
    )
    y = torch.tensor([[[0.0], [1.0], [1.0], [2.0], [2.0], [0.0]]], dtype=torch.float64)
    exact = HiddenMarkov(start, P, CategoricalEmission(E)).filter(y).log_likelihood
    found = particle_filter(model, y.expand(2000, -1, -1), particles=30).log_likelihood
    ratio = (found - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(2000)


def test_both_smoothers_are_those_of_kalman():
    y = data(T=10, seed=3)
    y[0, 4] = torch.nan
    whole = inference.smooth(inference.filter(kalman(), y))
    runs = particle_filter(walk(), y.expand(40, -1, -1), particles=200, seed=2)
    w = smooth_particles(runs).exp()
    torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]), rtol=0, atol=1e-12)
    x = runs.particles[..., 0]
    mean = (w * x).sum(-1)
    error = (mean.mean(0) - whole.mean[0, :, 0]).abs()
    assert (error <= 5 * mean.std(0) / math.sqrt(40) + 0.01).all()
    paths = sample_paths(runs, 200, seed=4)[..., 0]
    pooled = paths.flatten(0, 1)
    change = pooled - pooled.mean(0)
    each = paths.mean(0)
    error = (each.mean(0) - whole.mean[0, :, 0]).abs()
    assert (error <= 5 * each.std(0) / math.sqrt(40) + 0.01).all()
    lag = (change[:, 1:] * change[:, :-1]).mean(0)
    torch.testing.assert_close(lag, whole.cross[0, 1:, 0, 0], rtol=0, atol=0.03)
    torch.testing.assert_close(change.square().mean(0), whole.cov[0, :, 0, 0], rtol=0, atol=0.03)


def test_drawn_paths_have_the_smoothing_weights():
    """Given the particles, a drawn state at any step is particle i with the weight of FFBSm."""
    y = data(T=6)
    runs = particle_filter(walk(), y, particles=5, seed=0)
    w = smooth_particles(runs).exp()[0]
    paths = sample_paths(runs, 20_000, seed=1)[:, 0]
    for t in range(6):
        share = (paths[:, t] == runs.particles[0, t, :, 0]).double().mean(0)
        assert ((share - w[t]).abs() <= 5 * (w[t] * (1 - w[t]) / 20_000).sqrt() + 1e-4).all()


def test_lengths_end_paths():
    y = data(B=2, T=6)
    lengths = torch.tensor([6, 3])
    whole = particle_filter(walk(), y, particles=50, lengths=lengths)
    y[1, 3:] = 1e6
    again = particle_filter(walk(), y, particles=50, lengths=lengths)
    assert torch.equal(whole.log_likelihoods, again.log_likelihoods)
    assert torch.equal(smooth_particles(whole)[1, 2:], whole.log_weights[1, 2:])
    assert not sample_paths(whole, 3)[:, 1, 3:].any()
    exact = inference.filter(kalman(), y, lengths=lengths)
    assert (whole.log_likelihood - exact.log_likelihood).abs().max() < 2


def test_a_seed_gives_the_same_and_leaves_the_callers_numbers():
    y = data(B=2)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (particle_filter(walk(), y, particles=30, seed=s) for s in (3, 3, 4))
    assert torch.equal(one.particles, two.particles)
    assert not torch.equal(one.particles, other.particles)
    generator = np.random.default_rng(3)
    assert torch.equal(
        particle_filter(walk(), y, particles=30, seed=generator).particles, one.particles
    )
    assert torch.equal(sample_paths(one, 4, seed=1), sample_paths(two, 4, seed=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_outlier_gives_minus_infinity_and_no_nan():
    model = StateSpaceModel(
        lambda: Normal(torch.zeros(1, dtype=torch.float64), 1.0),
        lambda x, t: Normal(x, 1.0),
        lambda x, t: torch.distributions.Uniform(x - 1, x + 1, validate_args=False),
    )
    y = torch.tensor([[[0.0], [1e6], [0.0]]], dtype=torch.float64)
    found = particle_filter(model, y, particles=10)
    assert found.log_likelihood.item() == -math.inf
    assert found.log_likelihoods[0, 0].isfinite()
    assert not found.mean.isnan().any()
    assert found.ess[0, 1] == pytest.approx(10)


def test_vector_laws_with_full_covariances():
    F = torch.tensor([[0.9, 0.2], [0.0, 0.8]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    model = StateSpaceModel(
        lambda: MultivariateNormal(torch.zeros(2).double(), eye),
        lambda x, t: MultivariateNormal(x @ F.T, 0.3 * eye),
        lambda x, t: MultivariateNormal(x, 0.5 * eye),
    )
    y = torch.cat([data(T=5, seed=1), data(T=5, seed=2)], -1)
    y[0, 2] = torch.nan
    exact = inference.filter(LinearGaussian(F, eye, 0.3 * eye, 0.5 * eye, P0=eye), y)
    found = particle_filter(model, y.expand(1000, -1, -1), particles=50).log_likelihood
    ratio = (found - exact.log_likelihood).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(1000)


@pytest.mark.parametrize("way", WAYS, ids=lambda x: type(x).__name__)
def test_resampling_copies_by_weight(way):
    N, runs = 7, 100_000
    w = torch.tensor([0.3, 0.0, 0.25, 0.05, 0.4, 0.0, 0.0], dtype=torch.float64)
    torch.manual_seed(0)
    ancestors = way(w.expand(runs, N))
    counts = torch.stack([(ancestors == i).sum(-1) for i in range(N)], -1).double()
    sd = counts.std(0)
    assert ((counts.mean(0) - N * w).abs() <= 5 * sd / math.sqrt(runs) + 1e-12).all()
    assert not counts[:, w == 0].any()
    if isinstance(way, Systematic):
        assert (counts >= (N * w).floor()).all()
        assert (counts <= (N * w).ceil()).all()
    if isinstance(way, Residual):
        assert (counts >= (N * w).floor()).all()
    one = torch.zeros(2, N, dtype=torch.float64)
    one[0, 3] = one[1, 6] = 1.0
    assert (way(one) == torch.tensor([[3], [6]])).all()
    even = torch.full((1, N), 1 / N, dtype=torch.float64)
    assert ((way(even) >= 0) & (way(even) < N)).all()
    big = torch.softmax(torch.randn(1, 200_000), -1)
    assert way(big).max() < 200_000


def test_resampling_variance_is_ordered():
    torch.manual_seed(1)
    w = torch.softmax(torch.randn(1, 50, dtype=torch.float64), -1)
    value = torch.linspace(-1, 1, 50, dtype=torch.float64)
    spread = [value[way(w.expand(20_000, 50))].mean(-1).std().item() for way in WAYS]
    multinomial, stratified, systematic, residual = spread
    assert max(stratified, systematic, residual) < multinomial
    assert max(stratified, systematic) < residual


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"y has shape \(3, 1\)"):
        particle_filter(walk(), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="particles is 0"):
        particle_filter(walk(), torch.zeros(1, 3, 1), particles=0)
    with pytest.raises(ValueError, match=r"u has shape \(1, 2, 1\)"):
        particle_filter(walk(), torch.zeros(1, 3, 1), torch.zeros(1, 2, 1))
    wrong = StateSpaceModel(walk().initial, lambda x, t: Normal(x[:, :1], 1.0), walk().observation)
    with pytest.raises(ValueError, match=r"the law of x_t has shape \(1, 1, 1\)"):
        particle_filter(wrong, torch.zeros(1, 3, 1), particles=4)
    wrong = StateSpaceModel(lambda: Normal(0.0, 1.0), walk().transition, walk().observation)
    with pytest.raises(ValueError, match=r"the first law has shape \(\)"):
        particle_filter(wrong, torch.zeros(1, 3, 1), particles=4)
