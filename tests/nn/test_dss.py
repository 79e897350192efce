"""DSS: the contract, and its kernels as published."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_suite import EagerContract
from statewise.lti import legs_normal
from statewise.nn import DSS, S4D, state_tensors
from statewise.nn.dss import GUARD


class TestExp(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return DSS(3, 4, seed=seed).to(dtype)


class TestSoftmax(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return DSS(3, 4, norm="softmax", length=12, dt_max=0.5, seed=seed).to(dtype)


class TestSoftmaxWithAGrowingPole(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        layer = DSS(2, 3, norm="softmax", length=10, seed=seed)
        with torch.no_grad():
            layer.real[1] = 0.01
        return layer.to(dtype)


def numbers(layer: DSS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """λ (N,), Δ (H,) and w (H, N) from the raw parameters."""
    raw = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    real = -np.exp(raw["log_decay"]) if layer.norm == "exp" else raw["real"]
    w = raw["W"][..., 0] + 1j * raw["W"][..., 1]
    return real + 1j * raw["frequency"], np.exp(raw["log_dt"]), w


def impulse_response(layer: DSS, length: int) -> np.ndarray:
    """What the layer answers to an impulse in all channels, without D, (H, length)."""
    impulse = torch.zeros(1, length, layer.d_input, dtype=torch.float64)
    impulse[:, 0] = 1
    y = layer(impulse)[0] - layer.D * impulse
    return y[0].mT.detach().numpy()


def test_kernel_of_exp_is_the_published_one() -> None:
    layer = DSS(3, 5, dt_max=0.5).double()
    poles, dt, w = numbers(layer)
    z = dt[:, None] * poles
    powers = np.exp(z[..., None] * np.arange(40))
    expected = np.einsum("hn,hnl->hl", w * (np.exp(z) - 1) / poles, powers).real
    np.testing.assert_allclose(impulse_response(layer, 40), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(layer.kernel(40).detach(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shift", [0.0, 1.5], ids=["decaying", "growing"])
def test_kernel_of_softmax_is_the_published_one(shift: float) -> None:
    """K = Re w Λ⁻¹ softmax(λ Δ l) over l < L, with the softmax taken row by row with its shift."""
    length = 30
    layer = DSS(3, 4, norm="softmax", length=length, dt_max=0.5).double()
    with torch.no_grad():
        layer.real.add_(shift)
    poles, dt, w = numbers(layer)
    z = dt[:, None] * poles
    exponent = z[..., None] * np.arange(length)
    rows = np.exp(exponent - np.maximum(exponent.real, 0).max(-1, keepdims=True))
    total = rows.sum(-1, keepdims=True)
    # The guard acts on |e^z − 1|², or on the same with −z where Re z > 0.
    q = np.exp(np.where(z.real > 0, -z, z) * length) - 1
    guarded = (np.abs(q) ** 2 / (np.abs(q) ** 2 + GUARD))[..., None]
    expected = np.einsum("hn,hnl->hl", w / poles, rows / total * guarded).real
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        impulse_response(layer, length), expected, rtol=0, atol=1e-11 * scale
    )
    np.testing.assert_allclose(layer.kernel(length).detach(), expected, rtol=0, atol=1e-11 * scale)
    assert guarded.min() > 1 - 1e-3


def test_softmax_weights_sum_to_the_weight_over_the_pole() -> None:
    """Σ_{l<L} softmax = 1: the kernel sums to Re Σ w/λ, whatever Δ is."""
    layer = DSS(2, 3, norm="softmax", length=50, dt_min=0.05, dt_max=0.2).double()
    poles, _, w = numbers(layer)
    total = layer.kernel(50).sum(1).detach().numpy()
    np.testing.assert_allclose(total, (w / poles).sum(1).real, rtol=1e-5)


def test_large_growing_poles_stay_finite() -> None:
    layer = DSS(2, 3, norm="softmax", length=500, dt_min=0.1, dt_max=0.2)
    with torch.no_grad():
        layer.real.fill_(50.0)
    y, _ = layer(torch.zeros(1, 1, 2))
    y.sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_exp_is_s4d_with_shared_poles_and_unit_inputs() -> None:
    dss, s4d = DSS(2, 4).double(), S4D(2, 4).double()
    with torch.no_grad():
        s4d.poles.log_decay.copy_(dss.log_decay.repeat(2))
        s4d.poles.frequency.copy_(dss.frequency.repeat(2))
        s4d.poles.log_dt.copy_(dss.log_dt)
        s4d.coupling.C.copy_(dss.W / 2)
        s4d.D.copy_(dss.D)
    u = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 40, 2)))
    y, state = dss(u)
    expected, last = s4d(u)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state_tensors(state)[0].flatten(1, 2), last, rtol=1e-12, atol=1e-13)


def test_poles_start_at_the_normal_part_of_legs() -> None:
    for norm in ("exp", "softmax"):
        given = DSS(2, 8, norm=norm).double().poles.detach().numpy()
        np.testing.assert_allclose(given, legs_normal(16)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "linear"}, "'linear'"),
        ({"d_state": 0}, "d_state of at least 1; given 0"),
        ({"length": 0}, "length of at least 1; given 0"),
        ({"dt_min": 0.2}, r"dt_min = 0\.2"),
    ],
)
def test_options_are_checked(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DSS(2, **options)
