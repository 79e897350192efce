"""SMC² beside evidences and posteriors that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

from statewise import inference
from statewise.inference import (
    SMC2,
    Auxiliary,
    Guided,
    LinearGaussian,
    Multinomial,
    RandomWalk,
    StateSpaceModel,
    Systematic,
    particle_filter,
    pooled_evidence,
    smc2,
)
from statewise.inference.conditional import Series
from statewise.inference.particle_step import advance

Q, R, P0 = 0.5, 0.4, 1.2
ZERO = torch.zeros(1, dtype=torch.float64)
PRIOR = Uniform(-1.0, 1.0)


def data(B=1, T=6, a=0.7, seed=0):
    rng = np.random.default_rng(seed)
    x, y = math.sqrt(P0) * rng.normal(size=(B, 1)), []
    for _ in range(T):
        y.append(x + math.sqrt(R) * rng.normal(size=x.shape))
        x = a * x + math.sqrt(Q) * rng.normal(size=x.shape)
    return torch.as_tensor(np.stack(y, 1))


def decay(theta):
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


def exact(y):
    """Log-evidence, mean and sd of a under the uniform prior, on a grid."""
    a = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    model = LinearGaussian(a.reshape(-1, 1, 1, 1), [[1.0]], [[Q]], [[R]], P0=[[P0]])
    logs = sum(inference.log_likelihood(model, one.expand(2001, -1, -1)) for one in y)
    w = torch.softmax(logs, 0)
    mean = w @ a
    return torch.logsumexp(logs, 0) - math.log(2001), mean, (w @ (a - mean).square()).sqrt()


def test_evidence_and_posterior_are_those_of_a_grid():
    y = data(B=2, T=8)
    y[1, 3] = torch.nan
    truth, mean, sd = exact(y)
    runs = [smc2(decay, PRIOR, y, thetas=150, particles=30, seed=s) for s in range(12)]
    pooled = pooled_evidence(torch.stack([one.log_evidence[-1] for one in runs]))
    assert (pooled.value - truth).abs() < 4 * pooled.standard_error
    assert pooled.standard_error < 0.1
    means = torch.stack([one.mean[0] for one in runs])
    assert (means.mean() - mean).abs() < 4 * means.std() / math.sqrt(12)
    sds = torch.stack([one.cov[0, 0].sqrt() for one in runs])
    assert (sds.mean() - sd).abs() < 0.15 * sd
    # The error that one run tells of is about the spread of the runs.
    spread = torch.stack([one.log_evidence[-1] for one in runs]).std()
    told = torch.stack([one.evidence.standard_error for one in runs]).median()
    assert 0.4 < told / spread < 2.5
    assert all(bool(one.acceptance.isfinite().any()) for one in runs)


def test_state_means_are_those_of_the_mixture():
    """With one certain θ the states are those of the Kalman filter."""
    y = data(B=2, T=6)
    known = torch.full((50, 1), 0.7, dtype=torch.float64)
    found = smc2(decay, PRIOR, y, thetas=50, start=known, particles=200)
    model = LinearGaussian([[0.7]], [[1.0]], [[Q]], [[R]], P0=[[P0]])
    whole = inference.filter(model, y)
    assert tuple(found.states.shape) == (2, 6, 1)
    torch.testing.assert_close(found.states, whole.mean, rtol=0, atol=0.05)
    assert (found.log_evidence[-1] - whole.log_likelihood.sum()).abs() < 0.3
    torch.testing.assert_close(found.means, torch.full_like(found.means, 0.7))


def test_an_exchange_gives_the_weights_of_the_new_filters():
    """Before θ were moved a weight is Ẑ itself, of the old filters and then of the new ones."""
    y = data(T=5)
    run = SMC2(decay, PRIOR, thetas=40, particles=4, threshold=0.0)
    for t in range(5):
        run.update(y[:, t])
    old = run.log_likelihoods
    torch.testing.assert_close(run.log_weights, torch.log_softmax(old, 0))
    evidence = run.log_evidence.clone()
    run.exchange(500)
    assert not torch.equal(run.log_likelihoods, old)
    torch.testing.assert_close(run.log_weights, torch.log_softmax(run.log_likelihoods, 0))
    assert torch.equal(run.log_evidence, evidence)
    assert run._cloud.x.shape == (40, 500, 1)
    models = LinearGaussian(run.theta.reshape(-1, 1, 1, 1), [[1.0]], [[Q]], [[R]], P0=[[P0]])
    truth = inference.log_likelihood(models, y.expand(40, -1, -1))
    assert (run.log_likelihoods - truth).abs().max() < 0.5
    run.update(y[:, 0])
    assert run.result().particles.tolist() == [4, 4, 4, 4, 4, 500]


def test_an_exchange_leaves_expectations():
    """Over many θ, the posterior mean by 3 particles is that by 60 after the exchange."""
    y = data(T=6)
    truth, mean, sd = exact(y)
    found = []
    for seed in range(10):
        run = SMC2(decay, PRIOR, thetas=2000, particles=3, threshold=0.0, seed=seed)
        for t in range(6):
            run.update(y[:, t])
        run.exchange(60)
        found.append(run.log_weights.exp() @ run.theta[:, 0])
    found = torch.stack(found)
    assert (found.mean() - mean).abs() < 4 * found.std() / math.sqrt(10)
    assert found.std() < 0.3 * sd
    assert (run.log_evidence - truth).abs() < 0.3


def test_moves_keep_the_estimates_of_what_stays():
    y = data(T=4)
    run = SMC2(decay, PRIOR, thetas=300, particles=3, threshold=0.0)
    for t in range(4):
        run.update(y[:, t])
    run._choose(Systematic()(run.log_weights.exp()[None])[0])
    theta, ll, x = run.theta, run.log_likelihoods, run._cloud.x
    law = torch.distributions.MultivariateNormal(theta.mean(0), 0.1 * torch.eye(1).double())
    share = run._move(law)
    still = (run.theta == theta)[:, 0]
    assert share == pytest.approx(1 - still.double().mean().item())
    assert 0 < share < 1
    assert torch.equal(still, run.log_likelihoods == ll)
    assert torch.equal(still, (run._cloud.x == x).all(-1).all(-1))


def test_what_is_resampled_keeps_its_filters():
    y = data(B=2, T=3)
    run = SMC2(decay, PRIOR, thetas=6, particles=4, threshold=0.0)
    for t in range(3):
        run.update(y[:, t])
    theta, ll = run.theta, run.log_likelihoods
    x, logs = (z.unflatten(0, (6, 2)) for z in run._cloud)
    index = torch.tensor([5, 5, 0, 2, 2, 2])
    run._choose(index)
    assert torch.equal(run.theta, theta[index])
    assert torch.equal(run.log_likelihoods, ll[index])
    assert torch.equal(run._cloud.x.unflatten(0, (6, 2)), x[index])
    assert torch.equal(run._cloud.log_weights.unflatten(0, (6, 2)), logs[index])
    torch.testing.assert_close(run.log_weights.exp(), torch.full((6,), 1 / 6).double())


@pytest.mark.parametrize("walk", [None, RandomWalk()])
def test_moves_leave_the_posterior_as_it_is(walk):
    """Moved 3 times, weighted θ have the same mean and variance: those of the exact posterior."""
    y = data(T=5)
    _, mean, sd = exact(y)
    run = SMC2(decay, PRIOR, thetas=3000, particles=5, threshold=0.0, proposal=walk, seed=2)
    for t in range(5):
        run.update(y[:, t])
    W = run.log_weights.exp()
    run.least = 0.0
    run._rejuvenate(W)
    assert run.particles == 5
    torch.testing.assert_close(W.sum(), torch.tensor(1.0).double())
    distinct = len(run.theta.unique())
    assert distinct > 500
    error = sd / math.sqrt(distinct)
    assert (run.theta.mean() - mean).abs() < 5 * error
    assert (run.theta.std() / sd - 1).abs() < 0.15


def test_unequal_thetas_alone_do_not_ask_for_more_particles():
    """Likelihoods without noise differ by hundreds of nats between θ; N stays."""
    y = data(T=12) + 5
    found = smc2(level, Normal(ZERO, 10.0), y, thetas=200, particles=1)
    assert set(found.particles.tolist()) == {1}
    moved = found.acceptance[found.acceptance.isfinite()]
    assert len(moved) >= 2
    assert moved.min() > 0.5
    variance = 1 / (1 / 100 + 12)
    assert (found.mean[0] - variance * y.sum()).abs() < 5 * math.sqrt(variance / 100)
    joint = torch.distributions.MultivariateNormal(
        torch.zeros(12).double(), torch.eye(12).double() + 100
    )
    assert (found.log_evidence[-1] - joint.log_prob(y.flatten())).abs() < 0.8


def test_noise_of_the_filters_asks_for_more_particles():
    y = data(T=40)
    found = smc2(decay, PRIOR, y, thetas=60, particles=2, seed=1)
    assert found.particles[-1] >= 8
    early = found.acceptance[found.particles == 2]
    assert early[early.isfinite()].min() < 0.2
    capped = smc2(decay, PRIOR, y[:, :20], thetas=30, particles=2, most=3, seed=1)
    assert set(capped.particles.tolist()) == {2}


def best(x, y, t, *u):
    mean = torch.zeros_like(y) if x is None else 0.7 * x
    var = P0 if x is None else Q
    gain = var / (var + R)
    return Normal((mean + gain * (y - mean)).expand(-1, 20, 1), math.sqrt((1 - gain) * var))


METHODS = {
    "guided": Guided(best),
    "auxiliary": Auxiliary(
        lambda x, y, t: Normal(0.7 * x, math.sqrt(Q + R)).log_prob(y).squeeze(-1), best
    ),
    "auxiliary, crude": Auxiliary(lambda x, y, t: Normal(0.7 * x, 2.0).log_prob(y).squeeze(-1)),
}


@pytest.mark.parametrize("threshold", [0.5, 1.1])
@pytest.mark.parametrize("name", list(METHODS))
def test_steps_are_unbiased(name, threshold):
    y = data(T=5)
    y[0, 2] = torch.nan
    model = LinearGaussian([[0.7]], [[1.0]], [[Q]], [[R]], P0=[[P0]])
    truth = inference.filter(model, y).log_likelihood
    torch.manual_seed(0)
    theta = torch.full((2000, 1), 0.7, dtype=torch.float64)
    series = Series.of(decay(theta), y.expand(2000, -1, -1))
    cloud, found = None, 0
    for t in range(5):
        cloud, gained = advance(series, cloud, t, 20, METHODS[name], Multinomial(), threshold)
        found = found + gained
    ratio = (found - truth).exp()
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / math.sqrt(2000)


def test_steps_are_those_of_the_particle_filter():
    y = data(B=3, T=6)
    theta = torch.full((3, 1), 0.7, dtype=torch.float64)
    series = Series.of(decay(theta), y)
    torch.manual_seed(1)
    cloud, total = None, 0
    for t in range(6):
        cloud, gained = advance(series, cloud, t, 400, inference.Bootstrap(), Systematic(), 0.5)
        total = total + gained
    whole = particle_filter(decay(theta), y, particles=400)
    assert (whole.log_likelihood - total).abs().max() < 1
    mean = (cloud.log_weights.exp().unsqueeze(-1) * cloud.x).sum(1)
    assert (mean - whole.mean[:, -1]).abs().max() < 0.3


def test_a_seed_gives_the_same_and_leaves_the_callers_numbers():
    y = data(T=6)
    before = torch.random.get_rng_state()
    runs = [smc2(decay, PRIOR, y, thetas=40, particles=10, seed=s) for s in (3, 3, 4)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(runs[0].theta, runs[1].theta)
    assert not torch.equal(runs[0].theta, runs[2].theta)
    assert torch.equal(runs[0].sample(seed=1), runs[1].sample(seed=1))
    assert set(runs[0].sample().flatten().tolist()) <= set(runs[0].theta.flatten().tolist())


def test_what_is_behind_an_end_counts_as_missing():
    y = data(B=2)
    shorter = y.clone()
    shorter[1, 4:] = torch.nan
    options = {"thetas": 20, "particles": 30, "seed": 3}
    found = smc2(decay, PRIOR, y, lengths=[6, 4], **options)
    again = smc2(decay, PRIOR, shorter, **options)
    assert torch.equal(found.log_evidence, again.log_evidence)
    assert not torch.equal(found.log_evidence, smc2(decay, PRIOR, y, **options).log_evidence)
    with pytest.raises(ValueError, match="from 0 to the 6 steps"):
        smc2(decay, PRIOR, y, lengths=[6, 7], **options)


def test_what_no_theta_can_have_given_is_minus_infinity():
    def boxed(theta):
        return StateSpaceModel(
            lambda: Normal(ZERO, 1.0),
            lambda x, t: Normal(x, 1.0),
            lambda x, t: Uniform(x - 1, x + 1, validate_args=False),
        )

    y = torch.tensor([[[0.0], [1e6], [0.0]]], dtype=torch.float64)
    found = smc2(boxed, PRIOR, y, thetas=10, particles=5)
    assert found.log_evidence[0].isfinite()
    assert found.log_evidence[1:].tolist() == [-math.inf, -math.inf]
    assert not found.theta.isnan().any()
    assert not found.log_weights.isnan().any()


def test_inputs_figures_and_arguments():
    y, u = data(B=2, T=4), torch.ones(2, 4, 1, dtype=torch.float64)
    found = smc2(level, Normal(ZERO, 2.0), y, u, thetas=300, particles=1, names=["level"])
    variance = 1 / (1 / 4 + 8)
    assert (found.mean[0] - variance * (y - 1).sum()).abs() < 5 * math.sqrt(variance / 100)
    assert len(found.plot().axes) == 3
    run = SMC2(level, PRIOR)
    with pytest.raises(ValueError, match="no observation"):
        run.result()
    run.update(y[:, 0], u[:, 0])
    with pytest.raises(ValueError, match="inputs were given"):
        run.update(y[:, 1])
    with pytest.raises(ValueError, match=r"it must be \(2, 1\)"):
        run.update(y[:1, 1], u[:1, 1])
    with pytest.raises(ValueError, match="thetas is 1"):
        SMC2(level, PRIOR, thetas=1)
    with pytest.raises(ValueError, match=r"start has shape \(3, 1\)"):
        smc2(level, PRIOR, y, start=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="give start"):
        smc2(level, lambda theta: theta[:, 0], y)
    with pytest.raises(ValueError, match=r"y has shape \(4, 1\)"):
        smc2(level, PRIOR, y[0])
    with pytest.raises(ValueError, match=r"u has shape \(2, 3, 1\)"):
        smc2(level, PRIOR, y, u[:, :3])
