"""CPU back end of state-space duality: numba kernels over parts of sequences and groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.precision import accumulation_dtype
from statewise.ops.ssd import _backward, _forward
from statewise.ops.ssd._library import OP, present
from statewise.ops.ssd._shapes import CHUNK, chunks
from statewise.ops.ssd._tiles import HEADS

MIN_WORK = 500_000
"""Numbers of the state times steps that a thread must have before another one is worth waking."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu(OP, device)


def _flat(x: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    return (
        np.empty(1, np.float64 if dtype is torch.float64 else np.float32)
        if x is None
        else (as_array(x, dtype).reshape(-1))
    )


def _parts(heads: int, groups: int) -> int:
    """Parts that the heads of a group are cut into."""
    return -(-heads // (groups * HEADS))


def _run(function: Callable[..., None], arguments: tuple, items: int, work: int) -> None:
    """Call the kernel on all items, cut into about one block a thread."""
    count = max(1, min(pool.threads(), items, work // MIN_WORK))
    bounds = [items * k // count for k in range(count + 1)]
    pool.run([partial(function, *arguments, *bounds[k : k + 2]) for k in range(count)])


def forward(
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled recurrence; arguments and results are those of ``reference.forward``."""
    batch, length, heads, width = x.shape
    groups, size = B.shape[2:]
    dtype = accumulation_dtype(x.dtype)
    y = torch.empty(x.shape, dtype=dtype)
    last = torch.empty((batch, heads, width, size), dtype=dtype)
    states = torch.empty((batch, chunks(length), *last.shape[1:]) if keep else 0, dtype=dtype)
    arguments = (
        *(_flat(x, dtype), _flat(log_a.exp(), dtype), _flat(w, dtype), w is not None),
        *(_flat(B, dtype), _flat(C, dtype), _flat(D, dtype), D is not None),
        *(_flat(h0, dtype), h0 is not None, reset_array(reset), reset is not None),
        *(_flat(y, dtype), _flat(last, dtype), _flat(states, dtype), keep),
        *((length, heads, width, groups, size), CHUNK, reverse),
    )
    items = batch * groups * _parts(heads, groups)
    _run(_forward.forward, arguments, items, x.numel() * size)
    if z is not None:
        y.mul_(silu(z.to(dtype)))
    return y.to(x.dtype), last, states


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    log_a: Tensor,
    w: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    states: Tensor,
    reverse: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    batch, length, heads, width = x.shape
    groups, size = B.shape[2:]
    parts = _parts(heads, groups)
    dtype = accumulation_dtype(x.dtype)
    need_x, need_log_a, need_w, need_b, need_c, need_d, need_z, _ = needs
    each, directions = need_x or need_w, need_log_a or need_b or need_c
    g = torch.zeros(x.shape, dtype=dtype) if grad_y is None else grad_y.to(dtype)
    gate = None if z is None else z.to(dtype)
    ungated = g if gate is None else g * silu(gate)
    o = torch.empty(x.shape if need_z else 0, dtype=dtype)
    dx = torch.empty(x.shape if each else 0, dtype=dtype)
    dlog_a = torch.empty(log_a.shape if directions else 0, dtype=dtype)
    dw = torch.empty(0 if w is None or not each else w.shape, dtype=dtype)
    shape = (batch, length, groups, parts, size) if directions else (0,)
    db, dc = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
    dd = torch.zeros((batch, heads, width) if need_d else 0, dtype=torch.float64)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    arguments = (
        *(_flat(ungated, dtype), _flat(grad_last, dtype), grad_last is not None),
        *(_flat(x, dtype), _flat(log_a.exp(), dtype), _flat(w, dtype), w is not None),
        *(_flat(B, dtype), _flat(C, dtype), _flat(D, dtype), D is not None, h0 is not None),
        *(reset_array(reset), reset is not None, _flat(states, dtype), need_z, _flat(o, dtype)),
        *(_flat(dx, dtype), _flat(dlog_a, dtype), _flat(dw, dtype), _flat(db, dtype)),
        *(_flat(dc, dtype), _flat(dd, torch.float64), need_d, _flat(dh0, dtype), each, directions),
        *((length, heads, width, groups, size), CHUNK, reverse),
    )
    items = batch * groups * parts
    _run(_backward.backward, arguments, items, 3 * x.numel() * size)
    dz = o
    if gate is not None and need_z:
        s = gate.sigmoid()
        dz = g * o * (s * (1 + gate * (1 - s)))
    found = (
        *(dx, dlog_a, dw, db.sum(3) if need_b else db, dc.sum(3) if need_c else dc),
        *(dd.sum(0) if need_d else dd, dz, dh0),
    )
    return tuple(
        gradient.to(like.dtype) if need else like.new_empty(0)
        for gradient, like, need in zip(
            found, present((x, log_a, w, B, C, D, z, h0)), needs, strict=True
        )
    )


def warm() -> None:
    """Compile both kernels for both precisions."""
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros((1, 1, 1, 1), dtype=dtype)
        log_a = x[..., 0]
        inputs = (x, log_a, None, x, x, None, None, None, None)
        y, last, states = forward(*inputs, False, True)
        needs = (True, True, False, True, True, False, False, False)
        backward(y, last, *inputs, states, False, needs)
