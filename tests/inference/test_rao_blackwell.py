"""The Rao-Blackwellised particle filter beside the Kalman filter and the sum over all regimes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from statewise import inference, ops
from statewise.inference import (
    ConditionallyLinear,
    Linear,
    LinearGaussian,
    Multinomial,
    StateSpaceModel,
    SwitchingLinear,
    Systematic,
    particle_filter,
    rao_blackwell_filter,
)

rng = np.random.default_rng(0)
K, n, p = 2, 2, 2
SWITCH = {
    "start": [0.6, 0.4],
    "P": [[0.9, 0.1], [0.3, 0.7]],
    "F": np.stack([0.9 * np.eye(2), [[0.2, 0.5], [-0.5, 0.2]]]),
    "H": np.stack([np.eye(2), [[1.0, 0.5], [0.0, -1.0]]]),
    "Q": np.stack([0.1 * np.eye(2), [[1.0, 0.3], [0.3, 0.5]]]),
    "R": np.stack([0.5 * np.eye(2), [[0.3, 0.1], [0.1, 0.4]]]),
    "m0": rng.normal(size=(2, 2)),
    "P0": np.stack([np.eye(2), 0.5 * np.eye(2)]),
    "c": rng.normal(size=(2, 2)),
    "d": rng.normal(size=(2, 2)),
}
Y = torch.as_tensor(rng.normal(size=(1, 5, 2)))
Y[0, 1, 0] = Y[0, 3] = torch.nan


def gaussian(regimes, y):
    """The Kalman filter along one path of regimes."""
    at = {k: np.stack([np.asarray(SWITCH[k])[r] for r in regimes])[None] for k in "FHQRcd"}
    first = regimes[0]
    one = LinearGaussian(**at, m0=SWITCH["m0"][first], P0=SWITCH["P0"][first])
    return inference.filter(one, y)


def enumerated(y):
    """Likelihood, and filtered means, covariances and regimes at the last step."""
    total, length = 0.0, y.shape[1]
    mean, second, share = np.zeros(n), np.zeros((n, n)), np.zeros(K)
    for path in itertools.product(range(K), repeat=length):
        prior = SWITCH["start"][path[0]]
        for a, b in itertools.pairwise(path):
            prior *= SWITCH["P"][a][b]
        one = gaussian(path, y)
        weight = prior * one.log_likelihood.exp().item()
        m, P = one.mean[0, -1].numpy(), one.cov[0, -1].numpy()
        total += weight
        mean += weight * m
        second += weight * (P + np.outer(m, m))
        share[path[-1]] += weight
    mean /= total
    return math.log(total), mean, second / total - np.outer(mean, mean), share / total


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_one_regime_is_the_kalman_filter(backend):
    y = torch.as_tensor(rng.normal(size=(3, 30, 2)))
    y[0, 3, 1] = y[1, 7] = torch.nan
    lengths = torch.tensor([30, 30, 11])
    one = {k: np.asarray(SWITCH[k])[1] for k in ("F", "H", "Q", "R", "m0", "P0", "c", "d")}
    exact = inference.filter(LinearGaussian(**one), y, lengths=lengths)
    with ops.use_backend(backend):
        found = rao_blackwell_filter(
            SwitchingLinear([1.0], [[1.0]], **one), y, particles=7, threshold=1.1, lengths=lengths
        )
    for name in ("mean", "cov", "log_likelihoods"):
        a, b = getattr(found, name), getattr(exact, name)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.probabilities, found.valid.unsqueeze(-1).double())


@pytest.mark.parametrize("way", [Systematic(), Multinomial()])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
def test_switching_is_the_sum_over_all_regimes(way, threshold):
    """The likelihood is unbiased; moments and probabilities are those of the enumeration."""
    log_z, mean, cov, share = enumerated(Y)
    model = SwitchingLinear(**SWITCH)
    few = rao_blackwell_filter(
        model, Y.expand(1500, -1, -1), particles=10, resampling=way, threshold=threshold, seed=1
    )
    ratio = (few.log_likelihood - log_z).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(1500)
    many = rao_blackwell_filter(
        model, Y.expand(50, -1, -1), particles=500, resampling=way, threshold=threshold, seed=2
    )
    for found, expected in (
        (many.mean[:, -1], mean),
        (many.cov[:, -1], cov),
        (many.probabilities[:, -1], share),
    ):
        error = (found.mean(0) - torch.as_tensor(expected)).abs()
        assert (error <= 5 * found.std(0) / math.sqrt(50) + 3e-3).all()


def mixed():
    """r is a random walk that turns z and sets the noise of y."""

    def linear(r, t, *u):
        a = r[..., 0]
        turn = torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()], -1).unflatten(-1, (2, 2))
        R = (0.2 + a.square())[..., None, None].expand(*a.shape, 1, 1)
        eye = torch.eye(2, dtype=torch.float64)
        c = u[0].expand(*a.shape, 1) * torch.ones(2, dtype=torch.float64) if u else None
        return Linear(0.9 * turn, 0.1 * eye, eye[:1], R, c)

    zero, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    start = torch.zeros(1, dtype=torch.float64)
    model = ConditionallyLinear(
        lambda: Normal(start, 0.5), lambda r, t, *u: Normal(r, 0.2), linear, lambda r: (zero, eye)
    )

    def observation(x, t, *u):
        return Normal(x[..., 1:2], (0.2 + x[..., :1].square()).sqrt())

    return model, observation


class Point(Normal):
    """A draw that has been made already."""

    def sample(self, sample_shape=()):
        return self.loc


def test_less_is_left_to_chance_than_with_plain_particles():
    """Both filters estimate one likelihood, and this one with a smaller variance."""
    model, observation = mixed()
    y = torch.as_tensor(rng.normal(size=(1, 8, 1)))
    u = torch.as_tensor(0.3 * rng.normal(size=(1, 8, 1)))

    def transition(x, t, *u):
        r = x[..., :1] + 0.2 * torch.randn_like(x[..., :1])
        parts = model.linear(r, t, *u)
        z = (parts.F @ x[..., 1:].unsqueeze(-1)).squeeze(-1) + parts.c
        return Point(torch.cat([r, z + math.sqrt(0.1) * torch.randn_like(z)], -1), 1.0)

    scale = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)
    plain = StateSpaceModel(
        lambda: Normal(torch.zeros(3, dtype=torch.float64), scale), transition, observation
    )
    many, inputs = y.expand(800, -1, -1), u.expand(800, -1, -1)
    a = rao_blackwell_filter(model, many, inputs, particles=40).log_likelihood
    b = particle_filter(plain, many, inputs, particles=40, seed=1).log_likelihood
    a, b = a - b.mean(), b - b.mean()
    error = (a.exp().var() / 800 + b.exp().var() / 800).sqrt()
    assert abs(a.exp().mean() - b.exp().mean()) < 4 * error
    assert a.std() < 0.8 * b.std()


def test_a_seed_gives_the_same():
    model = SwitchingLinear(**SWITCH)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, two, other = (rao_blackwell_filter(model, Y, particles=20, seed=s) for s in (5, 5, 6))
    assert torch.equal(one.r, two.r)
    assert torch.equal(one.mean, two.mean)
    assert not torch.equal(one.mean, other.mean)
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.r.dtype == torch.int64


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"start has shape \(2,\) and P \(1, 1\)"):
        SwitchingLinear([0.5, 0.5], [[1.0]], [[1.0]], [[1.0]], [[1.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"Q has shape \(2, 2\); it must be \(1, 1, 1\)"):
        SwitchingLinear([1.0], [[1.0]], [[1.0]], [[1.0]], np.eye(2), [[1.0]])
    with pytest.raises(ValueError, match=r"y has shape \(5, 2\)"):
        rao_blackwell_filter(SwitchingLinear(**SWITCH), Y[0])
    with pytest.raises(ValueError, match="particles is 0"):
        rao_blackwell_filter(SwitchingLinear(**SWITCH), Y, particles=0)
    with pytest.raises(ValueError, match="no regimes"):
        _ = rao_blackwell_filter(mixed()[0], Y[..., :1], particles=5).probabilities
