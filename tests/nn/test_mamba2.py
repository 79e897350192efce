"""Mamba-2: the contract, and the identities that tie it to Mamba and to attention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from contracts.layer_base import close, fold, parts
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Mamba2, Mamba2State, parameter_roles
from statewise.ops import selective_scan

F64 = torch.float64


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestMamba2(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        layer = Mamba2(
            3, d_state=2, headdim=2, d_conv=3, n_groups=3, dt_max=1.0, a_max=3.0, seed=seed
        )
        return layer.to(dtype)


class TestMamba2OtherOptions(EagerContract):
    """Gate behind the norm, D per channel, limits of Δ, channels beside the heads, rest trained."""

    def build(self, dtype=torch.float64, seed=0):
        layer = Mamba2(
            3,
            d_state=3,
            headdim=2,
            expand=3,
            d_ssm=4,
            norm_before_gate=True,
            D_per_channel=True,
            dt_lowest=0.02,
            dt_highest=0.6,
            dt_max=1.0,
            learnable_init_states=True,
            bias=True,
            seed=seed,
        )
        return layer.to(dtype)


class TestMamba2WithoutNorm(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        layer = Mamba2(2, d_state=1, headdim=1, rmsnorm=False, d_conv=1, conv_bias=False, seed=seed)
        return layer.to(dtype)


# --- the layer as a readable loop


def convolve(layer: Mamba2, x: Tensor) -> Tensor:
    taps, width = layer.conv1d.weight, layer.conv1d.width
    rows = [
        sum(taps[:, width - 1 - k] * x[:, t - k] for k in range(min(width, t + 1)))
        for t in range(x.shape[1])
    ]
    return silu(torch.stack(rows, 1) + layer.conv1d.bias)


def norm(layer: Mamba2, y: Tensor, z: Tensor) -> Tensor:
    if layer.norm is None:
        return y * silu(z)
    before = layer.norm.norm_before_gate
    y = y if before else y * silu(z)
    share = y.shape[-1] // layer.n_groups
    parts = [
        part / (part.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        for part in y.split(share, dim=-1)
    ]
    y = torch.cat(parts, -1) * layer.norm.weight
    return y * silu(z) if before else y


def pieces(layer: Mamba2, u: Tensor) -> list[Tensor]:
    """z0, x0, z, x (B, L, H, P), B and C (B, L, H, N), Δ (B, L, H)."""
    beside, width = layer.d_inner - layer.d_ssm, layer.d_ssm
    shared = layer.n_groups * layer.d_state
    sizes = [beside, beside, width, width + 2 * shared, layer.n_heads]
    z0, x0, z, xbc, delta = layer.in_proj(u).split(sizes, -1)
    x, B, C = convolve(layer, xbc).split([width, shared, shared], -1)
    x = x.unflatten(-1, (layer.n_heads, layer.headdim))
    repeat = layer.n_heads // layer.n_groups
    B, C = (
        p.unflatten(-1, (layer.n_groups, layer.d_state)).repeat_interleave(repeat, 2)
        for p in (B, C)
    )
    delta = softplus(delta + layer.dt_bias).clamp(*layer.dt_limit)
    return [z0, x0, z, x, B, C, delta]


def finish(layer: Mamba2, y: Tensor, z: Tensor, z0: Tensor, x0: Tensor) -> Tensor:
    y = norm(layer, y.flatten(-2), z)
    return layer.out_proj(torch.cat([silu(z0) * x0, y], -1))


def skip(layer: Mamba2) -> Tensor:
    return layer.D.view(layer.n_heads, -1)


def by_recurrence(layer: Mamba2, u: Tensor) -> Tensor:
    z0, x0, z, x, B, C, delta = pieces(layer, u)
    h = torch.zeros(u.shape[0], layer.n_heads, layer.headdim, layer.d_state, dtype=u.dtype)
    rows = []
    for t in range(u.shape[1]):
        decay = torch.exp(-delta[:, t] * layer.A_log.exp())[..., None, None]
        step = delta[:, t, :, None] * x[:, t]
        h = decay * h + step[..., None] * B[:, t, :, None]
        rows.append((h * C[:, t, :, None]).sum(-1) + skip(layer) * x[:, t])
    return finish(layer, torch.stack(rows, 1), z, z0, x0)


def by_attention(layer: Mamba2, u: Tensor) -> Tensor:
    """Y = (L ∘ C Bᵀ) (Δ X), L from masked sums of Δ A."""
    z0, x0, z, x, B, C, delta = pieces(layer, u)
    length = u.shape[1]
    exponent = -delta * layer.A_log.exp()
    later = torch.ones(length, length, dtype=torch.bool).tril(-1)
    sums = torch.where(later[..., None], exponent[:, :, None], 0.0).cumsum(1)
    seen = torch.ones(length, length, dtype=torch.bool).tril()[..., None]
    M = torch.where(seen, torch.exp(sums), 0.0) * torch.einsum("bthn,bshn->btsh", C, B)
    y = torch.einsum("btsh,bsh,bshp->bthp", M, delta, x) + skip(layer) * x
    return finish(layer, y, z, z0, x0)


OPTIONS = [
    {"n_groups": 3},
    {"n_groups": 1, "norm_before_gate": True, "D_per_channel": True},
    {"d_ssm": 6, "expand": 4, "dt_lowest": 0.05, "dt_highest": 0.4},
    {"rmsnorm": False, "bias": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", [by_recurrence, by_attention])
def test_layer_is_its_equations(options: dict, form) -> None:
    layer = Mamba2(3, d_state=4, headdim=2, dt_max=1.0, seed=5, **options).double()
    with torch.no_grad():
        layer.D.copy_(noise(*layer.D.shape, seed=1))
    u = noise(2, 19, 3)
    close(layer(u)[0], form(layer, u), rtol=1e-11, atol=1e-12)


def test_equals_the_scan_of_mamba_with_repeated_dynamics() -> None:
    layer = Mamba2(4, d_state=5, headdim=2, n_groups=2, dt_max=1.0, seed=1).double()
    u = noise(2, 17, 4)
    z0, x0, z, x, B, C, delta = pieces(layer, u)
    A = -layer.A_log.exp()[:, None].expand(-1, layer.headdim).reshape(-1, 1).expand(-1, 5)
    y, h = selective_scan(
        x.flatten(-2),
        delta.repeat_interleave(layer.headdim, -1),
        A,
        B,
        C,
        layer.D.repeat_interleave(layer.headdim),
    )
    given, state = layer(u)
    y = y.unflatten(-1, (layer.n_heads, layer.headdim))
    close(given, finish(layer, y, z, z0, x0), rtol=1e-11, atol=1e-12)
    close(state.ssm.flatten(1, 2), h, rtol=1e-11, atol=1e-12)


# --- state, packed sequences, trained rest


def trained_rest() -> Mamba2:
    layer = Mamba2(
        4, d_state=3, headdim=2, n_groups=2, dt_max=1.0, learnable_init_states=True, seed=2
    ).double()
    with torch.no_grad():
        layer.init_states.copy_(noise(*layer.init_states.shape, seed=3))
    return layer


def test_prefill_and_steps_are_the_whole() -> None:
    for layer in (Mamba2(4, d_state=3, headdim=2, dt_max=1.0).double(), trained_rest()):
        u = noise(2, 20, 4)
        whole, last = layer(u)
        for cut in (1, 2, 13):
            first, state = layer(u[:, :cut])
            rest, state = fold(layer, u[:, cut:], state)
            close(torch.cat([first, rest], 1), whole, rtol=1e-11, atol=1e-12)
            close(state, last, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("start", ["rest", "carried"])
def test_packed_sequences_are_apart(start: str) -> None:
    for layer in (Mamba2(4, d_state=3, headdim=2, dt_max=1.0).double(), trained_rest()):
        u = noise(1, 24, 4)
        begin = layer.init_state(1) if start == "rest" else layer(noise(1, 5, 4, seed=8))[1]
        reset = torch.zeros(1, 24, dtype=torch.bool)
        starts = [0, 2, 3, 11, 24]
        reset[0, starts[1:-1]] = True
        packed, last = layer(u, begin, reset=reset)
        apart = [layer(u[:, :2], begin)]
        apart += [layer(u[:, a:b]) for a, b in itertools.pairwise(starts[1:])]
        close(packed, torch.cat([y for y, _ in apart], 1), rtol=1e-11, atol=1e-12)
        close(last, apart[-1][1], rtol=1e-11, atol=1e-12)


def test_lengths_end_inside_a_packed_sequence() -> None:
    layer = trained_rest()
    u, start = noise(5, 9, 4), layer(noise(5, 4, 4, seed=1))[1]
    lengths = torch.tensor([9, 5, 4, 1, 0])
    reset = torch.zeros(5, 9, dtype=torch.bool)
    reset[:, [3, 7]] = True
    y, state = layer(u, start, reset=reset, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        own = parts(start, slice(row, row + 1))
        if length:
            cut = slice(0, length)
            expected, own = layer(u[row : row + 1, cut], own, reset=reset[row : row + 1, cut])
            close(y[row : row + 1, cut], expected)
        close(parts(state, slice(row, row + 1)), own)


def test_relative_steps_scale_delta_behind_its_limits() -> None:
    layer = Mamba2(2, d_state=2, headdim=2, dt_lowest=0.1, dt_highest=0.1, seed=0).double()
    u, start = noise(1, 1, 2), layer(noise(1, 4, 2, seed=1))[1]
    given = layer(u, start, dt=torch.tensor([3.0], dtype=F64))[1].ssm
    _, _, _, x, B, _, _ = pieces(layer, torch.cat([noise(1, 4, 2, seed=1), u], 1))
    delta = 0.3
    decay = torch.exp(-delta * layer.A_log.exp())[:, None, None]
    expected = decay * start.ssm[0] + delta * x[0, -1, :, :, None] * B[0, -1, :, None]
    close(given[0], expected, rtol=1e-12, atol=1e-14)


# --- size and start


def test_a_layer_of_the_smallest_public_model_has_its_parameters() -> None:
    with torch.device("meta"):
        layer = Mamba2(768)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        "in_proj.weight": (3352, 768),
        "conv1d.weight": (1792, 4),
        "conv1d.bias": (1792,),
        "dt_bias": (24,),
        "A_log": (24,),
        "D": (24,),
        "norm.weight": (1536,),
        "out_proj.weight": (768, 1536),
    }
    norm_in_front = 768
    assert sum(p.numel() for p in layer.parameters()) + norm_in_front == 3_765_320


def test_start() -> None:
    layer = Mamba2(256, headdim=4, conv_start=0.1, d_state=8)
    rates = layer.A_log.exp()
    assert 1 <= rates.min() < 2.5
    assert 14.5 < rates.max() <= 16
    steps = softplus(layer.dt_bias)
    assert 1e-3 - 1e-7 <= steps.min() < 3e-3
    assert 0.04 < steps.max() <= 0.1 + 1e-6
    assert 0.09 < layer.conv1d.weight.abs().max() <= 0.1
    assert (layer.D == 1).all()
    assert Mamba2(4, headdim=2, D_per_channel=True).D.shape == (8,)


def test_roles_and_state() -> None:
    layer = trained_rest()
    roles = parameter_roles(layer)
    own = {"A_log": "A", "D": "D", "dt_bias": "dt", "norm.weight": "scale"}
    assert {name: roles[name] for name in own} == own
    state = layer.init_state(3)
    assert isinstance(state, Mamba2State)
    close(state.ssm[1], layer.init_states)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state.*0"),
        ({"headdim": 3}, "headdim = 3"),
        ({"headdim": 2, "n_groups": 3}, "n_groups = 3"),
        ({"headdim": 2, "d_ssm": 10}, "d_ssm.*8.*10"),
        ({"headdim": 2, "a_min": 0.0}, "a_min = 0.0"),
        ({"headdim": 2, "dt_lowest": 1.0, "dt_highest": 0.5}, "dt_highest = 0.5"),
    ],
)
def test_wrong_options_are_told(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mamba2(4, **options)


@pytest.mark.parametrize(
    ("width", "groups", "expected"), [(384, 1, 64), (16, 1, 32), (33, 1, 33), (48, 4, 24)]
)
def test_heads_fit_the_width_by_themselves(width: int, groups: int, expected: int) -> None:
    layer = Mamba2(width, d_state=2, n_groups=groups)
    assert layer.headdim == expected
    assert layer.n_heads * expected == 2 * width
