"""The two-dimensional scan as a double loop, and its adjoint as one.

Shapes: a1 … a4 (1 or B, 1 or L, 1 or V, D), b1, b2, p and q (B, L, V, D), the states (B, 2, V, D),
reset (B, L). See README.md for the derivation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.precision import accumulation_dtype

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any real floating-point type."""
    return None


def _order(length: int, reverse: bool) -> list[int]:
    return list(range(length - 1, -1, -1) if reverse else range(length))


def _full(a: Coefficients, like: Tensor, dtype: torch.dtype) -> list[Tensor]:
    return [x.to(dtype).expand(like.shape) for x in a]


def _kept(x: Tensor, reset: Tensor | None, t: int) -> Tensor:
    """``x`` (B, ...) where step t does not start anew, else zero."""
    if reset is None:
        return x
    fresh = reset[:, t].reshape(-1, *(1,) * (x.dim() - 1))
    return torch.where(fresh, torch.zeros_like(x), x)


def forward(
    a: Coefficients,
    b1: Tensor,
    b2: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """p_{t,v} = a1 p_{t−1,v} + a2 q_{t−1,v} + b1;  q_{t,v} = a3 p_{t,v−1} + a4 q_{t,v−1} + b2.

    Args:
        a: the four coefficients, (1 or B, 1 or L, 1 or V, D).
        b1: inputs of p, (B, L, V, D).
        b2: inputs of q, (B, L, V, D).
        h0: p and q before the first step, (B, 2, V, D), in the accumulation type, or None.
        reset: (B, L) bool, True where the state before the step is zeroed, or None.
        reverse: time from the last step to the first.

    Returns:
        p and q in the type of ``b1``, and the last state in the accumulation type.
    """
    dtype = accumulation_dtype(b1.dtype)
    a1, a2, a3, a4 = _full(a, b1, dtype)
    x1, x2 = b1.to(dtype), b2.to(dtype)
    p, q = torch.empty_like(x1), torch.empty_like(x2)
    batch, length, variates, channels = b1.shape
    state = x1.new_zeros(batch, 2, variates, channels) if h0 is None else h0
    for k, t in enumerate(_order(length, reverse)):
        fresh = k == 0 and h0 is None
        for v in range(variates):
            along = a1[:, t, v] * state[:, 0, v] + a2[:, t, v] * state[:, 1, v]
            p[:, t, v] = x1[:, t, v] + (0 if fresh else _kept(along, reset, t))
            across = a3[:, t, v] * p[:, t, v - 1] + a4[:, t, v] * q[:, t, v - 1] if v else 0
            q[:, t, v] = x2[:, t, v] + across
        state = torch.stack([p[:, t], q[:, t]], 1)
    return p.to(b1.dtype), q.to(b1.dtype), state


def backward(
    grad_p: Tensor | None,
    grad_q: Tensor | None,
    grad_last: Tensor | None,
    a: Coefficients,
    p: Tensor,
    q: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """f_{t,v} = ∂p + a1_{t+1} f_{t+1,v} + a3_{v+1} g_{t,v+1}, and g likewise with a2 and a4.

    Args:
        grad_p: gradient of p, (B, L, V, D), or None for zero.
        grad_q: gradient of q, or None for zero.
        grad_last: gradient of the last state, (B, 2, V, D), or None for zero.
        a: as given to :func:`forward`.
        p: as returned by it.
        q: as returned by it.
        h0: as given to it.
        reset: as given to it.
        reverse: as given to it.

    Returns:
        The gradients of a1 … a4, b1, b2 and h0; that of h0 is empty when there is none.
    """
    dtype = accumulation_dtype(p.dtype)
    a1, a2, a3, a4 = _full(a, p, dtype)
    P, Q = p.to(dtype), q.to(dtype)
    zeros = torch.zeros_like(P)
    f = zeros.clone() if grad_p is None else grad_p.to(dtype, copy=True)
    g = zeros.clone() if grad_q is None else grad_q.to(dtype, copy=True)
    da = [zeros.clone() for _ in range(4)]
    batch, length, variates, channels = p.shape
    start = P.new_zeros(batch, 2, variates, channels) if h0 is None else h0
    steps = _order(length, reverse)
    if grad_last is not None:
        f[:, steps[-1]] += grad_last[:, 0].to(dtype)
        g[:, steps[-1]] += grad_last[:, 1].to(dtype)
    carry = torch.zeros_like(start)
    for k in range(length - 1, -1, -1):
        t = steps[k]
        before = start if k == 0 else torch.stack([P[:, steps[k - 1]], Q[:, steps[k - 1]]], 1)
        before = torch.zeros_like(before) if k == 0 and h0 is None else _kept(before, reset, t)
        f[:, t] += carry[:, 0]
        g[:, t] += carry[:, 1]
        for v in range(variates - 1, 0, -1):
            f[:, t, v - 1] += a3[:, t, v] * g[:, t, v]
            g[:, t, v - 1] += a4[:, t, v] * g[:, t, v]
            da[2][:, t, v] = g[:, t, v] * P[:, t, v - 1]
            da[3][:, t, v] = g[:, t, v] * Q[:, t, v - 1]
        da[0][:, t] = f[:, t] * before[:, 0]
        da[1][:, t] = f[:, t] * before[:, 1]
        carry = torch.stack([a1[:, t] * f[:, t], a2[:, t] * f[:, t]], 1)
        carry = _kept(carry, reset, t)
    dh0 = P.new_empty(0) if h0 is None else carry
    sums = [d.sum_to_size(x.shape).to(x.dtype) for d, x in zip(da, a, strict=True)]
    return (*sums, f.to(p.dtype), g.to(p.dtype), dh0)
