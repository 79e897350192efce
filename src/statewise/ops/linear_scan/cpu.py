"""CPU back end of the linear scan: numba kernels over blocks of sequences and channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numba.core import config
from torch import Tensor

from statewise.ops import pool
from statewise.ops.linear_scan import _kernels
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd import elements

_COMPLEX = {torch.float32: np.complex64, torch.float64: np.complex128}
_NO_RESET = np.empty((0, 0), np.bool_)
_NO_SUM = {False: np.empty((0, 0), np.float64), True: np.empty((0, 0), np.complex128)}

MIN_ELEMENTS = 100_000
"""Numbers that a thread must have to work on before another one is worth waking."""

ALIGN = 16
"""Channels per block are a multiple of this, so that no two threads share a cache line."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    if device != "cpu":
        return f"the cpu back end of linear_scan computes on CPU tensors, not on {device} tensors"
    if config.DISABLE_JIT:  # pyright: ignore[reportAttributeAccessIssue]
        return (
            "the cpu back end of linear_scan needs numba to compile, and NUMBA_DISABLE_JIT is set"
        )
    return None


def _array(x: Tensor, dtype: torch.dtype, pairs: bool) -> np.ndarray:
    """The tensor as a contiguous array of ``dtype``; pairs become complex numbers."""
    if x.dtype is not dtype:
        x = x.to(dtype)
    array = x.detach().contiguous().numpy()
    return array.view(_COMPLEX[dtype]) if pairs else array


def _strides(a: Tensor, sizes: tuple[int, int, int]) -> tuple[int, int]:
    """Elements from one sequence, and from one step, to the next in ``a``; 0 where constant."""
    channels = sizes[2]
    rows, steps = a.shape[0], a.shape[1]
    return (steps * channels if rows > 1 else 0), (channels if steps > 1 else 0)


def _blocks(sizes: tuple[int, int, int], unit: int) -> list[tuple[int, int, int, int]]:
    """Cut batch × channels into (i0, i1, d0, d1), about one block a thread."""
    batch, length, channels = sizes
    work = batch * length * channels * unit
    parts = min(pool.threads(), work // MIN_ELEMENTS) if work >= 2 * MIN_ELEMENTS else 1
    if parts == 1:
        return [(0, batch, 0, channels)]
    rows = min(parts, batch)
    columns = min(-(-parts // rows), -(-channels // ALIGN))
    step = -(-channels // (columns * ALIGN)) * ALIGN
    return [
        (row * batch // rows, (row + 1) * batch // rows, d0, min(d0 + step, channels))
        for row in range(rows)
        for d0 in range(0, channels, step)
    ]


def _run(
    function: Callable[..., None],
    arguments: tuple,
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    pairs: bool,
) -> None:
    pack = elements(dtype.itemsize * (2 if pairs else 1))
    calls = [
        partial(function, *arguments, *block, True if block[3] - block[2] >= pack else None)
        for block in _blocks(sizes, 2 if pairs else 1)
    ]
    pool.run(calls)


def forward(
    a: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool, pairs: bool
) -> tuple[Tensor, Tensor]:
    """The compiled scan; arguments and results are those of ``reference.forward``."""
    shape = b.shape
    sizes = batch, length, channels = shape[0], shape[1], shape[2]
    dtype = accumulation_dtype(b.dtype)
    h = torch.empty_like(b, dtype=dtype, memory_format=torch.contiguous_format)
    h_last = torch.empty((batch, *shape[2:]), dtype=dtype)
    if batch and channels:
        last = _array(h_last, dtype, pairs)
        arguments = (
            _array(a, dtype, pairs),
            _array(b, dtype, pairs),
            last if h0 is None else _array(h0, dtype, pairs),
            h0 is not None,
            _NO_RESET if reset is None else reset.contiguous().numpy(),
            reset is not None,
            _array(h, dtype, pairs),
            last,
            (length, channels),
            _strides(a, sizes),
            reverse,
        )
        _run(_kernels.forward, arguments, sizes, dtype, pairs)
    return (h if b.dtype is dtype else h.to(b.dtype)), h_last


def backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    pairs: bool,
    need_a: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    shape = h.shape
    sizes = batch, length, channels = shape[0], shape[1], shape[2]
    dtype = accumulation_dtype(h.dtype)
    constant = need_a and a.shape[1] == 1 and length > 1
    each = need_a and not constant
    db = torch.empty(shape, dtype=dtype)
    da = torch.empty(shape if each else 0, dtype=dtype)
    da_sum = torch.zeros((batch, *shape[2:]) if constant else 0, dtype=torch.float64)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    if batch and channels:
        states = _array(h, dtype, pairs)
        gradient = _array(db, dtype, pairs)
        some = _array(torch.empty((1, *shape[2:]), dtype=dtype), dtype, pairs)
        arguments = (
            gradient if grad_h is None else _array(grad_h, dtype, pairs),
            grad_h is not None,
            some if grad_last is None else _array(grad_last, dtype, pairs),
            grad_last is not None,
            _array(a, dtype, pairs),
            states,
            some if h0 is None else _array(h0, dtype, pairs),
            h0 is not None,
            _NO_RESET if reset is None else reset.contiguous().numpy(),
            reset is not None,
            _array(da, dtype, pairs) if each else gradient,
            _array(da_sum, torch.float64, pairs) if constant else _NO_SUM[pairs],
            gradient,
            some if h0 is None else _array(dh0, dtype, pairs),
            each,
            constant,
            (length, channels),
            _strides(a, sizes),
            reverse,
        )
        _run(_kernels.backward, arguments, sizes, dtype, pairs)
    return _gather(da, da_sum, a, constant, each), db.to(h.dtype), dh0


def _gather(da: Tensor, da_sum: Tensor, a: Tensor, constant: bool, each: bool) -> Tensor:
    """Bring the gradient of ``a`` to the shape and type of ``a``."""
    if constant:
        da = da_sum.unsqueeze(1)
    if (constant or each) and a.shape[0] == 1 and da.shape[0] != 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype)


def warm() -> None:
    """Compile every kernel, for both precisions, real and complex, many and few channels."""
    for dtype in (torch.float32, torch.float64):
        for pairs in (False, True):
            for channels in (1, 8):
                pair = (2,) if pairs else ()
                a = torch.zeros((1, 1, channels, *pair), dtype=dtype)
                b = torch.zeros((1, 2, channels, *pair), dtype=dtype)
                h, h_last = forward(a, b, None, None, False, pairs)
                backward(h, h_last, a, h, None, None, False, pairs, need_a=True)
