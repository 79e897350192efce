"""The causal convolution as a sum over taps, and its adjoint as one.

Shapes: u and y (B, L, D), k (D, K), d (D,), state (B, K − 1, D), reset (B, L). Everything is done
in scan order on the state and the inputs in one row; a product counts where no reset lies between
its input and its output. See README.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.fft_conv.state import carry_back, last_state
from statewise.ops.precision import accumulation_dtype


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def _ordered(x: Tensor, reverse: bool) -> Tensor:
    return x.flip(1) if reverse else x


def _line(u: Tensor, state: Tensor | None, taps: int, reverse: bool) -> Tensor:
    """(B, K − 1 + L, D): the state and then the inputs, in scan order."""
    before = u.new_zeros((u.shape[0], taps - 1, u.shape[2])) if state is None else state
    return torch.cat([before, _ordered(u, reverse)], 1)


def _segment(reset: Tensor | None, u: Tensor, taps: int, reverse: bool) -> Tensor:
    """(B, K − 1 + L, 1): how many resets lie at or before each position of the line."""
    batch, length, _ = u.shape
    count = torch.zeros((batch, taps - 1 + length), dtype=torch.int64, device=u.device)
    if reset is not None:
        count[:, taps - 1 :] = _ordered(reset, reverse).cumsum(1)
    return count[:, :, None]


def forward(
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_state: bool,
) -> tuple[Tensor, Tensor]:
    """y_t = Σ_s k_s u_{t−s} + d u_t, over the s that no reset separates from t.

    Args:
        u: inputs, (B, L, D).
        k: taps, (D, K), in the accumulation type of ``u``, as are ``d`` and ``state``.
        d: skip, (D,), or None.
        state: the K − 1 inputs before the first in scan order, (B, K − 1, D), or None for zeros.
        reset: (B, L) bool, True where the past is forgotten before the step, or None.
        reverse: run from the last step to the first.
        need_state: whether the last state is wanted.

    Returns:
        y (B, L, D) in the type of ``u``, and the last K − 1 inputs, (B, K − 1, D), in the
        accumulation type; empty when they are not wanted.
    """
    dtype = accumulation_dtype(u.dtype)
    x, taps, length = u.to(dtype), k.shape[1], u.shape[1]
    line, segment = _line(x, state, taps, reverse), _segment(reset, u, taps, reverse)
    here = slice(taps - 1, taps - 1 + length)
    y = torch.zeros_like(x) if d is None else d * line[:, here]
    for s in range(taps):
        there = slice(taps - 1 - s, taps - 1 - s + length)
        y = y + torch.where(segment[:, there] == segment[:, here], k[:, s] * line[:, there], 0)
    last = last_state(u, state, reset, reverse, taps, need_state)
    return _ordered(y, reverse).contiguous().to(u.dtype), last


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    k: Tensor,
    d: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_u: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """∂u_j = Σ_s k_s ȳ_{j+s} + d ȳ_j,  ∂k_s = Σ_t ȳ_t u_{t−s},  ∂d = Σ_t ȳ_t u_t.

    Args:
        grad_y: gradient of ``y``, (B, L, D), or None for zero.
        grad_last: gradient of the last state, (B, K − 1, D), or None for zero.
        u: as given to :func:`forward`.
        k: as given to it.
        d: as given to it.
        state: as given to it.
        reset: as given to it.
        reverse: as given to it.
        need_u: whether the gradients of u and the state are wanted.
        need_k: whether those of k and d are wanted.

    Returns:
        The gradients of u (its type), k, d and state (accumulation type); empty where there is
        no such input or its gradient is not wanted.
    """
    dtype = accumulation_dtype(u.dtype)
    x, taps, length = u.to(dtype), k.shape[1], u.shape[1]
    line, segment = _line(x, state, taps, reverse), _segment(reset, u, taps, reverse)
    here = slice(taps - 1, taps - 1 + length)
    dline, dk = torch.zeros_like(line), torch.zeros_like(k)
    dd = x.new_zeros(0 if d is None or not need_k else d.shape)
    if grad_y is not None:
        g = _ordered(grad_y.to(dtype), reverse)
        for s in range(taps):
            there = slice(taps - 1 - s, taps - 1 - s + length)
            near = segment[:, there] == segment[:, here]
            dline[:, there] += torch.where(near, k[:, s] * g, 0)
            dk[:, s] = torch.where(near, g * line[:, there], 0).sum((0, 1))
        if d is not None:
            dline[:, here] += d * g
            if need_k:
                dd = (g * line[:, here]).sum((0, 1))
    du, dstate = _ordered(dline[:, here], reverse).clone(), dline[:, : taps - 1].clone()
    if grad_last is not None:
        carry_back(grad_last, length, du, dstate, reset, reverse)
    return (
        (du if need_u else x.new_zeros(0)).to(u.dtype),
        dk if need_k else x.new_zeros(0),
        dd,
        dstate if need_u and state is not None else x.new_zeros(0),
    )
