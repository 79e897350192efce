"""GPU back end of the steps: products of whole matrices, and Triton kernels between them.

Numbers are those of u between the products, and of the accumulation type within a kernel.
"""

# Kernels are called in a way of Triton's own, which a checker of Python cannot follow.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import linear, silu

from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.precision import accumulation_dtype
from statewise.ops.selective_scan._gpu_math import LOG2E, device, sigmoid, softplus

if TYPE_CHECKING:
    from statewise.ops.mamba_step.op import Mamba2Weights, MambaWeights

PROGRAMS = 256
"""Fewer programs than this leave multiprocessors idle: then each takes a smaller tile."""
CONVOLVED = 128
"""Channels of a program of the convolution."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("mamba_step", device, dtype)


@device
def _convolved(entered, window, taps, bias, last, row, past_row, d, D, held, keep,
               W: tl.constexpr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr,
               OUT: tl.constexpr):  # fmt: skip
    """silu(Σ_k w_k ⊙ x_{t−k} + bias) of the channels d, rounded as the sequence rounds it.

    ``row`` is where a row of inputs starts, ``past_row`` where that of the window does; the next
    window is written where ``keep`` says.
    """
    now = tl.load(entered + row + d, mask=held, other=0.0).to(ACC)
    total = now * tl.load(taps + d * W + W - 1, mask=held, other=0.0).to(ACC)
    if HAS_BIAS:
        total += tl.load(bias + d, mask=held, other=0.0).to(ACC)
    for k in tl.static_range(W - 1):
        past = tl.load(window + past_row + k * D + d, mask=held, other=0.0)
        total += past * tl.load(taps + d * W + k, mask=held, other=0.0).to(ACC)
        if k > 0:
            tl.store(last + past_row + (k - 1) * D + d, past, mask=keep)
    if W > 1:
        tl.store(last + past_row + (W - 2) * D + d, now, mask=keep)
    return (total * sigmoid(total)).to(OUT)


@triton.jit
def _convolve(entered, window, taps, bias, x, last, width, D, W: tl.constexpr,
              HAS_BIAS: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * C + tl.arange(0, C)
    held = d < D
    value = _convolved(entered, window, taps, bias, last, b * width, b * (W - 1) * D, d, D, held,
                       held, W, HAS_BIAS, ACC, x.dtype.element_ty)  # fmt: skip
    tl.store(x + b * D + d, value, mask=held)


@triton.jit
def _mamba(entered, x, drawn, h, dt_weight, dt_bias, A_log, D, scale, y, after, I, N, R,
           HAS_SCALE: tl.constexpr, ACC: tl.constexpr, C: tl.constexpr, STATES: tl.constexpr,
           RANK: tl.constexpr):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * C + tl.arange(0, C)
    n, r = tl.arange(0, STATES), tl.arange(0, RANK)
    held, ranked, stated = d < I, r < R, n < N
    row = b * (R + 2 * N)
    low = tl.load(drawn + row + r, mask=ranked, other=0.0).to(ACC)
    place = d[:, None] * R + r[None, :]
    inside = held[:, None] & ranked[None, :]
    spread = tl.load(dt_weight + place, mask=inside, other=0.0).to(ACC)
    delta = tl.sum(spread * low[None, :], 1)
    delta = softplus(delta + tl.load(dt_bias + d, mask=held, other=0.0).to(ACC))
    if HAS_SCALE:
        delta = delta * tl.load(scale + b)
    now = tl.load(x + b * I + d, mask=held, other=0.0).to(ACC)
    B = tl.load(drawn + row + R + n, mask=stated, other=0.0).to(ACC)
    read = tl.load(drawn + row + R + N + n, mask=stated, other=0.0).to(ACC)
    inside = held[:, None] & stated[None, :]
    place = d[:, None] * N + n[None, :]
    rate = tl.exp2(tl.load(A_log + place, mask=inside, other=0.0).to(ACC) * LOG2E)
    state = tl.load(h + b * I * N + place, mask=inside, other=0.0)
    state = tl.exp2(-delta[:, None] * rate * LOG2E) * state + (delta * now)[:, None] * B[None, :]
    tl.store(after + b * I * N + place, state, mask=inside)
    value = tl.sum(state * read[None, :], 1)
    value += tl.load(D + d, mask=held, other=0.0).to(ACC) * now
    gate = tl.load(entered + (2 * b + 1) * I + d, mask=held, other=0.0).to(ACC)
    value = value * gate * sigmoid(gate)
    tl.store(y + b * I + d, value.to(y.dtype.element_ty), mask=held)


@triton.jit
def _mamba2(entered, window, taps, bias, h, dt_bias, A_log, D, scale, y, last, after, width, begin,
            out_width, out_begin, H, P, N, G, LOW: tl.constexpr, HIGH: tl.constexpr,
            W: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, EACH: tl.constexpr,
            GATED: tl.constexpr, ACC: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr,
            STATES: tl.constexpr):  # fmt: skip
    block, j, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    p, n = block * ROWS + tl.arange(0, ROWS), tl.arange(0, STATES)
    held, stated = p < P, n < N
    S, share = H * P, H // G
    mixed = S + 2 * G * N
    group = j // share
    # The window of B and C belongs to the first program of each group.
    mine = n < tl.where(block + j % share == 0, N, 0)
    row = b * width + begin
    inputs, past = row + S, b * (W - 1) * mixed
    d = j * P + p
    x = _convolved(entered, window, taps, bias, last, inputs, past, d, mixed, held, held, W,
                   HAS_BIAS, ACC, OUT).to(ACC)  # fmt: skip
    drawn = S + group * N + n
    B = _convolved(entered, window, taps, bias, last, inputs, past, drawn, mixed, stated, mine, W,
                   HAS_BIAS, ACC, OUT).to(ACC)  # fmt: skip
    drawn = S + (G + group) * N + n
    C = _convolved(entered, window, taps, bias, last, inputs, past, drawn, mixed, stated, mine, W,
                   HAS_BIAS, ACC, OUT).to(ACC)  # fmt: skip
    delta = tl.load(entered + inputs + mixed + j).to(ACC) + tl.load(dt_bias + j).to(ACC)
    delta = softplus(delta)
    # A limit takes the type of what it is added to; alone it would be float32.
    delta = tl.minimum(tl.maximum(delta, delta * 0.0 + LOW), delta * 0.0 + HIGH)
    if HAS_SCALE:
        delta = delta * tl.load(scale + b)
    decay = tl.exp2(-delta * tl.exp2(tl.load(A_log + j).to(ACC) * LOG2E) * LOG2E)
    inside = held[:, None] & stated[None, :]
    place = ((b * H + j) * P + p)[:, None] * N + n[None, :]
    state = tl.load(h + place, mask=inside, other=0.0)
    state = decay * state + (delta * x)[:, None] * B[None, :]
    tl.store(after + place, state, mask=inside)
    value = tl.sum(state * C[None, :], 1)
    if EACH:
        value += tl.load(D + j).to(ACC) * x
    else:
        value += tl.load(D + d, mask=held, other=0.0).to(ACC) * x
    if GATED:
        z = tl.load(entered + row + d, mask=held, other=0.0).to(ACC)
        value = value * z * sigmoid(z)
    tl.store(y + b * out_width + out_begin + d, value.to(y.dtype.element_ty), mask=held)


@triton.jit
def _normalise(y, entered, norm, out, few, width, begin, out_width, out_begin,
               EPS: tl.constexpr, BEFORE: tl.constexpr, ACC: tl.constexpr,
               C: tl.constexpr):  # fmt: skip
    g, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    groups = tl.num_programs(0)
    c = tl.arange(0, C)
    held, d = c < few, g * few + c
    value = tl.load(y + b * groups * few + d, mask=held, other=0.0)
    factor = 1.0 / tl.sqrt(tl.sum(value * value, 0) / few + EPS)
    value = value * factor * tl.load(norm + d, mask=held, other=0.0).to(ACC)
    if BEFORE:
        z = tl.load(entered + b * width + begin + d, mask=held, other=0.0).to(ACC)
        value = value * z * sigmoid(z)
    tl.store(out + b * out_width + out_begin + d, value.to(out.dtype.element_ty), mask=held)


def _kind(dtype: torch.dtype) -> tl.dtype:
    names = {
        torch.float64: tl.float64,
        torch.float32: tl.float32,
        torch.bfloat16: tl.bfloat16,
        torch.float16: tl.float16,
    }
    return names[dtype]


def _plain(x: Tensor | None, absent: Tensor) -> Tensor:
    return absent if x is None else x.contiguous()


def mamba(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: MambaWeights,
    scale: Tensor | None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`~statewise.ops.mamba_step`."""
    p, batch = weights, u.shape[0]
    channels, count = p.conv_weight.shape
    rank, states = p.dt_weight.shape[1], p.A_log.shape[1]
    entered = linear(u, p.in_weight, p.in_bias).contiguous()
    x, y = entered.new_empty(batch, channels), entered.new_empty(batch, channels)
    last = torch.empty_like(window, memory_format=torch.contiguous_format)
    after = h if overwrite else torch.empty_like(h, memory_format=torch.contiguous_format)
    acc = _kind(accumulation_dtype(u.dtype))
    if batch:
        _convolve[cdiv(channels, CONVOLVED), batch](
            *(entered, window.contiguous(), p.conv_weight.contiguous()),
            *(_plain(p.conv_bias, entered), x, last, 2 * channels, channels),
            *(count, p.conv_bias is not None, acc, CONVOLVED),
            num_warps=4,
        )
        drawn = linear(x, p.x_weight).contiguous()
        block = 16 if cdiv(channels, 16) * batch <= 2 * PROGRAMS else 64
        _mamba[cdiv(channels, block), batch](
            *(entered, x, drawn, h.contiguous(), p.dt_weight.contiguous()),
            *(p.dt_bias.contiguous(), p.A_log.contiguous(), p.D.contiguous()),
            *(_plain(scale, h), y, after, channels, states, rank),
            *(scale is not None, acc, block, next_power_of_2(states), next_power_of_2(rank)),
            num_warps=block // 16,
        )
    return linear(y, p.out_weight, p.out_bias), last, after


