"""Mamba-3: contract, the recurrence written out, rotating states, both ends of the rule."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu, softplus

from contracts.layer_base import close, gradients
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Mamba3, parameter_roles
from statewise.nn.mamba3 import trapezoid
from statewise.nn.rotary import rotate
from statewise.ops import ssd


class TestMamba3(LayerContract):
    # The share of the step to come is subtracted, up to rounding.
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return Mamba3(4, d_state=4, headdim=2, rope_fraction=1.0, dt_max=1.0, seed=seed).to(dtype)


class TestMamba3Softplus(EagerContract):
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        layer = Mamba3(
            3, d_state=8, headdim=3, n_groups=2, decay="softplus", norm=True, dt_max=1.0, seed=seed
        )
        return layer.to(dtype)


class TestMamba3MIMO(EagerContract):
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        layer = Mamba3(
            4, d_state=6, headdim=4, rank=3, n_groups=2, norm=True, dt_max=1.0, bias=True, seed=seed
        )
        return layer.to(dtype)


class TestMamba3WithoutRotation(EagerContract):
    exact = False

    def build(self, dtype=torch.float64, seed=0):
        return Mamba3(2, d_state=3, headdim=2, rope_fraction=0.0, dt_max=1.0, seed=seed).to(dtype)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(*args, **options):
    """A layer none of whose parameters is at a special value."""
    layer = Mamba3(*args, dt_max=1.0, **options).double()
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.add_(0.3 * noise(*parameter.shape, seed=seed))
    return layer


def rms_norm(x, weight):
    return x / torch.sqrt(x.square().mean() + 1e-5) * weight


def turn(x, angles, neighbours):
    """Rotate the first pairs of a vector by angles, written out."""
    x, half = x.clone(), x.shape[0] // 2
    for i, angle in enumerate(angles):
        a, b = (2 * i, 2 * i + 1) if neighbours else (i, i + half)
        first, second = x[a].clone(), x[b].clone()
        x[a] = first * torch.cos(angle) - second * torch.sin(angle)
        x[b] = first * torch.sin(angle) + second * torch.cos(angle)
    return x


def by_hand(layer, u):
    """One sequence (L, d_model), one head at a time, with a state that rotates itself."""
    R, H, N, P = layer.rank, layer.n_heads, layer.d_state, layer.headdim
    G, S, pairs = layer.n_groups, layer.n_angles, layer.rank == 1
    ones = torch.ones(H, 1, P, dtype=u.dtype)
    x_r, z_r, o_r = (ones if f is None else f for f in (layer.mimo_x, layer.mimo_z, layer.mimo_o))
    state = [torch.zeros(P, N, dtype=u.dtype) for _ in range(H)]
    written = [torch.zeros(P, N, dtype=u.dtype) for _ in range(H)]
    outputs = []
    for sample in u:
        z, v, B, C, step, rate, trap, speed = layer.in_proj(sample).split(layer._widths)
        heads = []
        for head in range(H):
            delta = softplus(step[head] + layer.dt_bias[head])
            a = rate[head]
            if layer.decay == "softplus":
                speed_of_decay = softplus(a)
            else:
                speed_of_decay = 1 + a if a >= 0 else 1 / (1 - a)
            alpha = torch.exp(-delta * torch.clamp(speed_of_decay, min=1e-4))
            share = torch.sigmoid(trap[head])
            group = head * G // H
            k, q = (
                [
                    rms_norm(part.view(R, G, N)[r, group], norm.weight) + bias[head, r]
                    for r in range(R)
                ]
                for part, norm, bias in (
                    (B, layer.B_norm, layer.B_bias),
                    (C, layer.C_norm, layer.C_bias),
                )
            )
            value = v.view(H, P)[head]
            back = -delta * torch.pi * torch.tanh(speed[:S])
            carried = alpha * (state[head] + (1 - share) * delta * written[head])
            carried = torch.stack([turn(row, back, pairs) for row in carried])
            written[head] = sum(torch.outer(x_r[head, r] * value, k[r]) for r in range(R))
            state[head] = carried + share * delta * written[head]
            y = [state[head] @ q[r] + layer.D[head] * x_r[head, r] * value for r in range(R)]
            heads.append(y)
        mixed = []
        for head in range(H):
            total = torch.zeros(P, dtype=u.dtype)
            for r in range(R):
                y, gate = heads[head][r], silu(z.view(H, P)[head] * z_r[head, r])
                if layer.norm is not None:
                    y = rms_norm(y, layer.norm.weight.view(H, P)[head])
                total = total + o_r[head, r] * y * gate
            mixed.append(total)
        outputs.append(layer.out_proj(torch.cat(mixed)))
    return torch.stack(outputs)


@pytest.mark.parametrize(
    "options",
    [
        {"rope_fraction": 1.0},
        {"decay": "softplus", "n_groups": 2},
        {"rank": 2, "norm": True},
        {"rank": 3, "n_groups": 2, "rope_fraction": 1.0},
        {"rope_fraction": 0.0, "norm": True},
    ],
)
def test_equals_a_state_that_rotates_itself(options):
    layer = perturbed(3, d_state=8, headdim=3, seed=1, **options)
    u = noise(2, 11, 3)
    y = layer(u)[0]
    expected = torch.stack([by_hand(layer, row) for row in u])
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    one = gradients(layer, y.square().sum())
    for name, gradient in gradients(layer, expected.square().sum()).items():
        torch.testing.assert_close(one[name], gradient, rtol=1e-9, atol=1e-10)


def test_one_pass_is_the_masked_product():
    """y = [(Q Kᵀ) ∘ exp(segment sums) diag(scale)] V, less the share of the step to come."""
    L, N, P = 13, 5, 3
    q, k, v = noise(L, N, seed=1), noise(L, N, seed=2), noise(L, P, seed=3)
    decay, now, ahead = -noise(L, seed=4).abs(), noise(L, seed=5).abs(), noise(L, seed=6).abs()
    ahead[-1] = 0
    total = decay.cumsum(0)
    mask = torch.exp((total[:, None] - total[None]).tril()).tril()
    expected = ((q @ k.T) * mask * (now + ahead)) @ v - (ahead * (q * k).sum(-1))[:, None] * v
    wide = [x.view(1, L, 1, 1, -1) for x in (q, k, v)]
    narrow = [x.view(1, L, 1) for x in (decay, now, ahead)]
    y, _ = trapezoid(*wide, *narrow, torch.zeros(1, 1, P, N, dtype=q.dtype), None)
    torch.testing.assert_close(y.view(L, P), expected, rtol=1e-12, atol=1e-13)


def test_one_end_of_the_rule_is_the_core_of_mamba2():
    layer = perturbed(3, d_state=4, headdim=3, rope_fraction=0.0, seed=1)
    with torch.no_grad():
        first = sum(layer._widths[:6])
        layer.in_proj.weight[first : first + layer.n_heads] = 0
        constant = sum(layer._widths[:5])
        layer.in_proj.weight[constant : constant + layer.n_heads] = 0
    u = noise(2, 9, 3)
    terms = layer._terms(u, layer.init_state(2).angle, None)
    value, one = terms.value.unsqueeze(2), terms.delta
    start = layer.init_state(2).ssm
    y, last = trapezoid(
        terms.query, terms.key, value, terms.decay, one, torch.zeros_like(one), start, None
    )
    rates = -torch.ones(layer.n_heads, dtype=u.dtype)
    expected, h = ssd(terms.value, one, rates, terms.key[:, :, 0], terms.query[:, :, 0])
    close((y[:, :, 0], last), (expected, h))


@pytest.mark.parametrize("neighbours", [True, False])
def test_rotation_is_that_of_pairs(neighbours):
    x, angle = noise(4, 8), noise(4, 3, seed=1)
    expected = [turn(row, angles, neighbours) for row, angles in zip(x, angle, strict=True)]
    close(rotate(x, angle, neighbours=neighbours), torch.stack(expected))
    close(rotate(x, angle, neighbours=neighbours).norm(dim=-1), x.norm(dim=-1))
    assert rotate(x, angle[:, :0], neighbours=neighbours) is x


def test_rank_one_of_mimo_is_siso_at_the_start():
    """All factors of R ranks start so that equal ranks add up to one of them."""
    one = Mamba3(3, d_state=4, headdim=3, rope_fraction=0.0, seed=1).double()
    two = Mamba3(3, d_state=4, headdim=3, rope_fraction=0.0, rank=2, seed=1).double()
    with torch.no_grad():
        own = dict(zip("zvBCdatr", one.in_proj.weight.split(one._widths), strict=True))
        repeated = [part.repeat(2, 1) if name in "BC" else part for name, part in own.items()]
        two.in_proj.weight.copy_(torch.cat(repeated))
        two.dt_bias.copy_(one.dt_bias)
        two.out_proj.weight.copy_(one.out_proj.weight)
        # D meets the value halved by mimo_x in the one, whole in the other.
        two.D.mul_(2)
    u = noise(2, 7, 3)
    close(two(u)[0], one(u)[0])


@pytest.mark.parametrize("decay", ["rational", "softplus"])
def test_rates_stay_away_from_zero(decay):
    layer = Mamba3(2, d_state=2, headdim=2, decay=decay).double()
    a = torch.tensor([-1e6, -3.0, -1e-9, 0.0, 1e-9, 2.0, 1e6], dtype=torch.float64)
    a.requires_grad_()
    rate = layer._rate(a)
    assert (rate >= 1e-4).all()
    (slope,) = torch.autograd.grad(rate.sum(), a)
    assert slope.isfinite().all()
    if decay == "rational":
        close(rate[1:6], torch.tensor([0.25, 1.0, 1.0, 1.0, 3.0], dtype=a.dtype), atol=1e-8)
        close(slope[2:5], torch.ones(3, dtype=a.dtype), atol=1e-8)


def test_roles_and_sizes():
    layer = Mamba3(64, d_state=32, rank=4)
    assert layer.in_proj.weight.shape == (2 * 128 + 2 * 4 * 32 + 3 * 2 + 8, 64)
    roles = parameter_roles(layer)
    assert (roles["dt_bias"], roles["B_bias"], roles["D"]) == ("dt", "B", "D")


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match=r"divides expand \* d_model = 6; given 4"):
        Mamba3(3, headdim=4)
    with pytest.raises(ValueError, match="divides the 2 heads; given 3"):
        Mamba3(3, headdim=3, n_groups=3)
    with pytest.raises(ValueError, match="d_state = 3"):
        Mamba3(3, headdim=3, d_state=3)
    with pytest.raises(ValueError, match="given 'exp'"):
        Mamba3(3, headdim=3, decay="exp")
