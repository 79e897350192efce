"""Exponential functions of tensors that keep their digits."""

from __future__ import annotations

import torch
from torch import Tensor


def complex_exp(z: Tensor) -> Tensor:
    """e^z for real or complex ``z``, through real functions (torch's complex exp is scalar)."""
    if z.is_complex():
        # torch.polar has NaN gradients where e^Re z is the smallest subnormal number.
        size = torch.exp(z.real)
        return torch.complex(size * torch.cos(z.imag), size * torch.sin(z.imag))
    return torch.exp(z)


def phi1(z: Tensor) -> Tensor:
    """φ₁(z) = (e^z − 1) / z, exact to rounding also where z is near 0.

    Args:
        z: real or complex tensor of any shape.

    Returns:
        φ₁(z) with the shape and dtype of ``z``; φ₁(0) = 1.
    """
    small = z.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(z), z)
    if z.is_complex():
        growth = torch.exp(safe.real)
        # e^{x+iy} − 1 = expm1(x) cos y − 2 sin²(y/2) + i eˣ sin y
        real = torch.expm1(safe.real) * torch.cos(safe.imag) - 2 * torch.sin(safe.imag / 2) ** 2
        numerator = torch.complex(real, growth * torch.sin(safe.imag))
    else:
        numerator = torch.expm1(safe)
    series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5)))
    return torch.where(small, series, numerator / safe)


def phi2(z: Tensor) -> Tensor:
    """φ₂(z) = (φ₁(z) − 1) / z = (e^z − 1 − z) / z², exact to rounding also where z is near 0.

    Args:
        z: real or complex tensor of any shape.

    Returns:
        φ₂(z) with the shape and dtype of ``z``; φ₂(0) = 1/2.
    """
    small = z.abs() < 1
    series = torch.ones_like(z)
    near = torch.where(small, z, torch.zeros_like(z))
    for k in range(20, 2, -1):
        series = 1 + near / k * series
    safe = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, series / 2, (phi1(safe) - 1) / safe)
