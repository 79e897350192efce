"""Polynomials with batch dimensions: coefficients along the last axis, highest power first."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.lti.matrices import eigenvalues


def from_roots(roots: Tensor) -> Tensor:
    """The monic polynomial with the given roots, (..., n) to (..., n + 1), complex."""
    result = torch.ones(*roots.shape[:-1], 1, dtype=roots.dtype, device=roots.device)
    for root in roots.unbind(-1):
        zero = torch.zeros_like(result[..., :1])
        result = torch.cat((result, zero), -1) - root[..., None] * torch.cat((zero, result), -1)
    return result


def characteristic(A: Tensor) -> Tensor:
    """det(sI − A), (..., n, n) to (..., n + 1), real for a real matrix."""
    result = from_roots(eigenvalues(A))
    return result if A.is_complex() else result.real


def evaluate(coefficients: Tensor, points: Tensor) -> Tensor:
    """The value at ``points``, which broadcast with all axes but the last, by Horner's rule."""
    value = torch.zeros_like(coefficients[..., 0] * points)
    for coefficient in coefficients.unbind(-1):
        value = value * points + coefficient
    return value


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """The product of two polynomials, (..., i) and (..., j) to (..., i + j − 1)."""
    shape = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    n, m = first.shape[-1], second.shape[-1]
    kind = torch.promote_types(first.dtype, second.dtype)
    result = torch.zeros(*shape, n + m - 1, dtype=kind, device=first.device)
    for k in range(n):
        padded = torch.nn.functional.pad(first[..., k, None] * second, (k, n - 1 - k))
        result = result + padded
    return result


def roots(coefficients: Tensor) -> Tensor:
    """The roots, (..., n + 1) to (..., n), complex, as eigenvalues of the companion matrix.

    Raises:
        ValueError: a leading coefficient is 0.
    """
    lead = coefficients[..., :1]
    if (lead == 0).any():
        raise ValueError("the roots of a polynomial need a leading coefficient that is not 0")
    return eigenvalues(companion(coefficients[..., 1:] / lead))


def companion(tail: Tensor) -> Tensor:
    """The companion matrix of sⁿ + tail_0 sⁿ⁻¹ + … + tail_{n−1}: (..., n) to (..., n, n)."""
    n = tail.shape[-1]
    shift = torch.diag(torch.ones(max(n - 1, 0), dtype=tail.dtype, device=tail.device), -1)
    first = torch.zeros(*tail.shape, n, dtype=tail.dtype, device=tail.device)
    if n:
        first[..., 0, :] = -tail
    return first + shift[:n, :n]
