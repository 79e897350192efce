"""Scores by Fisher's identity and what climbs them, beside Kalman's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from statewise import inference
from statewise.inference import (
    AncestorSampling,
    GibbsScore,
    Guided,
    LinearGaussian,
    MetropolisBackward,
    ParisianScore,
    ParisScore,
    StateSpaceModel,
    climb_likelihood,
    fit_proposal,
    log_joint,
    sample_states,
    score,
)

TRUTH = torch.tensor([0.8, -0.7, -0.9], dtype=torch.float64)


def build(theta):
    """Slope, log-variances of state and output: (3,), or (B, 3) for a row for each series."""
    a, q, r = theta.reshape(-1, 3, 1, 1).unbind(1)
    return StateSpaceModel(
        lambda: Normal(torch.zeros_like(a), (q.exp() / (1 - a**2)).sqrt()),
        lambda x, t, *u: Normal(a * x + (u[0] if u else 0.0), (q / 2).exp()),
        lambda x, t, *u: Normal(x, (r / 2).exp()),
    )


def linear(theta, driven=False):
    a, q, r = (x.reshape(1, 1) for x in theta)
    options = {"B": [[1.0]]} if driven else {}
    return LinearGaussian(a, [[1.0]], q.exp(), r.exp(), P0=q.exp() / (1 - a**2), **options)


def data(T=12, B=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(T, 2, B, 1, generator=random, dtype=torch.float64)
    a, q, r = TRUTH
    x, y = (q.exp() / (1 - a**2)).sqrt() * noise[0, 0], []
    for t in range(T):
        x = a * x + (q / 2).exp() * noise[t, 0] if t else x
        y.append(x + (r / 2).exp() * noise[t, 1])
    return torch.stack(y, 1)


def kalman_score(theta, y, u=None, **options):
    theta = theta.clone().requires_grad_()
    total = inference.log_likelihood(linear(theta, u is not None), y, u, **options).sum()
    return torch.autograd.grad(total, theta)[0]


def posterior(theta, y, chains, u=None):
    found = inference.filter(linear(theta, u is not None), y, u)
    return sample_states(found, chains, seed=7)[:, 0]


RULES = {
    "Parisian": ParisianScore(6, sweeps=2, burn=0),
    "Parisian, chains": ParisianScore(6, sweeps=2, burn=1, backward=MetropolisBackward()),
    "Gibbs": GibbsScore(6, sweeps=3, burn=0, kernel=AncestorSampling()),
}


@pytest.mark.parametrize("name", list(RULES))
def test_the_score_is_that_of_kalman(name):
    """From exact paths it is unbiased with 6 particles: 3000 chains, within 4.5 s.e."""
    chains = 3000
    theta = TRUTH + torch.tensor([-0.2, 0.3, -0.4])
    y, u = data(), 0.5 * data(seed=3)
    y[0, 4:6] = torch.nan
    want = kalman_score(theta, y, u)
    start = posterior(theta, y, chains, u)
    found = score(
        build,
        theta.expand(chains, 3),
        y.expand(chains, -1, -1),
        u.expand(chains, -1, -1),
        reference=start,
        rule=RULES[name],
        seed=1,
    )
    error = found.gradient.std(0) / math.sqrt(chains)
    assert ((found.gradient.mean(0) - want).abs() < 4.5 * error).all()
    assert found.reference.shape == start.shape
    assert (found.reference != start).any()


def test_paris_has_a_bias_that_particles_take_away():
    theta, y = TRUTH + torch.tensor([-0.2, 0.3, -0.4]), data()
    want, bias = kalman_score(theta, y), {}
    for N in (10, 160):
        found = score(
            build,
            theta.expand(1000, 3),
            y.expand(1000, -1, -1),
            rule=ParisScore(N, backward=MetropolisBackward()),
        )
        assert found.reference is None
        bias[N] = (found.gradient.mean(0) - want).abs().max()
    assert bias[10] > 0.3
    assert bias[160] < bias[10] / 6


def test_series_that_share_parameters_add_up():
    y, lengths = data(B=3), torch.tensor([12, 7, 12])
    rule = ParisScore(2000, backward=MetropolisBackward())
    found = score(build, TRUTH, y, rule=rule, lengths=lengths)
    apart = score(build, TRUTH.expand(3, 3), y, rule=rule, lengths=lengths)
    torch.testing.assert_close(found.gradient, apart.gradient.sum(0), rtol=1e-9, atol=1e-9)
    want = kalman_score(TRUTH, y, lengths=lengths)
    torch.testing.assert_close(found.gradient, want, rtol=0.05, atol=0.5)


def test_the_joint_density_of_a_path():
    y, x = data(B=2, T=5), data(B=2, T=5, seed=4)
    y[1, 2] = torch.nan
    a, q, r = TRUTH
    first = Normal(0.0, (q.exp() / (1 - a**2)).sqrt())
    seen = Normal(x, (r / 2).exp()).log_prob(y.nan_to_num())
    want = first.log_prob(x[:, 0]).sum(-1)
    want = want + Normal(a * x[:, :-1], (q / 2).exp()).log_prob(x[:, 1:]).sum((1, 2))
    want = want + torch.where(y.isnan(), 0.0, seen).sum((1, 2))
    found = log_joint(build(TRUTH), y).of(x)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_climbs_end_at_the_maximum_of_the_likelihood():
    """Several side by side, from different starts, near what exact gradients find."""
    y = data(T=40, seed=2)

    def at(theta):
        rest = TRUTH[2:].expand(*theta.shape[:-1], 1)
        return torch.cat([theta[..., :1].tanh(), theta[..., 1:], rest], -1)

    exact = inference.maximise_likelihood(lambda v: linear(at(v)), y, start=[0.5, 0.0])
    start = torch.tensor([[0.3, 0.3], [0.6, -1.5], [0.5, 0.0]], dtype=torch.float64)

    found = climb_likelihood(
        lambda theta: build(at(theta)),
        y.expand(3, -1, -1),
        start=start,
        rule=ParisianScore(20, sweeps=2, backward=MetropolisBackward()),
        steps=50,
        rate=torch.tensor([0.3, 1.0]),
        hold=20,
        longest=0.3,
    )
    assert found.thetas.shape == (51, 3, 2)
    assert found.slopes.shape == (50, 3, 2)
    assert torch.equal(found.thetas[0], start)
    assert ((found.thetas[1:] - found.thetas[:-1]).norm(dim=-1) < 0.3 + 1e-9).all()
    error = (found.average(0.4) - exact.theta).abs()
    assert (error < exact.standard_errors() / 2).all()
    assert torch.equal(found.theta, found.thetas[-1])


def test_a_proposal_is_fitted_to_the_posterior():
    """q = N(α x_{t−1} + β y_t, s²) by its score: the regression that Kalman's moments give."""
    y = data(T=30, seed=5)
    y[0, 10] = torch.nan
    exact = inference.smooth(inference.filter(linear(TRUTH), y))
    m, P, C, seen = exact.mean[0, :, 0], exact.cov[0, :, 0, 0], exact.cross[0, :, 0, 0], y[0, :, 0]
    at = torch.tensor([t for t in range(1, 30) if t != 10])
    xx, xy = (m**2 + P)[at - 1].sum(), (m[at - 1] * seen[at]).sum()
    left = torch.stack([torch.stack([xx, xy]), torch.stack([xy, (seen[at] ** 2).sum()])])
    right = torch.stack([(m[at] * m[at - 1] + C[at]).sum(), (m[at] * seen[at]).sum()])
    want = torch.linalg.solve(left, right)

    def propose(phi):
        def law(x, y, t):
            if x is None:
                return None
            return Normal(phi[0] * x + phi[1] * y, 0.45)

        return law

    found = fit_proposal(
        build(TRUTH),
        propose,
        y.expand(8, -1, -1),
        start=torch.tensor([0.8, 0.0], dtype=torch.float64),
        rule=ParisianScore(20, sweeps=2, backward=MetropolisBackward()),
        steps=50,
        rate=0.15,
        hold=15,
    )
    torch.testing.assert_close(found.average(), want, rtol=0, atol=0.02)
    model, first = build(TRUTH), Normal(torch.zeros(1).double(), 0.83)
    model = StateSpaceModel(lambda: first, model.transition, model.observation)
    plain, guided = (
        inference.particle_filter(model, y.expand(200, -1, -1), particles=50, method=method)
        for method in (
            None,
            Guided(
                lambda x, y, t: (
                    first.expand((200, 50, 1)) if t == 0 else propose(found.theta)(x, y, t)
                )
            ),
        )
    )
    assert guided.log_likelihood.std() < 0.8 * plain.log_likelihood.std()


def test_what_does_not_fit_is_named():
    y = data(T=5)
    with pytest.raises(ValueError, match="does not depend on them"):
        score(lambda theta: build(TRUTH), TRUTH, y)
    for rule in (ParisianScore(sweeps=2, burn=2), GibbsScore(sweeps=2, burn=2)):
        with pytest.raises(ValueError, match="burn is 2 and sweeps 2"):
            score(build, TRUTH, y, rule=rule)
    with pytest.raises(ValueError, match="no longer finite after 1 of 3 steps with rate inf"):
        climb_likelihood(build, y, start=TRUTH, rate=math.inf, steps=3)
