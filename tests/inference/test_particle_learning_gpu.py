"""Parameters by particles, and diagnostics, with tensors on a GPU."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

from inference.device_cases import (
    DEVICE,
    P0,
    Q,
    R,
    data,
    kalman,
    name_of,
    near,
    ragged,
    there,
    twice,
    walk,
)
from statewise import inference
from statewise.inference import (
    BackwardSampling,
    GibbsScore,
    LinearGaussian,
    MetropolisBackward,
    Multinomial,
    ParisianScore,
    ParisScore,
    RandomWalk,
    StateSpaceModel,
    climb_likelihood,
    evidence,
    fit_proposal,
    log_joint,
    particle_filter,
    pmmh,
    score,
    smc2,
    tune_particles,
)

pytestmark = pytest.mark.gpu

THETA = torch.tensor([0.8, -0.7, -0.9], dtype=torch.float64)


def decay(theta):
    """An unknown decay of a linear model."""
    zero, a = torch.zeros(1, dtype=torch.float64, device=theta.device), theta[:, :1, None]
    return StateSpaceModel(
        lambda: Normal(zero, math.sqrt(P0)),
        lambda x, t: Normal(a * x, math.sqrt(Q)),
        lambda x, t: Normal(x, math.sqrt(R)),
    )


def priors():
    """Of one number: on the CPU, on the device, in a list, and a function."""
    one = torch.ones((), dtype=torch.float64, device=DEVICE)
    return {
        "law": Uniform(-1.0, 1.0),
        "law on the device": Uniform(-one, one),
        "list": [Uniform(-1.0, 1.0)],
        "function": lambda theta: torch.where(theta.abs() < 1, 0.0, -math.inf).sum(1).double(),
    }


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_metropolis_chains(which):
    prior = list(priors().values())[which]
    options = {"draws": 6, "burn_in": 4, "chains": 3, "particles": 30}
    options |= {"start": [0.5]} if which == 3 else {}
    options |= {"proposal": RandomWalk([0.04])} if which == 2 else {}
    y = data(2)
    found = pmmh(decay, prior, y, lengths=[6, 4], names=["a"], **options)
    twice(lambda: (pmmh(decay, prior, y, lengths=[6, 4], names=["a"], **options).chains,))
    there(found.log_likelihood, found.log_prior, found.covariance, found.acceptance)
    assert (found.chains.abs() <= 1).all()
    assert found.summary().mean.shape == found.rhat.shape == (1,)
    apart = pmmh(decay, prior, y, separate=True, **options)
    there(apart.chains, apart.of(1).chains)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_parameters_online(which):
    """With gaps; moves and a doubling of the particles are forced."""
    prior = list(priors().values())[which]
    options = {"thetas": 40, "particles": 15, "threshold": 1.1, "moves": 1, "seed": 1}
    options |= {"least": 1.1, "most": 40} if which == 0 else {}
    options |= {"start": torch.linspace(-0.9, 0.9, 40).unsqueeze(1)} if which == 3 else {}
    options |= {"proposal": RandomWalk()} if which == 2 else {}
    y = data(2, 4)
    y[0, 1] = torch.nan
    found = smc2(decay, prior, y, **options)
    twice(lambda: (smc2(decay, prior, y, **options).theta, found.log_evidence, found.states))
    there(found.standard_error, found.means, found.ess)
    W = found.log_weights.exp().sum()
    torch.testing.assert_close(W, torch.ones_like(W))
    grid = torch.linspace(-1, 1, 201, dtype=torch.float64).reshape(-1, 1, 1, 1)
    rows = LinearGaussian(grid, [[1.0]], [[Q]], [[R]], P0=[[P0]])
    exact = [inference.log_likelihood(rows, one.expand(201, -1, -1)) for one in y.cpu()]
    total = torch.logsumexp(torch.stack(exact).sum(0), 0) - math.log(201)
    assert (found.log_evidence[-1].cpu() - total).abs() < 2


def test_the_number_of_particles():
    found = tune_particles(decay, data(), [0.7], particles=10, target=1.0, runs=50)
    assert found.sd <= 1.25


def build(theta):
    """Slope and log-variances of state and output: (3,), or (B, 3) for a row for each series."""
    a, q, r = theta.reshape(-1, 3, 1, 1).unbind(1)
    return StateSpaceModel(
        lambda: Normal(torch.zeros_like(a), (q.exp() / (1 - a**2)).sqrt()),
        lambda x, t, *u: Normal(a * x + (u[0] if u else 0.0), (q / 2).exp()),
        lambda x, t, *u: Normal(x, (r / 2).exp()),
    )


def exact_score(y):
    theta = THETA.clone().requires_grad_()
    a, q, r = (x.reshape(1, 1) for x in theta)
    model = LinearGaussian(a, [[1.0]], q.exp(), r.exp(), P0=q.exp() / (1 - a**2))
    return torch.autograd.grad(inference.log_likelihood(model, y).sum(), theta)[0]


RULES = (
    ParisianScore(10, sweeps=2),
    ParisianScore(10, sweeps=2, backward=MetropolisBackward()),
    GibbsScore(10, sweeps=2, burn=0, kernel=BackwardSampling()),
    ParisScore(30, backward=MetropolisBackward()),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda x: f"{type(x).__name__}, {name_of(x)}")
def test_scores(rule):
    """Parameters may be numbers, and are then where the data are."""
    y = data()
    rows = THETA.expand(300, 3).to(DEVICE)
    many = y.expand(300, -1, -1)
    (found,) = twice(lambda: (score(build, rows, many, rule=rule, seed=1).gradient,))
    near(found.mean(0), exact_score(y), found.std(0) / math.sqrt(300) + 0.1)
    y, u, ends = ragged()
    there(score(build, THETA.tolist(), y, u, rule=rule, lengths=ends).gradient)


def test_the_joint_density():
    y = data(2)
    y[1, 2] = torch.nan
    x = data(2, seed=4)
    found = log_joint(build(THETA.to(DEVICE)), y).of(x)
    expected = log_joint(build(THETA), y.cpu()).of(x.cpu())
    there(found)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-10, atol=1e-10)


def test_climbs():
    y, rule = data().expand(4, -1, -1), ParisianScore(8, sweeps=2)
    for start in (THETA.tolist(), THETA.expand(4, 3).to(DEVICE)):
        options = {"start": start, "rule": rule, "steps": 3, "rate": [0.1, 0.1, 0.2]}
        thetas, *_ = twice(
            lambda given=options: (
                (found := climb_likelihood(build, y, longest=0.3, **given)).thetas,
                found.slopes,
                found.reference,
                found.average(0.5),
            )
        )
        assert ((thetas[1:] - thetas[:-1]).norm(dim=-1) < 0.3 + 1e-9).all()

    def propose(phi):
        return lambda x, y, t: None if x is None else Normal(phi[0] * x + phi[1] * y, 0.5)

    fit = fit_proposal(walk(), propose, y, start=[0.8, 0.0], rule=rule, steps=3)
    there(fit.thetas, fit.slopes)


def test_diagnostics_of_particles_and_chains():
    y, _, ends = ragged()
    runs = particle_filter(walk(), y, particles=2000, lengths=ends, resampling=Multinomial())
    exact = inference.filter(kalman(), y, lengths=ends)
    (pit,) = twice(lambda: (inference.predictive_pit(runs, y, seed=2).nan_to_num(0.5),))
    near(pit, inference.predictive_pit(exact).nan_to_num(0.5), 0.02)
    states = inference.state_pit(runs, runs.mean)
    assert (states.isnan() == ~runs.valid.unsqueeze(-1)).all()
    found = evidence(runs)
    there(found.value, found.standard_error, inference.root_indices(runs))
    there(*inference.pooled_evidence(found.value))
    assert 0 < inference.calibration(pit).ks < 1
    chains = data(4, 50).reshape(4, 50, 1)
    for measure in (
        inference.rhat,
        inference.ess_bulk,
        inference.ess_tail,
        inference.ess_mean,
    ):
        assert measure(chains) == measure(chains.cpu())
    assert inference.summarise_chains(chains).mean.shape == (1,)


def test_chains_for_arviz():
    pytest.importorskip("arviz")
    chains = data(4, 50).reshape(4, 50, 1)
    tree = inference.to_arviz(chains, names=["a"], statistics={"lp": chains[..., 0]})
    np.testing.assert_array_equal(np.asarray(tree["posterior"]["a"]), chains[..., 0].cpu())
