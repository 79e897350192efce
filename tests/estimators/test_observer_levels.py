"""The observers around a model, held equal to textbook filters of the same augmented model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from observer_systems import ERRORS, error_signals, errors, linear_network, network_signals

from statewise import inference
from statewise.estimators import ErrorObserver, StateNoise, StateObserver
from statewise.estimators.signals import Signals
from statewise.estimators.state_steps import StateSteps
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import ELU, Mamba2


def _close(found: np.ndarray, wanted: torch.Tensor, tolerance: float = 1e-8) -> None:
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=tolerance)


def _joint() -> inference.LinearGaussian:
    """Both error processes in one state, the free run as an input of the outputs."""
    F, Q, H = np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((2, 4))
    for k, phi in enumerate(ERRORS.coefficients):
        F[2 * k, 2 * k : 2 * k + 2] = phi
        F[2 * k + 1, 2 * k] = 1.0
        Q[2 * k, 2 * k] = ERRORS.process[k] ** 2
        H[k, 2 * k] = 1.0
    R = np.diag(np.square(ERRORS.measurement))
    return inference.LinearGaussian(F, H, Q, R, D=np.eye(2)).stationary()


def test_error_filter_is_the_kalman_filter_of_the_augmented_model() -> None:
    signals, joint = error_signals(), _joint()
    found = inference.filter(joint, signals.z[None], signals.free[None])
    track = ERRORS.filter(signals)
    wanted = found.predicted_mean @ joint.H[0].mT + torch.tensor(signals.free)
    _close(track.mean, wanted[0])
    _close(track.variance, found.innovation_cov[0].diagonal(dim1=-2, dim2=-1))
    _close(track.state_mean, found.mean[0])
    _close(track.state_variance, found.cov[0].diagonal(dim1=-2, dim2=-1))
    smoothed, again = inference.smooth(found), ERRORS.smooth(signals)
    H = joint.H[0, 0]
    _close(again.mean, smoothed.mean[0] @ H.mT + torch.tensor(signals.free))
    spread = (H @ smoothed.cov[0] @ H.mT + joint.R[0, 0]).diagonal(dim1=-2, dim2=-1)
    _close(again.variance, spread)


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_errors_ahead_are_the_filter_with_the_last_outputs_hidden(horizon: int) -> None:
    signals = error_signals()
    mean, variance = ERRORS.ahead(signals, (1, 2, 5))[(1, 2, 5).index(horizon)]
    assert np.isnan(mean[:horizon]).all()
    for t in (horizon, 12, 70):
        z = signals.z[: t + 1].copy()
        z[t - horizon + 1 :] = np.nan
        track = ERRORS.filter(Signals(signals.u[: t + 1], z, signals.free[: t + 1]))
        np.testing.assert_allclose(mean[t], track.mean[t], atol=1e-12)
        np.testing.assert_allclose(variance[t], track.variance[t], atol=1e-12)


def test_likelihood_finds_the_levels_that_made_the_errors() -> None:
    e = errors(6000, seed=3)
    zero = np.zeros_like(e)
    parts = [Signals(zero[at], e[at], zero[at]) for at in (slice(3500), slice(3500, None))]
    found = ErrorObserver(order=2).fit(parts)
    np.testing.assert_allclose(found.coefficients[0], ERRORS.coefficients[0], atol=0.06)
    np.testing.assert_allclose(found.process[0], ERRORS.process[0], rtol=0.1)
    series = torch.from_numpy(e.T[..., None].copy())
    best, true = (inference.log_likelihood(x.model(), series) for x in (found, ERRORS))
    assert bool((best > true).all())


def test_levels_are_those_of_the_units() -> None:
    signals = error_signals(400, gaps=False)
    one = ErrorObserver(1).fit([signals])
    big = ErrorObserver(1).fit([signals._replace(z=1e3 * signals.z, free=1e3 * signals.free)])
    np.testing.assert_allclose(big.coefficients, one.coefficients, atol=1e-6)
    np.testing.assert_allclose(big.process, 1e3 * np.asarray(one.process), rtol=1e-5)


def test_too_few_errors_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="5 measured outputs do not tell the noise"):
        ErrorObserver(1).fit([error_signals(5, gaps=False)])
    with pytest.raises(ValueError, match="order is at least 1"):
        ErrorObserver(0)
    with pytest.raises(ValueError, match="0 < lowest < highest"):
        StateObserver(lowest=2.0, highest=1.0)


def _noise(model: DeepWiener) -> StateNoise:
    n = StateSteps(model).n
    return StateNoise(tuple(np.linspace(0.05, 0.2, n).tolist()), (0.1, 0.2))


def test_state_filter_around_a_linear_network_is_the_kalman_filter() -> None:
    model = linear_network()
    signals, noise, steps = network_signals(model), _noise(model), StateSteps(model)
    _, _, F, H = steps.expand(steps.rest, np.zeros(2), None)
    rest = torch.zeros(1, steps.n).double()
    zero_u = torch.zeros(1, 2).double()
    eye = torch.eye(2).double()
    B = steps.step(rest.expand(2, -1), eye)[0].mT - steps.step(rest, zero_u)[0].mT
    D = steps.step(rest.expand(2, -1), eye)[1].mT - steps.step(rest, zero_u)[1].mT
    Q, R = (torch.from_numpy(np.diag(np.square(x))) for x in (noise.process, noise.measurement))
    # This model is driven by the input before: x_{t+1} = F x_t + B u_t.
    before = torch.cat([torch.zeros(1, 2).double(), torch.tensor(signals.u[:-1])])
    offset, shift = steps.step(rest, zero_u)
    kalman = inference.LinearGaussian(
        F,
        H,
        Q,
        R,
        c=(before @ B.mT + offset * (torch.arange(60) > 0)[:, None]),
        d=(torch.tensor(signals.u) @ D.mT + shift),
        P0=100 * Q,
    )
    found = inference.filter(kalman, signals.z[None])
    track = noise.filter(signals, model)
    _close(track.state_mean, found.mean[0])
    _close(track.state_variance, found.cov[0].diagonal(dim1=-2, dim2=-1))
    _close(track.variance, found.innovation_cov[0].diagonal(dim1=-2, dim2=-1))
    smoothed, again = inference.smooth(found), noise.smooth(signals, model)
    _close(again.state_mean, smoothed.mean[0])
    _close(again.state_variance, smoothed.cov[0].diagonal(dim1=-2, dim2=-1))
    for h, (mean, variance) in zip((1, 3), noise.ahead(signals, (1, 3), model), strict=True):
        for t in (h, 22, 45):
            z = signals.z[: t + 1].copy()
            z[t - h + 1 :] = np.nan
            short = noise.filter(Signals(signals.u[: t + 1], z, signals.free[: t + 1]), model)
            np.testing.assert_allclose(mean[t], short.mean[t], atol=1e-9)
            np.testing.assert_allclose(variance[t], short.variance[t], atol=1e-9)


@pytest.mark.parametrize("kind", ["blocks", "layers"])
def test_state_filter_is_the_extended_kalman_filter(kind: str) -> None:
    layer = None if kind == "blocks" else Mamba2.spec(d_state=4, headdim=4, expand=1)
    config = DeepWienerConfig(n_layers=2, d_model=4, d_state=2, static=ELU(), layer=layer)
    model = DeepWiener(2, 2, config, seed=1).double().eval()
    signals, noise = network_signals(model, 28), _noise(model)
    q, r = (torch.from_numpy(np.square(x)) for x in (noise.process, noise.measurement))
    noisy = inference.with_noise(model, q, r, P0=100 * q)
    method = inference.GaussianFilter(inference.FirstOrder())
    with torch.no_grad():
        found = inference.filter(noisy, signals.z[None], signals.u[None], method=method)
        smoothed = inference.smooth(found)
    track, again = noise.filter(signals, model), noise.smooth(signals, model)
    _close(track.state_mean, found.mean[0])
    _close(track.state_variance, found.cov[0].diagonal(dim1=-2, dim2=-1))
    _close(again.state_mean, smoothed.mean[0], 1e-7)
    _close(again.state_variance, smoothed.cov[0].diagonal(dim1=-2, dim2=-1), 1e-7)


def test_state_levels_are_found_where_the_state_is_disturbed() -> None:
    model = linear_network()
    steps = StateSteps(model)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((300, 2))
    variance = steps.variances([u])
    x, rows = steps.rest[None], []
    for t in range(len(u)):
        x, y = steps.step(x, torch.tensor(u[t : t + 1]))
        rows.append(y[0].numpy())
        x = x + torch.tensor(0.2 * np.sqrt(variance) * rng.standard_normal(steps.n))
    z = np.stack(rows) + 0.3 * rng.standard_normal((len(u), 2))
    with torch.no_grad():
        free = model(torch.tensor(u)[None])[0][0].numpy()
    found = StateObserver(0.05, 0.8).fit([Signals(u, z, free, None, 20)], model)
    ratio = np.asarray(found.process) / np.sqrt(variance)
    assert 0.1 < ratio[0] < 0.4
    np.testing.assert_allclose(ratio, ratio[0])


def test_noise_of_another_network_is_refused() -> None:
    model = linear_network()
    with pytest.raises(ValueError, match="the noise is for 1 states; the network has 8"):
        StateNoise((0.1,), (0.1, 0.1)).filter(network_signals(model), model)
