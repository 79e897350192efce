"""The reciprocal of a power series by its recurrence, and the adjoint of it as one."""

from __future__ import annotations

import torch
from torch import Tensor


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def forward(p: Tensor, length: int) -> Tensor:
    """y_0 = 1,  y_l = −Σ_{i=1}^{n} p_i y_{l−i}, in double precision.

    Args:
        p: p_1 … p_n, (..., n).
        length: L.

    Returns:
        y, (..., L), in the type of p.
    """
    x, count = p.double(), p.shape[-1]
    y = x.new_zeros((*p.shape[:-1], length))
    y[..., 0] = 1
    for step in range(1, length):
        reach = min(step, count)
        y[..., step] = -(x[..., :reach] * y[..., step - reach : step].flip(-1)).sum(-1)
    return y.to(p.dtype)


def backward(grad: Tensor, y: Tensor, count: int) -> Tensor:
    """∂p_i = −Σ_l λ_l y_{l−i}, with λ_l = ∂y_l − Σ_i p_i λ_{l+i}, which is λ_l = Σ_s y_s ∂y_{l+s}.

    Args:
        grad: gradient of y, (..., L).
        y: as returned by :func:`forward`.
        count: n.

    Returns:
        The gradient of p, (..., n), in the type of y.
    """
    g, value, length = grad.double(), y.double(), y.shape[-1]
    adjoint = torch.zeros_like(g)
    for step in range(length):
        adjoint[..., step] = (value[..., : length - step] * g[..., step:]).sum(-1)
    dp = torch.zeros((*y.shape[:-1], count), dtype=g.dtype, device=g.device)
    for i in range(1, min(count, length - 1) + 1):
        dp[..., i - 1] = -(adjoint[..., i:] * value[..., : length - i]).sum(-1)
    return dp.to(y.dtype)
