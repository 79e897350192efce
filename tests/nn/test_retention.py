"""Retention: contract, the parallel form of the paper, scales, rotation, distances."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import silu

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Retention


class TestRetention(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return Retention(4, n_heads=2, base=10.0, seed=seed).to(dtype)


class TestRetentionWithoutRotation(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        return Retention(3, n_heads=1, expand=1, base=0, seed=seed).to(dtype)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(layer, u):
    """The parallel form, (Q Kᵀ ⊙ D) V for each head, with keys and queries as complex numbers."""
    width, heads = u.shape[-1], layer.n_heads
    n, p = width // heads, layer.d_value
    q, k, v, g = (u @ w.mT for w in layer.enter.weight.split(layer._widths))
    t = torch.arange(u.shape[1], dtype=torch.float64)
    angles = layer.base ** (-2 * torch.arange(n // 2, dtype=torch.float64) / n)
    turn = torch.polar(torch.ones(len(t), n // 2, dtype=torch.float64), t[:, None] * angles)
    found = []
    for h in range(heads):
        own, out = slice(h * n, h * n + n), slice(h * p, h * p + p)
        queries, keys = (
            turn * torch.view_as_complex(x[..., own].unflatten(-1, (-1, 2)).contiguous())
            for x in (q, k)
        )
        score = (queries @ keys.mH).real / math.sqrt(n)
        distance = t[:, None] - t
        decay = torch.where(distance >= 0, (1 - 2.0 ** (-5 - h)) ** distance, 0)
        y = (score * decay) @ v[..., out]
        y = y - y.mean(-1, keepdim=True)
        found.append(y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    return (torch.cat(found, -1) * silu(g)) @ layer.leave.weight.mT


@pytest.mark.parametrize("heads", [1, 3])
def test_equals_the_parallel_form(heads):
    layer = Retention(6, n_heads=heads, base=50.0, seed=1).double()
    u = noise(2, 12, 6)
    y, expected = layer(u)[0], by_hand(layer, u)
    close(y, expected, rtol=1e-10, atol=1e-12)
    one = gradients(layer, y.square().sum())
    for name, gradient in gradients(layer, expected.square().sum()).items():
        close(one[name], gradient, rtol=1e-8, atol=1e-10)


def test_each_head_forgets_at_its_own_rate():
    layer = Retention(8, n_heads=4, base=0).double()
    start = noise(1, 4, 4, 2)
    _, state = layer(torch.zeros(1, 100, 8, dtype=torch.float64), start)
    kept = (state / start).flatten(2).mean(-1)[0]
    decay = 1 - 2.0 ** (-5 - torch.arange(4, dtype=torch.float64))
    close(kept, decay**100, rtol=1e-12)


def test_rotation_keeps_the_size_of_the_state():
    layer = Retention(8, n_heads=2, base=100.0).double()
    start = noise(1, 2, 8, 4)
    _, state = layer(torch.zeros(1, 64, 8, dtype=torch.float64), start)
    kept = state.norm(dim=(2, 3)) / start.norm(dim=(2, 3))
    decay = 1 - 2.0 ** (-5 - torch.arange(2, dtype=torch.float64))
    close(kept[0], decay**64, rtol=1e-12)
    assert (state / start).std() > 0.1


def test_a_long_step_is_several_short_ones_without_input():
    layer = Retention(4, n_heads=1, base=7.0).double()
    _, start = layer(noise(2, 5, 4))
    quiet = torch.zeros(2, 3, 4, dtype=torch.float64)
    expected = layer(quiet, start)[1]
    close(layer.step(quiet[:, 0], start, dt=torch.full((2,), 3.0))[1], expected, rtol=1e-11)


def test_late_samples_are_as_exact_as_early_ones():
    layer = Retention(4, n_heads=2)
    u = noise(1, 20, 4).float()
    _, far = layer(torch.zeros(1, 100_000, 4))
    close(layer(u, far)[0], layer(u)[0], rtol=1e-5, atol=1e-6)


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match="of even width; given d_model = 6, n_heads = 2"):
        Retention(6, n_heads=2)
    with pytest.raises(ValueError, match="expand = 0"):
        Retention(4, n_heads=2, expand=0)
