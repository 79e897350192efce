"""GPU back end of the short causal convolution: one Triton kernel a pass over tiles of (L, D).

Time indices in the kernels count in scan order; a tile reads the inputs of the W − 1 steps before
it again, from cache. The backward pass recomputes the sums that silu needs.
"""

# Kernels are called in a way of Triton's own, which a checker of Python cannot follow.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from statewise.ops.gpu import cdiv, next_power_of_2, refuses_gpu
from statewise.ops.precision import accumulation_dtype

STEPS = 8
CHANNELS = 128
WARPS = 4
REPEAT = 16
"""Most tiles that one program of the backward pass walks, adding up its share of the gradient."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("causal_conv1d", device, dtype)


@triton.jit
def _position(s, L, REVERSE: tl.constexpr):
    """Where in memory the step with scan index ``s`` is."""
    if REVERSE:
        s = L - 1 - s
    return s


@triton.jit
def _fresh(reset, b, s, L, HAS_RESET: tl.constexpr, REVERSE: tl.constexpr):
    """Whether the state is zeroed before step ``s``; False outside [0, L)."""
    fresh = s < -2147483647
    if HAS_RESET:
        there = (s >= 0) & (s < L)
        row = b * L + _position(s, L, REVERSE)
        fresh = tl.load(reset + row, mask=there, other=0) != 0
    return fresh


@triton.jit
def _input(x, h0, b, s, d, L, D, mask, W: tl.constexpr, HAS_H0: tl.constexpr,
           REVERSE: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """The input of step ``s`` (rows) and channel ``d`` (columns); before the start, the window."""
    row = b * L + _position(s, L, REVERSE)
    there = mask & (s >= 0)[:, None] & (s < L)[:, None]
    value = tl.load(x + row[:, None] * D + d[None, :], mask=there, other=0.0).to(ACC)
    if HAS_H0:
        row = b * (W - 1) + (W - 1 + s)
        early = mask & (s < 0)[:, None] & (s >= 1 - W)[:, None]
        value += tl.load(h0 + row[:, None] * D + d[None, :], mask=early, other=0.0)
    return value


@triton.jit
def _total(x, weight, bias, h0, reset, b, s, d, L, D, mask, W: tl.constexpr,
           HAS_BIAS: tl.constexpr, HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr,
           REVERSE: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Σ_k w_{W−1−k} x_{s−k} + bias for a tile of steps and channels."""
    held = d < D
    total = tl.zeros([s.shape[0], d.shape[0]], ACC)
    if HAS_BIAS:
        total += tl.load(bias + d, mask=held, other=0.0)[None, :]
    live = s < 2147483647
    for k in tl.static_range(W):
        w = tl.load(weight + d * W + (W - 1 - k), mask=held, other=0.0)
        seen = mask & live[:, None]
        total += w[None, :] * _input(x, h0, b, s - k, d, L, D, seen, W, HAS_H0, REVERSE, ACC)
        live = live & ~_fresh(reset, b, s - k, L, HAS_RESET, REVERSE)
    return total


@triton.jit
def _forward(x, weight, bias, h0, reset, y, last, L, D, W: tl.constexpr, SILU: tl.constexpr,
             HAS_BIAS: tl.constexpr, HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr,
             REVERSE: tl.constexpr, ACC: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
             TAIL: tl.constexpr):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    block = tl.program_id(0)
    s = block * T + tl.arange(0, T)
    d = tl.program_id(1) * C + tl.arange(0, C)
    held = (d < D)[None, :]
    mask = (s < L)[:, None] & held
    total = _total(x, weight, bias, h0, reset, b, s, d, L, D, mask, W, HAS_BIAS, HAS_H0,
                   HAS_RESET, REVERSE, ACC)  # fmt: skip
    if SILU:
        total = total / (1 + tl.exp(-total))
    row = b * L + _position(s, L, REVERSE)
    tl.store(y + row[:, None] * D + d[None, :], total.to(y.dtype.element_ty), mask=mask)
    if W > 1 and block == 0:
        j = tl.arange(0, TAIL)
        e = L - (W - 1) + j
        live = j < W - 1
        for k in tl.static_range(1, W):
            live = live & ~_fresh(reset, b, e + k, L, HAS_RESET, REVERSE)
        inside = (j < W - 1)[:, None] & held
        kept = inside & live[:, None]
        value = _input(x, h0, b, e, d, L, D, kept, W, HAS_H0, REVERSE, ACC)
        place = b * (W - 1) + j
        tl.store(last + place[:, None] * D + d[None, :], value, mask=inside)


