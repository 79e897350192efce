"""Measuring linear systems: responses, read-outs, impulse responses and their weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from statewise.lti import LegT
from statewise.nn import LRU, S4D
from statewise.papers.harness.impulse import (
    bounded_error,
    fit_responses,
    fourier_system,
    least_weights,
    real_basis,
    targets,
)
from statewise.papers.harness.readout import (
    butterworth_noise,
    delayed,
    memory_states,
    readout_error,
    states,
)
from statewise.papers.harness.signals import pendulums
from statewise.papers.harness.transfer import dense_response, legs_pair, order, relative_state_gap


def test_response_of_one_pole():
    omega = np.array([0.0, 0.5, 4.0])
    found = dense_response(np.array([[-2.0]]), np.array([3.0]), omega)[:, 0]
    np.testing.assert_allclose(found, 3 / (2 + 1j * omega), rtol=1e-14)


def test_normal_part_and_gap():
    a, b, normal, half = legs_pair(6)
    np.testing.assert_allclose(normal + normal.T, -np.eye(6), atol=1e-13)
    np.testing.assert_allclose(half, b / 2)
    response = dense_response(a, b, np.array([0.3, 1.0]))
    np.testing.assert_allclose(relative_state_gap(response, 1.25 * response), 0.25)


def test_order():
    sizes = np.array([8.0, 16.0, 32.0])
    assert order(sizes, 5 * sizes**-1.5) == pytest.approx(1.5)


def test_noise_is_low_passed():
    signal = butterworth_noise(8192, 4, 0.1, 0)
    power = np.abs(np.fft.rfft(signal)) ** 2
    assert signal.std() == pytest.approx(1)
    assert power[1200:].sum() < 1e-3 * power.sum()
    assert np.array_equal(signal, butterworth_noise(8192, 4, 0.1, 0))


def test_states_of_real_and_complex_poles():
    signal = butterworth_noise(200, 2, 0.5, 1)
    assert states(S4D(1, 5, real=True).double(), signal).shape == (200, 5)
    assert states(LRU(1, 1, 5).double(), signal).shape == (200, 10)


def test_memory_states_follow_the_rule():
    signal, step = butterworth_noise(30, 2, 0.5, 1), 0.05
    a, b = LegT().operator(4)
    left, right = np.eye(4) - step / 2 * a, np.eye(4) + step / 2 * a
    x, found = np.zeros(4), memory_states(LegT(), 4, step, signal).numpy()
    for k, u in enumerate(signal):
        x = np.linalg.solve(left, right @ x + step * b * u)
        np.testing.assert_allclose(found[k], x, rtol=1e-10, atol=1e-12)


def test_a_window_keeps_a_delay():
    signal = butterworth_noise(4000, 4, 0.1, 0)
    target = torch.from_numpy(delayed(signal, 40))
    assert readout_error(memory_states(LegT(), 32, 1 / 40, signal), target, 3000, 200) < 1e-2


def test_least_weights_hold_for_real_systems():
    rng = np.random.default_rng(0)
    for _ in range(20):
        poles, weights = rng.uniform(-1, 1, 7), rng.standard_normal(7)
        response = (poles ** np.arange(12)[:, None]) @ weights
        assert least_weights(response) <= np.abs(weights).sum() * (1 + 1e-9)
    assert least_weights(targets(8)["delay"]) == pytest.approx(13.5)


def test_bounded_error_is_certified():
    basis, response = real_basis(12, 64), targets(12)["delay"]
    below, above = bounded_error(basis, response, 1.0)
    assert 0.3 < below <= above < 1
    inside = basis @ np.full(64, 0.5)
    assert bounded_error(basis, inside, 1.0)[0] < 1e-6


def test_fourier_system_is_exact():
    for response in targets(16).values():
        made, largest = fourier_system(response)
        np.testing.assert_allclose(made, response, atol=1e-13)
        assert largest <= np.abs(response).sum() / 16 + 1e-12


@pytest.mark.parametrize("real", [True, False])
def test_fits_descend(real):
    wanted = torch.from_numpy(targets(8)["random"]).unsqueeze(0)
    start = fit_responses(wanted, 16, real=real, r_min=0.0, lr=1e-2, steps=1)
    end = fit_responses(wanted, 16, real=real, r_min=0.0, lr=1e-2, steps=200)
    assert end < start
    assert start == pytest.approx(1, abs=0.05)


def test_pendulums_keep_their_energy():
    angle, velocity = pendulums(4, 300, period=60, damping=0, amplitude=1.0, seed=0)
    energy = velocity**2 / 2 - np.cos(angle)
    np.testing.assert_allclose(energy, energy[:, :1].repeat(300, 1), atol=1e-4)
