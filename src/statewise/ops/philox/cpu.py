"""CPU back end of counter-based random numbers: numba kernels, shared among threads."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.ops import pool
from statewise.ops.arrays import refuses_cpu
from statewise.ops.blocks import cut
from statewise.ops.philox import _kernels

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None when this back end computes on such tensors, else a sentence that says why not."""
    return refuses_cpu("philox", device)


def _scratch() -> tuple[np.ndarray, np.ndarray]:
    # Made here: a kernel that gives arrays back, and that other kernels call too, may fail when it
    # is loaded from the cache.
    return np.zeros((2, _kernels.CHUNK), np.uint64), np.zeros((3, _kernels.CHUNK))


def numbers(
    key: int, stream: int, count: int, dtype: torch.dtype, device: torch.device, normal: bool
) -> Tensor:
    """The compiled numbers; arguments and results are those of ``reference.numbers``."""
    out, half = np.empty(count, _DTYPES[dtype]), -(-count // 2)
    fill = _kernels.normal if normal else _kernels.uniform
    given = np.uint64(key), np.uint64(stream)
    blocks = cut(1, half, count, _kernels.CHUNK)
    calls = [
        partial(fill, *given, d0, d1, out[d0:d1], out[half + d0 : half + d1], _scratch())
        for _, _, d0, d1 in blocks
    ]
    pool.run(calls)
    return torch.from_numpy(out)


def warm() -> None:
    """Compile the kernels for both types."""
    for dtype in _DTYPES:
        for normal in (False, True):
            numbers(0, 0, 3, dtype, torch.device("cpu"), normal)
