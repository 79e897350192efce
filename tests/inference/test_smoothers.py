"""Smoothers beside conditioning the joint Gaussian of all states, and the draws beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.filter_suite import case, close, random_model
from statewise import inference
from statewise.inference import ParallelKalman, SquareRootKalman

WAYS = {
    "compiled": {},
    "parallel": {"parallel": True},
    "square root": {"square_root": True},
}


def joint(model, T, i, u=None):
    """Moments of all states of series i, and matrices of all outputs."""

    def at(x, t):
        return x[min(i, len(x) - 1), min(t, x.shape[1] - 1)]

    n = model.states
    m, P = model.m0[min(i, len(model.m0) - 1)], model.P0[min(i, len(model.P0) - 1)]
    blocks, means = torch.zeros(T, T, n, n, dtype=torch.float64), []
    for t in range(T):
        if t or model.prior_at == 0:
            F = at(model.F, t)
            m, P = F @ m, F @ P @ F.mT + at(model.Q, t)
            m = m if model.c is None else m + at(model.c, t)
            m = m if u is None else m + at(model.B, t) @ u[i, t]
            for s in range(t):
                blocks[t, s] = F @ blocks[t - 1, s]
                blocks[s, t] = blocks[t, s].mT
        blocks[t, t] = P
        means.append(m)
    H = torch.block_diag(*(at(model.H, t) for t in range(T)))
    R = torch.block_diag(*(at(model.R, t) for t in range(T)))
    d = torch.zeros(T, model.outputs, dtype=torch.float64)
    for t in range(T):
        d[t] = d[t] if model.d is None else d[t] + at(model.d, t)
        d[t] = d[t] if u is None else d[t] + at(model.D, t) @ u[i, t]
    return torch.cat(means), blocks.transpose(1, 2).reshape(T * n, T * n), H, R, d.flatten()


def conditioned(model, y, i, stop, u=None):
    """Moments of all states of series i given what is observed before ``stop``."""
    T = y.shape[1]
    mean, cov, H, R, d = joint(model, T, i, u)
    seen = ~y[i].isnan()
    seen[stop:] = False
    seen = seen.flatten()
    H, R = H[seen], R[seen][:, seen]
    e = y[i].flatten()[seen] - d[seen] - H @ mean
    gain = torch.linalg.solve(H @ cov @ H.mT + R, H @ cov).mT
    return mean + gain @ e, cov - gain @ H @ cov


def blocks_of(x, T):
    n = len(x) // T
    return x.reshape(T, n, T, n).transpose(1, 2)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("prior_at", [0, 1])
@pytest.mark.parametrize("name", ["plain", "gaps", "all", "lengths"])
def test_smoothing_is_conditioning(name, way, prior_at):
    model, y, options = case(name, prior_at)
    method = SquareRootKalman() if way == "square root" else None
    found = inference.smooth(inference.filter(model, y, **options, method=method), **WAYS[way])
    for i in range(len(y)):
        stop = int(options["lengths"][i]) if "lengths" in options else y.shape[1]
        mean, cov = conditioned(model, y, i, stop, options.get("u"))
        cov = blocks_of(cov, y.shape[1])
        close(found.mean[i, :stop], mean.reshape(y.shape[1], -1)[:stop], 1e-10)
        for t in range(stop):
            close(found.cov[i, t], cov[t, t], 1e-10)
            if t:
                close(found.cross[i, t], cov[t, t - 1], 1e-10)
        assert not found.mean[i, stop:].any()
        assert not found.cross[i, stop:].any()
        if found.factor is not None:
            close(found.factor[i, :stop] @ found.factor[i, :stop].mT, found.cov[i, :stop], 1e-13)


@pytest.mark.parametrize("way", list(WAYS))
def test_singular_covariances_are_smoothed(way):
    model, y, _ = case("gaps")
    rank = torch.tensor([[1.0, 0.5, -1.0]], dtype=torch.float64)
    model = model.replace(Q=rank.mT @ rank, P0=torch.diag(torch.tensor([1.0, 0.0, 0.0])))
    method = SquareRootKalman() if way == "square root" else None
    found = inference.smooth(inference.filter(model, y, method=method), **WAYS[way])
    for i in range(len(y)):
        mean, cov = conditioned(model, y, i, y.shape[1])
        close(found.mean[i].flatten(), mean, 1e-8)
        close(found.cov[i], torch.stack([blocks_of(cov, 12)[t, t] for t in range(12)]), 1e-8)


@pytest.mark.parametrize("lag", [0, 1, 4, 30])
@pytest.mark.parametrize("name", ["gaps", "all", "lengths"])
def test_a_fixed_lag_looks_so_far_ahead(name, lag):
    model, y, options = case(name)
    found = inference.smooth_lagged(inference.filter(model, y, **options), lag)
    n = model.states
    for i in range(len(y)):
        stop = int(options["lengths"][i]) if "lengths" in options else y.shape[1]
        for t in range(stop):
            mean, cov = conditioned(model, y, i, min(stop, t + lag + 1), options.get("u"))
            now = slice(t * n, (t + 1) * n)
            close(found.mean[i, t], mean[now], 1e-10)
            close(found.cov[i, t], cov[now, now], 1e-10)
        assert not found.mean[i, stop:].any()


def test_draws_have_the_moments_of_the_smoother():
    model = random_model(n=2, p=1, B=2, seed=2)
    rng = np.random.default_rng(5)
    y = torch.as_tensor(rng.normal(size=(2, 6, 1)))
    y[0, 2] = torch.nan
    result = inference.filter(model, y, lengths=[6, 4])
    smoothed = inference.smooth(result)
    many = 20_000
    draws = inference.sample_states(result, many, seed=0)
    assert draws.shape == (many, 2, 6, 2)
    z = (draws - smoothed.mean) / smoothed.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    z = z[:, result.problem.valid()]
    assert (z.mean(0).abs() < 4.5 / many**0.5).all()
    assert ((z * z).mean(0) - 1).abs().max() < 4.5 * (2 / many) ** 0.5
    centred = draws - smoothed.mean
    pairs = torch.einsum("sbti,sbtj->btij", centred[:, :, 1:], centred[:, :, :-1]) / many
    assert (pairs - smoothed.cross[:, 1:]).abs().max() < 6 * smoothed.cov.max() / many**0.5
    assert torch.equal(draws[:3], inference.sample_states(result, many, seed=0)[:3])
    assert not draws[:, 1, 4:].any()


def test_a_wanted_gradient_comes_through_the_smoother():
    model, y, _ = case("gaps", T=5)
    F = model.F.clone().requires_grad_()

    def mean(F):
        return inference.smooth(inference.filter(model.replace(F=F), y)).mean

    assert torch.autograd.gradcheck(mean, F, atol=1e-6)
    expected = inference.smooth(inference.filter(model, y)).mean
    close(mean(F).detach(), expected, 1e-10)


def test_smoothing_in_parallel_after_filtering_in_parallel():
    model = random_model(n=3, p=1, B=1, seed=8)
    y = torch.as_tensor(np.random.default_rng(8).normal(size=(1, 3000, 1)))
    one = inference.filter(model, y, method=ParallelKalman(), parallel=True)
    found = inference.smooth(one, parallel=True)
    expected = inference.smooth(inference.filter(model, y))
    close(found.mean, expected.mean, 1e-9)
    close(found.cov, expected.cov, 1e-9)
    close(found.cross, expected.cross, 1e-9)


def test_what_cannot_be_is_said():
    model, y, _ = case("plain")
    found = inference.filter(model, y)
    with pytest.raises(ValueError, match="neither parallel=True"):
        inference.smooth(found, parallel=True, square_root=True)
    with pytest.raises(ValueError, match="lag is -1"):
        inference.smooth_lagged(found, -1)
    level = inference.filter(inference.local_level(1.0, 1.0), y[..., :1])
    with pytest.raises(ValueError, match="scale="):
        inference.sample_states(level, 1)
