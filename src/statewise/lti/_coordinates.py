"""Local coordinates of state-space systems: changes that no change of basis can undo."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.lti.matrices import identity_like

Matrices = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def tangent_complement(matrices: Matrices, noise: bool, direct: bool) -> Tensor:
    """Orthonormal directions in (A, B, K, C, D) that are orthogonal to all similarities.

    A change of basis I + X moves (A, B, K, C, D) by (A X − X A, −X B, −X K, C X, 0). What is
    orthogonal to these directions moves the transfer function, and nothing is lost: the
    n² redundant parameters are gone without a canonical form.

    Args:
        matrices: A (n, n), B (n, m), K (n, p), C (p, n) and D (p, m).
        noise: whether K is free; else it stays as it is.
        direct: whether D is free.

    Returns:
        (parameters, d), columns in the order of the flattened matrices.

    Source: McKelvey, Helmersson & Ribarits, Data driven local coordinates for multivariable
    linear systems and their application to system identification (2004).
    """
    A, B, K, C, D = matrices
    eye = identity_like(A)
    n = len(A)
    units = torch.einsum("ik,jl->ijkl", eye, eye).reshape(n * n, n, n)
    moves = (A @ units - units @ A, -units @ B, -units @ K, C @ units, D.new_zeros(n * n, *D.shape))
    tangent = torch.cat([move.flatten(1) for move in moves], 1)
    free = torch.cat(
        [
            torch.full((M.numel(),), on)
            for M, on in zip(matrices, (True, True, noise, True, direct), strict=True)
        ]
    )
    inner = tangent[:, free]
    _, sigma, Vh = torch.linalg.svd(inner, full_matrices=True)
    rank = int((sigma > 1e-12 * sigma[0]).sum()) if len(sigma) else 0
    basis = A.new_zeros(len(free), len(Vh) - rank)
    basis[free] = Vh[rank:].mT
    return basis


def moved(matrices: Matrices, change: Tensor) -> Matrices:
    """The matrices after a change of the flattened parameters."""
    parts = change.split([M.numel() for M in matrices])
    A, B, K, C, D = (M + part.reshape(M.shape) for M, part in zip(matrices, parts, strict=True))
    return A, B, K, C, D


def response_sensitivity(
    matrices: Matrices, points: Tensor, basis: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """G = C (zI − A)⁻¹ B + D and its derivatives, at complex points (F,).

    Returns:
        (F, p, m), and (F, p, m, parameters) or, with a basis, (F, p, m, d).
    """
    A, B, K, C, D = (M.to(torch.complex128) for M in matrices)
    n, m = B.shape
    p, count = len(C), len(points)
    left = points[:, None, None] * identity_like(A) - A
    into = torch.linalg.solve(left, B.expand(count, n, m))
    out = torch.linalg.solve(left.mT, C.mT.expand(count, n, p)).mT
    eye_p, eye_m = identity_like(C @ C.mT), torch.eye(m, dtype=A.dtype)
    by_A = torch.einsum("foi,fjc->focij", out, into).flatten(3)
    by_B = torch.einsum("foi,jc->focij", out, eye_m).flatten(3)
    by_K = by_A.new_zeros(count, p, m, K.numel())
    by_C = torch.einsum("oi,fjc->focij", eye_p, into).flatten(3)
    by_D = torch.einsum("oi,jc->ocij", eye_p, eye_m).flatten(2).expand(count, -1, -1, -1)
    J = torch.cat((by_A, by_B, by_K, by_C, by_D), 3)
    if basis is not None:
        J = J @ basis.to(J.dtype)
    return C @ into + D, J
