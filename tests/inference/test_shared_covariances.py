"""Batches of one model: what the results give is what each series gives alone."""

from __future__ import annotations

import pytest
import torch

from statewise import inference
from statewise.inference import LinearGaussian, filter, log_likelihood, smooth

READINGS = (
    "mean",
    "cov",
    "log_likelihoods",
    "chol_cov",
    "predicted_mean",
    "predicted_cov",
    "innovations",
    "innovation_cov",
    "standardised_innovations",
    "output_mean",
)


def model(**more):
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=g)  # noqa: E731
    F = 0.9 * torch.linalg.qr(normal(3, 3))[0]
    eye = torch.eye(3, dtype=torch.float64)
    return LinearGaussian(F, normal(2, 3), 0.1 * eye, eye[:2, :2], P0=eye, B=normal(3, 1), **more)


def data(B, T):
    g = torch.Generator().manual_seed(1)
    y = torch.randn(B, T, 2, dtype=torch.float64, generator=g)
    y[:, 3] = torch.nan
    y[:, 5, 0] = torch.nan
    return y, torch.randn(B, T, 1, dtype=torch.float64, generator=g)


@pytest.mark.parametrize("T", [1, 40])
@pytest.mark.parametrize("prior_at", [0, 1])
def test_every_reading_of_a_batch(T, prior_at):
    y, u = data(4, 40)
    y, u, lawful = y[:, :T], u[:, :T], model(prior_at=prior_at)
    found = filter(lawful, y, u)
    smoothed = smooth(found)
    for x in (found.cov, found.predicted_cov, smoothed.cov, smoothed.cross):
        assert x.shape == (4, T, 3, 3)
        assert x.stride(0) == 0
    totals = log_likelihood(lawful, y, u)
    for i in range(4):
        one = filter(lawful, y[i : i + 1], u[i : i + 1])
        pairs = [(getattr(found, k), getattr(one, k)) for k in READINGS]
        back = smooth(one)
        pairs += [(getattr(smoothed, k), getattr(back, k)) for k in ("mean", "cov", "cross")]
        pairs.append((totals, one.log_likelihood))
        for x, expected in pairs:
            torch.testing.assert_close(x[i], expected[0], rtol=1e-11, atol=1e-11, equal_nan=True)


def test_other_ways_agree():
    y, u = data(3, 30)
    found = filter(model(), y, u)
    others = [
        filter(model(), y, u, fused=False),
        filter(model(), y, u, method=inference.ParallelKalman(), parallel=True),
    ]
    for other in others:
        for k in ("mean", "cov", "log_likelihoods"):
            torch.testing.assert_close(getattr(other, k), getattr(found, k), rtol=1e-9, atol=1e-9)
    back, expected = smooth(found), smooth(found, parallel=True)
    for k in ("mean", "cov"):
        torch.testing.assert_close(getattr(back, k), getattr(expected, k), rtol=1e-9, atol=1e-9)


def test_a_series_with_a_start_of_its_own_has_its_own_covariances():
    y, u = data(2, 20)
    own = model().replace(P0=torch.stack([torch.eye(3), 2 * torch.eye(3)]).double())
    found = filter(own, y, u)
    assert not torch.equal(found.cov[0], found.cov[1])
    assert not torch.equal(found.predicted_cov[0], found.predicted_cov[1])
    assert not torch.equal(smooth(found).cov[0], smooth(found).cov[1])