@triton.jit
def _gradient(grad_y, x, weight, bias, h0, reset, b, s, d, L, D, mask, W: tl.constexpr,
              SILU: tl.constexpr, HAS_GRAD: tl.constexpr, HAS_BIAS: tl.constexpr,
              HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr, REVERSE: tl.constexpr,
              ACC: tl.constexpr):  # fmt: skip
    """∂y φ' for a tile; 0 outside the sequence."""
    g = tl.zeros([s.shape[0], d.shape[0]], ACC)
    if HAS_GRAD:
        there = mask & (s >= 0)[:, None] & (s < L)[:, None]
        row = b * L + _position(s, L, REVERSE)
        g = tl.load(grad_y + row[:, None] * D + d[None, :], mask=there, other=0.0).to(ACC)
        if SILU:
            total = _total(x, weight, bias, h0, reset, b, s, d, L, D, there, W, HAS_BIAS,
                           HAS_H0, HAS_RESET, REVERSE, ACC)  # fmt: skip
            gate = 1 / (1 + tl.exp(-total))
            g = tl.where(there, g * gate * (1 + total * (1 - gate)), 0.0)
    return g


@triton.jit
def _backward(grad_y, grad_last, x, weight, bias, h0, reset, dx, dweight, dbias, dh0, L, D,
              W: tl.constexpr, SILU: tl.constexpr, HAS_GRAD: tl.constexpr,
              HAS_LAST: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_H0: tl.constexpr,
              HAS_RESET: tl.constexpr, REVERSE: tl.constexpr, ACC: tl.constexpr,
              T: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr,
              REPEAT: tl.constexpr):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * C + tl.arange(0, C)
    held = d < D
    taps = tl.arange(0, TAPS)
    shares = tl.zeros([TAPS, C], ACC)
    offset = tl.zeros([C], ACC)
    start = tl.program_id(0) * REPEAT * T
    if HAS_H0:
        start -= W - 1
    for repeat in range(REPEAT):
        s = start + repeat * T + tl.arange(0, T)
        mask = (s < L)[:, None] & held[None, :]
        g = _gradient(grad_y, x, weight, bias, h0, reset, b, s, d, L, D, mask, W, SILU,
                      HAS_GRAD, HAS_BIAS, HAS_H0, HAS_RESET, REVERSE, ACC)  # fmt: skip
        offset += tl.sum(g, 0)
        live = s < 2147483647
        for k in tl.static_range(W):
            seen = mask & (live & (s >= 0))[:, None]
            past = _input(x, h0, b, s - k, d, L, D, seen, W, HAS_H0, REVERSE, ACC)
            share = tl.sum(tl.where(seen, g * past, 0.0), 0)
            shares += tl.where((taps == W - 1 - k)[:, None], share[None, :], 0.0)
            live = live & ~_fresh(reset, b, s - k, L, HAS_RESET, REVERSE)
        total = tl.zeros([T, C], ACC)
        live = s < 2147483647
        for k in tl.static_range(W):
            if k > 0:
                live = live & ~_fresh(reset, b, s + k, L, HAS_RESET, REVERSE)
                g = _gradient(
                    grad_y, x, weight, bias, h0, reset, b, s + k, d, L, D, mask,
                    W, SILU, HAS_GRAD, HAS_BIAS, HAS_H0, HAS_RESET, REVERSE, ACC,
                )  # fmt: skip
            w = tl.load(weight + d * W + (W - 1 - k), mask=held, other=0.0)
            total += tl.where(live[:, None], w[None, :] * g, 0.0)
        if HAS_LAST and W > 1:
            # live is now: no reset within the W − 1 steps after s, as the last window asks.
            j = s - (L - (W - 1))
            kept = mask & (live & (j >= 0))[:, None]
            place = (b * (W - 1) + j)[:, None] * D + d[None, :]
            total += tl.load(grad_last + place, mask=kept, other=0.0)
        row = b * L + _position(s, L, REVERSE)
        there = mask & (s >= 0)[:, None]
        tl.store(dx + row[:, None] * D + d[None, :], total.to(dx.dtype.element_ty), mask=there)
        if HAS_H0:
            place = (b * (W - 1) + (W - 1 + s))[:, None] * D + d[None, :]
            tl.store(dh0 + place, total, mask=mask & (s < 0)[:, None])
    # One share a program, (programs, W, D) and (programs, D), summed by the caller.
    program = b * tl.num_programs(0) + tl.program_id(0)
    place = (program * W + taps)[:, None] * D + d[None, :]
    tl.store(dweight + place, shares, mask=(taps < W)[:, None] & held[None, :])
    if HAS_BIAS:
        tl.store(dbias + program * D + d, offset, mask=held)