def mamba2(
    u: Tensor,
    window: Tensor,
    h: Tensor,
    weights: Mamba2Weights,
    n_groups: int,
    norm_before_gate: bool,
    eps: float,
    dt_limit: tuple[float, float],
    scale: Tensor | None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`~statewise.ops.mamba2_step`."""
    p = weights
    batch, heads, width, states = h.shape
    count = p.conv_weight.shape[1]
    out_width = p.out_weight.shape[1]
    wide = heads * width
    beside = out_width - wide
    entered = linear(u, p.in_weight, p.in_bias).contiguous()
    rows, begin = entered.shape[1], 2 * beside
    out = entered.new_empty(batch, out_width)
    if beside:
        out[:, :beside] = silu(entered[:, :beside]) * entered[:, beside:begin]
    last = torch.empty_like(window, memory_format=torch.contiguous_format)
    after = h if overwrite else torch.empty_like(h, memory_format=torch.contiguous_format)
    normed = p.norm_weight is not None
    acc = _kind(accumulation_dtype(u.dtype))
    y, place = (h.new_empty(batch, wide), (wide, 0)) if normed else (out, (out_width, beside))
    if batch:
        least = 16 if batch * heads < PROGRAMS else 64
        block = min(least, next_power_of_2(width))
        _mamba2[cdiv(width, block), heads, batch](
            *(entered, window.contiguous(), p.conv_weight.contiguous()),
            *(_plain(p.conv_bias, entered), h.contiguous(), p.dt_bias.contiguous()),
            *(p.A_log.contiguous(), p.D.contiguous(), _plain(scale, h), y, last, after),
            *(rows, begin, *place, heads, width, states, n_groups, *map(float, dt_limit)),
            *(count, p.conv_bias is not None, scale is not None, p.D.numel() == heads),
            *(not (normed and norm_before_gate), acc, _kind(u.dtype), block),
            next_power_of_2(states),
            num_warps=4 if block * states <= 4096 else 8,
        )
        if normed:
            few = wide // n_groups
            _normalise[n_groups, batch](
                *(y, entered, _plain(p.norm_weight, h), out, few, rows, begin, out_width),
                *(beside, float(eps), norm_before_gate, acc, next_power_of_2(few)),
                num_warps=8 if few > 1024 else 4,
            )
    return linear(out, p.out_weight, p.out_bias), last, after
