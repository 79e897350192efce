"""Particle marginal Metropolis–Hastings beside posteriors that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, Uniform

from statewise import inference
from statewise.inference import (
    Guided,
    LinearGaussian,
    RandomWalk,
    StateSpaceModel,
    particle_filter,
    pmmh,
    tune_particles,
)

Q, R, P0 = 0.5, 0.4, 1.2
ZERO = torch.zeros(1, dtype=torch.float64)


def data(B=1, T=4, a=0.7, seed=0):
    rng = np.random.default_rng(seed)
    x, y = math.sqrt(P0) * rng.normal(size=(B, 1)), []
    for _ in range(T):
        y.append(x + math.sqrt(R) * rng.normal(size=x.shape))
        x = a * x + math.sqrt(Q) * rng.normal(size=x.shape)
    return torch.as_tensor(np.stack(y, 1))


def decay(theta):
    """An unknown decay a of a linear model."""
    a = theta[:, :1, None]
    return StateSpaceModel(
        lambda: Normal(ZERO, math.sqrt(P0)),
        lambda x, t: Normal(a * x, math.sqrt(Q)),
        lambda x, t: Normal(x, math.sqrt(R)),
    )


def level(theta):
    """Outputs θ_1 + noise: the likelihood is exact, whatever the particles are."""
    m = theta[:, :1, None]
    return StateSpaceModel(
        lambda: Normal(ZERO, 1.0),
        lambda x, t, *u: Normal(0.5 * x, 1.0),
        lambda x, t, *u: Normal(m + 0 * x + (u[0] if u else 0.0), 1.0),
    )


def on_grid(y, points=2001):
    """Mean and second moment of a under a uniform prior on (−1, 1)."""
    a = torch.linspace(-1, 1, points, dtype=torch.float64)
    F = a.reshape(-1, 1, 1, 1)
    model = LinearGaussian(F, [[1.0]], [[Q]], [[R]], P0=[[P0]])
    w = torch.softmax(inference.log_likelihood(model, y.expand(points, -1, -1)), 0)
    return (w @ a).item(), (w @ a.square()).item()


def conjugate(y, prior_variance=4.0):
    """Mean and variance of a level under a normal prior."""
    seen = y[~y.isnan()]
    variance = 1 / (1 / prior_variance + len(seen))
    return variance * seen.sum().item(), variance


@pytest.mark.parametrize("particles", [2, 30])
def test_few_particles_have_the_exact_posterior(particles):
    """400 chains; their means after a burn-in are independent estimates."""
    y = data()
    found = pmmh(
        decay,
        Uniform(-1.0, 1.0),
        y,
        chains=400,
        start=torch.linspace(-0.9, 0.9, 400).unsqueeze(1),
        particles=particles,
        burn_in=60,
        draws=150,
        seed=1,
    )
    for power, exact in zip((1, 2), on_grid(y), strict=True):
        each = (found.chains[..., 0] ** power).mean(1)
        assert abs(each.mean() - exact) < 4 * each.std() / math.sqrt(400)
    assert (found.chains.abs() < 1).all()


def test_an_estimate_is_kept_until_another_is_accepted():
    found = pmmh(decay, Uniform(-1.0, 1.0), data(), particles=3, draws=100, burn_in=20)
    still = found.chains[:, 1:, 0] == found.chains[:, :-1, 0]
    same = found.log_likelihood[:, 1:] == found.log_likelihood[:, :-1]
    assert torch.equal(still, same)
    assert 0.02 < still.double().mean() < 0.98
    moved = (~still).double().sum(1)
    assert ((found.acceptance * 100 - moved).abs() <= 1).all()
    torch.testing.assert_close(found.log_prior, torch.full_like(found.log_prior, -math.log(2)))


def test_an_exact_likelihood_gives_the_conjugate_posterior():
    y = data(B=3, T=4)
    y[1, 2:3] = torch.nan
    lengths = torch.tensor([4, 4, 2])
    cut = y.clone()
    cut[2, 2:] = torch.nan
    prior = Normal(ZERO, 2.0)
    shared = pmmh(level, prior, y, lengths=lengths, particles=1, chains=16, draws=300, burn_in=100)
    mean, variance = conjugate(cut)
    summary = shared.summary()
    assert abs(summary.mean[0] - mean) < 5 * summary.mcse[0]
    assert summary.sd[0] == pytest.approx(math.sqrt(variance), rel=0.1)
    assert shared.rhat[0] < 1.05
    assert shared.ess_bulk[0] > 300
    assert shared.ess_tail[0] > 150
    direct = Normal(shared.chains, 1.0).log_prob(cut[~cut.isnan()]).sum(-1)
    torch.testing.assert_close(shared.log_likelihood, direct)
    torch.testing.assert_close(shared.log_prior, prior.log_prob(shared.chains).squeeze(-1))
    apart = pmmh(
        level,
        prior,
        y,
        lengths=lengths,
        particles=1,
        chains=16,
        draws=300,
        burn_in=150,
        separate=True,
        seed=2,
    )
    assert tuple(apart.chains.shape) == (3, 16, 300, 1)
    assert apart.rhat.shape == (3, 1)
    for i in range(3):
        one = apart.of(i).summary()
        mean, variance = conjugate(cut[i])
        assert abs(one.mean[0] - mean) < 5 * one.mcse[0]
        assert one.sd[0] == pytest.approx(math.sqrt(variance), rel=0.15)


def test_inputs_and_methods_of_parameters_are_passed_on():
    y, u = data(B=2, T=3), torch.ones(2, 3, 1, dtype=torch.float64)
    asked = []

    def method(theta):
        asked.append(tuple(theta.shape))
        return Guided(lambda x, y, t, *u: Normal(torch.zeros(len(theta), 5, 1).double(), 1.0))

    found = pmmh(
        level, Normal(ZERO, 2.0), y, u, method=method, particles=5, chains=3, draws=4, burn_in=0
    )
    assert set(asked) == {(6, 1)}
    assert found.log_likelihood.isfinite().all()
    plain = pmmh(level, Normal(ZERO, 2.0), y, u, particles=5, chains=3, draws=4, burn_in=0)
    direct = Normal(plain.chains + 1, 1.0).log_prob(y.flatten()).sum(-1)
    torch.testing.assert_close(plain.log_likelihood, direct)


def test_first_laws_of_each_row():
    y = data(B=1, T=1)

    def start(theta):
        return StateSpaceModel(
            lambda: Normal(theta[:, :1, None], 1.0),
            lambda x, t: Normal(x, 1.0),
            lambda x, t: Normal(x, 1.0),
        )

    theta = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    from statewise.inference.prior_law import widened

    found = particle_filter(widened(start(theta), 2, 40_000), y.expand(2, -1, -1), particles=40_000)
    exact = Normal(theta[:, 0], math.sqrt(2)).log_prob(y[0, 0])
    torch.testing.assert_close(found.log_likelihood, exact, rtol=0, atol=0.05)


def test_a_model_is_never_asked_outside_of_the_prior():
    def careful(theta):
        assert (theta[:, 0] > 0).all()
        return level(theta)

    laws = [Uniform(0.0, 0.5), Normal(0.0, 1.0)]
    found = pmmh(careful, laws, data(), particles=1, draws=40, burn_in=10, names=["a", "b"])
    assert found.chains[..., 0].min() > 0
    assert found.chains[..., 0].max() < 0.5
    assert found.names == ("a", "b")
    direct = -math.log(0.5) + Normal(0.0, 1.0).log_prob(found.chains[..., 1])
    torch.testing.assert_close(found.log_prior, direct)

    def density(theta):
        return torch.where((theta > 0).all(-1), -theta.sum(-1), -torch.inf)

    free = pmmh(careful, density, data(), start=[0.2], particles=1, draws=20, burn_in=0)
    torch.testing.assert_close(free.log_prior, -free.chains.sum(-1))
    joint = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    both = pmmh(level, joint, data(), particles=1, draws=5, burn_in=0)
    torch.testing.assert_close(both.log_prior, joint.log_prob(both.chains))


def test_the_proposal_learns_and_then_stays():
    y = data(B=4, T=2)
    prior = Normal(ZERO, 2.0)
    wide = RandomWalk([25.0])
    options = {"particles": 1, "chains": 8, "start": [0.0]}
    learned = pmmh(level, prior, y, proposal=wide, burn_in=300, draws=100, **options)
    variance = conjugate(y)[1]
    assert 2 * variance < learned.covariance.item() < 12 * variance
    assert 0.3 < learned.acceptance.mean() < 0.6
    still = pmmh(
        level, prior, y, proposal=RandomWalk([0.04], adapt=False), burn_in=20, draws=1, **options
    )
    assert still.covariance.item() == pytest.approx(0.04 * 2.38**2)
    never = pmmh(level, prior, y, proposal=wide, burn_in=0, draws=1, **options)
    assert never.covariance.item() == pytest.approx(25 * 2.38**2)
    # A likelihood that never lets go must not take the steps down to nothing.
    noisy = pmmh(decay, Uniform(-1.0, 1.0), data(T=20), particles=2, draws=1, burn_in=60)
    assert noisy.covariance.item() > 1e-4


def test_a_seed_gives_the_same_and_leaves_the_callers_numbers():
    before = torch.random.get_rng_state()
    runs = [
        pmmh(decay, Uniform(-1.0, 1.0), data(), particles=5, draws=20, burn_in=5, seed=seed)
        for seed in (3, 3, 4)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(runs[0].chains, runs[1].chains)
    assert not torch.equal(runs[0].chains, runs[2].chains)


def test_particles_are_tuned():
    y = data(T=40)
    found = tune_particles(decay, y, [0.7], particles=5, target=1.0, runs=200)
    assert found.tried[0][0] == 5
    assert found.tried[0][1] > 2
    assert found.tried[-1] == (found.particles, found.sd)
    assert 0.75 <= found.sd <= 1.25
    rows = particle_filter(
        decay(torch.full((400, 1), 0.7)), y.expand(400, -1, -1), particles=found.particles, seed=9
    )
    assert rows.log_likelihood.std() == pytest.approx(1.0, rel=0.4)
    down = tune_particles(decay, y, [0.7], particles=3000, target=1.0, runs=100)
    assert 0.4 < down.particles / found.particles < 2.5
    # The estimates of two series are multiplied, and so their variances add.
    two = tune_particles(decay, y.repeat(2, 1, 1), [0.7], particles=100, target=1.0, runs=200)
    assert 1.2 < two.particles / found.particles < 3.5
    with pytest.raises(ValueError, match="20 particles leave"):
        tune_particles(decay, y, [0.7], particles=5, most=20)


def test_figures_and_arguments():
    found = pmmh(level, [Normal(0.0, 1.0)], data(), particles=1, draws=10, burn_in=0)
    assert len(found.plot().axes) == 2
    with pytest.raises(ValueError, match="separate=True"):
        found.of(0)
    apart = pmmh(
        level, [Normal(0.0, 1.0)], data(B=2), particles=1, draws=10, burn_in=0, separate=True
    )
    with pytest.raises(ValueError, match=r"\.of\(i\)"):
        apart.plot()
    prior = Uniform(0.0, 1.0)
    with pytest.raises(ValueError, match=r"y has shape \(3, 1\)"):
        pmmh(level, prior, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="draws is 0"):
        pmmh(level, prior, data(), draws=0)
    with pytest.raises(ValueError, match="no density"):
        pmmh(level, prior, data(), start=[2.0])
    with pytest.raises(ValueError, match=r"start has shape \(3, 1\)"):
        pmmh(level, prior, data(), start=torch.full((3, 1), 0.5))
    with pytest.raises(ValueError, match="the prior has 2 laws"):
        pmmh(level, [prior, prior], data(), start=[0.5])
    with pytest.raises(ValueError, match="give start"):
        pmmh(level, lambda theta: theta[:, 0], data())
    with pytest.raises(ValueError, match=r"covariance has shape \(2, 2\)"):
        pmmh(level, prior, data(), proposal=RandomWalk([1.0, 1.0]), particles=1)
    with pytest.raises(ValueError, match=r"log-density of the prior has shape \(4, 1\)"):
        pmmh(level, lambda theta: theta, data(), start=[0.5])
    with pytest.raises(ValueError, match=r"theta has shape \(1, 1\)"):
        tune_particles(level, data(), [[0.5]])