def _kind(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype is torch.float64 else tl.float32


def _contiguous(x: Tensor | None, like: Tensor) -> Tensor:
    return like if x is None else x.contiguous()


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The convolution; arguments and results are those of ``reference.forward``."""
    batch, length, channels = x.shape
    taps = weight.shape[1]
    acc = accumulation_dtype(x.dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    last = torch.empty(batch, taps - 1, channels, dtype=acc, device=x.device)
    x = x.contiguous()
    if x.numel():
        block = min(CHANNELS, next_power_of_2(channels))
        _forward[cdiv(length, STEPS), cdiv(channels, block), batch](
            x,
            weight.contiguous(),
            _contiguous(bias, weight),
            _contiguous(h0, weight),
            _contiguous(reset, x),
            *(y, last, length, channels),
            *(taps, silu, bias is not None, h0 is not None, reset is not None, reverse),
            *(_kind(acc), STEPS, block, next_power_of_2(max(taps - 1, 1))),
            num_warps=WARPS,
        )
    return y, last


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The adjoint; arguments and results are those of ``reference.backward``."""
    batch, length, channels = x.shape
    taps = weight.shape[1]
    acc = accumulation_dtype(x.dtype)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = length + (0 if h0 is None else taps - 1)
    repeat = min(REPEAT, next_power_of_2(cdiv(rows, STEPS)))
    programs = cdiv(rows, STEPS * repeat)
    new = {"dtype": acc, "device": x.device}
    dweight = torch.empty(batch * programs, taps, channels, **new)
    dbias = torch.empty(0 if bias is None else batch * programs, channels, **new)
    dh0 = torch.empty(0 if h0 is None else h0.shape, **new)
    x = x.contiguous()
    if x.numel():
        block = min(CHANNELS, next_power_of_2(channels))
        _backward[programs, cdiv(channels, block), batch](
            _contiguous(grad_y, x),
            _contiguous(grad_last, weight),
            x,
            weight.contiguous(),
            _contiguous(bias, weight),
            _contiguous(h0, weight),
            _contiguous(reset, x),
            *(dx, dweight, dbias, dh0, length, channels),
            *(taps, silu, grad_y is not None, grad_last is not None),
            *(bias is not None, h0 is not None, reset is not None, reverse),
            *(_kind(acc), STEPS, block, next_power_of_2(taps), repeat),
            num_warps=WARPS,
        )
    total = dweight.sum(0).t().contiguous()
    return dx, total, dbias.sum(0) if bias is not None else weight.new_empty(0), dh0
