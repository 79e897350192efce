"""GPU back end of the two-dimensional scan: one linear scan over time for each variate.

Along a row of one variate the recurrence of p is a linear scan, and q follows without a
recurrence; rows depend on the row before. The linear scan brings its own kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.gpu import refuses_gpu
from statewise.ops.precision import accumulation_dtype
from statewise.ops.scan2d.reference import Coefficients


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_gpu("scan2d", device, dtype)


def _row(x: Tensor, v: int) -> Tensor:
    """Variate ``v`` of (·, ·, 1 or V, D), as (·, ·, D)."""
    return x[:, :, v if x.shape[2] > 1 else 0]


def _before(x: Tensor, start: Tensor, reset: Tensor | None, reverse: bool) -> Tensor:
    """What x (B, L, ...) was a step before: first ``start``, and 0 where it is forgotten."""
    start = start.unsqueeze(1).to(x.dtype)
    moved = torch.cat([x[:, 1:], start] if reverse else [start, x[:, :-1]], 1)
    if reset is None:
        return moved
    return moved.masked_fill(reset.reshape(*reset.shape, *(1,) * (x.dim() - 2)), 0)


def _from_before(a: Tensor, moved: Tensor, reset: Tensor | None, fresh: bool, reverse: bool):
    """The product a ⊙ moved, 0 wherever ``moved`` was forgotten, whatever ``a`` holds there."""
    product = a * moved
    if reset is not None:
        product = product.masked_fill(reset[..., None], 0)
    if fresh:
        product[:, -1 if reverse else 0] = 0
    return product


def forward(
    a: Coefficients,
    b1: Tensor,
    b2: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scan row by row; arguments and results are those of ``reference.forward``."""
    dtype = accumulation_dtype(b1.dtype)
    linear = dispatch.select("linear_scan", b1.device.type, dtype, "gpu")
    a1, a2, a3, a4 = (x.to(dtype) for x in a)
    x1, x2 = b1.to(dtype), b2.to(dtype)
    p, q = torch.empty_like(x1), torch.empty_like(x2)
    batch, _, variates, channels = b1.shape
    last = x1.new_empty(batch, 2, variates, channels)
    nothing = x1.new_zeros(batch, channels)
    for v in range(variates):
        q[:, :, v] = x2[:, :, v]
        if v:
            q[:, :, v] += _row(a3, v) * p[:, :, v - 1] + _row(a4, v) * q[:, :, v - 1]
        start = None if h0 is None else h0[:, 0, v]
        moved = _before(q[:, :, v], nothing if h0 is None else h0[:, 1, v], reset, reverse)
        across = _from_before(_row(a2, v), moved, reset, h0 is None, reverse)
        row, last[:, 0, v] = linear.forward(
            _row(a1, v), x1[:, :, v] + across, start, reset, reverse, False
        )
        p[:, :, v] = row
    last[:, 1] = q[:, 0 if reverse else -1]
    return p.to(b1.dtype), q.to(b1.dtype), last


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
    """The adjoint row by row; arguments and results are those of ``reference.backward``."""
    dtype = accumulation_dtype(p.dtype)
    linear = dispatch.select("linear_scan", p.device.type, dtype, "gpu")
    a1, a2, a3, a4 = (x.to(dtype) for x in a)
    P, Q = p.to(dtype), q.to(dtype)
    f = torch.zeros_like(P) if grad_p is None else grad_p.to(dtype, copy=True)
    g = torch.zeros_like(Q) if grad_q is None else grad_q.to(dtype, copy=True)
    final = 0 if reverse else -1
    if grad_last is not None:
        f[:, final] += grad_last[:, 0].to(dtype)
        g[:, final] += grad_last[:, 1].to(dtype)
    batch, _, variates, channels = p.shape
    dh0 = P.new_empty(0) if h0 is None else P.new_empty(batch, 2, variates, channels)
    da: list[list[Tensor]] = [[], [], [], []]
    nothing = P.new_zeros(batch, channels)
    for v in range(variates - 1, -1, -1):
        if v + 1 < variates:
            f[:, :, v] += _row(a3, v + 1) * g[:, :, v + 1]
            g[:, :, v] += _row(a4, v + 1) * g[:, :, v + 1]
        start = None if h0 is None else h0[:, 0, v].contiguous()
        da1, row, from_start = linear.backward(
            f[:, :, v], None, _row(a1, v), P[:, :, v], start, reset, reverse, False, True
        )
        f[:, :, v] = row
        # q reaches p of the next step through a2.
        moved = _before(Q[:, :, v], nothing if h0 is None else h0[:, 1, v], reset, reverse)
        da2 = _from_before(row, moved, reset, h0 is None, reverse)
        back = _from_before(_row(a2, v), row, reset, h0 is None, reverse)
        g[:, :, v] += _before(back, nothing, None, not reverse)
        if h0 is not None:
            dh0[:, 0, v] = from_start
            dh0[:, 1, v] = back[:, -1 if reverse else 0]
        da[0].append(da1)
        da[1].append(da2)
        for k, other in ((2, P), (3, Q)):
            da[k].append(g[:, :, v] * other[:, :, v - 1] if v else torch.zeros_like(row))
    sums = [
        torch.stack(parts[::-1], 2).sum_to_size(x.shape).to(x.dtype)
        for parts, x in zip(da, a, strict=True)
    ]
    return (*sums, f.to(p.dtype), g.to(p.dtype), dh0)
