"""The Vandermonde kernel as a readable loop, and its adjoint as one.

Shapes: a and c (D, N, 2), pairs (re, im); kernel (D, L). Powers are in double precision whatever
the type: in single precision the phase of a^l is lost long before l = 10⁴.
"""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.pairs import from_pairs


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


def _number(x: Tensor) -> Tensor:
    return from_pairs(x.double())


def _pairs(x: Tensor, like: Tensor) -> Tensor:
    # A fresh tensor: an operator may not return a view of another tensor.
    return torch.view_as_real(x).clone().to(like.dtype)


def base(a: Tensor, log: bool) -> Tensor:
    """The complex numbers (D, N) whose powers are taken, in double precision."""
    poles = _number(a)
    if not log:
        return poles
    size = torch.exp(poles.real)
    return torch.complex(size * torch.cos(poles.imag), size * torch.sin(poles.imag))


def forward(a: Tensor, c: Tensor, length: int, log: bool) -> Tensor:
    """K_l = Re Σ_n c_n a_n^l.

    Args:
        a: (D, N, 2), or their logarithms with ``log``.
        c: (D, N, 2), in the type of ``a``, float32 or float64.
        length: L.
        log: how ``a`` is given.

    Returns:
        The kernel, (D, L), in the type of ``a``.
    """
    root, term = base(a, log), _number(c)
    kernel = a.new_empty(a.shape[0], length)
    for step in range(length):
        kernel[:, step] = term.real.sum(-1)
        term = term * root
    return kernel


def backward(grad: Tensor, a: Tensor, c: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """∂c = Σ_l conj(a^l) ∂K_l and ∂a = Σ_l conj(c l a^{l−1}) ∂K_l.

    Args:
        grad: gradient of the kernel, (D, L).
        a: as given to :func:`forward`.
        c: as given to it.
        log: as given to it.

    Returns:
        The gradients of ``a`` and ``c``.
    """
    root, weight = base(a, log), _number(c)
    power, before = torch.ones_like(root), torch.zeros_like(root)
    dc, da = torch.zeros_like(root), torch.zeros_like(root)
    for step in range(grad.shape[1]):
        g = grad[:, step, None].double()
        dc += power.conj_physical() * g
        da += (weight * step * before).conj_physical() * g
        power, before = power * root, power
    if log:
        da = da * root.conj_physical()
    return _pairs(da, a), _pairs(dc, c)
