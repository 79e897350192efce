"""Liquid-S4: the layer contract, its loop, and the liquid system that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import S4D, LiquidS4, S4DLin, state_tensors


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestLiquidKB(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        options = {"degree": 3, "mode": "kb", "law": S4DLin(), "dt_max": 0.9}
        return LiquidS4(2, d_state=3, **options, seed=seed).to(dtype)


class TestLiquidPB(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return LiquidS4(3, d_state=2, degree=3, dt_max=0.5, seed=seed).to(dtype)


class TestLiquidOfDegreeTwo(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return LiquidS4(1, d_state=2, mode="kb", seed=seed).to(dtype)


def discrete(layer: LiquidS4) -> tuple[np.ndarray, ...]:
    """ā, b̄, 2 C and D in float64."""
    p = {name: value.detach().numpy() for name, value in layer.bank.named_parameters()}
    lam = -np.exp(p["log_decay"]) + 1j * p["frequency"]
    b, c = (p[name][..., 0] + 1j * p[name][..., 1] for name in "BC")
    pole = np.exp(lam * np.exp(p["log_dt"])[:, None])
    return pole, (pole - 1) / lam * b, 2 * c, p["D"]


@pytest.mark.parametrize("mode", ["pb", "kb"])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_it_is_its_loop(mode: str, degree: int) -> None:
    options = {"degree": degree, "mode": mode, "law": S4DLin(), "dt_min": 0.2, "dt_max": 0.9}
    layer = LiquidS4(2, d_state=3, **options, seed=1).double()
    with torch.no_grad():
        layer.bank.B.add_(0.3 * noise(2, 3, 2))
    pole, drive, c, d = discrete(layer)
    u = noise(1, 20, 2)
    y, state = layer(u)
    x, signal = np.zeros((2, 3), complex), u[0].numpy()
    for t in range(20):
        x, beside = pole * x + drive * signal[t][:, None], d * signal[t]
        for p in range(2, degree + 1):
            product = signal[t - p + 1 : t + 1].prod(0) if t >= p - 1 else np.zeros(2)
            if mode == "kb":
                x = x + drive**p * product[:, None]
            else:
                beside = beside + (c * drive**p).sum(1).real * product
        expected = (c * x).sum(1).real + beside
        np.testing.assert_allclose(y[0, t].detach().numpy(), expected, rtol=1e-11, atol=1e-12)
    assert [tuple(part.shape) for part in state_tensors(state)] == [
        (1, 2, 3, 2),
        (1, degree - 1, 2),
    ]


def liquid(layer: LiquidS4, u: np.ndarray) -> np.ndarray:
    """x_t = (ā + b̄ u_t) x_{t−1} + b̄ u_t, y_t = 2 Re C x_t + D u_t."""
    pole, drive, c, d = discrete(layer)
    x, y = np.zeros_like(pole), []
    for sample in u:
        x = (pole + drive * sample[:, None]) * x + drive * sample[:, None]
        y.append((c * x).sum(1).real + d * sample)
    return np.stack(y)


def test_two_samples_of_the_liquid_system_are_exact() -> None:
    options = {"mode": "kb", "law": S4DLin(), "dt_min": 0.3, "dt_max": 0.9}
    layer = LiquidS4(3, d_state=4, **options).double()
    u = noise(1, 2, 3)
    np.testing.assert_allclose(layer(u)[0][0].detach().numpy(), liquid(layer, u[0].numpy()))


def test_a_liquid_system_without_memory_of_its_own_is_exact() -> None:
    """With ā = 0 only products of successive inputs are left."""
    options = {"mode": "kb", "degree": 12, "dt_min": 1.0, "dt_max": 1.0}
    layer = LiquidS4(2, d_state=2, **options).double()
    with torch.no_grad():
        layer.bank.log_decay.fill_(np.log(60.0))
        layer.bank.B[..., 0] = 30.0
    u = noise(1, 12, 2)
    given, expected = layer(u)[0][0].detach().numpy(), liquid(layer, u[0].numpy())
    np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-13)


def test_degree_one_is_s4d() -> None:
    layer, plain = LiquidS4(3, d_state=4, degree=1).double(), S4D(3, 4, seed=5).double()
    with torch.no_grad():
        for name in ("B", "C"):
            getattr(plain.coupling, name).copy_(getattr(layer.bank, name))
        for name in ("log_decay", "frequency", "log_dt"):
            target = getattr(plain.poles, name)
            target.copy_(getattr(layer.bank, name).view_as(target))
        plain.D.copy_(layer.bank.D)
    u = noise(2, 30, 3)
    torch.testing.assert_close(layer(u)[0], plain(u)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["pb", "kb"])
def test_it_stays_bounded_where_the_liquid_system_does_not(mode: str) -> None:
    options = {"mode": mode, "dt_min": 0.5, "dt_max": 0.5}
    layer = LiquidS4(1, d_state=2, **options).double()
    u = 6 * torch.ones(1, 400, 1, dtype=torch.float64)
    assert layer(u)[0].abs().max() < 1e4
    assert np.abs(liquid(layer, u[0].numpy())[-1]) > 1e8


def test_wrong_options_are_told() -> None:
    for options in ({"degree": 0}, {"mode": "full"}, {"d_state": 0}, {"dt_min": 0.0}):
        with pytest.raises(ValueError, match="given"):
            LiquidS4(3, **options)
