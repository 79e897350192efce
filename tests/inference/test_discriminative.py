"""The discriminative Kalman filter: exact where regressions are, and one however it is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from contracts.filter_suite import close
from statewise import inference
from statewise.inference import (
    AddMarginal,
    ClipEigenvalues,
    Discriminative,
    Filter,
    FirstOrder,
    GaussianFilter,
    InformationKalman,
    LinearGaussian,
    ParallelKalman,
    SquareRootKalman,
)
from statewise.lti import discrete_lyapunov

METHODS = (None, SquareRootKalman(), InformationKalman(), ParallelKalman())


def covariance(n, seed, *lead):
    root = np.random.default_rng(seed).normal(size=(*lead, n, n + 2))
    return torch.as_tensor(root @ np.swapaxes(root, -1, -2) / n + 0.1 * np.eye(n))


def dynamics(n=3, seed=0):
    """F, Q and the S that they come to."""
    rng = np.random.default_rng(seed)
    F = 0.9 * torch.linalg.qr(torch.as_tensor(rng.normal(size=(n, n))))[0]
    Q = covariance(n, seed)
    return F, Q, discrete_lyapunov(F, Q).X


def seen(B=2, T=9, p=2, gaps=0.0, seed=1):
    rng = np.random.default_rng(seed)
    y = torch.as_tensor(rng.normal(size=(B, T, p)))
    y[torch.as_tensor(rng.random((B, T)) < gaps)] = torch.nan
    return y


def wide_law(n=3, p=2, size=1.0, seed=2):
    """An f and a V that vary with y; V is not below S everywhere."""
    rng = np.random.default_rng(seed)
    K, base = torch.as_tensor(rng.normal(size=(n, p))), covariance(n, seed)
    turn = torch.as_tensor(rng.normal(size=(p, n)))

    def law(y):
        root = torch.diag_embed(torch.tanh(y @ turn) + 1.2) * size**0.5
        return y @ K.mT, root @ base @ root.mT

    return law


def exact(n=3, p=2, seed=0):
    """A linear-Gaussian model and the regression that is its posterior from one observation."""
    F, Q, S = dynamics(n, seed)
    H = torch.as_tensor(np.random.default_rng(seed + 1).normal(size=(p, n)))
    R = covariance(p, seed + 2)
    V = torch.linalg.inv(torch.linalg.inv(S) + H.mT @ torch.linalg.inv(R) @ H)
    K = V @ H.mT @ torch.linalg.inv(R)
    # With fewer outputs than states some directions are not seen: V equals S there.
    model = Discriminative(F, Q, S, lambda y: (y @ K.mT, V), repair=ClipEigenvalues(1e-14))
    return model, LinearGaussian(F, H, Q, R).stationary(), H @ S @ H.mT + R


@pytest.mark.parametrize("lengths", [None, [9, 4]])
@pytest.mark.parametrize("p", [3, 5])
def test_with_the_exact_regression_it_is_the_kalman_filter(p, lengths):
    model, kalman, marginal = exact(p=p)
    y = seen(p=p, gaps=0.3)
    found = model.filter(y, lengths=lengths)
    expected = inference.filter(kalman, y, lengths=lengths)
    close(found.mean, expected.mean, 1e-10)
    close(found.cov, expected.cov, 1e-10)
    close(inference.smooth(found).mean, inference.smooth(expected).mean, 1e-10)
    alone = MultivariateNormal(torch.zeros(p).double(), marginal).log_prob(y.nan_to_num())
    there = ~y.isnan().any(-1)
    if lengths is not None:
        there &= torch.arange(9) < torch.tensor(lengths).unsqueeze(1)
    alone = torch.where(there, alone, 0.0)
    close(found.log_likelihoods, expected.log_likelihoods - alone, 1e-9)


def test_directions_that_are_not_seen():
    model, kalman, _ = exact(n=4, p=1)
    model.repair = ClipEigenvalues(1e-9)
    y = seen(p=1, T=30)
    found, expected = model.filter(y), inference.filter(kalman, y)
    close(found.mean, expected.mean, 1e-6)
    close(found.cov, expected.cov, 1e-6)


def test_each_step_is_the_published_one():
    F, Q, S = dynamics()
    law, y = wide_law(), seen()
    model = Discriminative(F, Q, S, law)
    found = model.filter(y)
    f, V = law(y)
    assert bool(model.measure(y).repaired.any())
    V = model.repaired(V)
    inverse = torch.linalg.inv
    m, P = f[:, 0], V[:, 0]
    for t in range(y.shape[1]):
        if t:
            M = F @ P @ F.mT + Q
            P = inverse(inverse(V[:, t]) + inverse(M) - inverse(S))
            told = inverse(V[:, t]) @ f[:, t].unsqueeze(-1)
            m = P @ (told + inverse(M) @ (F @ m.unsqueeze(-1)))
            m = m.squeeze(-1)
        close(found.mean[:, t], m, 1e-8)
        close(found.cov[:, t], P, 1e-8)


def test_the_robust_form_takes_f_as_a_measurement():
    F, Q, S = dynamics()
    law, y = wide_law(), seen(gaps=0.3)
    f, V = law(y.nan_to_num())
    f = torch.where(y.isnan().any(-1, keepdim=True), torch.nan, f)
    expected = inference.filter(LinearGaussian(F, torch.eye(3).double(), Q, V, P0=S), f)
    found = Discriminative(F, Q, S, law, robust=True).filter(y)
    close(found.mean, expected.mean, 1e-12)
    close(found.cov, expected.cov, 1e-12)
    close(found.log_likelihoods, expected.log_likelihoods, 1e-12)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("repair", [ClipEigenvalues(), AddMarginal()], ids=repr)
def test_all_ways_are_one(robust, repair):
    F, Q, S = dynamics()
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    model = Discriminative(F, Q, S, wide_law(), mean=mean, robust=robust, repair=repair)
    y = seen(T=23, gaps=0.2)
    lengths = [23, 11]
    whole = model.filter(y, lengths=lengths)
    for method in METHODS:
        for parallel in (False, True) if isinstance(method, ParallelKalman) else (False,):
            other = model.filter(y, lengths=lengths, method=method, parallel=parallel)
            for field in ("mean", "cov", "log_likelihoods"):
                close(getattr(other, field), getattr(whole, field), 1e-8)
    full, state = model.filter(y), None
    for t in range(23):
        now, state = model.update(y[:, t], state)
        close(now.mean, full.mean[:, t], 1e-8)
        close(now.cov, full.cov[:, t], 1e-8)
        close(now.log_likelihood, full.log_likelihoods[:, t], 1e-8)
    smoothed = [inference.smooth(whole, parallel=parallel) for parallel in (False, True)]
    close(smoothed[0].mean, smoothed[1].mean, 1e-8)
    close(smoothed[0].mean[0, -1], whole.mean[0, -1], 1e-10)
    alone = model.filter(y[1:, :11])
    close(whole.mean[1, :11], alone.mean[0], 1e-10)
    assert not whole.mean[1, 11:].any()


def test_a_step_without_observation_moves_only():
    F, Q, S = dynamics()
    y = seen(T=4)
    law = wide_law(size=0.05)
    holes = {
        "all": y.clone().index_fill_(1, torch.tensor([2]), torch.nan),
        "a channel": torch.where(torch.arange(4)[:, None] * 2 + torch.arange(2) == 5, torch.nan, y),
    }

    def prior(y):
        """F = 0 and V = S: what is known of a state without looking."""
        f, V = law(y)
        here = (torch.arange(y.shape[1]) == 2)[:, None]
        return torch.where(here, 0.0, f), torch.where(here[..., None], S, V)

    def gone(y):
        f, V = law(y)
        return torch.where((torch.arange(y.shape[1]) == 2)[:, None], torch.nan, f), V

    found = {name: Discriminative(F, Q, S, law).filter(x) for name, x in holes.items()}
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[:, 2] = False
    found["mask"] = Discriminative(F, Q, S, law).filter(y, mask=mask)
    found["law"] = Discriminative(F, Q, S, gone).filter(y)
    found["prior"] = Discriminative(F, Q, S, prior).filter(y)
    for name, one in found.items():
        bound = 1e-5 if name == "prior" else 1e-12
        close(one.mean[:, 2], one.mean[:, 1] @ F.mT, bound)
        close(one.cov[:, 2], F @ one.cov[:, 1] @ F.mT + Q, bound)
        close(one.log_likelihoods[:, 2], torch.zeros(2).double(), bound)


@given(seed=st.integers(0, 99))
def test_covariances_below_s_are_untouched_and_others_come_below(seed):
    _, _, S = dynamics(seed=seed)
    L = torch.linalg.cholesky(S)
    below = L @ torch.linalg.qr(covariance(3, seed, 4))[0]
    below = below * torch.as_tensor(np.random.default_rng(seed).uniform(0.1, 0.99, 3)).sqrt()
    below = below @ below.mT
    for repair in (ClipEigenvalues(), AddMarginal()):
        model = Discriminative(0.5 * S, S, S, lambda y: (y, S), repair=repair)
        close(model.repaired(below), below, 1e-12)
        V = covariance(3, seed + 1, 5) * 3
        mended = model.repaired(V)
        assert bool((torch.linalg.eigvalsh(S - mended) > 0).all())
    clipped = Discriminative(0.5 * S, S, S, lambda y: (y, S)).repaired(V)
    # Along generalised eigenvectors of V v = λ S v the repair is min(λ, 1).
    values, vectors = np.linalg.eig(np.linalg.solve(S.numpy(), V.numpy()))
    back = np.linalg.inv(vectors)
    expected = S.numpy() @ (vectors * np.minimum(values, 1 - 1e-6)[:, None, :]) @ back
    np.testing.assert_allclose(clipped.numpy(), expected, rtol=1e-7, atol=1e-9)
    added = torch.linalg.inv(torch.linalg.inv(V) + torch.linalg.inv(S))
    bad = torch.linalg.eigvalsh(torch.linalg.inv(V) - torch.linalg.inv(S))[..., 0] <= 0
    close(mended[bad], added[bad], 1e-9)


@pytest.mark.parametrize("robust", [False, True])
@given(seed=st.integers(0, 99))
def test_the_coordinates_of_the_state_do_not_matter(robust, seed):
    F, Q, S = dynamics()
    law, y = wide_law(), seen(gaps=0.2)
    rng = np.random.default_rng(seed)
    T = torch.linalg.qr(torch.as_tensor(rng.normal(size=(3, 3))))[0]
    T = T * torch.as_tensor(rng.uniform(0.3, 3, 3))
    back, move = torch.linalg.inv(T), torch.as_tensor(rng.normal(size=3))

    def turned(y):
        f, V = law(y)
        return f @ T.mT + move, T @ V @ T.mT

    there = Discriminative(
        *(T @ F @ back, T @ Q @ T.mT, T @ S @ T.mT, turned), mean=move, robust=robust
    )
    found, expected = there.filter(y), Discriminative(F, Q, S, law, robust=robust).filter(y)
    close((found.mean - move) @ back.mT, expected.mean, 1e-7)
    close(back @ found.cov @ back.mT, expected.cov, 1e-7)
    if not robust:
        close(found.log_likelihoods, expected.log_likelihoods, 1e-6)


@pytest.mark.parametrize("shift", [2, -2])
def test_a_shift_moves_observations(shift):
    F, Q, S = dynamics()
    law, y = wide_law(), seen(T=8)
    lengths = [8, 5]
    found = Discriminative(F, Q, S, law, shift=shift).filter(y, lengths=lengths)
    for i, stop in enumerate(lengths):
        moved = torch.full((1, stop, 2), torch.nan).double()
        for t in range(stop):
            if 0 <= t - shift < stop:
                moved[0, t] = y[i, t - shift]
        alone = Discriminative(F, Q, S, law).filter(moved)
        close(found.mean[i, :stop], alone.mean[0], 1e-12)
    model, state = Discriminative(F, Q, S, law, shift=shift), None
    if shift < 0:
        with pytest.raises(ValueError, match="shift is -2: a state is known by observations after"):
            model.update(y[:, 0])
        return
    full = model.filter(y)
    for t in range(8):
        now, state = model.update(y[:, t], state)
        close(now.mean, full.mean[:, t], 1e-10)
    assert state.steps == 8
    assert tuple(state.waiting.shape) == (2, 2, 2)


@pytest.mark.parametrize("rule", [None, FirstOrder()])
def test_nonlinear_dynamics_that_are_linear_are_the_linear_ones(rule):
    F, Q, S = dynamics()
    law, y = wide_law(), seen(gaps=0.2)
    method = GaussianFilter(rule)
    curved = Discriminative(lambda z, u, t: F @ z, Q, S, law)
    found, expected = curved.filter(y, method=method), Discriminative(F, Q, S, law).filter(y)
    close(found.mean, expected.mean, 1e-8)
    close(found.cov, expected.cov, 1e-8)
    close(inference.smooth(found).mean, inference.smooth(expected).mean, 1e-8)


def test_nonlinear_dynamics_online_know_the_time():
    Q = 0.2 * torch.eye(3).double()
    law, y = wide_law(size=0.1), seen()
    model = Discriminative(lambda z, u, t: torch.sin(z) * (1 + 0.1 * t), Q, 5 * Q, law)
    full, state = model.filter(y), None
    for t in range(y.shape[1]):
        now, state = model.update(y[:, t], state, mask=torch.tensor([True, True]))
        close(now.mean, full.mean[:, t], 1e-10)


def test_gradients_pass_through_repaired_covariances():
    F, Q, S = (x[:2, :2].clone() for x in dynamics())
    y = seen(B=1, T=4)
    # The second covariance has equal eigenvalues in units of S; both have some above 1.
    V = torch.stack([torch.diag(torch.tensor([0.3, 2.0]).double()) * S, 1.5 * S])
    V = torch.stack([V[0], V[1], 0.2 * S, 0.7 * S]).unsqueeze(0)
    f = torch.as_tensor(np.random.default_rng(3).normal(size=(1, 4, 2)))

    def function(F, f, V):
        model = Discriminative(F, Q, S, lambda y: (f, (V + V.mT) / 2), repair=ClipEigenvalues(0.05))
        found = model.filter(y)
        return found.mean.sum() + found.log_likelihood.sum() + found.cov.square().sum()

    leaves = [x.clone().requires_grad_() for x in (F, f, V)]
    assert torch.autograd.gradcheck(function, leaves)


def test_float32_parameters_and_what_is_behind_the_end():
    F, Q, S = dynamics()
    law, y = wide_law(), seen()
    narrow = Discriminative(F.float(), Q.float(), S.float(), law)
    found, expected = narrow.filter(y), Discriminative(F, Q, S, law).filter(y)
    assert found.mean.dtype == torch.float64
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-4)
    y[1, 5:] = 1e300
    ended = Discriminative(F, Q, S, law).filter(y, lengths=[9, 5])
    close(ended.mean[1, :5], expected.mean[1, :5], 1e-12)
    assert not ended.log_likelihoods[1, 5:].any()


def test_the_filter_of_streams_needs_a_model():
    F, Q, S = dynamics()
    model = Discriminative(F, Q, S, wide_law())
    stream = Filter(model.linear(S), batch=2)
    value = model.measure(seen(T=1)).value[:, 0]
    assert tuple(stream.update(value).mean.shape) == (2, 3)


F, Q, S = dynamics()
LAW = wide_law()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Discriminative(F, Q, S[:2], LAW), r"S has shape \(2, 3\)"),
        (lambda: Discriminative(F, Q, -S, LAW), "S is not positive definite"),
        (lambda: Discriminative(F[:2, :2], Q, S, LAW), r"F has shape \(2, 2\)"),
        (lambda: Discriminative(F, Q, S, LAW).filter(seen()[0]), r"must be \(B, T, p\)"),
        (lambda: Discriminative(F, Q, S, lambda y: (y, S)).filter(seen()), "the law gave the sha"),
        (lambda: Discriminative(F, Q, S, lambda y: (LAW(y)[0], -S)).filter(seen()), "eigenvalue -"),
        (lambda: Discriminative(F, Q, S, LAW).update(seen()), r"must be \(B, p\)"),
    ],
)
def test_what_cannot_be_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
