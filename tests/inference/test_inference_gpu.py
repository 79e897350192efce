"""Gaussian filters and smoothers with tensors on a GPU, beside the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.device_cases import (
    DEVICE,
    PARAMETERS,
    driven,
    given,
    normal,
    same,
    swinging,
)
from statewise import inference
from statewise.inference import (
    Cubature,
    EnsembleKalman,
    Filter,
    FirstOrder,
    GaussHermite,
    GaussianFilter,
    InformationKalman,
    Kalman,
    LinearGaussian,
    Localisation,
    ParallelKalman,
    SquareRootKalman,
    Unconstrained,
    Unscented,
)

pytestmark = pytest.mark.gpu

METHODS = (Kalman(), SquareRootKalman(), InformationKalman(), ParallelKalman())
RULES = (FirstOrder(), Unscented(), Cubature(), GaussHermite(3))


@pytest.mark.parametrize("name", ["gaps", "inputs", "in time", "all", "lengths"])
@pytest.mark.parametrize("method", METHODS, ids=lambda x: type(x).__name__)
def test_filters(method, name):
    def make(device):
        model, y, options = given(name, device)
        found = inference.filter(model, y, **options, method=method, parallel=method.associative)
        after = (found.predicted_mean, found.predicted_cov, found.innovations, found.output_mean)
        white = found.standardised_innovations
        return found.mean, found.cov, found.log_likelihoods, found.chol_cov, white, *after

    same(make)


@pytest.mark.parametrize("name", ["gaps", "all", "lengths"])
def test_smoothers(name):
    def make(device):
        model, y, options = given(name, device)
        found = inference.filter(model, y, **options)
        ways = (
            inference.smooth(found),
            inference.smooth(found, parallel=True),
            inference.smooth(found, square_root=True),
        )
        lagged = inference.smooth_lagged(found, 3)
        moments = [x for way in ways for x in (way.mean, way.cov, way.cross)]
        return *moments, lagged.mean, lagged.cov

    same(make)


def test_draws_of_states():
    """They rest on eigenvectors, which have no sign, so only their law is that of the CPU."""
    model, y, options = given("lengths", DEVICE)
    found = inference.filter(model, y, **options)
    one, two = (inference.sample_states(found, 2000, seed=1) for _ in range(2))
    assert one.device.type == DEVICE.type
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    smoothed, valid = inference.smooth(found), found.problem.valid()
    unit = smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    z = ((one - smoothed.mean) / unit)[:, valid]
    assert (z.mean(0).abs() < 5 / 2000**0.5).all()
    assert (z.square().mean(0) - 1).abs().max() < 5 * (2 / 2000) ** 0.5
    assert not one[:, ~valid].any()


@pytest.mark.parametrize("method", METHODS, ids=lambda x: type(x).__name__)
def test_likelihoods_and_their_gradients(method):
    def make(device):
        model, y, options = given("all", device)
        leaves = {k: getattr(model, k).clone().requires_grad_() for k in PARAMETERS}
        changed = model.replace(**leaves)
        found = inference.log_likelihood(changed, y, **options, method=method)
        return found, *torch.autograd.grad(found.sum(), list(leaves.values()))

    same(make)


def test_the_gradient_of_a_smoother():
    def make(device):
        model, y, _ = given("gaps", device)
        F = model.F.clone().requires_grad_()
        mean = inference.smooth(inference.filter(model.replace(F=F), y)).mean
        return mean, *torch.autograd.grad(mean.square().sum(), F)

    same(make)


def test_masks_and_numbers_go_where_the_tensors_are():
    """A model half of numbers, with a mask and lengths of the CPU."""

    def make(device):
        F = torch.tensor([[0.9]], dtype=torch.float64, device=device)
        model = LinearGaussian(F, [[1.0]], [[0.5]], [[0.4]], B=[[1.0]], P0=[[1.2]])
        mask = normal(2, 9) > -1
        y, u = normal(2, 9, 1).to(device), normal(2, 9, 1, seed=1).to(device)
        options = {"mask": mask, "lengths": [9, 5]}
        found = inference.filter(model, y, u, **options)
        total = inference.log_likelihood(model, y, u, **options)
        start = inference.filter(model.replace(c=[0.3]).stationary(), y, u, **options)
        return found.mean, total, start.mean

    same(make)


def test_structural_models_with_a_diffuse_start():
    def make(device):
        level, slope = torch.tensor([0.5, 0.1], dtype=torch.float64, device=device)
        phi = torch.tensor([0.5, 0.2], dtype=torch.float64, device=device)
        trend = inference.local_linear_trend(level, slope, 0.7)
        model = inference.add(
            trend, inference.seasonal(4, slope, 0.2), inference.autoregressive(phi, 0.3)
        )
        y = normal(2, 20, 1).cumsum(1)
        y[0, 3] = torch.nan
        y = y.to(device)
        found = inference.filter(model, y)
        smoothed = inference.smooth(found)
        which = torch.tensor([True, False], device=device)
        part = inference.add(trend.diffuse(which), inference.autoregressive([0.4], level))
        loadings = normal(3, 2).to(device)
        wide = inference.factors(loadings, [[0.5, 0.0], [0.1, 0.3]], noise=[0.3, 0.2, 0.1])
        rest = inference.filter(wide, normal(2, 9, 3).to(device))
        walk = inference.filter(inference.local_level(level, 0.4).diffuse(scale=1e4), y)
        likely = inference.log_likelihood(part, y)
        return found.log_likelihoods, smoothed.mean, smoothed.cov, likely, rest.mean, walk.mean

    same(make)


def test_the_steady_state():
    def make(device):
        model, y, options = given("inputs", device)
        found = inference.steady_state(model)
        filtered = found.filter(y, options["u"])
        return found.cov, found.gain, found.residual + 1, filtered.mean, filtered.log_likelihoods

    same(make)


@pytest.mark.parametrize("method", METHODS, ids=lambda x: type(x).__name__)
def test_a_stream_is_the_whole(method):
    model, y, options = given("inputs", DEVICE)
    y[0, 4] = torch.nan
    whole = inference.filter(model, y, **options, method=method)
    stream = Filter(model, method, batch=len(y))
    mask = torch.ones(len(y), dtype=torch.bool)
    for t in range(y.shape[1]):
        now = stream.update(y[:, t], options["u"][:, t], mask=mask)
    for found, expected in (
        (now.mean, whole.mean[:, -1]),
        (now.cov, whole.cov[:, -1]),
        (now.log_likelihood, whole.log_likelihoods[:, -1]),
        (stream.log_likelihood, whole.log_likelihood),
    ):
        assert found.device.type == DEVICE.type
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=lambda x: type(x).__name__)
def test_gaussian_filters(rule):
    def make(device):
        y, u, ends = driven(device)
        model = swinging(device)
        r = torch.tensor([[0.1]], dtype=torch.float64, device=device, requires_grad=True)
        found = inference.filter(model, y, u, lengths=ends, method=GaussianFilter(rule))
        twice = GaussianFilter(rule, iterations=2)
        after = inference.filter(model, y, u, lengths=ends, method=twice)
        smoothed = inference.smooth(found)
        way = GaussianFilter(rule)
        total = inference.log_likelihood(model.replace(R=r), y, u, lengths=ends, method=way)
        (slope,) = torch.autograd.grad(total.sum(), r)
        return found.mean, found.cov, after.mean, smoothed.mean, smoothed.cov, total, slope

    same(make)


@pytest.mark.parametrize("rule", RULES, ids=lambda x: type(x).__name__)
def test_a_stream_of_a_nonlinear_model(rule):
    y, u, _ = driven(DEVICE)
    model = swinging(DEVICE, input_at="before")
    whole = inference.filter(model, y, u, method=GaussianFilter(rule))
    stream = Filter(model, GaussianFilter(rule), batch=2)
    for t in range(y.shape[1]):
        now = stream.update(y[:, t], u[:, t])
    torch.testing.assert_close(now.mean, whole.mean[:, -1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(stream.log_likelihood, whole.log_likelihood, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("rule", [FirstOrder(), Cubature()], ids=lambda x: type(x).__name__)
def test_iterated_smoothing(rule, parallel):
    def make(device):
        y, u, ends = driven(device)
        options = {"lengths": ends, "rule": rule, "rounds": 4, "parallel": parallel}
        found = inference.smooth_iterated(swinging(device), y, u, **options)
        start = torch.zeros(2, 10, 2, dtype=torch.float64)
        other = inference.smooth_iterated(
            swinging(device, prior_at=0), y, u, start=start, **options
        )
        parts = (found.smoothed.cov, found.filtered.log_likelihoods, other.smoothed.mean)
        return found.smoothed.mean, *parts

    same(make)


def test_ensembles():
    """Many members are near the Kalman filter, and the same seed gives the same members."""
    model, y, options = given("gaps", DEVICE)
    exact = inference.filter(model, y, **options)
    one, two = (
        inference.filter(model, y, **options, method=EnsembleKalman(4000, seed=3)) for _ in range(2)
    )
    assert one.mean.device.type == DEVICE.type
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-12, atol=1e-12)
    unit = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((one.mean - exact.mean) / unit).square().mean().sqrt() < 0.1
    place = np.arange(2.0)
    near = EnsembleKalman(50, inflation=1.02, localisation=Localisation(place, [0.0], 2.0, 8.0))
    y, u, ends = driven(DEVICE)
    found = inference.filter(swinging(DEVICE), y, u, lengths=ends, method=near)
    assert found.cov.device.type == DEVICE.type
    assert found.cov.isfinite().all()
    assert found.log_likelihood.isfinite().all()
    assert not found.mean[1, 7:].any()


def test_expectation_maximisation():
    def make(device):
        model, y, _ = given("gaps", device)
        model = model.replace(m0=model.m0[0], P0=model.P0[0])
        ends = torch.tensor([12, 12, 9], device=device)
        fit = inference.expectation_maximisation(model, y, lengths=ends, steps=3)
        return *(getattr(fit.model, k) for k in "FHQR"), fit.model.m0, fit.model.P0

    same(make)


def test_maximum_likelihood():
    """A few steps from the same start; curvature by differences carries fewer digits."""

    def make(device):
        model, y, _ = given("gaps", device)
        fit = inference.maximise_likelihood(Unconstrained(model, ("F", "Q", "R")), y, steps=3)
        return fit.theta, fit.gradient, fit.information, fit.model.Q

    same(make, 1e-5)


def test_standard_errors():
    def make(device):
        y = (normal(1, 80, 1).cumsum(1) + normal(1, 80, 1, seed=1)).to(device)
        start = torch.zeros(2, dtype=torch.float64, device=device)
        fit = inference.maximise_likelihood(
            lambda v: inference.local_level(*v.exp()), y, start=start, tolerance=1e-13
        )
        return fit.theta, fit.standard_errors(), fit.standard_errors(lambda model: model.R)

    same(make, 1e-4)
