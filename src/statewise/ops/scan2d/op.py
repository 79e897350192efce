"""The two-dimensional scan as a function of tensors: checks, types, and the operator."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from statewise.ops.arguments import (
    REAL,
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.precision import accumulation_dtype
from statewise.ops.scan2d._library import OP, scan


def scan2d(
    a1: Tensor,
    a2: Tensor,
    a3: Tensor,
    a4: Tensor,
    b1: Tensor,
    b2: Tensor,
    h0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The coupled two-dimensional recurrence over time t and variates v, channel by channel.

    p_{t,v} = a1_{t,v} ⊙ p_{t−1,v} + a2_{t,v} ⊙ q_{t−1,v} + b1_{t,v}
    q_{t,v} = a3_{t,v} ⊙ p_{t,v−1} + a4_{t,v} ⊙ q_{t,v−1} + b2_{t,v}

    p carries along time, q across variates; what lies outside the grid is zero. Half types are
    computed in float32. Differentiable once with respect to every tensor but ``reset``.

    Args:
        a1: coefficient of p along time; like the other three a number a channel (D,) or anything
            that broadcasts to (B, L, V, D); axes of length 1 are not expanded.
        a2: coefficient of q along time.
        a3: coefficient of p across variates.
        a4: coefficient of q across variates.
        b1: inputs of p, (B, L, V, D).
        b2: inputs of q, (B, L, V, D).
        h0: p and q before the first step, (B, 2, V, D); None for zeros.
        reset: (B, L) bool; True zeroes p and q of the step before.
        reverse: run time from the last step to the first; variates run upwards all the same.

    Returns:
        (p, q), each (B, L, V, D), and the state after the last step (B, 2, V, D).

    Raises:
        ValueError: a shape that does not fit, or no steps or variates at all.
        TypeError: a type that is not real floating-point, or a reset that is not bool.

    Source:
        The discrete Roesser form of Behrouz, Santacatterina and Zabih (2024), section 3.

    Example:
        >>> import torch
        >>> one, half = torch.ones(1), torch.full((1,), 0.5)
        >>> b = torch.zeros(1, 2, 2, 1)
        >>> b[0, 0, 0] = 1.0
        >>> (p, q), _ = scan2d(half, half, half, half, b, b)
        >>> p[0, :, :, 0].tolist(), q[0, :, :, 0].tolist()
        ([[1.0, 0.0], [1.0, 0.5]], [[1.0, 1.0], [0.0, 0.5]])
    """
    named = {"a1": a1, "a2": a2, "a3": a3, "a4": a4, "b1": b1, "b2": b2}
    require_tensors(OP, **named)
    optional_tensors(OP, h0=h0)
    for label, x in named.items():
        floating(OP, label, x)
    if b1.dim() != 4 or not b1.shape[2]:
        raise ValueError(
            f"{OP}: b1 has shape {tuple(b1.shape)}; it must be (B, L, V, D) with V at least 1"
        )
    check_length(OP, "b1", b1)
    for_b1 = f"b1 of shape {tuple(b1.shape)}"
    check_shape(OP, "b2", b2, b1.shape, for_b1)
    batch, length, variates, channels = b1.shape
    if h0 is not None:
        floating(OP, "h0", h0, REAL)
        check_shape(OP, "h0", h0, (batch, 2, variates, channels), for_b1)
    check_reset(OP, reset, batch, length)
    dtype = reduce(torch.promote_types, (x.dtype for x in named.values()))
    return _apply(
        [_coefficient(label, named[label], b1, dtype) for label in ("a1", "a2", "a3", "a4")],
        [b.to(dtype) for b in (b1, b2)],
        None if h0 is None else h0.to(accumulation_dtype(dtype)),
        reset,
        reverse,
    )


def _apply(
    a: list[Tensor], b: list[Tensor], h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    p, q, last = scan(*a, *b, h0, reset, reverse)
    return (p, q), last


def _coefficient(label: str, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """``a`` with four axes, its channels in full and nothing else expanded."""
    missing = 4 - a.dim()
    sizes = zip(a.shape, b.shape[max(missing, 0) :], strict=False)
    if missing < 0 or any(n not in (1, m) for n, m in sizes):
        raise ValueError(
            f"{OP}: {label} has shape {tuple(a.shape)}; it must broadcast to b1, which has shape "
            f"{tuple(b.shape)}"
        )
    a = a.to(dtype).reshape((1,) * missing + a.shape)
    return a.expand(*a.shape[:3], b.shape[3])
