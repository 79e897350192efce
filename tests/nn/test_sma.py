"""SeqBoat: contract, the dense reference with masked keys, both extremes, the router's gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import layer_norm, silu

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import GAU, GRU, LRU, SeqBoat
from statewise.nn.sma import _origins, _places


class TestSeqBoat(LayerContract):
    refuses = frozenset({"dt"})
    # Inside is attention.
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        inner = GAU.spec(d_key=4, window=3, base=50.0)
        return loud(SeqBoat(3, inner=inner, d_state=2, seed=seed)).to(dtype)


class TestSeqBoatAroundARecurrence(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        layer = SeqBoat(4, inner=GRU.spec(), d_state=3, positions="local", prenorm=False, seed=seed)
        return layer.to(dtype)


class TestSeqBoatAroundALinearLayer(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return SeqBoat(3, inner=LRU.spec(d_state=4), d_state=3, seed=seed + 1).to(dtype)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loud(layer):
    """Attention nearly silent at the start would hide its errors."""
    with torch.no_grad():
        for part in (layer.inner.enter.weight, layer.inner.leave.weight, layer.inner.scale):
            part.mul_(20)
    return layer


def boat(bias=0.0, **options):
    """A layer whose router leans to "use" by ``bias``, with paths that are not small."""
    options = {"d_key": 4, "window": 3, "base": 50.0} | options
    layer = SeqBoat(4, inner=GAU.spec(**options), d_state=3, seed=1).double()
    with torch.no_grad():
        layer.route.weight.mul_(50)
        layer.bypass.weight.mul_(20)
        layer.route.bias[1] = bias
    return loud(layer)


def dense(layer, u):
    """Attention of all samples to the active ones among them within W active ranks."""
    hidden = silu(layer.memory(layer_norm(u, (4,), layer.norm.weight, layer.norm.bias))[0])
    p = torch.softmax(layer.route(hidden) / torch.exp(layer.log_temperature), -1)
    active = p[..., 1] > p[..., 0]
    gau, L = layer.inner, u.shape[1]
    z, r, v = silu(gau.enter(hidden)).split([gau.d_key, gau.d_value, gau.d_value], -1)
    q, k = z * gau.scale[0] + gau.shift[0], z * gau.scale[1] + gau.shift[1]
    frequency = gau.base ** -(torch.arange(0, gau.d_key, 2, dtype=u.dtype) / gau.d_key)
    turns = torch.exp(1j * torch.arange(L)[:, None] * frequency)
    q, k = (torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turns for x in (q, k))
    score = (q @ k.mH).real / math.sqrt(gau.d_key)
    rank = active.cumsum(1)
    distance = rank[:, :, None] - rank[:, None]
    order = torch.ones(L, L, dtype=torch.bool).tril()
    seen = order & active[:, None] & (distance <= gau.window)
    # A row of an inactive sample may see nothing; it is not used.
    seen = seen | torch.eye(L, dtype=torch.bool)
    h = gau.leave((torch.softmax(score.masked_fill(~seen, -math.inf), -1) @ v) * r)
    h = torch.where(active[..., None], p[..., 1:] * h, torch.zeros_like(h))
    return silu(u + layer.bypass(hidden) + h), active


@pytest.mark.parametrize(("bias", "window"), [(0.0, 3), (0.0, 8), (0.3, 1), (-0.2, 5), (0.0, 50)])
def test_compressed_is_dense_with_masked_keys(bias, window):
    layer, u = boat(bias, window=window), noise(3, 40, 4)
    y = layer(u)[0]
    expected, active = dense(layer, u)
    assert 0 < active.double().mean() < 1
    close(y, expected)
    assert torch.equal(layer.active(u)[0], active)
    one = gradients(layer, y.square().sum())
    for name, gradient in gradients(layer, expected.square().sum()).items():
        torch.testing.assert_close(one[name], gradient, rtol=1e-9, atol=1e-11)


def test_all_active_with_a_wide_window_is_the_layer_itself():
    layer, u = boat(100.0, window=40), noise(2, 30, 4)
    active, share = layer.active(u)
    assert active.all()
    hidden = layer._remember(u, layer.memory.init_state(2), None, None)[0]
    h = layer.inner(hidden)[0]
    close(layer(u)[0], silu(u + layer.bypass(hidden) + share[..., None] * h))


def test_none_active_leaves_the_inner_layer_out(monkeypatch):
    layer, u = boat(-100.0), noise(2, 30, 4)
    monkeypatch.setattr(layer.inner, "forward", None)
    y, state = layer(u)
    hidden = layer._remember(u, layer.memory.init_state(2), None, None)[0]
    close(y, silu(u + layer.bypass(hidden)))
    close(state.gap, torch.full((2,), 30.0, dtype=u.dtype))
    for name, gradient in gradients(layer, y.square().sum()).items():
        if name.startswith("inner."):
            assert not gradient.any()


def test_the_router_learns_through_the_probability_alone():
    layer, u = boat(), noise(2, 20, 4)
    name = "route.bias"
    gradient = gradients(layer, layer(u)[0].sum())[name]
    before = layer.active(u)[0]
    step, found = 1e-6, []
    with torch.no_grad():
        for i in range(2):
            ends = []
            for sign in (1, -1):
                layer.route.bias[i] += sign * step
                assert torch.equal(layer.active(u)[0], before)
                ends.append(layer(u)[0].sum())
                layer.route.bias[i] -= sign * step
            found.append((ends[0] - ends[1]) / (2 * step))
    torch.testing.assert_close(gradient, torch.stack(found), rtol=1e-6, atol=1e-8)


@given(
    rows=st.integers(1, 4),
    length=st.integers(1, 12),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 999),
)
def test_compressing_and_extracting_keeps_the_active(rows, length, share, seed):
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(rows, length, generator=generator) < share
    x, room = torch.randn(rows, length, generator=generator), int(active.sum(1).max())
    rank = (active.cumsum(1) - 1).clamp_min(0)
    places = _places(active, rank, room)
    for row in range(rows):
        expected = torch.nonzero(active[row])[:, 0]
        assert torch.equal(places[row, : len(expected)], expected)
        assert not places[row, len(expected) :].any()
    if room:
        back = x.gather(1, places).gather(1, rank)
        assert torch.equal(torch.where(active, back, 0), torch.where(active, x, 0))


@given(length=st.integers(1, 12), gap=st.integers(0, 3), seed=st.integers(0, 999))
def test_distances_are_counted_from_the_last_active_sample(length, gap, seed):
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(1, length, generator=generator) < 0.4
    reset = torch.rand(1, length, generator=generator) < 0.2
    origin = _origins(active, reset, torch.tensor([float(gap)]))[0]
    for t in range(length):
        gap = 0 if reset[0, t] else gap
        assert t - origin[t] == gap + 1
        gap = 0 if active[0, t] else gap + 1
    assert length - 1 - origin[length] == gap


def test_start_and_wrong_options():
    layer = SeqBoat(16, temperature=0.5)
    assert float(layer.log_temperature.detach().exp()) == pytest.approx(0.5 * 4)
    assert layer.bypass.weight.detach().abs().max() <= 0.04
    with pytest.raises(ValueError, match="positive temperature; given 0"):
        SeqBoat(4, temperature=0)
    with pytest.raises(ValueError, match="given 'none'"):
        SeqBoat(4, positions="none")
