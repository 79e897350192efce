"""CPU back end of the ParaGRU and ParaLSTM scans: the sequential loop, compiled.

One core has no use for parallel time: a Newton iteration does about twice the work of the plain
loop, several times over. The loop is exact, and takes packs of channels at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.blocks import cut
from statewise.ops.newton_scan import _kernels
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd import elements

WORK = 8
"""What one number of ``pre`` costs, in multiply-adds of a linear scan."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("para_gru and para_lstm", device)


def _flat(x: Tensor, dtype: torch.dtype) -> np.ndarray:
    return as_array(x, dtype).reshape(-1)


def _halves(x: Tensor | None, some: np.ndarray, dtype: torch.dtype) -> tuple[Any, Any]:
    """The c and the h of pairs (..., 2)."""
    if x is None:
        return some, some
    return _flat(x[..., 0], dtype), _flat(x[..., 1], dtype)


def _run(kernel: Any, arguments: tuple, shape: torch.Size, dtype: torch.dtype) -> None:
    batch, length, _, channels = shape
    pack = elements(dtype.itemsize)
    blocks = cut(batch, channels, batch * length * channels * WORK)
    pool.run(
        [
            partial(kernel, *arguments, *block, True if block[3] - block[2] >= pack else None)
            for block in blocks
        ]
    )


def gru_forward(
    pre: Tensor, a: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The compiled scan; arguments and results are those of ``reference.gru_forward``."""
    batch, length, _, channels = pre.shape
    dtype = accumulation_dtype(pre.dtype)
    h = torch.empty((batch, length, channels), dtype=dtype)
    h_last = torch.empty((batch, channels), dtype=dtype)
    if h_last.numel():
        last = _flat(h_last, dtype)
        arguments = (
            _flat(pre, dtype),
            _flat(a, dtype),
            last if h0 is None else _flat(h0, dtype),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            _flat(h, dtype),
            last,
            (length, channels),
            reverse,
        )
        _run(_kernels.gru_forward, arguments, pre.shape, dtype)
    return h.to(pre.dtype), h_last


def gru_backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.gru_backward``."""
    batch, length, _, channels = pre.shape
    dtype = accumulation_dtype(pre.dtype)
    dpre = torch.empty(pre.shape, dtype=dtype)
    da = torch.zeros((batch, 3, channels), dtype=torch.float64)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    if batch and channels:
        some = _flat(dpre, dtype)
        arguments = (
            some if grad_h is None else _flat(grad_h, dtype),
            grad_h is not None,
            some if grad_last is None else _flat(grad_last, dtype),
            grad_last is not None,
            _flat(pre, dtype),
            _flat(a, dtype),
            _flat(h, dtype),
            some if h0 is None else _flat(h0, dtype),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            some,
            da.numpy(),
            _flat(dh0, dtype),
            (length, channels),
            reverse,
        )
        _run(_kernels.gru_backward, arguments, pre.shape, dtype)
    return dpre.to(pre.dtype), da.sum(0).to(a.dtype), dh0


def lstm_forward(
    pre: Tensor, a: Tensor, w: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled scan; arguments and results are those of ``reference.lstm_forward``."""
    batch, length, _, channels = pre.shape
    dtype = accumulation_dtype(pre.dtype)
    h, c = (torch.empty((batch, length, channels), dtype=dtype) for _ in range(2))
    c_last, h_last = (torch.empty((batch, channels), dtype=dtype) for _ in range(2))
    if h_last.numel():
        arguments = (
            _flat(pre, dtype),
            _flat(a, dtype),
            _flat(w, dtype),
            *_halves(h0, _flat(h_last, dtype), dtype),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            _flat(h, dtype),
            _flat(c, dtype),
            _flat(c_last, dtype),
            _flat(h_last, dtype),
            (length, channels),
            reverse,
        )
        _run(_kernels.lstm_forward, arguments, pre.shape, dtype)
    return h.to(pre.dtype), c.to(pre.dtype), torch.stack([c_last, h_last], -1)


def lstm_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    grad_last: Tensor | None,
    pre: Tensor,
    a: Tensor,
    w: Tensor,
    h: Tensor,
    c: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.lstm_backward``."""
    batch, length, _, channels = pre.shape
    dtype = accumulation_dtype(pre.dtype)
    dpre = torch.empty(pre.shape, dtype=dtype)
    weights = torch.zeros((batch, 5, channels), dtype=torch.float64)
    rows = 0 if h0 is None else batch
    dc0, dh0 = (torch.empty((rows, channels), dtype=dtype) for _ in range(2))
    if batch and channels:
        some = _flat(dpre, dtype)
        arguments = (
            some if grad_h is None else _flat(grad_h, dtype),
            grad_h is not None,
            some if grad_c is None else _flat(grad_c, dtype),
            grad_c is not None,
            *_halves(grad_last, some, dtype),
            grad_last is not None,
            _flat(pre, dtype),
            _flat(a, dtype),
            _flat(w, dtype),
            _flat(h, dtype),
            _flat(c, dtype),
            *_halves(h0, some, dtype),
            h0 is not None,
            reset_array(reset),
            reset is not None,
            some,
            weights.numpy(),
            _flat(dc0, dtype),
            _flat(dh0, dtype),
            (length, channels),
            reverse,
        )
        _run(_kernels.lstm_backward, arguments, pre.shape, dtype)
    total = weights.sum(0).to(a.dtype)
    start = dh0.new_empty(0) if h0 is None else torch.stack([dc0, dh0], -1)
    return dpre.to(pre.dtype), total[:3].clone(), total[3:].clone(), start


def warm() -> None:
    """Compile every kernel, for both precisions, many and few channels."""
    for dtype in (torch.float32, torch.float64):
        for channels in (1, 8):
            pre = torch.zeros((1, 2, 3, channels), dtype=dtype)
            a, w = pre[0, 0], pre[0, 0, :2]
            h, last = gru_forward(pre, a, None, None, False)
            gru_backward(h, last, pre, a, h, None, None, False)
            h, c, last = lstm_forward(pre, a, w, None, None, False)
            lstm_backward(h, c, last, pre, a, w, h, c, None, None, False)
