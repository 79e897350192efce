"""The convolution kernel of a system whose matrix is diagonal plus low rank."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import check_shape, floating, require_tensors
from statewise.ops.cauchy_kernel._library import product
from statewise.ops.cauchy_kernel.op import WIDE


def cauchy_kernel(
    poles: Tensor, p: Tensor, b: Tensor, c: Tensor, dt: Tensor, length: int
) -> Tensor:
    """Kernel K_l = C Ā^l B̄, l < L, of x' = (Λ − P P*) x + B u, y = C x, by the bilinear rule.

    The N states given are one of each conjugate pair of a real system of 2N. ``c`` is not C but
    C̃ = C (I − Ā^L), the parameter that S4 trains: with it the truncated generating function
    K̂(ω) = Σ_{l<L} K_l ω^l is rational, and at the roots of unity it takes a few Cauchy products
    and a solve of the rank's size (Woodbury). A kernel made with another L needs another C̃.

    Types: results have the common type of ``p``, ``b`` and ``c``; poles times steps is formed in
    double precision. Differentiable once with respect to all tensors.

    Args:
        poles: Λ, (D, N, 2), pairs (re, im), Re Λ < 0.
        p: the low-rank factor, (D, N, 2), or (R, D, N, 2) of rank R.
        b: input vector, (D, N, 2).
        c: C̃, (D, N, 2).
        dt: step size Δ of each channel, (D,).
        length: L, at least 1.

    Returns:
        K, (D, L), real.

    Raises:
        ValueError: a shape that does not fit, or a length below 1.
        TypeError: something that is not a tensor in float32 or float64.

    Source: S4, arXiv 2111.00396, Algorithm 1; P P* in place of P Q* after arXiv 2202.09729.
    """
    op = "cauchy_kernel"
    require_tensors(op, poles=poles, p=p, b=b, c=c, dt=dt)
    for label, x in (("poles", poles), ("p", p), ("b", b), ("c", c), ("dt", dt)):
        floating(op, label, x, WIDE)
    if poles.dim() != 3 or poles.shape[2] != 2:
        raise ValueError(f"{op}: poles has shape {tuple(poles.shape)}; it must be (D, N, 2)")
    because = f"poles of shape {tuple(poles.shape)}"
    low = p if p.dim() == 4 else p[None]
    check_shape(op, "p", p, (*low.shape[:-3], *poles.shape)[-p.dim() :], because)
    check_shape(op, "b", b, poles.shape, because)
    check_shape(op, "c", c, poles.shape, because)
    check_shape(op, "dt", dt, poles.shape[:1], because)
    if length < 1:
        raise ValueError(f"{op}: length is {length}; it must be at least 1")
    dtype = torch.promote_types(torch.promote_types(p.dtype, b.dtype), c.dtype)
    step = dt[:, None, None].to(dtype)
    left = torch.cat([c.to(dtype)[None], _conj(low.to(dtype))])
    right = step * torch.cat([b.to(dtype)[None], low.to(dtype)])
    values = _multiply(left[:, None], right[None])
    size, (channels, states) = left.shape[0], poles.shape[:2]
    # ω = e^{−2πij/L}: 2 (1 − ω) / (1 + ω) = 2 i tan(πj/L) and 2 / (1 + ω) = 1 + i tan(πj/L).
    nodes = (length + 1) // 2
    tangent = torch.tan(
        torch.arange(nodes, dtype=torch.float64, device=poles.device) * (torch.pi / length)
    )
    sums = product(
        values.reshape(size * size, channels, states, 2),
        poles.double() * dt.double()[:, None, None],
        2 * tangent,
    )
    spectrum = _woodbury(torch.view_as_complex(sums).unflatten(0, (size, size)))
    spectrum = spectrum * torch.complex(torch.ones_like(tangent), tangent).to(spectrum.dtype)
    if length % 2 == 0:
        # At ω = −1 the nodes go to infinity, and the sum to its limit Δ/2 · C̃ B of all 2N states.
        limit = values[0, 0, ..., 0].sum(-1, keepdim=True)
        spectrum = torch.cat([spectrum, torch.complex(limit, torch.zeros_like(limit))], 1)
    return torch.fft.irfft(spectrum, n=length)


def _conj(x: Tensor) -> Tensor:
    return torch.stack([x[..., 0], -x[..., 1]], -1)


def _multiply(x: Tensor, y: Tensor) -> Tensor:
    """Product of pairs (re, im)."""
    real = x[..., 0] * y[..., 0] - x[..., 1] * y[..., 1]
    imag = x[..., 0] * y[..., 1] + x[..., 1] * y[..., 0]
    return torch.stack([real, imag], -1)


def _woodbury(k: Tensor) -> Tensor:
    """k_00 − k_0P (I + k_PP)^{-1} k_P0 for k (1 + R, 1 + R, D, J)."""
    if k.shape[0] == 2:
        return k[0, 0] - k[0, 1] * k[1, 0] / (1 + k[1, 1])
    inner = k[1:, 1:].permute(2, 3, 0, 1)
    inner = inner + torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    solved = torch.linalg.solve(inner, k[1:, 0].permute(1, 2, 0)[..., None])
    return k[0, 0] - (k[0, 1:].permute(1, 2, 0)[..., None, :] @ solved)[..., 0, 0]
