"""Chimera: contract, the double loop, 2-D Mamba and Mamba-2, symmetries, stability of the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Chimera
from statewise.nn.chimera import Grid
from statewise.ops import selective_scan, ssd


class TestChimera(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return Chimera(6, variates=3, d_state=2, trend=0.05, seasonal=0.1, seed=seed).to(dtype)


class TestChimeraWithoutCoupling(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        layer = Chimera(
            6, variates=2, d_state=3, coupling="none", rates="scalar", rule="euler",
            tied=True, trend=0.05, seasonal=0.1, seed=seed,
        )  # fmt: skip
        return layer.to(dtype)


class TestChimeraOfOneVariate(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        layer = Chimera(3, d_state=2, bidirectional=False, trend=0.05, seasonal=0.1, seed=seed)
        return layer.to(dtype)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(channels=2, d_state=3, *, coupling="bounded", rates="diagonal", rule="zoh", seed=1):
    one = Grid(
        channels, d_state, coupling=coupling, rates=rates, rule=rule, dt_min=0.1, dt_max=1.0,
        rng=np.random.default_rng(seed),
    ).double()  # fmt: skip
    with torch.no_grad():
        one.log_rates.add_(0.3 * noise(*one.log_rates.shape, seed=7))
    return one


def rest(one, batch, variates):
    return torch.zeros(batch, 2, variates, one.channels * one.d_state, dtype=torch.float64)


def parts(one, x):
    """B₁, B₂, C₁, C₂ (..., N), Δ₁, Δ₂ (..., D) and the rates −A₁, −A₄ (D, N)."""
    n = one.d_state
    step = softplus(x @ one.steps.weight.T + one.steps.bias).split(one.channels, -1)
    rates = torch.exp(one.log_rates).expand(2, one.channels, n)
    return (x @ one.select.weight.T).split(n, -1), step, rates


def double_loop(one, x):
    """One sequence (L, V, D), place by place, as the paper writes it."""
    L, V, D = x.shape
    (b1, b2, c1, c2), (d1, d2), (r1, r4) = parts(one, x)
    zero = torch.zeros(D, one.d_state, dtype=x.dtype)
    p, q, y = {}, {}, torch.zeros(L, V, D, dtype=x.dtype)
    for t in range(L):
        for v in range(V):
            a1, a4 = torch.exp(-d1[t, v][:, None] * r1), torch.exp(-d2[t, v][:, None] * r4)
            if one.coupling == "published":
                a2 = torch.exp(-d1[t, v][:, None] * torch.exp(one.cross[0]))
                a3 = torch.exp(-d2[t, v][:, None] * torch.exp(one.cross[1]))
            elif one.coupling == "bounded":
                a2, a3 = one.cross[0].tanh() * (1 - a1), one.cross[1].tanh() * (1 - a4)
            else:
                a2 = a3 = zero
            g1, g2 = d1[t, v][:, None], d2[t, v][:, None]
            if one.rule == "zoh":
                g1, g2 = (1 - a1) / r1, (1 - a4) / r4
            before, beside = (t - 1, v), (t, v - 1)
            p[t, v] = a1 * p.get(before, zero) + a2 * q.get(before, zero)
            p[t, v] = p[t, v] + g1 * b1[t, v] * x[t, v][:, None]
            q[t, v] = a3 * p.get(beside, zero) + a4 * q.get(beside, zero)
            q[t, v] = q[t, v] + g2 * b2[t, v] * x[t, v][:, None]
            y[t, v] = p[t, v] @ c1[t, v] + q[t, v] @ c2[t, v]
    return y


@pytest.mark.parametrize("coupling", ["bounded", "published", "none"])
@pytest.mark.parametrize(("rates", "rule"), [("diagonal", "zoh"), ("scalar", "euler")])
def test_equals_the_double_loop(coupling, rates, rule):
    one, x = grid(coupling=coupling, rates=rates, rule=rule), noise(2, 7, 4, 2)
    y, _ = one(x, rest(one, 2, 4))
    expected = torch.stack([double_loop(one, row) for row in x])
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    found = gradients(one, y.square().sum())
    for name, gradient in gradients(one, expected.square().sum()).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10)


def test_without_coupling_it_is_a_mamba_on_each_axis():
    one, x = grid(coupling="none"), noise(2, 7, 4, 2)
    (b1, b2, c1, c2), (d1, d2), (r1, r4) = parts(one, x)

    def along_time(x, *more):
        rows = [part.transpose(1, 2).flatten(0, 1) for part in (x, *more)]
        y, _ = selective_scan(rows[0], rows[1], -r1, rows[2], rows[3], rule="zoh")
        return y.unflatten(0, (2, 4)).transpose(1, 2)

    rows = [part.flatten(0, 1) for part in (x, d2, b2, c2)]
    across, _ = selective_scan(rows[0], rows[1], -r4, rows[2], rows[3], rule="zoh")
    expected = along_time(x, d1, b1, c1) + across.unflatten(0, (2, 7))
    close(one(x, rest(one, 2, 4))[0], expected)


def test_scalar_rates_without_coupling_are_a_mamba2_on_each_axis():
    one, x = grid(coupling="none", rates="scalar", rule="euler"), noise(2, 7, 4, 2)
    (b1, b2, c1, c2), (d1, d2), (r1, r4) = parts(one, x)
    rows = [part.transpose(1, 2).flatten(0, 1) for part in (x, d1, b1, c1)]
    y, _ = ssd(rows[0].unsqueeze(-1), rows[1], -r1[:, 0], rows[2], rows[3])
    expected = y.squeeze(-1).unflatten(0, (2, 4)).transpose(1, 2)
    rows = [part.flatten(0, 1) for part in (x, d2, b2, c2)]
    y, _ = ssd(rows[0].unsqueeze(-1), rows[1], -r4[:, 0], rows[2], rows[3])
    close(one(x, rest(one, 2, 4))[0], expected + y.squeeze(-1).unflatten(0, (2, 7)))


@pytest.mark.parametrize("coupling", ["bounded", "published"])
def test_time_and_variates_change_places(coupling):
    """(t ↔ v, A₁ ↔ A₄, A₂ ↔ A₃, B₁ ↔ B₂, C₁ ↔ C₂, Δ₁ ↔ Δ₂) transposes the output."""
    one, other, x = grid(coupling=coupling), grid(coupling=coupling), noise(2, 7, 4, 2)
    with torch.no_grad():
        for mine, theirs in ((other.log_rates, one.log_rates), (other.cross, one.cross)):
            mine.copy_(theirs.flip(0))
        order = torch.arange(12).view(4, 3)[[1, 0, 3, 2]].flatten()
        other.select.weight.copy_(one.select.weight[order])
        for name in ("weight", "bias"):
            mine, theirs = getattr(other.steps, name), getattr(one.steps, name)
            mine.copy_(torch.cat(theirs.split(2)[::-1]))
    y, _ = one(x, rest(one, 2, 4))
    close(other(x.transpose(1, 2), rest(other, 2, 7))[0].transpose(1, 2), y)


def test_tied_ways_commute_with_reversing_the_variates():
    layer = Chimera(8, variates=4, d_state=3, tied=True, trend=0.05, seasonal=0.1).double()
    u = noise(2, 9, 8)

    def reverse(x):
        return x.unflatten(-1, (4, 2)).flip(2).flatten(-2)

    close(layer(reverse(u))[0], reverse(layer(u)[0]))
    loose = Chimera(8, variates=4, d_state=3, trend=0.05, seasonal=0.1).double()
    assert (loose(reverse(u))[0] - reverse(loose(u)[0])).abs().max() > 1e-4


def test_coupling_carries_between_variates_at_other_times():
    """A variate sees the past of another only through the cross terms."""
    u = noise(1, 6, 3).requires_grad_()
    for coupling, reaches in (("bounded", True), ("none", False)):
        one = Grid(
            1, 2, coupling=coupling, rates="diagonal", rule="zoh", dt_min=0.1, dt_max=1.0,
            rng=np.random.default_rng(0),
        ).double()  # fmt: skip
        y, _ = one(u.unsqueeze(-1), rest(one, 1, 3))
        (slope,) = torch.autograd.grad(y[0, 5, 2, 0], u)
        assert bool(slope[0, 1, 0] != 0) is reaches


@pytest.mark.parametrize(("coupling", "bounded"), [("bounded", True), ("published", False)])
def test_impulses_die_out_on_large_grids(coupling, bounded):
    """64 × 64 places: coupled by e^{ΔA} with small steps, an impulse explodes."""
    one = grid(1, 2, coupling=coupling)
    with torch.no_grad():
        one.steps.weight.zero_()
        one.steps.bias.fill_(-2.0)
        one.log_rates.zero_()
        one.cross.fill_(0.0 if coupling == "published" else 20.0)
    x = torch.full((1, 64, 64, 1), 0.0, dtype=torch.float64)
    x[0, 0, 0] = 1.0
    _, last = one(x, rest(one, 1, 64))
    largest = float(last.abs().max().detach())
    assert (largest < 1) is bounded
    assert bounded or largest > 1e20


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match="d_model = 7, variates = 2"):
        Chimera(7, variates=2)
    with pytest.raises(ValueError, match="coupling among bounded, published, none; given 'full'"):
        Chimera(4, coupling="full")
    with pytest.raises(ValueError, match="trend = 0"):
        Chimera(4, trend=0)


def test_the_closed_loop_is_fed_its_own_outputs() -> None:
    layer = Chimera(6, variates=3, d_state=2, trend=0.05, seasonal=0.1, seed=1).double()
    past = noise(2, 7, 6)
    y, state = layer(past)
    found, last = layer.rollout(y[:, -1], state, 5)
    fed = torch.cat([past, y[:, -1:], found[:, :-1]], 1)
    expected, end = layer(fed)
    close(found, expected[:, 7:])
    close(last, end)
    # The order of variates does not matter to layers whose two ways share their weights.
    tied = Chimera(6, variates=3, d_state=2, tied=True, seed=1).double()
    flip = lambda x: x.unflatten(-1, (3, 2)).flip(-2).flatten(-2)  # noqa: E731
    one, _ = tied.rollout(past[:, 0], tied.init_state(2), 4)
    other, _ = tied.rollout(flip(past[:, 0]), tied.init_state(2), 4)
    close(other, flip(one))
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.trend.parameters())
    with pytest.raises(ValueError, match="horizon of at least 1; given 0"):
        layer.rollout(y[:, -1], state, 0)
