"""``vandermonde_kernel``: the public door, where arguments are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import COMPLEX, REAL, check_shape, floating, require_tensors
from statewise.ops.pairs import aligned
from statewise.ops.precision import accumulation_dtype
from statewise.ops.vandermonde_kernel._library import OP, product


def vandermonde_kernel(a: Tensor, c: Tensor, length: int, *, log: bool = False) -> Tensor:
    """The convolution kernel of a diagonal bank: K_l = Re Σ_n c_n a_n^l,  l = 0 … L − 1.

    It is the impulse response of :func:`~statewise.ops.diagonal_ssm` with poles ``a`` and c b in
    place of ``c``. No factor 2 is implied: where conjugate terms are left out, double ``c``.
    Powers are taken in double precision, so that their phase is right at any length; with ``log``
    they are those of exactly the numbers that were given, while a float32 ``a`` has already
    rounded its phase. Memory is O(D L). Differentiable once with respect to ``a`` and ``c``.

    Args:
        a: poles, (D, N, 2) pairs of (re, im), or complex (D, N), or real (D, N); with ``log``
            their logarithms λΔ, in pairs or complex.
        c: weights, in the form of ``a``.
        length: L, at least 1.
        log: whether ``a`` holds logarithms.

    Returns:
        The kernel, (D, L), real, in the common type of ``a`` and ``c``.

    Raises:
        ValueError: a shape that does not fit, or a length below 1.
        TypeError: an argument that is no tensor, or of a type that is not accepted.

    Source: Gu et al., On the parameterization and initialization of diagonal state space models
    (2206.11893), equation 5.

    Example:
        >>> import torch
        >>> vandermonde_kernel(torch.tensor([[0.5]]), torch.tensor([[8.0]]), 4).tolist()
        [[8.0, 4.0, 2.0, 1.0]]
    """
    require_tensors(OP, a=a, c=c)
    kind = COMPLEX if a.is_complex() else REAL
    floating(OP, "a", a, COMPLEX + REAL)
    floating(OP, "c", c, kind)
    pairs = not a.is_complex() and a.dim() == 3
    if a.dim() != (3 if pairs else 2) or (pairs and a.shape[2] != 2):
        raise ValueError(f"{OP}: a has shape {tuple(a.shape)}; it must be (D, N, 2) or (D, N)")
    check_shape(OP, "c", c, a.shape, f"a of shape {tuple(a.shape)}")
    if length < 1:
        raise ValueError(f"{OP}: length is {length}; it must be at least 1")
    if not a.is_complex() and not pairs:
        if log:
            raise ValueError(f"{OP}: with log, a must be complex or (D, N, 2); it is real (D, N)")
        a, c = (torch.stack((x, torch.zeros_like(x)), -1) for x in (a, c))
    elif not pairs:
        a, c = (torch.view_as_real(x.resolve_conj()) for x in (a, c))
    out = torch.promote_types(a.dtype, c.dtype)
    work = accumulation_dtype(out)
    return product(aligned(a.to(work)), aligned(c.to(work)), length, log).to(out)
