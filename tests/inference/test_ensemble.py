"""The ensemble filter nears the Kalman filter, and localisation carries few members far."""

from __future__ import annotations

import pytest
import torch

from contracts.filter_suite import close, random_model
from inference.test_gaussian_filters import pendulum, simulate
from statewise import inference
from statewise.inference import EnsembleKalman, Localisation, NonlinearGaussian
from statewise.inference.ensemble import taper


def problem(T=15):
    model = random_model(n=2, p=2, B=2, seed=1)
    g = torch.Generator().manual_seed(2)
    y = torch.randn(2, T, 2, generator=g, dtype=torch.float64)
    y[0, 3], y[1, 5, 0] = torch.nan, torch.nan
    return model, y


def test_many_members_are_the_kalman_filter():
    model, y = problem()
    expected = inference.filter(model, y)
    errors = []
    for members in (400, 10_000):
        found = inference.filter(model, y, method=EnsembleKalman(members))
        unit = expected.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        errors.append(((found.mean - expected.mean) / unit).square().mean().sqrt().item())
    assert errors[1] < 0.03
    # N^{-1/2} makes 5 of 25 times as many members.
    assert 2.5 < errors[0] / errors[1] < 10
    ratio = (found.cov - expected.cov).norm(dim=(-2, -1)) / expected.cov.norm(dim=(-2, -1))
    assert ratio.mean() < 0.03
    assert (found.log_likelihood - expected.log_likelihood).abs().max() < 0.3


def test_online_is_the_whole_and_lengths_end_series():
    model, y = problem()
    method = EnsembleKalman(50, seed=3)
    whole = inference.filter(model, y, method=method)
    stream = inference.Filter(model, method, batch=2)
    for t in range(y.shape[1]):
        close(stream.update(y[:, t]).mean, whole.mean[:, t], 1e-12)
    ended = inference.filter(model, y, lengths=[15, 6], method=method)
    assert not ended.mean[1, 6:].any()
    close(ended.mean[1, :6], whole.mean[1, :6], 1e-12)


def test_the_taper_is_that_of_gaspari_and_cohn():
    z = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0], dtype=torch.float64)
    # Both pieces of equation 4.10 by hand.
    expected = torch.tensor([1.0, 263 / 384, 5 / 24, 0.01649305555555, 0.0, 0.0]).double()
    close(taper(z), expected, 1e-7)
    x = torch.arange(20, dtype=torch.float64)
    everywhere, _ = Localisation(x, x, 3.0).tapers(x)
    assert torch.linalg.eigvalsh(everywhere)[0] > -1e-12
    around, _ = Localisation(x, x, 3.0, period=20).tapers(x)
    close(around[0, 19], around[0, 1], 1e-15)


def lorenz(n, dt=0.05):
    """n variables on a circle, chaotic."""

    def slope(x):
        return (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + 8

    def f(x, u, t):
        a = slope(x)
        b = slope(x + dt / 2 * a)
        c = slope(x + dt / 2 * b)
        return x + dt / 6 * (a + 2 * b + 2 * c + slope(x + dt * c))

    g = torch.Generator().manual_seed(0)
    m0 = 2 + 3 * torch.randn(n, generator=g, dtype=torch.float64)
    for _ in range(200):
        m0 = f(m0, None, 0)
    eye = torch.eye(n, dtype=torch.float64)
    return NonlinearGaussian(
        f, lambda x, u, t: x[..., ::2], 1e-3 * eye, eye[::2, ::2], m0=m0, P0=eye, batched=True
    )


def test_fewer_members_than_states_need_localisation():
    n = 40
    model = lorenz(n)
    x, y = simulate(model, 120, 1)
    place = torch.arange(n, dtype=torch.float64)
    near = Localisation(place, place[::2], 4.0, period=n)
    errors = {}
    for name, options in (
        ("plain", {}),
        ("local", {"localisation": near, "inflation": 1.05}),
    ):
        with torch.no_grad():
            found = inference.filter(model, y[None], method=EnsembleKalman(20, **options))
        errors[name] = (found.mean[0, 40:] - x[40:]).square().mean().sqrt().item()
    assert errors["local"] < 0.7
    assert errors["plain"] > 2 * errors["local"]


def test_a_pendulum_is_tracked():
    model = pendulum()
    x, y = simulate(model, 100, 1)
    found = inference.filter(model, y[None], method=EnsembleKalman(1000))
    assert (found.mean[0] - x).square().mean().sqrt() < 0.4
    with pytest.raises(ValueError, match="come from an ensemble"):
        inference.smooth(found)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="members is 1"):
        EnsembleKalman(1)
    with pytest.raises(ValueError, match="inflation 0"):
        EnsembleKalman(inflation=0.0)
