"""Numba kernels of the two-dimensional scan: one pass forward, one pass back.

Arrays are contiguous and read by flat offsets. ``strides`` (4, 3) are the steps of a1 … a4 in
elements over (batch, time, variate), 0 where a coefficient does not vary. A call handles the
sequences [i0, i1) and the channels [d0, d1) in packs of channels (:mod:`statewise.ops.simd`); the
last pack of a row overlaps the one before it, and both compute the same.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import add, load, madd, mul, store, width, zero

FLUSH = 64
"""Steps summed at working precision before they join the double-precision total."""


@kernel
def forward(
    a1, a2, a3, a4, strides, b1, b2, h0, has_h0, reset, has_reset, p, q, last, sizes, reverse,
    i0, i1, d0, d1, wide,
):  # fmt: skip
    """Fill ``p``, ``q`` and ``last`` for one block; see the module for the arguments."""
    L, V, D = sizes
    n = d1 - d0
    lanes = width(b1, wide)
    packs = (n + lanes - 1) // lanes
    back = V * D if reverse else -V * D
    for i in range(i0, i1):
        for k in range(L):
            t = L - 1 - k if reverse else k
            fresh = k == 0 and not has_h0
            if has_reset:
                fresh = fresh or reset[i, t]
            for v in range(V):
                row = ((i * L + t) * V + v) * D + d0
                start = (i * 2 * V + v) * D + d0
                c1 = i * strides[0, 0] + t * strides[0, 1] + v * strides[0, 2] + d0
                c2 = i * strides[1, 0] + t * strides[1, 1] + v * strides[1, 2] + d0
                c3 = i * strides[2, 0] + t * strides[2, 1] + v * strides[2, 2] + d0
                c4 = i * strides[3, 0] + t * strides[3, 1] + v * strides[3, 2] + d0
                for m in range(packs):
                    o = min(m * lanes, n - lanes)
                    x = load(b1, row + o, wide)
                    if not fresh:
                        if k == 0:
                            p0 = load(h0, start + o, wide)
                            q0 = load(h0, start + V * D + o, wide)
                        else:
                            p0 = load(p, row + back + o, wide)
                            q0 = load(q, row + back + o, wide)
                        x = add(
                            madd(load(a1, c1 + o, wide), p0, mul(load(a2, c2 + o, wide), q0)), x
                        )
                    store(p, row + o, x)
                    y = load(b2, row + o, wide)
                    if v > 0:
                        left = madd(
                            load(a3, c3 + o, wide),
                            load(p, row - D + o, wide),
                            mul(load(a4, c4 + o, wide), load(q, row - D + o, wide)),
                        )
                        y = add(left, y)
                    store(q, row + o, y)
                    if k == L - 1:
                        store(last, start + o, x)
                        store(last, start + V * D + o, y)


@kernel
def backward(
    grad_p, has_p, grad_q, has_q, grad_last, has_last, a1, a2, a3, a4, strides, p, q, h0, has_h0,
    reset, has_reset, da1, da2, da3, da4, each, f, g, dh0, sizes, reverse, i0, i1, d0, d1, wide,
):  # fmt: skip
    """The adjoint pass for one block, against time and from the last variate.

    ``f`` and ``g`` (B, L, V, D) become the gradients of b1 and b2. Each of da1 … da4 is
    (B, L, V, D) where ``each`` says so, else the sum over time (B, V, D); all in the type of p.
    """
    L, V, D = sizes
    n = d1 - d0
    lanes = width(p, wide)
    packs = (n + lanes - 1) // lanes
    span = packs * lanes
    back = V * D if reverse else -V * D
    carry = np.empty(2 * V * span, p.dtype)
    share = np.empty(4 * V * span, p.dtype)
    total = np.empty(4 * V * span, np.float64)
    for i in range(i0, i1):
        carry[:] = 0
        share[:] = 0
        total[:] = 0
        if has_last:
            for v in range(V):
                for m in range(packs):
                    o = (i * 2 * V + v) * D + d0 + min(m * lanes, n - lanes)
                    c = v * span + m * lanes
                    store(carry, c, load(grad_last, o, wide))
                    store(carry, V * span + c, load(grad_last, o + V * D, wide))
        for k in range(L - 1, -1, -1):
            t = L - 1 - k if reverse else k
            fresh = k == 0 and not has_h0
            if has_reset:
                fresh = fresh or reset[i, t]
            for v in range(V - 1, -1, -1):
                row = ((i * L + t) * V + v) * D + d0
                start = (i * 2 * V + v) * D + d0
                c1 = i * strides[0, 0] + t * strides[0, 1] + v * strides[0, 2] + d0
                c2 = i * strides[1, 0] + t * strides[1, 1] + v * strides[1, 2] + d0
                # What variate v + 1 sends back, with its own coefficients.
                c3 = i * strides[2, 0] + t * strides[2, 1] + (v + 1) * strides[2, 2] + d0
                c4 = i * strides[3, 0] + t * strides[3, 1] + (v + 1) * strides[3, 2] + d0
                for m in range(packs):
                    o = min(m * lanes, n - lanes)
                    c = v * span + m * lanes
                    ft = load(carry, c, wide)
                    gt = load(carry, V * span + c, wide)
                    if has_p:
                        ft = add(ft, load(grad_p, row + o, wide))
                    if has_q:
                        gt = add(gt, load(grad_q, row + o, wide))
                    if v + 1 < V:
                        right = load(g, row + D + o, wide)
                        ft = madd(load(a3, c3 + o, wide), right, ft)
                        gt = madd(load(a4, c4 + o, wide), right, gt)
                    store(f, row + o, ft)
                    store(g, row + o, gt)
                    d1_ = zero(p, wide)
                    d2_ = d1_
                    d3_ = d1_
                    d4_ = d1_
                    if fresh:
                        store(carry, c, d1_)
                        store(carry, V * span + c, d1_)
                    else:
                        if k == 0:
                            p0 = load(h0, start + o, wide)
                            q0 = load(h0, start + V * D + o, wide)
                        else:
                            p0 = load(p, row + back + o, wide)
                            q0 = load(q, row + back + o, wide)
                        d1_ = mul(ft, p0)
                        d2_ = mul(ft, q0)
                        store(carry, c, mul(load(a1, c1 + o, wide), ft))
                        store(carry, V * span + c, mul(load(a2, c2 + o, wide), ft))
                    if v > 0:
                        d3_ = mul(gt, load(p, row - D + o, wide))
                        d4_ = mul(gt, load(q, row - D + o, wide))
                    if each[0]:
                        store(da1, row + o, d1_)
                    else:
                        store(share, c, add(d1_, load(share, c, wide)))
                    c += V * span
                    if each[1]:
                        store(da2, row + o, d2_)
                    else:
                        store(share, c, add(d2_, load(share, c, wide)))
                    c += V * span
                    if each[2]:
                        store(da3, row + o, d3_)
                    else:
                        store(share, c, add(d3_, load(share, c, wide)))
                    c += V * span
                    if each[3]:
                        store(da4, row + o, d4_)
                    else:
                        store(share, c, add(d4_, load(share, c, wide)))
            if k % FLUSH == 0:
                for m in range(4 * V * span):
                    total[m] += share[m]
                share[:] = 0
        for v in range(V):
            for m in range(packs):
                o = min(m * lanes, n - lanes)
                c = v * span + m * lanes
                if has_h0:
                    start = (i * 2 * V + v) * D + d0 + o
                    store(dh0, start, load(carry, c, wide))
                    store(dh0, start + V * D, load(carry, V * span + c, wide))
                row = (i * V + v) * D + d0 + o
                for lane in range(lanes):
                    if not each[0]:
                        da1[row + lane] = total[c + lane]
                    if not each[1]:
                        da2[row + lane] = total[V * span + c + lane]
                    if not each[2]:
                        da3[row + lane] = total[2 * V * span + c + lane]
                    if not each[3]:
                        da4[row + lane] = total[3 * V * span + c + lane]
