"""GPU back end of the short causal convolution: one Triton kernel a pass over tiles of (L, D).

Time indices in the kernels count in scan order; a tile reads the inputs of the W − 1 steps before
it again, from cache. The backward pass recomputes the sums that silu needs, row by row.
"""

# Kernels are called in a way of Triton's own, which a checker of Python cannot follow.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false
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
LANES = 32
REPEAT = 8
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
def _within(held, s, low, high):
    """``held`` where low <= s < high, with scalars."""
    # Spelled out, because Triton's interpreter spreads a scalar truth value as an integer.
    there = tl.full(held.shape, s, tl.int32)
    return held & (there >= low) & (there < high)


@triton.jit
def _rows(x, h0, b, s, d, L, D, held, COUNT: tl.constexpr, W: tl.constexpr,
          HAS_H0: tl.constexpr, REVERSE: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Inputs of ``COUNT`` steps from ``s``; before the start those of the window."""
    found = ()
    for i in tl.static_range(COUNT):
        t = s + i
        row = (b * L + _position(t, L, REVERSE)) * D
        value = tl.load(x + row + d, mask=_within(held, t, 0, L), other=0.0).to(ACC)
        if HAS_H0:
            row = (b * (W - 1) + (W - 1 + t)) * D
            value += tl.load(h0 + row + d, mask=_within(held, t, 1 - W, 0), other=0.0)
        found += (value,)
    return found


@triton.jit
def _flags(reset, b, s, L, COUNT: tl.constexpr, HAS_RESET: tl.constexpr, REVERSE: tl.constexpr):
    """Whether the state is zeroed before each of ``COUNT`` steps from ``s``."""
    found = ()
    for i in tl.static_range(COUNT):
        found += (_fresh(reset, b, s + i, L, HAS_RESET, REVERSE),)
    return found


@triton.jit
def _slope(grad_y, inputs, flags, weights, offset, b, s, d, L, D, held, I: tl.constexpr,
           W: tl.constexpr, SILU: tl.constexpr, HAS_GRAD: tl.constexpr, HAS_RESET: tl.constexpr,
           REVERSE: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """∂y φ' of the step ``s``; item I of ``inputs`` and ``flags`` is W − 1 steps before it."""
    there = _within(held, s, 0, L)
    g = tl.zeros(held.shape, ACC)
    if HAS_GRAD:
        row = (b * L + _position(s, L, REVERSE)) * D
        g = tl.load(grad_y + row + d, mask=there, other=0.0).to(ACC)
        if SILU:
            total = offset
            stopped = s < -2147483647
            for k in tl.static_range(W):
                past = inputs[I + W - 1 - k]
                if HAS_RESET:
                    past = tl.where(stopped, 0.0, past)
                    stopped = stopped | flags[I + W - 1 - k]
                total += weights[k] * past
            gate = 1 / (1 + tl.exp(-total))
            g = tl.where(there, g * gate * (1 + total * (1 - gate)), 0.0)
    return g


@triton.jit
def _backward(grad_y, grad_last, x, weight, bias, h0, reset, dx, dweight, dbias, dh0, L, D,
              W: tl.constexpr, SILU: tl.constexpr, HAS_GRAD: tl.constexpr,
              HAS_LAST: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_H0: tl.constexpr,
              HAS_RESET: tl.constexpr, REVERSE: tl.constexpr, ACC: tl.constexpr,
              T: tl.constexpr, C: tl.constexpr, REPEAT: tl.constexpr):  # fmt: skip
    """Gradients of ``REPEAT`` tiles of T steps, the last tile first.

    A step's slope reaches the W − 1 inputs before it, so the slopes of the steps that follow a
    tile are carried to it.
    """
    b = tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * C + tl.arange(0, C)
    held = d < D
    offset = tl.zeros([C], ACC)
    if HAS_BIAS:
        offset += tl.load(bias + d, mask=held, other=0.0)
    weights = ()
    shares = ()
    for k in tl.static_range(W):
        weights += (tl.load(weight + d * W + (W - 1 - k), mask=held, other=0.0).to(ACC),)
        shares += (tl.zeros([C], ACC),)
    total_bias = tl.zeros([C], ACC)
    EXTRA: tl.constexpr = W - 1 if W > 1 else 1
    start = tl.program_id(0) * REPEAT * T
    if HAS_H0:
        start -= W - 1
    end = start + REPEAT * T
    beyond = _rows(x, h0, b, end - (W - 1), d, L, D, held, EXTRA + W - 1, W, HAS_H0, REVERSE, ACC)
    stops = _flags(reset, b, end - (W - 1), L, EXTRA + W - 1, HAS_RESET, REVERSE)
    later = ()
    later_flags = ()
    for i in tl.static_range(EXTRA):
        later += (_slope(grad_y, beyond, stops, weights, offset, b, end + i, d, L, D, held, i, W,
                         SILU, HAS_GRAD, HAS_RESET, REVERSE, ACC),)  # fmt: skip
        later_flags += (stops[i + W - 1],)
    for back in range(REPEAT):
        s = end - (back + 1) * T
        inputs = _rows(x, h0, b, s - (W - 1), d, L, D, held, T + W - 1, W, HAS_H0, REVERSE, ACC)
        fresh = _flags(reset, b, s - (W - 1), L, T + W - 1, HAS_RESET, REVERSE)
        slopes = ()
        for i in tl.static_range(T):
            slopes += (_slope(grad_y, inputs, fresh, weights, offset, b, s + i, d, L, D, held, i,
                              W, SILU, HAS_GRAD, HAS_RESET, REVERSE, ACC),)  # fmt: skip
        sums = ()
        for k in tl.static_range(W):
            share = shares[k]
            for i in tl.static_range(T):
                past = inputs[i + W - 1 - k]
                if HAS_RESET:
                    stopped = s < -2147483647
                    for m in tl.static_range(k):
                        stopped = stopped | fresh[i + W - 1 - m]
                    past = tl.where(stopped, 0.0, past)
                share += tl.where(_within(held, s + i, 0, L), slopes[i] * past, 0.0)
            sums += (share,)
        shares = sums
        for i in tl.static_range(T):
            total_bias += slopes[i]
        all_slopes = slopes + later
        after = ()
        for i in tl.static_range(T):
            after += (fresh[i + W - 1],)
        after += later_flags
        for i in tl.static_range(T):
            t = s + i
            total = weights[0] * slopes[i]
            stopped = s < -2147483647
            for k in tl.static_range(1, W):
                step = weights[k] * all_slopes[i + k]
                if HAS_RESET:
                    stopped = stopped | after[i + k]
                    step = tl.where(stopped, 0.0, step)
                total += step
            if HAS_LAST and W > 1:
                # No reset within the W − 1 steps after t lets the last window see this input.
                place = (b * (W - 1) + (t - (L - (W - 1)))) * D
                kept = _within(held, t, L - (W - 1), L)
                tail = tl.load(grad_last + place + d, mask=kept, other=0.0)
                if HAS_RESET:
                    tail = tl.where(stopped, 0.0, tail)
                total += tail
            row = (b * L + _position(t, L, REVERSE)) * D
            tl.store(dx + row + d, total.to(dx.dtype.element_ty), mask=_within(held, t, 0, L))
            if HAS_H0:
                place = (b * (W - 1) + (W - 1 + t)) * D
                tl.store(dh0 + place + d, total, mask=_within(held, t, 1 - W, 0))
        later = ()
        later_flags = ()
        for i in tl.static_range(EXTRA):
            later += (slopes[i],)
            later_flags += (fresh[i + W - 1],)
    # One share a program, (programs, W, D) and (programs, D), summed by the caller.
    program = b * tl.num_programs(0) + tl.program_id(0)
    for k in tl.static_range(W):
        tl.store(dweight + (program * W + (W - 1 - k)) * D + d, shares[k], mask=held)
    if HAS_BIAS:
        tl.store(dbias + program * D + d, total_bias, mask=held)


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
    steps = max(STEPS, next_power_of_2(taps - 1))
    repeat = min(REPEAT, next_power_of_2(cdiv(rows, steps)))
    programs = cdiv(rows, steps * repeat)
    new = {"dtype": acc, "device": x.device}
    dweight = torch.empty(batch * programs, taps, channels, **new)
    dbias = torch.empty(0 if bias is None else batch * programs, channels, **new)
    dh0 = torch.empty(0 if h0 is None else h0.shape, **new)
    x = x.contiguous()
    if x.numel():
        block = min(2 * LANES, next_power_of_2(channels))
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
            *(_kind(acc), steps, block, repeat),
            num_warps=1,
        )
    total = dweight.sum(0).t().contiguous()
    return dx, total, dbias.sum(0) if bias is not None else weight.new_empty(0), dh0
