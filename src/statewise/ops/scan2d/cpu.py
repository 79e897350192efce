"""CPU back end of the two-dimensional scan: numba kernels over sequences and channels."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu, reset_array
from statewise.ops.blocks import cut
from statewise.ops.precision import accumulation_dtype
from statewise.ops.scan2d import _kernels
from statewise.ops.scan2d.reference import Coefficients
from statewise.ops.simd import elements


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("scan2d", device)


def _coefficients(a: Coefficients, dtype: torch.dtype) -> tuple:
    """The four arrays, and their strides over (batch, time, variate) in elements."""
    strides = np.zeros((4, 3), np.int64)
    for k, x in enumerate(a):
        step = x.shape[3]
        for axis in (2, 1, 0):
            strides[k, axis] = step if x.shape[axis] > 1 else 0
            step *= x.shape[axis]
    return (*(as_array(x, dtype) for x in a), strides)


def _run(function, arguments: tuple, shape: torch.Size, dtype: torch.dtype) -> None:
    pack = elements(dtype.itemsize)
    pool.run(
        [
            partial(function, *arguments, *block, True if block[3] - block[2] >= pack else None)
            for block in cut(shape[0], shape[3], 2 * shape.numel())
        ]
    )


def forward(
    a: Coefficients,
    b1: Tensor,
    b2: Tensor,
    h0: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled scan; arguments and results are those of ``reference.forward``."""
    dtype = accumulation_dtype(b1.dtype)
    batch, length, variates, channels = b1.shape
    p, q = (torch.empty(b1.shape, dtype=dtype) for _ in range(2))
    last = torch.empty(batch, 2, variates, channels, dtype=dtype)
    if b1.numel():
        arguments = (
            *_coefficients(a, dtype),
            *(as_array(b1, dtype), as_array(b2, dtype)),
            *(last.numpy() if h0 is None else as_array(h0, dtype), h0 is not None),
            *(reset_array(reset), reset is not None),
            *(p.numpy(), q.numpy(), last.numpy(), (length, variates, channels), reverse),
        )
        _run(_kernels.forward, arguments, b1.shape, dtype)
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
    """The compiled adjoint; arguments and results are those of ``reference.backward``."""
    dtype = accumulation_dtype(p.dtype)
    batch, length, variates, channels = p.shape
    each = [x.shape[1] > 1 for x in a]
    full, summed = tuple(p.shape), (batch, variates, channels)
    da = [torch.zeros(full if varies else summed, dtype=dtype) for varies in each]
    f, g = (torch.empty(p.shape, dtype=dtype) for _ in range(2))
    dh0 = torch.empty(0 if h0 is None else h0.shape, dtype=dtype)
    if p.numel():
        values = as_array(p, dtype)
        gradients = (grad_p, grad_q, grad_last)
        given = [(values if x is None else as_array(x, dtype), x is not None) for x in gradients]
        arguments = (
            *(part for pair in given for part in pair),
            *_coefficients(a, dtype),
            *(values, as_array(q, dtype)),
            *(values if h0 is None else as_array(h0, dtype), h0 is not None),
            *(reset_array(reset), reset is not None),
            *(d.view(-1).numpy() for d in da),
            *(tuple(each), f.numpy(), g.numpy(), values if h0 is None else dh0.numpy()),
            *((length, variates, channels), reverse),
        )
        _run(_kernels.backward, arguments, p.shape, dtype)
    wide = [d if varies else d.unsqueeze(1) for d, varies in zip(da, each, strict=True)]
    sums = [d.sum_to_size(x.shape).to(x.dtype) for d, x in zip(wide, a, strict=True)]
    return (*sums, f.to(p.dtype), g.to(p.dtype), dh0)


def warm() -> None:
    """Compile the kernels for both precisions and both kinds of packs."""
    for dtype in (torch.float32, torch.float64):
        for channels in (1, elements(dtype.itemsize)):
            b = torch.zeros(1, 2, 2, channels, dtype=dtype)
            one = b[:, :1, :1]
            a = (one, one, one, one)
            p, q, last = forward(a, b, b, None, None, False)
            backward(p, q, last, a, p, q, None, None, False)
