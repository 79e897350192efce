"""GSS: the layer contract and its loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import GSS, S4DLin


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestGSS(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return GSS(4, width=3, d_state=3, expand=2, seed=seed).to(dtype)


class TestGSSLin(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return GSS(3, d_state=2, expand=1, law=S4DLin(), seed=seed).to(dtype)


def test_it_is_its_loop() -> None:
    layer = GSS(8, d_state=5, seed=3).double()
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    assert p["narrow.weight"].shape == (2, 8)
    assert p["gate.weight"].shape == (32, 8)
    u, dt = noise(1, 25, 8), torch.from_numpy(np.random.default_rng(3).uniform(0.5, 2, (1, 25)))
    y, _ = layer(u, dt=dt)

    def gelu(x: np.ndarray) -> np.ndarray:
        return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()

    lam = -np.exp(p["bank.log_decay"]) + 1j * p["bank.frequency"]
    assert lam.shape == (1, 5)
    c = p["bank.C"][..., 0] + 1j * p["bank.C"][..., 1]
    x = np.zeros((2, 5), complex)
    for t in range(25):
        sample = u[0, t].numpy()
        inside = gelu(p["narrow.weight"] @ sample + p["narrow.bias"])
        z = lam * dt[0, t].item() * np.exp(p["bank.log_dt"])[:, None]
        x = np.exp(z) * x + (np.exp(z) - 1) / lam * inside[:, None]
        out = 2 * (c * x).sum(1).real + p["bank.D"] * inside
        wide = p["widen.weight"] @ out + p["widen.bias"]
        gate = gelu(p["gate.weight"] @ sample + p["gate.bias"])
        expected = p["leave.weight"] @ (wide * gate) + p["leave.bias"]
        np.testing.assert_allclose(y[0, t].detach().numpy(), expected, atol=1e-12)


def test_it_is_stable_for_every_parameter() -> None:
    layer = GSS(8, d_state=16).double()
    with torch.no_grad():
        layer.bank.log_decay.mul_(3)
        layer.bank.frequency.mul_(100)
    assert layer.eigenvalues().abs().max() < 1
    assert layer.eigenvalues().shape == (2, 16)


def test_wrong_options_are_told() -> None:
    for options in ({"width": 0}, {"d_state": 0}, {"expand": 0}):
        with pytest.raises(ValueError, match="given"):
            GSS(3, **options)
