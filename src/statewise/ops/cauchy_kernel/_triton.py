"""Triton kernels of the Cauchy product.

Arrays are those of the CPU kernels: ``t`` (2, J), ``poles`` (3, D, N), ``alpha`` and ``beta``
(P, D, N); r and its gradient ``g`` (P, D, J, 2). See terms.py for what is computed. Forward, a
program has a channel and a tile of nodes, and walks the poles; backward it has a pole and walks
the nodes, so that no sum crosses programs. Lanes beyond the last node repeat it.
"""

# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _reciprocals(high, low, poles, at, count):
    """Reciprocals w at some nodes for the pole at offset ``at``, and the pole (a, b)."""
    a = tl.load(poles + at)
    b = tl.load(poles + count + at)
    b_low = tl.load(poles + 2 * count + at)
    near = (high - b) + (low - b_low)
    far = (high + b) + (low + b_low)
    real = a * a - near * far
    imag = -2.0 * a * high
    scale = 1.0 / (real * real + imag * imag)
    return real * scale, -imag * scale, a, b


@triton.jit
def forward(t, poles, alpha, beta, r, P, D, N, J, PB: tl.constexpr, BJ: tl.constexpr):
    """Fill ``r`` for one channel and BJ nodes."""
    tiles = tl.cdiv(J, BJ)
    d = (tl.program_id(0) // tiles).to(tl.int64)
    j = (tl.program_id(0) % tiles) * BJ + tl.arange(0, BJ)
    p = tl.arange(0, PB)
    node = tl.minimum(j, J - 1)
    high = tl.load(t + node)
    low = tl.load(t + J + node)
    ar = tl.zeros([PB, BJ], high.dtype)
    ai = tl.zeros([PB, BJ], high.dtype)
    br = tl.zeros([PB, BJ], high.dtype)
    bi = tl.zeros([PB, BJ], high.dtype)
    for n in range(N):
        wr, wi, _, _ = _reciprocals(high, low, poles, d * N + n, D * N)
        at = (p * D + d) * N + n
        x = tl.load(alpha + at, mask=p < P, other=0.0)[:, None]
        y = tl.load(beta + at, mask=p < P, other=0.0)[:, None]
        ar += x * wr[None, :]
        ai += x * wi[None, :]
        br += y * wr[None, :]
        bi += y * wi[None, :]
    out = r + 2 * ((p[:, None] * D + d) * J + j[None, :])
    mask = (p < P)[:, None] & (j < J)[None, :]
    tl.store(out, -high[None, :] * ai - br, mask=mask)
    tl.store(out + 1, high[None, :] * ar - bi, mask=mask)


@triton.jit
def backward(t, poles, alpha, beta, g, sums, P, D, N, J, PB: tl.constexpr, BJ: tl.constexpr):
    """Fill ``sums`` (2 P + 2, D, N) for one channel and one pole."""
    pole = tl.program_id(0).to(tl.int64)
    d = pole // N
    p = tl.arange(0, PB)
    x = tl.load(alpha + p * D * N + pole, mask=p < P, other=0.0)[:, None]
    y = tl.load(beta + p * D * N + pole, mask=p < P, other=0.0)[:, None]
    dtype = t.dtype.element_ty
    first = tl.zeros([PB, BJ], dtype)
    second = tl.zeros([PB, BJ], dtype)
    real = tl.zeros([BJ], dtype)
    imag = tl.zeros([BJ], dtype)
    a = tl.load(poles + pole)
    b = tl.load(poles + D * N + pole)
    for origin in range(0, J, BJ):
        j = origin + tl.arange(0, BJ)
        node = tl.minimum(j, J - 1)
        high = tl.load(t + node)
        low = tl.load(t + J + node)
        wr, wi, _, _ = _reciprocals(high, low, poles, pole, D * N)
        at = g + 2 * ((p[:, None] * D + d) * J + j[None, :])
        mask = (p < P)[:, None] & (j < J)[None, :]
        gr = tl.load(at, mask=mask, other=0.0)
        gi = tl.load(at + 1, mask=mask, other=0.0)
        ur = high[None, :] * gi
        ui = -high[None, :] * gr
        first += wr[None, :] * ur + wi[None, :] * ui
        second -= wr[None, :] * gr + wi[None, :] * gi
        zr = tl.sum(x * ur - y * gr, 0)
        zi = tl.sum(x * ui - y * gi, 0)
        sr = wr * wr - wi * wi
        si = 2.0 * wr * wi
        real -= sr * zr + si * zi
        imag += high * (si * zr - sr * zi)
    out = sums + p * D * N + pole
    tl.store(out, tl.sum(first, 1), mask=p < P)
    tl.store(out + P * D * N, tl.sum(second, 1), mask=p < P)
    total = tl.sum(real, 0)
    tl.store(sums + 2 * P * D * N + pole, 2.0 * a * total - 2.0 * tl.sum(imag, 0))
    tl.store(sums + (2 * P + 1) * D * N + pole, 2.0 * b * total)
