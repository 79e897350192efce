"""CPU back end of the block scan: numba kernels over blocks of sequences and channels."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.block_scan import _kernels
from statewise.ops.block_scan._packs import SIZES, group_lanes
from statewise.ops.blocks import cut
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd import elements


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("block_scan", device)


def _flat(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    return as_array(x, dtype).reshape(-1)


def _strides(A: Tensor) -> tuple[int, int]:
    """Elements from one sequence, and from one step, to the next in ``A``; 0 where constant."""
    rows, steps, D, k, _ = A.shape
    row = D * k * k
    return (steps * row if rows > 1 else 0), (row if steps > 1 else 0)


def _run(direction: str, arguments: tuple, shape: torch.Size, dtype: torch.dtype) -> None:
    batch, length, channels, k = shape
    group = group_lanes(k, elements(dtype.itemsize))
    calls = []
    for block in cut(batch, channels, batch * length * channels * k * k):
        if k in SIZES and (block[3] - block[2]) * k >= group:
            kernel, more = getattr(_kernels, f"packed_{direction}"), (group, SIZES[k])
        else:
            kernel, more = getattr(_kernels, f"dense_{direction}"), ()
        calls.append(partial(kernel, *arguments, *block, *more))
    pool.run(calls)


def forward(
    A: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The compiled scan; arguments and results are those of ``reference.forward``."""
    batch, length, channels, k = b.shape
    dtype = accumulation_dtype(b.dtype)
    h = torch.empty(b.shape, dtype=dtype)
    h_last = torch.empty((batch, channels, k), dtype=dtype)
    if h_last.numel():
        last = _flat(h_last, dtype)
        arguments = (
            _flat(A, dtype),
            _flat(b, dtype),
            last if h0 is None else _flat(h0, dtype),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            _flat(h, dtype),
            last,
            (length, channels, k),
            _strides(A),
            reverse,
        )
        _run("forward", arguments, b.shape, dtype)
    return h.to(b.dtype), h_last


def backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    A: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    need_A: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    batch, length, channels, k = h.shape
    dtype = accumulation_dtype(h.dtype)
    constant = need_A and A.shape[1] == 1 and length > 1
    each = need_A and not constant
    db = torch.empty(h.shape, dtype=dtype)
    dA = torch.empty((*h.shape, k) if each else 0, dtype=dtype)
    dA_sum = torch.zeros((batch, channels, k, k) if constant else 0, dtype=torch.float64)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    if batch and channels:
        some = _flat(db, dtype)
        arguments: tuple[Any, ...] = (
            some if grad_h is None else _flat(grad_h, dtype),
            grad_h is not None,
            some if grad_last is None else _flat(grad_last, dtype),
            grad_last is not None,
            _flat(A, dtype),
            _flat(h, dtype),
            some if h0 is None else _flat(h0, dtype),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            _flat(dA, dtype),
            _flat(dA_sum, torch.float64),
            some,
            _flat(dh0, dtype),
            each,
            constant,
            (length, channels, k),
            _strides(A),
            reverse,
        )
        _run("backward", arguments, h.shape, dtype)
    return _gather(dA, dA_sum, A, constant, each), db.to(h.dtype), dh0


def _gather(dA: Tensor, dA_sum: Tensor, A: Tensor, constant: bool, each: bool) -> Tensor:
    """Bring the gradient of ``A`` to the shape and type of ``A``."""
    if constant:
        dA = dA_sum.unsqueeze(1)
    if (constant or each) and A.shape[0] == 1 and dA.shape[0] != 1:
        dA = dA.sum(0, keepdim=True)
    return dA.to(A.dtype)


def warm() -> None:
    """Compile every kernel, for both precisions, and every size that has its own."""
    for dtype in (torch.float32, torch.float64):
        for channels, k in ((1, 1), (8, 2), (8, 3), (8, 4)):
            A = torch.zeros((1, 1, channels, k, k), dtype=dtype)
            b = torch.zeros((1, 2, channels, k), dtype=dtype)
            h, last = forward(A, b, None, None, False)
            backward(h, last, A, h, None, None, False, need_A=True)
