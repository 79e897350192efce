"""``cauchy_product``: the public door, where arguments are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import check_shape, floating, require_tensors
from statewise.ops.cauchy_kernel._library import product

WIDE = (torch.float32, torch.float64)


def cauchy_product(v: Tensor, poles: Tensor, frequencies: Tensor) -> Tensor:
    """Sums of conjugate pairs of poles on the imaginary axis.

    r_{p,d,j} = Σ_n v_{p,d,n} / (i t_j − λ_{d,n}) + conj(v_{p,d,n}) / (i t_j − conj λ_{d,n}), for
    several numerators over the same poles at once: each reciprocal is computed once for all of
    them, and (D, N, J) numbers are never stored.

    Poles and frequencies are best given in double precision, also with v in float32: what counts
    is the difference t − Im λ, and a pole close to the axis leaves few of float32's digits in it.
    Differentiable once with respect to v and the poles.

    Args:
        v: numerators, (P, D, N, 2), pairs (re, im) in float32 or float64.
        poles: λ, one of each conjugate pair, (D, N, 2), in float32 or float64.
        frequencies: t, (J,), in float32 or float64; constants. With v in float32, |t|, |λ| and
            the distance of poles and nodes should lie within 1e-9 … 1e9.

    Returns:
        r, (P, D, J, 2), in the type of v.

    Raises:
        ValueError: a shape that does not fit, or frequencies that require a gradient.
        TypeError: something that is not a tensor of these types.

    Source: the Cauchy kernel of S4, arXiv 2111.00396, section 3.3.

    Example:
        >>> import torch
        >>> v, poles = torch.tensor([[[[0.5, 0.0]]]]), torch.tensor([[[-1.0, 0.0]]])
        >>> cauchy_product(v, poles, torch.tensor([0.0, 1.0])).tolist()
        [[[[1.0, 0.0], [0.5, -0.5]]]]
    """
    op = "cauchy_product"
    require_tensors(op, v=v, poles=poles, frequencies=frequencies)
    for label, x in (("v", v), ("poles", poles), ("frequencies", frequencies)):
        floating(op, label, x, WIDE)
    if v.dim() != 4 or v.shape[3] != 2:
        raise ValueError(f"{op}: v has shape {tuple(v.shape)}; it must be (P, D, N, 2)")
    check_shape(op, "poles", poles, v.shape[1:], f"v of shape {tuple(v.shape)}")
    if frequencies.dim() != 1:
        raise ValueError(f"{op}: frequencies has shape {tuple(frequencies.shape)}; it must be (J,)")
    if frequencies.requires_grad:
        raise ValueError(
            f"{op}: frequencies requires a gradient, and is a constant here; scale the poles"
        )
    return product(v, poles, frequencies)
