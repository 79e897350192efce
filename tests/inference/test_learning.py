"""Maximum likelihood by gradient and by expectation maximisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.filter_suite import close
from statewise import inference
from statewise.inference import LinearGaussian, Unconstrained


def simulate(T=300, B=2, seed=0, gaps=0.2):
    """Two outputs of a two-state model, some of them missing."""
    rng = np.random.default_rng(seed)
    F, H = np.array([[0.9, 0.2], [-0.1, 0.7]]), np.array([[1.0, 0.0], [0.5, 1.0]])
    Q, R = np.array([[0.3, 0.1], [0.1, 0.2]]), np.array([[0.5, 0.2], [0.2, 0.4]])
    x, y = np.zeros((B, 2)), []
    for _ in range(T):
        x = x @ F.T + rng.multivariate_normal(np.zeros(2), Q, B)
        y.append(x @ H.T + rng.multivariate_normal(np.zeros(2), R, B))
    y = torch.as_tensor(np.stack(y, 1))
    y[torch.as_tensor(rng.random(y.shape) < gaps)] = torch.nan
    return LinearGaussian(F, H, Q, R, P0=np.eye(2)), y


def log_likelihood(model, y, **options):
    return inference.filter(model, y, **options).log_likelihood.sum()


def test_a_vector_and_back():
    model, _ = simulate(2)
    free = ("F", "H", "Q", "R", "m0", "P0")
    build = Unconstrained(model, free)
    made = build(build.start)
    for name in free:
        close(getattr(made, name), getattr(model, name), 1e-14)
    assert len(build.start) == 4 + 4 + 3 + 3 + 2 + 3
    moved = build(build.start + 0.3)
    assert all(torch.linalg.eigvalsh(getattr(moved, k)).min() > 0 for k in ("Q", "R", "P0"))
    with pytest.raises(ValueError, match="free names 'G'"):
        Unconstrained(model, ("G",))
    with pytest.raises(ValueError, match="does not have"):
        Unconstrained(model, ("B",))
    with pytest.raises(ValueError, match="Q is singular"):
        Unconstrained(model.replace(Q=torch.zeros(2, 2)), ("Q",))


def test_maximum_likelihood_ends_where_the_slope_is_zero():
    model, y = simulate()
    start = model.replace(Q=torch.eye(2), R=torch.eye(2), F=0.5 * torch.eye(2))
    build = Unconstrained(start, ("F", "Q", "R"))
    fit = inference.maximise_likelihood(build, y, lengths=[300, 200], tolerance=1e-12)
    assert fit.converged
    assert fit.gradient.abs().max() < 1e-2
    assert fit.log_likelihood > log_likelihood(model, y, lengths=[300, 200]).item()
    found = log_likelihood(fit.model, y, lengths=[300, 200]).item()
    assert abs(fit.log_likelihood - found) < 1e-9 * abs(found)
    errors = fit.standard_errors(lambda m: m.F[0, 0])
    z = (fit.model.F[0, 0] - model.F[0, 0]) / errors
    assert z.abs().max() < 4
    assert fit.standard_errors().shape == fit.theta.shape


def test_standard_errors_of_a_mean_are_known():
    y = torch.as_tensor(np.random.default_rng(1).normal(2.0, 3.0, (1, 400, 1)))
    still = LinearGaussian([[0.0]], [[0.0]], [[1.0]], [[4.0]], d=[0.0], P0=[[1.0]])
    build = Unconstrained(still, ("d", "R"))
    fit = inference.maximise_likelihood(build, y, tolerance=1e-14)
    mean, variance = y.mean().item(), y.var(correction=0).item()
    close(fit.model.d.item(), mean, 1e-5)
    close(fit.model.R.item(), variance, 1e-4)
    errors = torch.stack([fit.standard_errors(lambda m: m.d)[0, 0, 0], fit.standard_errors()[1]])
    expected = torch.tensor([(variance / 400) ** 0.5, (2 * 400) ** -0.5], dtype=torch.float64)
    torch.testing.assert_close(errors, expected, rtol=1e-3, atol=0)
    scale = fit.standard_errors(lambda m: m.R).item()
    assert abs(scale / (variance * (2 / 400) ** 0.5) - 1) < 1e-3


def test_information_that_is_not_positive_is_said():
    y = torch.as_tensor(np.random.default_rng(1).normal(size=(1, 30, 1)))
    still = LinearGaussian([[0.0]], [[0.0]], [[1.0]], [[1.0]], P0=[[1.0]])
    fit = inference.maximise_likelihood(Unconstrained(still, ("Q", "R")), y)
    with pytest.raises(ValueError, match="standard errors need all of them positive"):
        _ = fit.covariance
    with pytest.raises(ValueError, match="build has none"):
        inference.maximise_likelihood(lambda v: still, y)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("free", [("F", "Q"), ("H", "R"), ("F", "H", "Q", "R", "m0", "P0")])
def test_every_turn_of_em_gains(free, gaps):
    model, y = simulate(60, 3, gaps=gaps)
    start = model.replace(F=0.5 * torch.eye(2), Q=torch.eye(2), R=torch.eye(2), m0=[1.0, 1.0])
    found = inference.expectation_maximisation(start, y, free=free, lengths=[60, 50, 2], steps=15)
    logs = np.array(found.log_likelihoods)
    assert len(logs) == 16
    assert (np.diff(logs) > -1e-9 * abs(logs[0])).all()
    assert logs[-1] > logs[0] + 1
    for name in {"F", "H", "Q", "R", "m0", "P0"} - set(free):
        assert torch.equal(getattr(found.model, name), getattr(start, name))


def test_em_with_inputs_and_offsets_gains():
    model, y = simulate(60)
    u = torch.as_tensor(np.random.default_rng(3).normal(size=(2, 60, 1)))
    driven = model.replace(B=[[1.0], [0.5]], D=[[0.3], [0.0]], c=[0.1, 0.2], d=[0.5, -0.5])
    start = driven.replace(F=0.3 * torch.eye(2), R=torch.eye(2))
    logs = inference.expectation_maximisation(start, y, u, steps=10).log_likelihoods
    assert (np.diff(logs) > -1e-8).all()


def test_em_and_the_gradient_end_at_the_same_maximum():
    model, y = simulate(150, 1)
    start = model.replace(R=torch.eye(2), Q=torch.eye(2))
    build = Unconstrained(start, ("Q", "R"))
    fit = inference.maximise_likelihood(build, y, tolerance=1e-13)
    found = inference.expectation_maximisation(
        start, y, free=("Q", "R"), steps=3000, tolerance=1e-11
    )
    assert found.converged
    assert abs(found.log_likelihoods[-1] - fit.log_likelihood) < 1e-4
    close(found.model.R, fit.model.R, 2e-2)


def test_a_step_of_em_does_not_move_a_maximum():
    """At a maximum in F the gradient vanishes, which the Fisher identity ties to the M-step."""
    model, y = simulate(80, 1, gaps=0.0)
    F = model.F.clone().requires_grad_()
    R = model.R.clone().requires_grad_()
    log = log_likelihood(model.replace(F=F, R=R), y)
    slope_F, slope_R = torch.autograd.grad(log, (F, R))
    found = inference.filter(model, y)
    s = inference.smooth(found)
    outer = lambda a, b: a.unsqueeze(-1) * b.unsqueeze(-2)  # noqa: E731
    across = (s.cross[:, 1:] + outer(s.mean[:, 1:], s.mean[:, :-1])).sum((0, 1))
    before = (s.cov + outer(s.mean, s.mean))[:, :-1].sum((0, 1))
    expected = torch.linalg.solve(model.Q[0, 0], across - model.F[0, 0] @ before)
    close(slope_F[0, 0], expected, 1e-7)
    e = y - (model.H @ s.mean.unsqueeze(-1)).squeeze(-1)
    rest = (outer(e, e) + model.H @ s.cov @ model.H.mT).sum((0, 1))
    inverse = torch.linalg.inv(model.R[0, 0])
    close(slope_R[0, 0], 0.5 * (inverse @ rest @ inverse - 80 * inverse), 1e-7)


def test_what_em_does_not_fit_is_said():
    model, y = simulate(10)
    with pytest.raises(ValueError, match="free is"):
        inference.expectation_maximisation(model, y, free=("B",))
    with pytest.raises(ValueError, match="proper prior"):
        inference.expectation_maximisation(model.diffuse(), y)
