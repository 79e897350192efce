"""CPU back end of state-space duality: numba kernels over parts of sequences and groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.memory import fresh
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd_pack import WIDE_BYTES
from statewise.ops.ssd import _backward, _forward, _step_kernels
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


def _gate(function: Callable[..., None], *arrays: np.ndarray) -> None:
    """Call a kernel on all numbers of flat arrays."""
    count = arrays[0].size
    _run(function, arrays, count, 4 * count)


def _merged(x: Tensor, need: bool) -> Tensor:
    """The sum over the parts, (B, L, G, parts, N) to (B, L, G, N)."""
    if not need or x.shape[3] == 1:
        return x.squeeze(3) if need else x
    *lead, parts, size = x.shape
    out = torch.empty((*lead, size), dtype=x.dtype)
    arrays = (_flat(out, x.dtype), _flat(x, x.dtype), parts, size)
    _run(_step_kernels.merge, arrays, out.numel() // size, 4 * out.numel())
    return out


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
    y = fresh(x.shape, dtype)
    last = torch.empty((batch, heads, width, size), dtype=dtype)
    states = fresh((batch, chunks(length), *last.shape[1:]) if keep else (0,), dtype)
    arguments = (
        *(_flat(x, dtype), _flat(log_a, dtype), _flat(w, dtype), w is not None),
        *(_flat(B, dtype), _flat(C, dtype), _flat(D, dtype), D is not None),
        *(_flat(h0, dtype), h0 is not None, reset_array(reset), reset is not None),
        *(_flat(y, dtype), _flat(last, dtype), _flat(states, dtype), keep),
        *((length, heads, width, groups, size), CHUNK, reverse),
    )
    items = batch * groups * _parts(heads, groups)
    _run(_forward.forward, arguments, items, x.numel() * size)
    if z is not None:
        flat = _flat(y, dtype)
        _gate(_step_kernels.gate, flat, flat, _flat(z, dtype))
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
    received = _flat(x.new_zeros(x.shape) if grad_y is None else grad_y, dtype)
    gates = _flat(z, dtype)
    ungated = received
    if z is not None:
        ungated = np.empty_like(received)
        _gate(_step_kernels.gate, ungated, received, gates)
    o = torch.empty(x.shape if need_z else 0, dtype=dtype)
    dx = fresh(x.shape if each else (0,), dtype)
    dlog_a = torch.empty(log_a.shape if directions else 0, dtype=dtype)
    dw = torch.empty(0 if w is None or not each else w.shape, dtype=dtype)
    shape = (batch, length, groups, parts, size) if directions else (0,)
    db, dc = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
    dd = torch.zeros((batch, heads, width) if need_d else 0, dtype=torch.float64)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    arguments = (
        *(ungated, _flat(grad_last, dtype), grad_last is not None),
        *(_flat(x, dtype), _flat(log_a, dtype), _flat(w, dtype), w is not None),
        *(_flat(B, dtype), _flat(C, dtype), _flat(D, dtype), D is not None, h0 is not None),
        *(reset_array(reset), reset is not None, _flat(states, dtype), need_z, _flat(o, dtype)),
        *(_flat(dx, dtype), _flat(dlog_a, dtype), _flat(dw, dtype), _flat(db, dtype)),
        *(_flat(dc, dtype), _flat(dd, torch.float64), need_d, _flat(dh0, dtype), each, directions),
        *((length, heads, width, groups, size), CHUNK, reverse),
    )
    items = batch * groups * parts
    _run(_backward.backward, arguments, items, 3 * x.numel() * size)
    if z is not None and need_z:
        slopes = _flat(o, dtype)
        _gate(_step_kernels.gate_slope, slopes, received, slopes, gates)
    db, dc = (_merged(part, need) for part, need in ((db, need_b), (dc, need_c)))
    if need_d:
        dd = torch.from_numpy(dd.numpy().sum(0))
    found = (dx, dlog_a, dw, db, dc, dd, o, dh0)
    return tuple(
        gradient.to(like.dtype) if need else like.new_empty(0)
        for gradient, like, need in zip(
            found, present((x, log_a, w, B, C, D, z, h0)), needs, strict=True
        )
    )


def _pattern(
    dt: Tensor, A: Tensor, bias: Tensor | None, low: float, high: float
) -> tuple[tuple[np.ndarray, ...], int]:
    """dt, then A, the bias and the limits in whole packs; and the pattern's repeats of A."""
    given = _flat(dt, dt.dtype)
    repeats = WIDE_BYTES // given.itemsize
    added = np.zeros_like(given, shape=A.shape[0]) if bias is None else _flat(bias, dt.dtype)
    limits = (np.full(repeats, limit, given.dtype) for limit in (low, high))
    return (given, np.tile(_flat(A, dt.dtype), repeats), np.tile(added, repeats), *limits), repeats


def steps(
    dt: Tensor, A: Tensor, bias: Tensor | None, soft: bool, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """The compiled step sizes; arguments and results are those of ``reference.steps``."""
    log_a, delta = (torch.empty(dt.shape, dtype=dt.dtype) for _ in range(2))
    if dt.numel():
        (given, rate, added, *limits), _ = _pattern(dt, A, bias, low, high)
        results = (_flat(log_a, dt.dtype), _flat(delta, dt.dtype))
        _step_kernels.steps(given, rate, added, soft, *limits, *results)
    return log_a, delta


def steps_backward(
    dlog_a: Tensor | None,
    ddelta: Tensor | None,
    dt: Tensor,
    A: Tensor,
    bias: Tensor | None,
    soft: bool,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled gradients; arguments and results are those of ``reference.steps_backward``."""
    ddt = torch.empty(dt.shape, dtype=dt.dtype)
    (given, rate, added, *limits), repeats = _pattern(dt, A, bias, low, high)
    drate, dbias = np.zeros(rate.size), np.zeros(rate.size)
    if dt.numel():
        through, direct = (
            np.zeros_like(given) if g is None else _flat(g, dt.dtype) for g in (dlog_a, ddelta)
        )
        _step_kernels.steps_backward(
            *(given, rate, added, soft, *limits, through, direct, _flat(ddt, dt.dtype)),
            *(drate, dbias),
        )
    sums = (torch.from_numpy(x.reshape(repeats, -1).sum(0)) for x in (drate, dbias))
    dA, db = (x.to(dt.dtype) for x in sums)
    return ddt, dA, db


def warm() -> None:
    """Compile all kernels for both precisions."""
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros((1, 1, 5, 1), dtype=dtype)
        log_a = x[..., 0]
        rate = log_a[0, 0]
        steps(log_a, rate, None, True, 0.0, 1.0)
        steps_backward(log_a, log_a, log_a, rate, None, True, 0.0, 1.0)
        inputs = (x, log_a, None, x[:, :, :1], x[:, :, :1], None, x, None, None)
        y, last, states = forward(*inputs, False, True)
        needs = (True, True, False, True, True, False, True, False)
        backward(y, last, *inputs, states, False, needs)
