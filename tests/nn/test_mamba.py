"""Mamba: the contract, and the identities that tie it to what is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from contracts.layer_base import close, fold, parts
from contracts.layer_suite import EagerContract, LayerContract
from statewise.nn import Mamba, MambaState, Selective, parameter_roles

F64 = torch.float64


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TestMamba(LayerContract):
    def build(self, dtype=torch.float64, seed=0):
        return Mamba(5, d_state=3, d_conv=3, dt_max=1.0, seed=seed).to(dtype)


class TestMambaZOH(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        layer = Mamba(
            3, d_state=2, expand=3, dt_rank=2, rule="zoh", bias=True, dt_max=1.0, seed=seed
        )
        return layer.to(dtype)


class TestMambaConstantStepAndInput(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        selective = Selective(dt=False, B=False)
        return Mamba(3, d_state=2, selective=selective, dt_max=1.0, seed=seed).to(dtype)


class TestMambaTimeInvariant(EagerContract):
    def build(self, dtype=torch.float64, seed=0):
        selective = Selective(dt=False, B=False, C=False)
        layer = Mamba(
            3, d_state=2, d_conv=1, conv_bias=False, selective=selective, dt_max=1.0, seed=seed
        )
        return layer.to(dtype)


# --- the layer as a readable loop


def reference(layer: Mamba, u: Tensor) -> Tensor:
    """The equations of the class, one sample, channel and state at a time over (B, ...)."""
    x, z = layer.in_proj(u).chunk(2, dim=-1)
    taps, width = layer.conv1d.weight, layer.conv1d.width
    A = -torch.exp(layer.A_log)
    h = torch.zeros(u.shape[0], layer.d_inner, layer.d_state, dtype=u.dtype)
    outputs = []
    for t in range(u.shape[1]):
        window = sum(taps[:, width - 1 - k] * x[:, t - k] for k in range(min(width, t + 1)))
        xt = silu(window + layer.conv1d.bias)
        delta, B, C = layer.x_proj(xt).split([layer.dt_rank, layer.d_state, layer.d_state], -1)
        delta = softplus(layer.dt_proj(delta)).unsqueeze(-1)
        gain = delta if layer.rule == "euler" else torch.expm1(delta * A) / A
        h = torch.exp(delta * A) * h + gain * B.unsqueeze(1) * xt.unsqueeze(-1)
        y = (h * C.unsqueeze(1)).sum(-1) + layer.D * xt
        outputs.append(layer.out_proj(y * silu(z[:, t])))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("rule", ["euler", "zoh"])
def test_layer_is_the_loop_of_its_equations(rule: str) -> None:
    layer = Mamba(6, d_state=3, rule=rule, dt_max=1.0, seed=3).double()
    u = noise(2, 13, 6)
    close(layer(u)[0], reference(layer, u), rtol=1e-12, atol=1e-13)


def gate_layer(rule: str) -> Mamba:
    """One state, A = −1, B = 1, no convolution: what theorem 1 is about."""
    selective = Selective(B=False, C=False)
    layer = Mamba(4, d_state=1, d_conv=1, expand=1, rule=rule, selective=selective, seed=1)
    layer = layer.double()
    with torch.no_grad():
        layer.A_log.zero_()
        layer.C.fill_(1.0)
        layer.D.zero_()
    return layer


@pytest.mark.parametrize("rule", ["zoh", "euler"])
def test_theorem_1_gated_recurrence(rule: str) -> None:
    layer = gate_layer(rule)
    u = noise(2, 11, 4)
    x, _ = layer.in_proj(u).chunk(2, dim=-1)
    x = silu(layer.conv1d.weight[:, 0] * x + layer.conv1d.bias)
    gate = torch.sigmoid(layer.dt_proj(layer.x_proj(x)))
    h = torch.zeros(2, 4, dtype=F64)
    for t in range(u.shape[1]):
        h = (1 - gate[:, t]) * h + gate[:, t] * x[:, t]
    given = layer(u)[1].ssm.squeeze(-1)
    if rule == "zoh":
        close(given, h, rtol=1e-12, atol=1e-14)
    else:
        assert (given - h).abs().max() > 1e-3


def test_constants_make_a_convolution() -> None:
    selective = Selective(dt=False, B=False, C=False)
    layer = Mamba(3, d_state=4, selective=selective, dt_max=1.0, seed=2).double()
    with torch.no_grad():
        layer.B.copy_(noise(6, 4, seed=9))
    u = noise(2, 37, 3)
    x, z = layer.in_proj(u).chunk(2, dim=-1)
    x, _ = layer.conv1d(x, layer.init_state(2).conv)
    delta, A = softplus(layer.dt_bias)[:, None], -torch.exp(layer.A_log)
    powers = torch.exp(torch.arange(37)[:, None, None] * delta * A)
    kernel = (powers * delta * layer.B * layer.C).sum(-1)
    spectrum = torch.fft.rfft(x, 74, dim=1) * torch.fft.rfft(kernel, 74, dim=0)
    y = torch.fft.irfft(spectrum, 74, dim=1)[:, :37] + layer.D * x
    close(layer(u)[0], layer.out_proj(y * silu(z)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["euler", "zoh"])
def test_constant_input_reaches_the_fixed_point(rule: str) -> None:
    selective = Selective(dt=False, B=False, C=False)
    layer = Mamba(
        2, d_state=2, d_conv=1, rule=rule, selective=selective, dt_min=0.3, dt_max=1.0, seed=0
    ).double()
    x, _ = layer.in_proj(torch.ones(1, 1, 2, dtype=F64)).chunk(2, dim=-1)
    x = silu(layer.conv1d.weight[:, 0] * x + layer.conv1d.bias)[0, 0, :, None]
    delta, A = softplus(layer.dt_bias)[:, None], -torch.exp(layer.A_log)
    if rule == "euler":
        expected = delta * layer.B / -torch.expm1(delta * A) * x
    else:
        expected = -layer.B / A * x
    _, state = layer(torch.ones(1, 200, 2, dtype=F64))
    close(state.ssm[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("part", ["dt", "B", "C"])
def test_selective_says_what_the_input_decides(part: str) -> None:
    flags = {name: name == part for name in ("dt", "B", "C")}
    layer = Mamba(4, d_state=3, dt_rank=2, selective=Selective(**flags)).double()
    assert layer.x_proj.weight.shape[0] == (2 if part == "dt" else 3)
    x = noise(1, 2, layer.d_inner)
    step, _, B, C = layer._select(x)
    assert (step[:, 0] != step[:, 1]).any() == (part == "dt")
    assert B.ndim == (3 if part == "B" else 2)
    assert C.ndim == (3 if part == "C" else 2)


# --- state, packed sequences, padded batches


def test_prefill_and_steps_are_the_whole() -> None:
    layer = Mamba(6, d_state=4, dt_max=1.0).double()
    u = noise(2, 20, 6)
    whole, last = layer(u)
    for cut in (1, 2, 13):
        first, state = layer(u[:, :cut])
        rest, state = fold(layer, u[:, cut:], state)
        close(torch.cat([first, rest], 1), whole, rtol=1e-12, atol=1e-13)
        close(state, last, rtol=1e-12, atol=1e-13)


def test_packed_sequences_are_apart() -> None:
    layer = Mamba(6, d_state=4, dt_max=1.0).double()
    u = noise(1, 24, 6)
    reset = torch.zeros(1, 24, dtype=torch.bool)
    starts = [0, 2, 3, 11, 24]
    reset[0, starts[:-1]] = True
    packed, last = layer(u, reset=reset)
    apart = [layer(u[:, a:b]) for a, b in itertools.pairwise(starts)]
    close(packed, torch.cat([y for y, _ in apart], 1), rtol=1e-12, atol=1e-13)
    close(last, apart[-1][1], rtol=1e-12, atol=1e-13)


def test_lengths_end_inside_a_packed_sequence() -> None:
    layer = Mamba(4, d_state=2, dt_max=1.0).double()
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


def test_relative_steps_multiply_delta() -> None:
    """Twice the step is twice Δ: under ZOH, two half steps with the same input are a whole one."""
    selective = Selective(dt=False, B=False, C=False)
    layer = Mamba(
        3, d_state=2, d_conv=1, rule="zoh", selective=selective, dt_max=1.0, seed=4
    ).double()
    u = noise(2, 6, 3)
    once = layer(u)[1]
    twice = u.repeat_interleave(2, dim=1)
    halves = torch.full((12,), 0.5, dtype=F64)
    close(layer(twice, dt=halves)[1].ssm, once.ssm, rtol=1e-12, atol=1e-14)


# --- size and start


def test_a_layer_of_the_smallest_public_model_has_its_parameters() -> None:
    with torch.device("meta"):
        layer = Mamba(768)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        "in_proj.weight": (3072, 768),
        "conv1d.weight": (1536, 4),
        "conv1d.bias": (1536,),
        "x_proj.weight": (80, 1536),
        "dt_proj.weight": (1536, 48),
        "dt_proj.bias": (1536,),
        "A_log": (1536, 16),
        "D": (1536,),
        "out_proj.weight": (768, 1536),
    }
    norm_in_front = 768
    assert sum(p.numel() for p in layer.parameters()) + norm_in_front == 3_771_648


def test_start() -> None:
    layer = Mamba(64, dt_min=1e-3, dt_max=0.1, seed=0)
    expected = torch.arange(1, 17).float().expand(128, -1)
    torch.testing.assert_close(layer.A_log.exp(), expected)
    assert (layer.D == 1).all()
    steps = softplus(layer.dt_proj.bias)
    assert 1e-3 <= steps.min() < 2e-3
    assert 0.05 < steps.max() <= 0.1 + 1e-6
    bound = layer.dt_rank**-0.5
    assert 0.9 * bound < layer.dt_proj.weight.abs().max() <= bound
    assert layer.in_proj.weight.abs().max() <= 1 / math.sqrt(64)
    constant = Mamba(64, dt_start="constant", dt_scale=0.5, dt_floor=0.05)
    assert torch.allclose(constant.dt_proj.weight, torch.tensor(0.5 * bound))
    assert softplus(constant.dt_proj.bias).min() >= 0.05 - 1e-6


def test_roles_and_state() -> None:
    layer = Mamba(4, selective=Selective(dt=False, B=False, C=False))
    roles = parameter_roles(layer)
    own = {"A_log": "A", "B": "B", "C": "C", "D": "D", "dt_bias": "dt"}
    assert {name: roles[name] for name in own} == own
    assert isinstance(layer.init_state(3), MambaState)
    assert Mamba.spec(d_state=4, selective=Selective(B=False)).layer == "Mamba"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_state": 0}, "d_state.*0"),
        ({"expand": 0.1}, "expand.*0"),
        ({"rule": "bilinear"}, "euler.*bilinear"),
        ({"dt_start": "zero"}, "random.*zero"),
        ({"dt_min": 0.2, "dt_max": 0.1}, "dt_min = 0.2"),
        ({"dt_floor": 0.0}, "dt_floor"),
    ],
)
def test_wrong_options_are_told(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mamba(4, **options)
