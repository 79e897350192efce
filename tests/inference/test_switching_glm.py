"""The HMM-GLM: what its rates may see, its limits, and what a prior on types does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise.inference import (
    FreeCouplings,
    GaussianCouplings,
    OneHotCouplings,
    exponential_basis,
    fit_switching_glm,
)
from statewise.inference.switching_glm import gumbel_softmax_density, history, log_rates
from statewise.papers.harness.spikes import planted_spikes, recovery

PRIORS = (FreeCouplings(), GaussianCouplings(), OneHotCouplings())


def counts(B=2, T=60, N=3, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).poisson(1.0, (B, T, N))).double()


def test_history_is_a_sum_over_what_came_before():
    x, phi = counts(), exponential_basis(5)
    assert phi.sum().item() == pytest.approx(1)
    h = history(x, phi)
    for t in (0, 1, 4, 30):
        expected = sum(phi[k] * x[:, t - 1 - k] for k in range(5) if t - 1 - k >= 0)
        expected = torch.zeros(2, 3).double() if t == 0 else expected
        torch.testing.assert_close(h[:, t], expected, rtol=0, atol=1e-14)


def test_a_bin_does_not_see_itself():
    x, phi = counts(), exponential_basis(5)
    weight, bias = torch.randn(2, 3, 3).double(), torch.zeros(3).double()
    before, _ = log_rates(history(x, phi), weight, bias)
    x[:, 20] += 7
    after, _ = log_rates(history(x, phi), weight, bias)
    assert torch.equal(before[:, :21], after[:, :21])
    assert not torch.equal(before[:, 21], after[:, 21])


def test_logarithms_of_rates_hold_where_softplus_vanishes():
    eta = torch.tensor([-800.0, -40.0, -30.0, -29.9, 0.0, 50.0]).double()
    h = torch.zeros(1, 1, 6).double()
    bias = eta.clone().requires_grad_()
    _, logs = log_rates(h, torch.zeros(1, 6, 6).double(), bias)
    exact = torch.where(eta < -25, eta, torch.nn.functional.softplus(eta).log())
    torch.testing.assert_close(logs.flatten(), exact, rtol=1e-12, atol=1e-12)
    logs.sum().backward()
    torch.testing.assert_close(bias.grad[:2], torch.ones(2).double(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda x: type(x).__name__)
def test_gradients_and_seeds(prior):
    rng = np.random.default_rng(1)
    leaves = prior.start(torch.as_tensor(rng.normal(size=(2, 3, 3))))
    names = list(leaves)

    def value(*given):
        parameters = dict(zip(names, given, strict=True))
        found = prior.couplings(parameters, hard=False)
        return prior.log_prior(parameters) + found.square().sum()

    assert torch.autograd.gradcheck(value, [x.clone().requires_grad_() for x in leaves.values()])
    one, two = (fit_switching_glm(counts(), 2, prior, turns=3, seed=4) for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert one.objective == two.objective
    other = fit_switching_glm(counts(), 2, prior, turns=3, seed=5)
    assert one.objective != other.objective


def test_types_start_from_couplings_and_are_hard():
    weight = torch.tensor([[[0.9, -0.7], [0.0, 0.4]]]).double()
    prior = OneHotCouplings()
    found = prior.couplings(prior.start(weight))
    torch.testing.assert_close(found, weight, rtol=1e-12, atol=1e-12)
    soft = prior.couplings(prior.start(weight), hard=False)
    assert bool((soft.sign() == weight.sign()).all())
    assert bool((soft.abs() <= weight.abs().clamp_min(0.05)).all())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_density_of_two_types_integrates_to_one(temperature):
    # In the logit x of a, da = a (1 − a) dx.
    x = torch.linspace(-60, 60, 40_001, dtype=torch.float64)
    log_a = torch.stack([torch.nn.functional.logsigmoid(x), torch.nn.functional.logsigmoid(-x)], -1)
    log_pi = torch.tensor([0.3, 0.7]).double().log()
    density = gumbel_softmax_density(log_a, log_pi, temperature) + log_a.sum(-1)
    assert torch.trapezoid(density.exp(), x).item() == pytest.approx(1, abs=1e-9)


def test_the_density_is_that_of_torch_and_of_its_draws():
    rng = np.random.default_rng(2)
    log_pi = torch.log_softmax(torch.as_tensor(rng.normal(size=3)), -1)
    law = torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.5).double(), logits=log_pi)
    a = torch.softmax(torch.as_tensor(rng.normal(size=(50, 3))), -1)
    found = gumbel_softmax_density(a.log(), log_pi, 0.5)
    torch.testing.assert_close(found, law.log_prob(a), rtol=1e-10, atol=1e-10)
    noise = torch.as_tensor(rng.gumbel(size=(200_000, 3)))
    drawn = torch.softmax((log_pi + noise) / 0.5, -1)
    # Draws weighed by one density over another: the mean weight is one.
    other = torch.log_softmax(log_pi + torch.tensor([0.3, 0.0, -0.2]), -1)
    weight = gumbel_softmax_density(drawn.log(), other, 0.5)
    weight = (weight - gumbel_softmax_density(drawn.log(), log_pi, 0.5)).exp()
    assert abs(weight.mean().item() - 1) < 4 * weight.std().item() / len(weight) ** 0.5


def test_states_that_agree_on_a_type_are_likelier():
    prior = OneHotCouplings()
    same = torch.full((3, 1, 1), 0.8).double()
    mixed = same * torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1)
    anatomy = torch.tensor([0.0, 0.0, 2.0]).double().reshape(1, 1, 3)
    one, other = (prior.start(weight) | {"anatomy": anatomy} for weight in (same, mixed))
    assert prior.log_prior(one) > prior.log_prior(other)
    far = one | {"types": one["types"] * 1e6}
    assert prior.log_prior(far).isfinite()


def test_gaussian_couplings_pull_states_together():
    x = counts(T=200)
    free, pulled = (
        fit_switching_glm(x, 2, prior, turns=20)
        for prior in (FreeCouplings(), GaussianCouplings(sigma=0.01))
    )
    assert (pulled.weight[0] - pulled.weight[1]).abs().max() < 0.05
    assert (free.weight[0] - free.weight[1]).abs().max() > 0.2


def test_one_state_is_a_poisson_regression():
    """At the end of a fit the score of the regression is zero."""
    x = counts(B=1, T=300)
    fit = fit_switching_glm(x, 1, FreeCouplings(), turns=100, inner=10, lr=0.1)
    weight, bias = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
    rate, logs = log_rates(history(x, fit.basis), weight, bias)
    value = (x.unsqueeze(2) * logs - rate).sum() / 300
    for slope in torch.autograd.grad(value, (weight, bias)):
        assert slope.abs().max() < 1e-4
    constant = torch.lgamma(x + 1).sum() / 300
    found = fit.markov().filter(x).log_likelihood.item() / 300
    assert found == pytest.approx((value - constant).item(), abs=1e-10)


def test_planted_states_and_signs_are_found():
    data = planted_spikes(1500, 3, states=2, neurons=4, test=200)
    assert data.counts.shape == (1700, 4)
    x = data.counts[None, :1500]
    start = fit_switching_glm(x, 2, FreeCouplings(), turns=30, restarts=3, seed=0)
    fit = fit_switching_glm(x, 2, OneHotCouplings(), turns=20, start=start, seed=0)
    found = recovery(fit, data)
    assert set(found) == {"states", "wrong signs", "held out"}
    assert found["states"] > 0.7
    assert found["wrong signs"] < 0.4


def test_counts_of_another_shape():
    with pytest.raises(ValueError, match=r"counts have shape \(5, 2\)"):
        fit_switching_glm(torch.zeros(5, 2), 2, FreeCouplings())
