"""Matrices with batch dimensions, put together from blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def block(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """The matrix of some blocks; batch dimensions broadcast and types promote."""
    parts = [part for row in rows for part in row]
    batch = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
    kind = parts[0].dtype
    for part in parts:
        kind = torch.promote_types(kind, part.dtype)
    wide = [[part.to(kind).expand(*batch, *part.shape[-2:]) for part in row] for row in rows]
    return torch.cat([torch.cat(row, -1) for row in wide], -2)


def block_diagonal(*parts: Tensor) -> Tensor:
    """The matrix with the given blocks on its diagonal, which may be rectangular."""
    rows = [
        [
            part if i == j else part.new_zeros(part.shape[-2], other.shape[-1])
            for j, other in enumerate(parts)
        ]
        for i, part in enumerate(parts)
    ]
    return block(rows)


def hermitian(M: Tensor) -> Tensor:
    """(M + M*)/2."""
    return (M + M.mH) / 2


def identity_like(M: Tensor) -> Tensor:
    """The identity of the size, type and device of a square matrix, without batch dimensions."""
    return torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)


def numpy_each(function: Callable[..., Any], *given: Tensor) -> tuple[Tensor, ...]:
    """Apply a function of NumPy matrices to each matrix of a batch.

    Args:
        function: takes as many matrices as are given and returns one or a tuple of them.
        given: tensors (..., i, j) whose batch dimensions broadcast.

    Returns:
        The results, computed in float64, stacked to the batch, in the precision and on the device
        of the first tensor.

    Raises:
        ValueError: gradients are wanted, which this way cannot give.
    """
    if torch.is_grad_enabled() and any(M.requires_grad for M in given):
        raise ValueError(
            "this function runs outside of torch and has no gradient; detach the matrices of the "
            "system, or call it under torch.no_grad()"
        )
    batch = torch.broadcast_shapes(*(M.shape[:-2] for M in given))
    count = math.prod(batch)
    device = given[0].device
    flat = []
    for M in given:
        wide = M.detach().resolve_conj().expand(*batch, *M.shape[-2:])
        wide = wide.to(torch.promote_types(M.dtype, torch.float64))
        flat.append(wide.reshape(count, *M.shape[-2:]).cpu().numpy())
    results = []
    for matrices in zip(*flat, strict=True):
        result = function(*matrices)
        results.append(result if isinstance(result, tuple) else (result,))
    if not results:
        raise ValueError(f"the batch of shape {tuple(batch)} holds no matrix")
    real = given[0].real.dtype
    parts = []
    for part in zip(*results, strict=True):
        stacked = torch.as_tensor(np.stack(part)).to(device)
        kind = real.to_complex() if stacked.is_complex() else real
        parts.append(stacked.to(kind).reshape(*batch, *part[0].shape))
    return tuple(parts)


def needs_one(system: Any, name: str) -> None:
    """Refuse a batch where the size of the result depends on the system."""
    if system.batch_shape:
        raise ValueError(
            f"{name} works on one system, and the batch has shape {tuple(system.batch_shape)}; its "
            f"result may differ in size from system to system"
        )


def eigenvalues(A: Tensor) -> Tensor:
    """Eigenvalues (..., n) of square matrices (..., n, n)."""
    # By rows: with torch 2.11 on a GPU, results behind the eigenvalues of A*, which is stored by
    # columns, were wrong, and nothing else in their way was.
    return torch.linalg.eigvals(A.contiguous())


def eigenvectors(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n) and right eigenvectors (..., n, n), in columns."""
    values, vectors = torch.linalg.eig(A.contiguous())
    return values, vectors
