"""CPU back end of the short causal convolution: numba kernels over sequences and channels."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.blocks import cut
from statewise.ops.causal_conv1d import _kernels
from statewise.ops.precision import accumulation_dtype
from statewise.ops.simd import elements


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("causal_conv1d", device)


def _inputs(x, weight, bias, h0, dtype) -> tuple:
    """x, the taps by age (W, D), the bias, the window, and whether there is one."""
    taps = as_array(weight.flip(1).t(), dtype)
    offset = as_array(weight.new_zeros(x.shape[2]) if bias is None else bias, dtype)
    window = taps[None] if h0 is None else as_array(h0, dtype)
    return as_array(x, dtype), taps, offset, window, h0 is not None


def _run(function, arguments: tuple, x: Tensor, dtype: torch.dtype) -> None:
    batch, _, channels = x.shape
    pack = elements(dtype.itemsize)
    pool.run(
        [
            partial(function, *arguments, *block, True if block[3] - block[2] >= pack else None)
            for block in cut(batch, channels, x.numel())
        ]
    )


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The compiled convolution; arguments and results are those of ``reference.forward``."""
    batch, length, channels = x.shape
    taps = weight.shape[1]
    dtype = accumulation_dtype(x.dtype)
    y = torch.empty(x.shape, dtype=dtype)
    last = torch.empty(batch, taps - 1, channels, dtype=dtype)
    if x.numel():
        arguments = (
            *_inputs(x, weight, bias, h0, dtype),
            *(reset_array(reset), reset is not None),
            *(y.numpy(), last.numpy(), (length, channels, taps), silu, reverse),
        )
        _run(_kernels.forward, arguments, x, dtype)
    return y.to(x.dtype), last


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    batch, length, channels = x.shape
    taps = weight.shape[1]
    dtype = accumulation_dtype(x.dtype)
    dx = torch.empty(x.shape, dtype=dtype)
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    dweight = np.zeros((batch, taps, channels))
    dbias = np.zeros((batch, channels))
    if x.numel():
        inputs = _inputs(x, weight, bias, h0, dtype)
        absent = inputs[0]
        arguments = (
            *(absent if grad_y is None else as_array(grad_y, dtype), grad_y is not None),
            *(absent if grad_last is None else as_array(grad_last, dtype), grad_last is not None),
            *(*inputs, reset_array(reset), reset is not None),
            *(dx.numpy(), dweight, dbias, absent if h0 is None else dh0.numpy()),
            *((length, channels, taps), silu, reverse),
        )
        _run(_kernels.backward, arguments, x, dtype)
    total = torch.from_numpy(np.array(dweight.sum(0)[::-1].T, order="C")).to(dtype)
    offset = weight.new_empty(0) if bias is None else torch.from_numpy(dbias.sum(0)).to(dtype)
    return dx.to(x.dtype), total, offset, dh0


def warm() -> None:
    """Compile the kernels for every type and kind of pack."""
    for dtype in (torch.float32, torch.float64):
        for channels in (1, elements(dtype.itemsize)):
            x = torch.zeros(1, 2, channels, dtype=dtype)
            weight, h0 = x.new_zeros(channels, 2), x.new_zeros(1, 1, channels)
            forward(x, weight, None, None, None, True, False)
            backward(x, h0, x, weight, None, None, None, True, False)
