"""Lyapunov exponents: known maps, linear systems, and the closed form against the QR method."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from analysis_systems import LINEAR, NONLINEAR, Map, build, henon, inputs

from statewise.analysis import linearise, lyapunov_spectrum
from statewise.nn import ELU, Elman, Longhorn, Mamba, ParaGRU
from statewise.nn.wiener import WienerBlock

CLOSED = ("lru", "lru_wide", "s4d", "s5", "trapezoid", "mamba", "mamba2", "rg_lru", "stack")


def test_the_henon_map_has_its_known_exponents():
    found = lyapunov_spectrum(Map(henon, 2), np.zeros(4000), [0.1, 0.1], burn_in=200)
    assert found.method == "qr"
    assert found.exponents.sum() == pytest.approx(math.log(0.3), abs=1e-12)
    assert found.largest == pytest.approx(0.41922, abs=0.015)
    assert found.dimension == pytest.approx(1.258, abs=0.01)


def test_the_logistic_map_has_log_two():
    model = Map(lambda x, u: 4 * x * (1 - x), 1)
    # Iterates of the map have a closed form, so that rounding does not end its run.
    found = lyapunov_spectrum(model, np.zeros(4000), [0.3], burn_in=100, dt=0.5)
    assert found.largest * 0.5 == pytest.approx(math.log(2), abs=0.01)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_system_has_the_logarithms_of_its_eigenvalues(name):
    layer = build(name)
    found = lyapunov_spectrum(layer, inputs(layer, 20), dt=0.1)
    assert found.method == "closed"
    A = linearise(layer, np.zeros(layer.d_input)).system.A
    moduli = torch.linalg.eigvals(A).abs().sort(descending=True).values.numpy()
    wanted = np.where(moduli > 1e-12, np.log(np.maximum(moduli, 1e-300)), -np.inf) / 0.1
    np.testing.assert_allclose(found.exponents, wanted, rtol=1e-8)


@pytest.mark.parametrize("name", CLOSED)
def test_the_closed_form_is_the_qr_method(name):
    model = build(name)
    u = inputs(model, 60)
    closed = lyapunov_spectrum(model, u, method="closed")
    carried = lyapunov_spectrum(model, u, method="qr")
    assert closed.length == carried.length == 54
    finite = np.isfinite(closed.exponents)
    np.testing.assert_array_equal(np.isfinite(carried.exponents), finite)
    np.testing.assert_allclose(
        carried.exponents[finite], closed.exponents[finite], rtol=1e-8, atol=1e-10
    )


def test_more_selective_layers_have_both_forms():
    for layer in (Longhorn(4, d_state=2).double(), ParaGRU(4).double(), build("mamba_stack")):
        u = inputs(layer, 30)
        closed = lyapunov_spectrum(layer, u, method="closed").exponents
        carried = lyapunov_spectrum(layer, u, method="qr").exponents
        finite = np.isfinite(closed)
        np.testing.assert_allclose(carried[finite], closed[finite], rtol=1e-8, atol=1e-10)


def test_mamba_has_the_means_of_its_steps_times_its_rates():
    layer = build("mamba")
    u = torch.from_numpy(inputs(layer, 50))
    with torch.no_grad():
        x, _ = layer.in_proj(u[None]).chunk(2, dim=-1)
        x, _ = layer.conv1d(x, layer.init_state(1).conv)
        drawn = layer.x_proj(x)[..., : layer.dt_rank]
        step = torch.nn.functional.softplus(layer.dt_proj(drawn))[0]
        rates = -torch.exp(layer.A_log)
        wanted = (step[5:].mean(0)[:, None] * rates).flatten().sort(descending=True).values
    found = lyapunov_spectrum(layer, u)
    window = 2 * layer.d_inner
    np.testing.assert_allclose(found.exponents[:-window], wanted.numpy(), rtol=1e-10)
    assert np.isneginf(found.exponents[-window:]).all()
    assert found.largest < 0


def test_a_fresh_mamba_is_slow_but_stable():
    layer = Mamba(16)
    found = lyapunov_spectrum(layer, inputs(layer, 100))
    assert -0.1 * 16 < found.largest < 0
    assert found.memory_times[0] == pytest.approx(-1 / found.largest)
    longer = found.memory_times > 90
    assert found.integrators == pytest.approx(longer.mean())
    assert found.dimension == 0.0


def test_the_exponents_of_a_chain_are_those_of_its_layers():
    model = build("stack")
    u = torch.from_numpy(inputs(model, 30))
    parts, signal = [], model.input_map(u[None])
    for block in model.blocks:
        assert isinstance(block, WienerBlock)
        parts.append(lyapunov_spectrum(block.lti, signal[0].detach()).exponents)
        signal = block(signal)[0]
    wanted = np.sort(np.concatenate(parts))[::-1]
    np.testing.assert_allclose(lyapunov_spectrum(model, u).exponents, wanted, rtol=1e-12)


def test_a_wild_recurrent_network_is_chaotic():
    layer = Elman(40, seed=0).double()
    with torch.no_grad():
        rng = np.random.default_rng(0)
        layer.weight_hh.copy_(torch.from_numpy(3.0 * rng.standard_normal((40, 40)) / 40**0.5))
        layer.weight_ih.zero_()
    start = torch.from_numpy(rng.standard_normal(40))
    found = lyapunov_spectrum(layer, np.zeros((600, 40)), start, count=3, burn_in=100)
    assert found.exponents.shape == (3,)
    assert found.largest > 0.05
    assert found.dimension == 3.0 or found.exponents.sum() < 0
    with torch.no_grad():
        layer.weight_hh.mul_(0.25)
    calm = lyapunov_spectrum(layer, np.zeros((300, 40)), start, count=1)
    assert calm.largest < 0


def test_count_and_every_give_the_same_exponents():
    model = build("gru")
    u = inputs(model, 400)
    whole = lyapunov_spectrum(model, u)
    rare = lyapunov_spectrum(model, u, every=5)
    first = lyapunov_spectrum(model, u, count=1, seed=3)
    np.testing.assert_allclose(rare.exponents, whole.exponents, atol=1e-6)
    assert first.largest == pytest.approx(whole.largest, abs=0.02)


def test_refusals():
    with pytest.raises(ValueError, match="the states of GRU act on each other"):
        lyapunov_spectrum(build("gru"), inputs(build("gru"), 10), method="closed")
    with pytest.raises(ValueError, match="is not run on sequences"):
        lyapunov_spectrum(Wrapped(), np.zeros((10, 2)), method="closed")
    with pytest.raises(ValueError, match='"auto", "qr" or "closed"'):
        lyapunov_spectrum(build("gru"), np.zeros((10, 2)), method="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="burn_in = 10"):
        lyapunov_spectrum(build("gru"), np.zeros((10, 2)), burn_in=10)
    for method in ("qr", "closed"):
        with pytest.raises(ValueError, match="leaves the finite numbers"):
            lyapunov_spectrum(Map(lambda x, u: 4 * x**3 + 2, 1), np.zeros(50), method=method)


class Wrapped(Map):
    """A model that runs a layer sample by sample."""

    def __init__(self) -> None:
        layer = build("lru")
        super().__init__(lambda x, u: self._once(x, u), 8, 2)
        self.layer = layer

    def _once(self, x, u):
        return self.layer.step(u, x.reshape(len(x), 4, 2))[1].flatten(1)


def test_every_model_has_a_spectrum():
    for name in NONLINEAR:
        model = build(name)
        found = lyapunov_spectrum(model, inputs(model, 25), time_unit="h", dt=2.0)
        assert (np.diff(found.exponents[np.isfinite(found.exponents)]) <= 0).all()
        assert found.largest < 0.1
        assert found.time_unit == "h"


def test_a_block_of_any_layer_has_a_closed_form_too():
    model = WienerBlock(build("lru"), ELU(), rng=np.random.default_rng(0))
    assert lyapunov_spectrum(model, inputs(model, 10)).method == "closed"
