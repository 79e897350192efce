"""Effective memory, Volterra kernels and sensitivities against closed forms and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from analysis_systems import LINEAR, NONLINEAR, Map, build, inputs

from statewise.analysis import linearise, memory, sensitivity, volterra
from statewise.analysis._flow import Flow
from statewise.analysis._lag_gradients import windows
from statewise.analysis.sensitivities import integrated
from statewise.lti import markov_parameters
from statewise.nn import LTI, DiscreteDiagonal, GivenDiscrete


def one_pole(pole, direct=0.0):
    """y_k = Σ pole^j u_{k−j} + direct u_k."""
    poles = DiscreteDiagonal(GivenDiscrete((pole,), (0.0,)), "none")
    layer = LTI(1, 1, 1, poles=poles).double()
    with torch.no_grad():
        layer.coupling.B.copy_(torch.tensor([1.0, 0.0]).view_as(layer.coupling.B))
        layer.coupling.C.copy_(torch.tensor([1.0, 0.0]).view_as(layer.coupling.C))
        layer.poles.nu.fill_(math.log(-math.log(pole)))
        layer.poles.theta.fill_(-40.0)
        layer.D.fill_(direct)
    return layer


def test_a_pole_has_the_memory_of_its_powers():
    layer = one_pole(0.9)
    found = memory(layer, np.random.default_rng(0).standard_normal(600), dt=0.5)
    # The energy behind k samples is 0.9^(2k).
    wanted = math.ceil(math.log(0.01) / (2 * math.log(0.9)))
    assert found.model.length == found.blocks[0].length == wanted == 22
    assert found.blocks[0].linear
    k = np.arange(len(found.model.remaining))
    np.testing.assert_allclose(found.model.remaining, 0.81**k, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.gradients, 0.9**found.lags, rtol=1e-9)
    assert found.horizon == wanted - 1
    assert found.time_unit == "s"
    assert memory(layer, fraction=0.5).model.length == 4
    assert memory(one_pole(0.9, 100.0)).model.length == 1


@pytest.mark.parametrize("name", [*LINEAR, *NONLINEAR])
def test_every_model_has_a_memory(name):
    model = build(name)
    u = inputs(model, 60)
    found = memory(model, u, times=8, lags=20)
    assert found.gradients.shape == found.lags.shape == (21,)
    system = linearise(model, u.mean(0)).system
    energy = markov_parameters(system, 3000).square().sum((1, 2)).numpy()
    # Energies up to each sample relative to that of the first, which need no sum without end.
    spent = 1 - found.model.remaining[1:40]
    wanted = np.cumsum(energy)[: len(spent)] / energy[0]
    np.testing.assert_allclose(spent / spent[0], wanted, rtol=1e-6)
    if float(torch.linalg.eigvals(system.A).abs().max()) < 0.995:
        left = 1 - np.concatenate([[0.0], np.cumsum(energy)]) / energy.sum()
        assert left[int(found.model.length)] <= 0.01 + 1e-9
        assert left[int(found.model.length) - 1] > 0.01 - 1e-9


def test_gradients_are_those_of_the_whole_run():
    model = build("gru")
    u = torch.from_numpy(inputs(model, 30))
    found = memory(model, u, lags=5, times=100)
    total = np.zeros(6)
    for t in range(5, 30):
        at = u.clone().requires_grad_()
        y, _ = model(at[None])
        for index in range(3):
            (grad,) = torch.autograd.grad(y[0, t, index], at, retain_graph=True)
            total += grad[t - 5 : t + 1].flip(0).square().sum(1).numpy()
    np.testing.assert_allclose(found.gradients, np.sqrt(total / 25), rtol=1e-9)


def test_an_unstable_model_never_forgets():
    model = Map(lambda x, u: 1.1 * x + u, 1)
    found = memory(model)
    assert found.model.length == math.inf
    assert math.isnan(found.horizon)
    with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
        memory(model, fraction=1.0)
    with pytest.raises(ValueError, match="lags = 10"):
        memory(build("gru"), np.zeros((10, 2)), lags=10)


@pytest.mark.parametrize("name", [*LINEAR, *NONLINEAR])
def test_the_first_kernel_is_the_impulse_response_of_the_linearisation(name):
    model = build(name)
    held = np.random.default_rng(5).standard_normal(model.d_input)
    found = volterra(model, held, length=25)
    wanted = markov_parameters(linearise(model, held).system, 25).numpy()
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found.first, wanted, atol=1e-8 * max(scale, 1e-3))
    np.testing.assert_allclose(found.y, np.broadcast_to(found.y[:1], found.y.shape), atol=1e-9)
    if name in LINEAR:
        np.testing.assert_allclose(found.second, 0, atol=1e-8)
        assert found.error < 1e-9


def test_the_second_kernel_of_a_squared_filter_is_known():
    # y = (Σ 0.8^k u)²: h1 = 2 c h at the mean c of the filtered input, h2(k, k) = h(k)².
    class Squared(Map):
        def _sample(self, u, state, dt):
            after = 0.8 * state + u
            return after**2, after

        def _sequence(self, u, state, dt, reset, lengths):
            found = []
            for sample in u.unbind(1):
                y, state = self._sample(sample, state, dt)
                found.append(y)
            return torch.stack(found, 1), state

    model = Squared(None, 1)
    h = 0.8 ** np.arange(20)
    found = volterra(model, [0.5], length=20, amplitude=0.1, dt=0.1)
    np.testing.assert_allclose(found.first[:, 0, 0], 2 * 2.5 * h, rtol=1e-10)
    np.testing.assert_allclose(found.second[:, 0, 0], h**2, atol=1e-11)
    assert found.error < 1e-10
    start = volterra(model, state=[0.0], length=20, amplitude=[0.1])
    np.testing.assert_allclose(start.first, 0, atol=1e-12)
    with pytest.raises(ValueError, match="positive amplitudes; given 64 and 0"):
        volterra(model, amplitude=0)


def test_sensitivities_of_a_linear_model_are_its_impulse_response_times_deviations():
    layer = build("lru_wide")
    u = inputs(layer, 200) * np.array([1.0, 3.0])
    found = sensitivity(layer, u, lags=10, inputs=["slow", "fast"], outputs=["a", "b", "c"], dt=0.1)
    h = markov_parameters(linearise(layer, [0.0, 0.0]).system, 11).numpy()
    np.testing.assert_allclose(found.gradients, np.abs(h), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.effects, np.abs(h) * u.std(0), rtol=1e-9, atol=1e-12)
    assert [(row.output, row.input) for row in found.rows][:3] == [
        ("a", "slow"),
        ("a", "fast"),
        ("b", "slow"),
    ]
    squares = (found.effects**2).sum(0)
    assert found.rows[1].share == pytest.approx(squares[0, 1] / squares[0].sum())
    assert found.rows[0].share + found.rows[1].share == pytest.approx(1.0)
    assert found.rows[0].effect == pytest.approx(squares[0, 0] ** 0.5)
    assert found.rows[0].peak_lag == pytest.approx(0.1 * found.effects[:, 0, 0].argmax())
    assert found.to_dicts()[0]["input"] == "slow"


def test_an_input_that_does_nothing_has_no_share():
    model = build("stack")
    with torch.no_grad():
        model.input_map.weight[:, 1] = 0
        model.direct.weight[:, 1] = 0
    for method in ("squared", "integrated"):
        found = sensitivity(model, inputs(model, 80), lags=12, method=method)
        assert found.rows[0].share == 1.0
        assert found.rows[1].share == found.rows[1].effect == 0.0


@pytest.mark.parametrize("name", ["gru", "stack", "mamba"])
def test_integrated_gradients_account_for_the_whole_change(name):
    model = build(name)
    flow = Flow(model)
    u = flow.sequence(inputs(model, 40))
    times = np.array([12, 20, 33])
    x, window = windows(flow, u, flow.rest(), 12, times)
    base = u.mean(0)
    parts = integrated(flow, x, window, base, 48).sum((1, 3))
    with torch.no_grad():
        state = flow.unflatten(x)
        here = flow.model(window, state)[0][:, -1]
        there = flow.model(base.expand_as(window), state)[0][:, -1]
        whole = flow.model(u[None])[0][0, times]
    torch.testing.assert_close(here, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts, here - there, rtol=1e-4, atol=1e-5)


def test_sensitivity_refuses_what_it_does_not_know():
    model = build("gru")
    with pytest.raises(ValueError, match="2 channels need 2 names; given"):
        sensitivity(model, inputs(model, 40), inputs=["one"])
    with pytest.raises(ValueError, match='"squared" or "integrated"'):
        sensitivity(model, inputs(model, 40), method="mean")  # type: ignore[arg-type]
