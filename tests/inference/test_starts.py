"""Diffuse, stationary and steady starts, and models made of parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.filter_suite import case, close
from statewise import inference
from statewise.inference import LinearGaussian

NILE_LIKE = torch.as_tensor(np.random.default_rng(0).normal(size=(2, 40, 1)).cumsum(1))


def trend_and_season():
    return inference.add(
        inference.local_linear_trend(0.5, 0.1, 0.7), inference.seasonal(4, 0.3, 0.2)
    )


def generalised_least_squares(model, y):
    """log p(y) with flat priors on the unknown states, and the smoothed states, densely."""
    T, n = len(y), model.states
    F, H, Q, R = (x[0, 0] for x in (model.F, model.H, model.Q, model.R))
    A = torch.eye(n, dtype=torch.float64)[:, model.unknown]
    slopes, blocks, P = [], torch.zeros(T, T, n, n, dtype=torch.float64), model.P0[0]
    for t in range(T):
        if t:
            A, P = F @ A, F @ P @ F.mT + Q
            for s in range(t):
                blocks[t, s] = F @ blocks[t - 1, s]
                blocks[s, t] = blocks[t, s].mT
        blocks[t, t] = P
        slopes.append(A)
    X, cov = torch.cat(slopes), blocks.transpose(1, 2).reshape(T * n, T * n)
    seen = ~y.isnan().flatten()
    Z = torch.block_diag(*[H] * T)[seen]
    S = Z @ cov @ Z.mT + torch.block_diag(*[R] * T)[seen][:, seen]
    E, value = Z @ X, y.flatten()[seen]
    W, w = E.mT @ torch.linalg.solve(S, E), E.mT @ torch.linalg.solve(S, value)
    delta = torch.linalg.solve(W, w)
    rest = value - E @ delta
    log = len(value) * np.log(2 * np.pi) + torch.logdet(S) + rest @ torch.linalg.solve(S, rest)
    gain = torch.linalg.solve(S, Z @ cov).mT
    move = X - gain @ E
    mean = X @ delta + gain @ rest
    found = cov - gain @ Z @ cov + move @ torch.linalg.inv(W) @ move.mT
    return -0.5 * (log + torch.logdet(W)), mean.reshape(T, n), found


@pytest.mark.parametrize("gap", [(), (0,), (0, 1, 3), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("parallel", [False, True])
def test_an_exact_diffuse_start_is_generalised_least_squares(gap, parallel):
    model = trend_and_season()
    y = NILE_LIKE[:, :20].clone()
    y[0, list(gap)] = torch.nan
    found = inference.filter(model, y)
    smoothed = inference.smooth(found, parallel=parallel)
    for i in range(2):
        log, mean, cov = generalised_least_squares(model, y[i])
        close(found.log_likelihood[i], log, 1e-9)
        close(smoothed.mean[i], mean, 1e-9)
        n = model.states
        for t in range(20):
            now, before = slice(t * n, (t + 1) * n), slice((t - 1) * n, t * n)
            close(smoothed.cov[i, t], cov[now, now], 1e-8)
            if t:
                close(smoothed.cross[i, t], cov[now, before], 1e-8)


def test_a_large_variance_comes_near_the_exact_start():
    model = inference.local_linear_trend(0.5, 0.1, 0.7)
    exact = inference.filter(model, NILE_LIKE)
    for scale in (1e4, 1e6):
        near = inference.filter(model.diffuse(scale=scale), NILE_LIKE)
        log = near.log_likelihood + np.log(scale)
        close(log, exact.log_likelihood, 20 / scale)
        close(near.mean[:, 2:], exact.mean[:, 2:], 20 / scale)


def test_the_start_of_a_diffuse_filter_is_marked():
    found = inference.filter(inference.local_linear_trend(0.5, 0.1, 0.7), NILE_LIKE)
    assert found.start.steps == 2
    assert found.mean[:, 0].isnan().all()
    assert found.cov[:, 0].isinf().all()
    assert found.mean[:, 1:].isfinite().all()
    z = found.standardised_innovations
    assert z[:, :2].isnan().all()
    assert z[:, 2:].isfinite().all()


@pytest.mark.parametrize("parts", [(0.5,), (0.5, 0.1)])
def test_nothing_is_predicted_while_the_start_lasts(parts):
    make = (inference.local_level, inference.local_linear_trend)[len(parts) - 1]
    model, k = make(*parts, 0.7), len(parts)
    found = inference.filter(model, NILE_LIKE)
    assert found.predicted_mean[:, :k].isnan().all()
    assert found.predicted_cov[:, :k].isinf().all()
    assert found.innovations[:, :k].isnan().all()
    assert found.innovation_cov[:, :k].isinf().all()
    assert inference.predictive_pit(found)[:, :k].isnan().all()
    near = inference.filter(model.diffuse(scale=1e7), NILE_LIKE)
    torch.testing.assert_close(found.innovations[:, k:], near.innovations[:, k:], rtol=1e-5, atol=0)

    def later(q):
        return inference.filter(model.replace(Q=q * model.Q), NILE_LIKE).innovations[:, k:].sum()

    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(later, one, atol=1e-6)
    H = model.H.clone().requires_grad_()
    F = model.F.clone().requires_grad_()
    white = inference.filter(model.replace(F=F, H=H), NILE_LIKE).standardised_innovations
    slopes = torch.autograd.grad(white[:, k:].square().sum(), [F, H])
    assert all(x.isfinite().all() for x in slopes)


@pytest.mark.parametrize("name", ["level", "slope", "noise"])
def test_gradients_come_through_a_diffuse_start(name):
    y = NILE_LIKE[:, :8].clone()
    y[0, 0] = torch.nan
    values = {"level": 0.5, "slope": 0.1, "noise": 0.7}

    def log(x):
        model = inference.local_linear_trend(**(values | {name: x}))
        return inference.filter(model, y).log_likelihood

    x = torch.tensor(values[name], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log, x, atol=1e-6)


def test_some_states_may_be_unknown():
    F = torch.tensor([[1.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    known = LinearGaussian(F, [[1.0, 1.0]], 0.1 * torch.eye(2), [[1.0]], P0=torch.eye(2))
    exact = inference.filter(known.diffuse([True, False]), NILE_LIKE)
    near = inference.filter(known.diffuse([True, False], scale=1e7), NILE_LIKE)
    close(near.log_likelihood + 0.5 * np.log(1e7), exact.log_likelihood, 1e-5)
    close(near.mean[:, 1:], exact.mean[:, 1:], 1e-5)


def test_a_diffuse_start_that_never_ends_is_said():
    y = NILE_LIKE.clone()
    y[1] = torch.nan
    with pytest.raises(ValueError, match="not over after 40 steps"):
        inference.filter(inference.local_level(1.0, 1.0), y)
    y = NILE_LIKE.clone()
    y[0, 0] = torch.nan
    with pytest.raises(ValueError, match="ends before step 2"):
        inference.filter(inference.local_level(1.0, 1.0), y, lengths=[40, 1])
    with pytest.raises(ValueError, match=r"which has shape \(2,\)"):
        inference.local_level(1.0).diffuse([True, False])


def test_a_stationary_start_stays():
    model, _, _ = case("plain")
    model = model.stationary()
    F, Q, c = model.F[0, 0], model.Q[0, 0], model.c[0, 0]
    close(F @ model.P0[0] @ F.mT + Q, model.P0[0], 1e-11)
    close(F @ model.m0[0] + c, model.m0[0], 1e-12)


def test_the_filter_settles_to_the_steady_state():
    model, y, _ = case("plain", T=500)
    steady = inference.steady_state(model)
    found = inference.filter(model, y)
    close(found.cov[:, -1], steady.cov.expand(3, -1, -1), 1e-10)
    close(found.predicted_cov[:, -1], steady.predicted_cov.expand(3, -1, -1), 1e-10)
    assert steady.residual.max() < 1e-12
    fixed = steady.filter(y)
    expected = inference.filter(steady.start(), y)
    for field in ("mean", "cov", "log_likelihoods", "predicted_mean"):
        close(getattr(fixed, field), getattr(expected, field), 1e-9)
    y[0, 3] = torch.nan
    with pytest.raises(ValueError, match="gaps"):
        steady.filter(y)


@pytest.mark.parametrize(
    ("a", "q", "r", "predicted", "gain"),
    [(0.9, 0.1, 0.1, 0.1483900, 0.5974073), (1.0, 1.0, 1.0, (1 + 5**0.5) / 2, None)],
)
def test_known_steady_states(a, q, r, predicted, gain):
    found = inference.steady_state(LinearGaussian([[a]], [[1.0]], [[q]], [[r]]))
    assert abs(found.predicted_cov.item() - predicted) < 1e-7
    if gain is not None:
        assert abs(found.gain.item() - gain) < 1e-7


def test_steady_states_have_gradients():
    x = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)

    def gain(x):
        Q = torch.diag(x)
        F = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=torch.float64)
        return inference.steady_state(LinearGaussian(F, [[1.0, 0.0]], Q, [[1.0]])).gain

    assert torch.autograd.gradcheck(gain, x)


def test_parts_add_up():
    model = trend_and_season()
    assert (model.states, model.outputs) == (5, 1)
    assert model.H.flatten().tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    close(model.R.flatten(), torch.tensor([0.9], dtype=torch.float64), 1e-15)
    close(model.F[0, 0, 2:, 2:], inference.seasonal(4).F[0, 0], 0)
    assert model.unknown.all()
    mixed = inference.add(inference.local_level(1.0), inference.autoregressive([0.5], 1.0, 1.0))
    assert mixed.unknown.tolist() == [True, False]
    assert mixed.P0[0].tolist() == [[0.0, 0.0], [0.0, 1.0 / 0.75]]
    with pytest.raises(ValueError, match="cannot be added"):
        inference.add(model, case("plain")[0])
    with pytest.raises(ValueError, match="at least one"):
        inference.add()
    with pytest.raises(ValueError, match="period is 1"):
        inference.seasonal(1)


def test_an_autoregression_has_its_own_covariance():
    phi, variance = [0.5, -0.3], 2.0
    model = inference.autoregressive(phi, variance)
    one = (1 - phi[1]) * variance / ((1 + phi[1]) * ((1 - phi[1]) ** 2 - phi[0] ** 2))
    close(model.P0[0, 0, 0], torch.tensor(one, dtype=torch.float64), 1e-12)
    found = inference.filter(model, NILE_LIKE)
    value = NILE_LIKE[..., 0]
    rest = value[:, 2:] - phi[0] * value[:, 1:-1] - phi[1] * value[:, :-2]
    close(found.innovations[:, 2:, 0], rest, 1e-10)
    with pytest.raises(ValueError, match="spectral radius"):
        inference.autoregressive([1.1], 1.0)


def test_factors_share_one_state():
    loadings = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    model = inference.factors(loadings, [[0.5]], noise=[0.1, 0.2, 0.3])
    assert model.outputs == 3
    assert model.R[0, 0].diagonal().tolist() == [0.1, 0.2, 0.3]
    close(model.P0[0, 0, 0], torch.tensor(1 / 0.75, dtype=torch.float64), 1e-12)
