"""The damped moving average and the gated attention unit: contract and dense references."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import silu

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import EMA, GAU


class TestEMA(LayerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return EMA(3, d_state=4, seed=seed).to(dtype)


class TestGAU(LayerContract):
    # A future sample has weight 0, which a NaN survives.
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return loud(GAU(3, d_key=4, window=4, base=100.0, seed=seed)).to(dtype)


class TestGAUSquaredReLU(EagerContract):
    refuses = frozenset()
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        layer = loud(GAU(3, d_key=4, window=6, activation="relu2", base=10.0, seed=seed))
        with torch.no_grad():
            layer.scale.mul_(5)
        return layer.to(dtype)


def loud(layer):
    """A unit nearly silent at the start would hide its errors."""
    with torch.no_grad():
        for part in (layer.enter.weight, layer.leave.weight, layer.scale):
            part.mul_(40)
    return layer


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moving_average_is_its_kernel():
    """K_j = N^(−1/2) Σ_n γ_n p_n β_n q_n^j, then the direct path."""
    layer = EMA(3, d_state=5, seed=1).double()
    u = noise(2, 20, 3)
    p = torch.sigmoid(layer.delta)
    q = 1 - p * torch.sigmoid(layer.alpha)
    powers = q.unsqueeze(-1) ** torch.arange(20)
    kernel = (layer.gamma * p * layer.beta).unsqueeze(-1).mul(powers).sum(1) / math.sqrt(5)
    expected = torch.stack(
        [(u[:, : t + 1].flip(1) * kernel[:, : t + 1].T).sum(1) for t in range(20)], 1
    )
    torch.testing.assert_close(layer(u)[0], expected + layer.omega * u, rtol=1e-12, atol=1e-13)


def dense_gau(layer, u, position):
    """Attention over the whole sequence with a band for a mask; angles from all pairs."""
    L, S = u.shape[1], layer.d_key
    z, r, v = silu(layer.enter(u)).split([S, layer.d_value, layer.d_value], -1)
    q, k = z * layer.scale[0] + layer.shift[0], z * layer.scale[1] + layer.shift[1]
    frequency = layer.base ** -(torch.arange(0, S, 2, dtype=u.dtype) / S)
    turns = torch.exp(1j * position.unsqueeze(-1) * frequency)
    q, k = (torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turns for x in (q, k))
    score = (q @ k.mH).real
    distance = torch.arange(L)[:, None] - torch.arange(L)
    seen = (distance >= 0) & (distance <= layer.window)
    if layer.activation == "softmax":
        weight = torch.softmax((score / math.sqrt(S)).masked_fill(~seen, -math.inf), -1)
    else:
        weight = torch.relu(score / layer.window).square() * seen
    return layer.leave((weight @ v) * r)


@pytest.mark.parametrize("activation", ["softmax", "relu2"])
@pytest.mark.parametrize("window", [1, 3, 8, 40])
def test_blocks_are_the_dense_product(activation, window):
    layer = GAU(3, d_key=4, window=window, activation=activation, base=50.0, seed=1)
    layer = loud(layer).double()
    u, dt = noise(2, 19, 3), noise(2, 19, seed=2).abs()
    y, expected = layer(u, dt=dt)[0], dense_gau(layer, u, dt.cumsum(1))
    close(y, expected)
    one = gradients(layer, y.square().sum())
    for name, gradient in gradients(layer, expected.square().sum()).items():
        torch.testing.assert_close(one[name], gradient, rtol=1e-9, atol=1e-11)


def test_the_unit_is_nearly_silent_at_the_start():
    layer = GAU(64, d_key=16, window=8, seed=0)
    drawn = torch.cat([part.weight.detach().flatten() for part in (layer.enter, layer.leave)])
    assert float(drawn.abs().max()) <= 0.04
    # A normal law cut at two deviations has 0.88 of its spread left.
    assert float(drawn.std()) == pytest.approx(0.0176, rel=0.02)
    assert float(layer.scale.detach().abs().max()) <= 0.04
    for bias in (layer.enter.bias, layer.leave.bias, layer.shift):
        assert not bias.detach().any()
    with torch.no_grad():
        assert float(layer(noise(2, 30, 64).float())[0].abs().max()) < 0.01


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match="d_key = 3"):
        GAU(3, d_key=3)
    with pytest.raises(ValueError, match="given 'tanh'"):
        GAU(3, activation="tanh")
    with pytest.raises(ValueError, match="d_state of at least 1; given 0"):
        EMA(3, d_state=0)
