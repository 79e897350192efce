"""The models that claims about filters are measured on, against other ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from statewise.inference import Unconstrained, log_likelihood
from statewise.papers.harness.decoding import turning_counts, windows
from statewise.papers.harness.gaussian_models import (
    NILE,
    constant_velocity,
    covariances,
    joint,
    random_model,
    simulate,
    textbook,
)
from statewise.papers.harness.planted_types import planted_types
from statewise.papers.harness.score import fisher_score
from statewise.papers.harness.sign_mixture import SignMixture, rmse, with_power
from statewise.papers.harness.spikes import planted_spikes


def mixture_density(model, z, y):
    """Log p(y | z), (N,), by torch."""
    eye = torch.eye(len(model.B)).double()
    terms = [
        MultivariateNormal(sign * z @ model.B.mT, noise * eye).log_prob(y)
        for sign, noise in ((1, 1.0), (-1, 5.0))
    ]
    return torch.logsumexp(torch.stack(terms), 0) - np.log(2)


def test_the_law_of_the_sign_mixture_is_bayes_rule():
    model = SignMixture.drawn(3, 0)
    _, y = model.simulate(4, 1)
    z = torch.as_tensor(np.random.default_rng(2).normal(size=(150_000, 10)))
    f, V = model.law(y)
    for t in range(4):
        w = torch.softmax(mixture_density(model, z, y[0, t]), 0)
        mean = w @ z
        cov = torch.einsum("k,ki,kj->ij", w, z - mean, z - mean)
        assert (f[0, t] - mean).abs().max() < 0.03
        assert (V[0, t] - cov).abs().max() < 0.08


def test_the_sign_mixture_stays_and_particles_weigh_it_right():
    model = SignMixture.drawn(5, 0)
    eye = torch.eye(10).double()
    torch.testing.assert_close(model.A @ model.A.mT + model.noise, eye)
    values = torch.linalg.eigvalsh(model.A)
    torch.testing.assert_close(values, torch.tensor([0.45] + 9 * [0.95]).double())
    z, y = model.simulate(20_000, 1)
    assert (torch.cov(z[0].mT) - eye).abs().max() < 0.3
    assert rmse(0 * z, z) == pytest.approx(1, abs=0.1)
    assert y.mean().abs() < 0.1
    law = model.particles().observation(z[:, :6].float(), 0)
    found = law.log_prob(y[:, 7:8].float())
    expected = mixture_density(model, z[0, :6], y[0, 7])
    # The particles leave out 2π, which is the same for all of them.
    left = expected - found[0].double()
    torch.testing.assert_close(left, left[:1].expand(6), rtol=1e-5, atol=1e-4)
    assert tuple(with_power(y).shape) == (1, 20_000, 6)


@pytest.mark.parametrize("rank", [None, 1])
def test_joint_and_textbook_agree_at_the_end(rank):
    model = random_model(3, 2, 0, rank=rank)
    y = simulate(model, 7, 1, gaps=0.3)
    whole, last = joint(model, y), textbook(model, y)
    np.testing.assert_allclose(whole.mean[-1], last.mean[-1], atol=1e-12)
    np.testing.assert_allclose(whole.cov[-1], last.cov[-1], atol=1e-12)
    assert whole.log_likelihood == pytest.approx(last.log_likelihood, abs=1e-11)


def test_covariances_of_a_track_are_the_textbook_of_it():
    model = constant_velocity(0.1, 0.5, 2.0)
    moved = model.F[0, 0] @ model.P0[0] @ model.F[0, 0].mT + model.Q[0, 0]
    expected = textbook(model.replace(P0=moved, prior_at=1), torch.zeros(1, 9, 2)).cov
    for joseph in (False, True):
        found = covariances(model, 9, np.float64, joseph=joseph)
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert covariances(model, 2, np.float32, joseph=True).dtype == np.float32


def test_the_score_is_the_gradient():
    model = random_model(2, 2, 3)
    y = simulate(model, 15, 3)
    build = Unconstrained(model, ("F", "Q", "R"))
    theta = build.start.clone().requires_grad_()
    (expected,) = torch.autograd.grad(log_likelihood(build(theta), y).sum(), theta)
    torch.testing.assert_close(fisher_score(build, theta, y), expected, rtol=1e-9, atol=1e-9)


def test_the_nile_is_the_one_of_the_book():
    assert len(NILE) == 100
    assert sum(NILE) == 91935
    assert (NILE[0], NILE[-1], min(NILE)) == (1120, 740, 456)


def test_planted_types_keep_signs():
    data = planted_spikes(50, 0, states=2, neurons=3, test=10)
    known = planted_types(data)
    found = known.couplings(known.start(torch.as_tensor(data.weight)))
    torch.testing.assert_close(found, torch.as_tensor(data.weight), rtol=1e-10, atol=1e-10)


def test_windows_end_at_the_step():
    y = torch.arange(1.0, 6.0).reshape(1, 5, 1)
    found = windows(y, 3)
    assert found[0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    z, counts = turning_counts(5000, 0, neurons=4)
    assert z.var().item() == pytest.approx(1, abs=0.2)
    assert bool((counts == counts.round()).all())
    assert tuple(counts.shape) == (1, 5000, 4)
