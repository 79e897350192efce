"""The linear map as torch computes it, and its adjoint; shapes are those of README.md."""

from __future__ import annotations

import torch
from torch import Tensor


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any real floating-point type."""
    return None


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The rows y = x Wᵀ + bias, for x (B, K), W (M, K) and bias (M,) or None."""
    return torch.nn.functional.linear(x, weight, bias)


def backward(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, W and bias."""
    return grad_y @ weight, grad_y.mT @ x, grad_y.sum(0)
