"""CPU back end of the linear scan: numba kernels over blocks of sequences and channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.blocks import ALIGN, cut
from statewise.ops.linear_scan import _kernels
from statewise.ops.memory import fresh
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd import WIDE_BYTES, elements

_NO_SUM = {False: np.empty((0, 0), np.float64), True: np.empty((0, 0, 1), np.complex128)}

STREAM_BYTES = 2**22
"""An output of this size is written past the caches: what reads it next finds little of it there.
Measured: smaller ones are faster to write and then read through the caches."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("linear_scan", device)


def _streams(*outputs: np.ndarray) -> bool:
    """Whether outputs (B, L, D) are to be written past the caches, and may be."""
    return outputs[0].nbytes >= STREAM_BYTES and all(
        x.shape[2] * x.itemsize % WIDE_BYTES == 0 and x.ctypes.data % WIDE_BYTES == 0
        for x in outputs
    )


def _strides(a: Tensor, sizes: tuple[int, int, int]) -> tuple[int, int]:
    """Elements from one sequence, and from one step, to the next in ``a``; 0 where constant."""
    channels = sizes[2]
    rows, steps = a.shape[0], a.shape[1]
    return (steps * channels if rows > 1 else 0), (channels if steps > 1 else 0)


def _run(
    function: Callable[..., None],
    arguments: tuple,
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    pairs: bool,
) -> None:
    pack = elements(dtype.itemsize * (2 if pairs else 1))
    batch, length, channels = sizes
    numbers = batch * length * channels * (2 if pairs else 1)
    # Processors fetch ahead of a walk through whole rows only: where memory is the limit, both
    # halves of every row, one after the other, take three to four times as long as the whole.
    whole = numbers * dtype.itemsize >= STREAM_BYTES
    blocks = cut(batch, channels, numbers, channels if whole else ALIGN)
    if len(blocks) == 1:
        function(*arguments, *blocks[0], True if channels >= pack else None)
        return
    pool.run(
        [
            partial(function, *arguments, *block, True if block[3] - block[2] >= pack else None)
            for block in blocks
        ]
    )


def forward(
    a: Tensor, b: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool, pairs: bool
) -> tuple[Tensor, Tensor]:
    """The compiled scan; arguments and results are those of ``reference.forward``."""
    shape = b.shape
    sizes = batch, length, channels = shape[0], shape[1], shape[2]
    dtype = accumulation_dtype(b.dtype)
    h = fresh(shape, dtype)
    h_last = torch.empty((batch, *shape[2:]), dtype=dtype)
    if batch and channels:
        states, last = as_array(h, dtype, pairs), as_array(h_last, dtype, pairs)
        arguments = (
            as_array(a, dtype, pairs),
            as_array(b, dtype, pairs),
            last if h0 is None else as_array(h0, dtype, pairs),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            states,
            last,
            (length, channels),
            _strides(a, sizes),
            reverse,
            _streams(states),
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
    db = fresh(shape, dtype)
    da = fresh(shape if each else (0,), dtype)
    da_sum = torch.zeros((batch, *shape[2:]) if constant else 0, dtype=torch.float64)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    if batch and channels:
        states = as_array(h, dtype, pairs)
        gradient = as_array(db, dtype, pairs)
        each_gradient = as_array(da, dtype, pairs) if each else gradient
        some = gradient[0]
        arguments = (
            gradient if grad_h is None else as_array(grad_h, dtype, pairs),
            grad_h is not None,
            some if grad_last is None else as_array(grad_last, dtype, pairs),
            grad_last is not None,
            as_array(a, dtype, pairs),
            states,
            some if h0 is None else as_array(h0, dtype, pairs),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            each_gradient,
            as_array(da_sum, torch.float64, pairs) if constant else _NO_SUM[pairs],
            gradient,
            some if h0 is None else as_array(dh0, dtype, pairs),
            each,
            constant,
            (length, channels),
            _strides(a, sizes),
            reverse,
            _streams(gradient, each_gradient),
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
