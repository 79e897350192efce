"""The compiled product of a few rows with a matrix, on flat arrays, shared among threads."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np

from statewise.ops import pool
from statewise.ops.matvec import _kernels

MIN_ELEMENTS = 500_000
"""Numbers of the matrix that a thread must have before another one is worth waking."""


def product(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, sizes: tuple[int, int, int]
) -> np.ndarray:
    """The rows y, flat, of flat arrays; ``sizes`` is (B, K, M)."""
    batch, inner, outer = sizes
    y = np.empty(batch * outer, x.dtype)
    if not y.size:
        return y
    arguments = (x, weight, x if bias is None else bias, bias is not None, y)
    count = max(1, min(pool.threads(), outer, inner * outer // MIN_ELEMENTS))
    if count == 1:
        _kernels.forward(*arguments, sizes, 0, outer)
        return y
    bounds = [k * outer // count for k in range(count + 1)]
    pool.run([partial(_kernels.forward, *arguments, sizes, *ends) for ends in pairwise(bounds)])
    return y
