"""Kalman filters keep the filter contract; what the engine says when it is asked for too much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contracts.filter_suite import FilterContract, case, close, exact_velocity, random_model
from statewise import inference, ops
from statewise.inference import (
    Filter,
    InformationKalman,
    Kalman,
    LinearGaussian,
    ParallelKalman,
    SquareRootKalman,
)


class TestKalman(FilterContract):
    steps = 100_000

    def method(self):
        return Kalman()


class TestSquareRootKalman(FilterContract):
    def method(self):
        return SquareRootKalman()


class TestInformationKalman(FilterContract):
    singular = False

    def method(self):
        return InformationKalman()


class TestParallelKalman(FilterContract):
    steps = 100_000

    def method(self):
        return ParallelKalman()


@pytest.mark.parametrize("method", [Kalman, SquareRootKalman])
@pytest.mark.parametrize(("q", "r", "P0"), [(1e-4, 1e-8, 1e4), (1e-6, 1e-10, 1e6)])
def test_float32_survives_bad_conditions(method, q, r, P0):
    F, Q, P = exact_velocity(q, r, P0, 200)
    parts = (F, [[1.0, 0.0]], Q, [[r]])
    parts = [torch.as_tensor(np.asarray(x, dtype=np.float32)) for x in parts]
    model = LinearGaussian(*parts, P0=P0 * torch.eye(2))
    with ops.use_backend("reference"):
        found = inference.filter(model, torch.zeros(1, 200, 1), method=method())
    assert found.cov.dtype == torch.float32
    assert np.linalg.norm(found.cov[0, -1].double().numpy() - P) <= 1e-5 * np.linalg.norm(P)


def test_roots_of_equal_eigenvalues_have_a_gradient():
    # The roots of such matrices turn freely; the filter must not see that.
    model, y, _ = case("gaps", T=4)
    eye = torch.eye(3, dtype=torch.float64)

    def function(q, r, method):
        changed = model.replace(Q=q * eye, R=r * eye[:2, :2], P0=q * eye)
        return inference.log_likelihood(changed, y, method=method)

    levels = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 0.7)]
    slopes = [
        torch.autograd.grad(function(*levels, method).sum(), levels)
        for method in (Kalman(), SquareRootKalman())
    ]
    for found, expected in zip(slopes[1], slopes[0], strict=True):
        close(found, expected, 1e-10)


def test_messages_combine_associatively():
    model, y, _ = case("gaps", T=12)
    method = ParallelKalman()
    messages = method.prepare(model.problem(y), None)
    a, b, c = (type(messages)(*(x[:, t] for x in messages)) for t in (1, 2, 3))
    left = method.combine(method.combine(a, b), c)
    right = method.combine(a, method.combine(b, c))
    for x, z in zip(left, right, strict=True):
        close(x, z, 1e-10)


@given(seed=st.integers(0, 99), n=st.integers(1, 5), p=st.integers(1, 4), T=st.integers(1, 17))
def test_any_shape_in_parallel(seed, n, p, T):
    model = random_model(n, p, B=2, T=T, seed=seed)
    y = torch.as_tensor(np.random.default_rng(seed).normal(size=(2, T, p)))
    y[:, ::3] = torch.nan
    expected = inference.filter(model, y)
    found = inference.filter(model, y, method=ParallelKalman(), parallel=True)
    close(found.mean, expected.mean, 1e-9)
    close(found.log_likelihood, expected.log_likelihood, 1e-9)


@given(seed=st.integers(0, 99))
def test_the_likelihood_does_not_know_the_coordinates_of_the_state(seed):
    model, y, _ = case("gaps")
    rng = np.random.default_rng(seed)
    T = torch.linalg.qr(torch.as_tensor(rng.normal(size=(3, 3))))[0]
    T = T * torch.as_tensor(rng.uniform(0.1, 10, 3))
    back = torch.linalg.inv(T)
    turned = model.replace(
        F=T @ model.F @ back,
        H=model.H @ back,
        Q=T @ model.Q @ T.mT,
        c=(T @ model.c.unsqueeze(-1)).squeeze(-1),
        m0=(T @ model.m0.unsqueeze(-1)).squeeze(-1),
        P0=T @ model.P0 @ T.mT,
    )
    found, expected = inference.filter(turned, y), inference.filter(model, y)
    close(found.log_likelihood, expected.log_likelihood, 1e-10)
    close((back @ found.mean.unsqueeze(-1)).squeeze(-1), expected.mean, 1e-10)


@given(seed=st.integers(0, 99))
def test_the_order_of_outputs_does_not_matter(seed):
    model, y, _ = case("all")
    order = torch.as_tensor(np.random.default_rng(seed).permutation(3))
    turned = model.replace(
        H=model.H[..., order, :],
        R=model.R[..., order, :][..., order],
        D=model.D[..., order, :],
        d=model.d[..., order],
    )
    u = torch.ones(3, 12, 2, dtype=torch.float64)
    found, expected = inference.filter(turned, y[..., order], u), inference.filter(model, y, u)
    close(found.mean, expected.mean, 1e-10)
    close(found.log_likelihood, expected.log_likelihood, 1e-10)


def test_innovations_of_the_right_model_are_white():
    rng = np.random.default_rng(0)
    model = random_model(n=2, p=2, B=1, seed=3)
    length = 4000
    x, ys = model.m0[0].numpy() * 0, []
    roots = [np.linalg.cholesky(M[0, 0].numpy()) for M in (model.Q, model.R)]
    for _ in range(length):
        x = model.F[0, 0].numpy() @ x + model.c[0, 0].numpy() + roots[0] @ rng.normal(size=2)
        noise = roots[1] @ rng.normal(size=2)
        ys.append(model.H[0, 0].numpy() @ x + model.d[0, 0].numpy() + noise)
    y = torch.as_tensor(np.array(ys))[None]
    y[0, 10, 1] = torch.nan
    found = inference.filter(model.stationary(), y)
    z = found.standardised_innovations[0]
    assert z[10, 1].isnan()
    assert not z[10, 0].isnan()
    z = z[~z.isnan().any(-1)]
    root = 1 / np.sqrt(len(z))
    assert (z.mean(0).abs() < 4 * root).all()
    assert ((z.T @ z / len(z) - torch.eye(2)).abs() < 6 * root).all()
    assert ((z[1:].T @ z[:-1] / len(z)).abs() < 5 * root).all()
    e, S = found.innovations[0], found.innovation_cov[0]
    expected = torch.linalg.solve_triangular(
        torch.linalg.cholesky(S[0]), e[0].unsqueeze(-1), upper=False
    )
    close(found.standardised_innovations[0, 0], expected.squeeze(-1), 1e-12)
    assert e[10].isnan().tolist() == [False, True]


def test_the_output_after_the_step():
    model, y, _ = case("plain")
    found = inference.filter(model, y)
    expected = (model.H @ found.mean.unsqueeze(-1)).squeeze(-1) + model.d
    close(found.output_mean, expected, 1e-14)


def test_a_stream_has_constant_memory_and_reads_the_right_parameters():
    model, _, _ = case("in time")
    stream = Filter(model, batch=3)
    for _ in range(12):
        stream.update(torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="given for 12 steps; observation 13 is behind them"):
        stream.update(torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("rule", [None, inference.FirstOrder()])
def test_a_stream_keeps_no_graph_of_parameters(rule):
    slope = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    model = inference.NonlinearGaussian(
        lambda x, u, t: slope * x.sin(), lambda x, u, t: x, [[1.0]], [[1.0]], P0=[[1.0]]
    )
    y = torch.ones(1, 3, 1, dtype=torch.float64)
    method = inference.GaussianFilter(rule)
    whole = inference.filter(model, y, method=method)
    assert whole.mean.requires_grad
    stream = Filter(model, method)
    for t in range(3):
        now = stream.update(y[:, t])
        assert not now.mean.requires_grad
        close(now.mean, whole.mean[:, t].detach(), 1e-12)
    assert not stream.log_likelihood.requires_grad


MODEL, Y, _ = case("plain")
ONE = [[1.0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: inference.filter(MODEL, Y[0]), ValueError, r"y has shape \(12, 2\)"),
        (lambda: inference.filter(MODEL, Y[:, :0]), ValueError, r"y has shape \(3, 0, 2\)"),
        (lambda: inference.filter(MODEL, Y, Y), ValueError, "neither B nor D"),
        (lambda: inference.filter(MODEL, Y, parallel=True), ValueError, "take ParallelKalman"),
        (lambda: inference.filter(MODEL, Y[:1]), ValueError, "m0 is given for 3 series; .* have 1"),
        (lambda: inference.filter(MODEL, Y, mask=Y), TypeError, "mask is torch.float64"),
        (
            lambda: inference.filter(MODEL, Y, mask=torch.ones(3, 4, dtype=torch.bool)),
            ValueError,
            "mask has shape",
        ),
        (lambda: LinearGaussian(ONE, [[1.0, 2.0]], ONE, ONE), ValueError, "H has shape"),
        (lambda: LinearGaussian([1.0], ONE, ONE, ONE), ValueError, "2 to 4 axes"),
        (lambda: LinearGaussian(ONE, ONE, ONE, ONE, prior_at=2), ValueError, "prior_at is 2"),
        (lambda: LinearGaussian(ONE, ONE, ONE, ONE).problem(Y), ValueError, "no P0"),
        (lambda: LinearGaussian(ONE, ONE, ONE, ONE, m0=[1.0, 2.0]), ValueError, "m0 has shape"),
        (lambda: LinearGaussian(ONE, ONE, ONE, ONE).stationary(), ValueError, "spectral radius"),
        (lambda: Filter(inference.local_level(1.0, 1.0)), ValueError, "scale="),
        (lambda: Filter(MODEL).update(Y[0]), ValueError, r"it must be \(1, 2\)"),
        (
            lambda: inference.filter(
                MODEL.replace(P0=torch.zeros(3, 3)), Y, method=InformationKalman()
            ),
            ValueError,
            "P0 that can be inverted",
        ),
        (
            lambda: inference.filter(MODEL.replace(R=-torch.eye(2)), Y, method=SquareRootKalman()),
            ValueError,
            "none may be negative",
        ),
    ],
)
def test_what_cannot_be_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()
