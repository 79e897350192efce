"""``reciprocal_series``: the public door, where arguments are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import floating, require_tensors
from statewise.ops.companion_kernel._library import reciprocal

WIDE = (torch.float32, torch.float64)


def reciprocal_series(p: Tensor, length: int) -> Tensor:
    """First L coefficients of 1 / (1 + p_1 z + p_2 z² + …), for each row.

    They are the impulse response of the autoregressive filter y_t = u_t − Σ_i p_i y_{t−i}. In
    O(L log L) by Newton's iteration on power series, in double precision. Nothing is truncated or
    wrapped around, and the filter need not be stable; what a double cannot hold becomes infinite,
    and rounding is relative to the largest coefficient so far. Differentiable once.

    Args:
        p: p_1 … p_n of each row, (..., n), in float32 or float64.
        length: L, at least 1.

    Returns:
        The coefficients, (..., L), in the type of p.

    Raises:
        ValueError: p has no axis, or a length below 1.
        TypeError: p is not a tensor of these types.

    Example:
        >>> import torch
        >>> reciprocal_series(torch.tensor([-0.5]), 4).tolist()
        [1.0, 0.5, 0.25, 0.125]
    """
    require_tensors("reciprocal_series", p=p)
    floating("reciprocal_series", "p", p, WIDE)
    if p.dim() == 0:
        raise ValueError("reciprocal_series: p has shape (); it must be (..., n)")
    if length < 1:
        raise ValueError(f"reciprocal_series: length is {length}; it must be at least 1")
    return reciprocal(p, length)
