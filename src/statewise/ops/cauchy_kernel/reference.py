"""The Cauchy product written out, and its adjoint: memory O(P D N J)."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.pairs import from_pairs


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def _numbers(x: Tensor) -> Tensor:
    return from_pairs(x.double())


# A lazy conj() is lost when a compiled graph calls the operator; conj_physical() is not.


def _reciprocals(poles: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """1 / (i t − λ) and 1 / (i t − conj λ), (D, N, J)."""
    nodes, lam = 1j * frequencies.double(), _numbers(poles)[:, :, None]
    return 1 / (nodes - lam), 1 / (nodes - lam.conj_physical())


def forward(v: Tensor, poles: Tensor, frequencies: Tensor) -> Tensor:
    """Sums r = Σ_n v / (i t − λ) + conj(v) / (i t − conj λ), in double precision throughout.

    Args:
        v: numerators, (P, D, N, 2).
        poles: λ, (D, N, 2).
        frequencies: t, (J,).

    Returns:
        r, (P, D, J, 2), in the type of v.
    """
    x, y = _reciprocals(poles, frequencies)
    value = _numbers(v)[..., None]
    total = (value * x + value.conj_physical() * y).sum(2)
    return torch.view_as_real(total).to(v.dtype)


def backward(grad: Tensor, v: Tensor, poles: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """∂v = Σ_j conj(x) ∂r + y conj(∂r);  ∂λ = Σ_{p,j} conj(v x²) ∂r + conj(v) y² conj(∂r).

    Here x = 1 / (i t − λ) and y = 1 / (i t − conj λ).

    Args:
        grad: gradient of r, (P, D, J, 2).
        v: as given to :func:`forward`.
        poles: as given to it.
        frequencies: as given to it.

    Returns:
        The gradients of v and the poles, each in its own type.
    """
    x, y = _reciprocals(poles, frequencies)
    value, g = _numbers(v)[..., None], _numbers(grad)[:, :, None]
    dv = (x.conj_physical() * g + y * g.conj_physical()).sum(3)
    dpoles = (
        (value * x * x).conj_physical() * g + value.conj_physical() * y * y * g.conj_physical()
    ).sum((0, 3))
    return torch.view_as_real(dv).to(v.dtype), torch.view_as_real(dpoles).to(poles.dtype)
