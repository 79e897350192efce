"""The Cauchy product in real terms: what the fast back ends compute.

With λ = a + ib the two terms of a pair join over one denominator,

    v / (it − λ) + conj(v) / (it − conj λ) = (i t α − β) w,
    α = 2 Re v,   β = 2 Re(v conj λ),   w = 1 / (a² − (t − b)(t + b) − 2 i a t),

so that one complex reciprocal and two real-by-complex products do for a pair. t and b are each
carried as a sum of two numbers of working precision, for t − b to keep its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` as the sum of two rows of ``dtype``: its rounding, and what that lost; (2, ...)."""
    high = x.to(dtype)
    return torch.stack([high, (x.double() - high.double()).to(dtype)])


def weights(v: Tensor, poles: Tensor) -> Tensor:
    """α and β, (2, P, D, N), in the type of v."""
    x, lam = v.double(), poles.double()
    beta = x[..., 0] * lam[..., 0] + x[..., 1] * lam[..., 1]
    return torch.stack([2 * x[..., 0], 2 * beta]).to(v.dtype)


def gradients(sums: Tensor, v: Tensor, poles: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of v and the poles from those of α, β, a and b.

    Args:
        sums: (2 P + 2, D, N) in double precision: of α for each p, of β for each p, and of a and
            b through w alone.
        v: numerators, (P, D, N, 2).
        poles: λ, (D, N, 2).

    Returns:
        The gradients, each in its own type.
    """
    count = v.shape[0]
    alpha, beta, through = sums[:count], sums[count : 2 * count], sums[2 * count :]
    x, lam = v.double(), poles.double()
    dv = torch.stack([2 * (alpha + beta * lam[..., 0]), 2 * beta * lam[..., 1]], -1)
    dpoles = torch.stack([*through], -1) + 2 * (beta[..., None] * x).sum(0)
    return dv.to(v.dtype), dpoles.to(poles.dtype)
