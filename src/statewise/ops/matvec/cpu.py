"""CPU back end of the linear map of a few rows: a numba kernel over rows of the matrix."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import as_array, refuses_cpu
from statewise.ops.matvec import _kernels
from statewise.ops.simd import WIDER, elements

MIN_ELEMENTS = 500_000
"""Numbers of the matrix that a thread must have before another one is worth waking."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    if dtype not in (torch.float32, torch.float64):
        return f"the cpu back end of matvec computes in float32 and float64, not in {dtype}"
    return refuses_cpu("matvec", device)


def product(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, sizes: tuple[int, int, int]
) -> np.ndarray:
    """The rows y, flat, of flat arrays; ``sizes`` is (B, K, M)."""
    batch, inner, outer = sizes
    y = np.empty(batch * outer, x.dtype)
    if not y.size:
        return y
    room = 4 * WIDER * elements(x.itemsize)
    arguments = (x, weight, x if bias is None else bias, bias is not None, y)
    count = max(1, min(pool.threads(), outer, inner * outer // MIN_ELEMENTS))
    if count == 1:
        _kernels.forward(*arguments, np.empty(room, x.dtype), sizes, 0, outer)
        return y
    bounds = [k * outer // count for k in range(count + 1)]
    pool.run(
        [
            partial(_kernels.forward, *arguments, np.empty(room, x.dtype), sizes, *ends)
            for ends in pairwise(bounds)
        ]
    )
    return y


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The compiled product; arguments and result are those of ``reference.forward``."""
    sizes = (x.shape[0], x.shape[1], weight.shape[0])
    y = product(
        as_array(x, x.dtype).reshape(-1),
        as_array(weight, x.dtype).reshape(-1),
        None if bias is None else as_array(bias, x.dtype),
        sizes,
    )
    return torch.from_numpy(y).view(sizes[0], sizes[2])


def warm() -> None:
    """Compile the kernel for both types."""
    for dtype in (torch.float32, torch.float64):
        forward(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype), None)
