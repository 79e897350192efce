"""CPU back end of the Vandermonde kernel: small tables by numba, real matrix products by BLAS."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.vandermonde_kernel import _kernels

CHANNELS = 16
"""Channels whose tables are made at a time, so that they stay in the second-level cache."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("vandermonde_kernel", device)


def stride(length: int) -> int:
    """T: the power of two near √L, from 4 to 256."""
    return 1 << min(max(round((length - 1).bit_length() / 2), 2), 8)


def forward(a: Tensor, c: Tensor, length: int, log: bool) -> Tensor:
    """The two-level product; arguments and results are those of ``reference.forward``."""
    D, N = a.shape[0], a.shape[1]
    T = stride(length)
    count = -(-length // T)
    kernel = torch.empty((D, count, T), dtype=a.dtype)
    block = max(1, min(CHANNELS, D))
    rows = torch.empty((block, count, 2 * N), dtype=a.dtype)
    columns = torch.empty((block, T, 2 * N), dtype=a.dtype)
    poles, weights = as_array(a, torch.float64), as_array(c, torch.float64)
    for d0 in range(0, D, block):
        size = min(block, D - d0)
        _kernels.tables(poles, weights, log, d0, rows[:size].numpy(), columns[:size].numpy())
        torch.bmm(rows[:size], columns[:size].mT, out=kernel[d0 : d0 + size])
    found = kernel.flatten(1)
    return found if count * T == length else found[:, :length].contiguous()


def backward(grad: Tensor, a: Tensor, c: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """The transposed product; arguments and results are those of ``reference.backward``."""
    D, N = a.shape[0], a.shape[1]
    length = grad.shape[1]
    T = stride(length)
    count = -(-length // T)
    block = max(1, min(CHANNELS, D))
    columns = torch.empty((block, T, 4 * N), dtype=a.dtype)
    padded = torch.zeros((block, count * T), dtype=a.dtype)
    da, dc = (torch.empty(x.shape, dtype=x.dtype) for x in (a, c))
    poles, weights = as_array(a, torch.float64), as_array(c, torch.float64)
    for d0 in range(0, D, block):
        size = min(block, D - d0)
        _kernels.slopes(poles, log, d0, columns[:size].numpy())
        padded[:size, :length] = grad[d0 : d0 + size]
        moments = torch.bmm(padded[:size].unflatten(1, (count, T)), columns[:size])
        _kernels.contract(poles, weights, log, d0, T, moments.numpy(), da.numpy(), dc.numpy())
    return da, dc


def warm() -> None:
    """Compile every kernel, for both precisions."""
    for dtype in (torch.float32, torch.float64):
        a = torch.ones((1, 1, 2), dtype=dtype)
        backward(forward(a, a, 2, False), a, a, False)
