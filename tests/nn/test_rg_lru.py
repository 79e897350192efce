"""RG-LRU: contract, the recurrence written out, its variance, its time, the block of Griffin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import conv1d, gelu, pad

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import RGLRU, BlockSpec, Gated


class TestRGLRU(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return RGLRU(3, seed=seed).to(dtype)


class TestRGLRUInBlocks(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return RGLRU(6, blocks=3, power=2.0, a_min=0.2, a_max=0.7, seed=seed).to(dtype)


class TestGriffinBlock(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        gated = Gated.spec(inner=RGLRU.spec(blocks=2), expand=2, gate="gelu", conv_silu=False)
        return BlockSpec(gated).build(3, np.random.default_rng(seed)).to(dtype)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(layer, u, dt=None):
    """Channel by channel, sample by sample, with the gates as whole matrices."""
    whole = [torch.block_diag(*blocks) for blocks in layer.gates]
    rows = []
    for row in range(u.shape[0]):
        h = [torch.zeros((), dtype=u.dtype) for _ in range(u.shape[2])]
        for t, x in enumerate(u[row]):
            r, i = (torch.sigmoid(w @ x + b) for w, b in zip(whole, layer.gate_bias, strict=True))
            for d in range(len(h)):
                step = 1.0 if dt is None else dt[row, t]
                a = torch.sigmoid(layer.decay[d]) ** (layer.power * r[d] * step)
                h[d] = a * h[d] + torch.sqrt(1 - a**2) * i[d] * x[d]
            rows.append(torch.stack(h))
    return torch.stack(rows).view(u.shape)


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("timed", [False, True])
def test_equals_the_recurrence_written_out(blocks, timed):
    layer = RGLRU(4, blocks=blocks, seed=1).double()
    u = noise(2, 9, 4)
    dt = 0.2 + noise(2, 9, seed=3).abs() if timed else None
    y, expected = layer(u, dt=dt)[0], by_hand(layer, u, dt)
    close(y, expected, rtol=1e-11, atol=1e-13)
    one = gradients(layer, y.square().sum())
    for name, gradient in gradients(layer, expected.square().sum()).items():
        close(one[name], gradient, rtol=1e-8, atol=1e-11)


def test_starts_with_the_decays_that_are_asked_for():
    layer = RGLRU(2000, blocks=2000, a_min=0.3, a_max=0.6).double()
    decay = (torch.sigmoid(layer.decay) ** layer.power).detach()
    assert decay.min() == pytest.approx(0.3, abs=1e-3)
    assert decay.max() == pytest.approx(0.6, abs=1e-3)
    assert decay.mean() == pytest.approx(0.45, abs=0.01)


def test_impulse_responses_have_the_energy_of_the_input_gate():
    layer = RGLRU(3, a_min=0.5, a_max=0.9).double()
    with torch.no_grad():
        layer.gates.zero_()
        layer.gate_bias[1] = torch.tensor([-1.0, 0.0, 2.0])
        u = torch.zeros(1, 2000, 3, dtype=torch.float64)
        u[:, 0] = 1
        energy = layer(u)[0].square().sum(1)[0]
    close(energy, torch.sigmoid(layer.gate_bias[1]).square(), rtol=1e-12)


def test_a_long_step_is_several_short_ones_without_input():
    layer = RGLRU(4, seed=2).double()
    _, start = layer(noise(2, 5, 4))
    quiet = torch.zeros(2, 3, 4, dtype=torch.float64)
    expected = layer(quiet, start)[1]
    close(layer.step(quiet[:, 0], start, dt=torch.full((2,), 3.0))[1], expected, rtol=1e-12)


def test_slow_channels_keep_their_digits_and_their_slope():
    layer = RGLRU(1)
    with torch.no_grad():
        layer.decay.fill_(40.0)
    y, _ = layer(torch.ones(1, 1, 1))
    exact = math.sqrt(2 * 8 * 0.5 * math.exp(-40)) * torch.sigmoid(
        layer.gates.sum((2, 3))[1] + layer.gate_bias[1]
    )
    share = torch.sigmoid(layer.gates.sum((2, 3))[0] + layer.gate_bias[0]) / 0.5
    torch.testing.assert_close(y.flatten(), (exact * share.sqrt()).flatten(), rtol=1e-5, atol=0)
    frozen, _ = layer(torch.ones(1, 2, 1), dt=torch.tensor([1.0, 0.0]))
    for gradient in gradients(layer, frozen.sum()).values():
        assert gradient.isfinite().all()


def test_the_block_of_griffin_written_out():
    gated = Gated(3, RGLRU.spec(), expand=2, gate="gelu", conv_silu=False, seed=4).double()
    u = noise(2, 8, 3)
    x, z = (u @ gated.enter.weight.mT).chunk(2, -1)
    conv = gated.conv
    assert conv is not None
    x = conv1d(pad(x.mT, (3, 0)), conv.weight[:, None], conv.bias, groups=6).mT
    expected = (by_hand(gated.inner, x) * gelu(z)) @ gated.leave.weight.mT
    close(gated(u)[0], expected, rtol=1e-10, atol=1e-12)


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match="blocks = 2"):
        RGLRU(3, blocks=2)
    with pytest.raises(ValueError, match=r"a_max = 1\.0"):
        RGLRU(3, a_max=1.0)
    with pytest.raises(ValueError, match="given 'relu'"):
        Gated(3, gate="relu")
