"""Numba kernels of the linear scan: one pass forward, one pass back.

Arrays are contiguous, real or complex, and read by flat offsets whatever their shape; ``sizes``
is (L, D) and ``strides`` the steps of ``a`` in elements over (batch, time), 0 where ``a`` does
not vary. A call handles the sequences [i0, i1) and the channels [d0, d1), in packs of channels
(:mod:`statewise.ops.simd`). The last pack of a row overlaps the one before it, so that a wide
pack needs no tail; each pack therefore owns its lanes of the state, and overlapping lanes are
computed twice with equal results.

A pass that walks down in time walks down in each row too: processors fetch memory ahead of a
steady walk in either direction, and a mixed one is five times slower.

``stream`` says that outputs are larger than the caches keep and aligned: they are then written past
them.

Few channels leave a processor waiting for one short chain of multiply-adds; ``GROUP`` sequences
advance together then.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import (
    add,
    load,
    madd,
    madd_conj,
    settle,
    store,
    store_streaming,
    width,
    zero,
)

GROUP = 4
GROUP_CHANNELS = 64
FLUSH = 64
"""Steps summed at working precision before they join the double-precision total."""


@kernel
def forward(
    a, b, h0, has_h0, reset, has_reset, h, h_last, sizes, strides, reverse, stream,
    i0, i1, d0, d1, wide,
):  # fmt: skip
    """Fill ``h`` and ``h_last`` for one block; see the module for the arguments."""
    L, D = sizes
    n = d1 - d0
    W = width(b, wide)
    packs = (n + W - 1) // W
    group = GROUP if n <= GROUP_CHANNELS else 1
    state = np.empty(group * packs * W, b.dtype)
    for g0 in range(i0, i1, group):
        g1 = min(g0 + group, i1)
        if has_h0:
            for i in range(g0, g1):
                for j in range(packs):
                    o = i * D + d0 + min(j * W, n - W)
                    store(state, ((i - g0) * packs + j) * W, load(h0, o, wide))
        for k in range(L):
            t = L - 1 - k if reverse else k
            for i in range(g0, g1):
                row = (i * L + t) * D + d0
                row_a = i * strides[0] + t * strides[1] + d0
                s = (i - g0) * packs * W
                fresh = k == 0 and not has_h0
                if has_reset:
                    fresh = fresh or reset[i, t]
                if fresh:
                    for m in range(packs):
                        j = packs - 1 - m if reverse else m
                        o = min(j * W, n - W)
                        x = load(b, row + o, wide)
                        store(state, s + j * W, x)
                        if stream:
                            store_streaming(h, row + o, x)
                        else:
                            store(h, row + o, x)
                else:
                    for m in range(packs):
                        j = packs - 1 - m if reverse else m
                        o = min(j * W, n - W)
                        x = load(b, row + o, wide)
                        x = madd(load(a, row_a + o, wide), load(state, s + j * W, wide), x)
                        store(state, s + j * W, x)
                        if stream:
                            store_streaming(h, row + o, x)
                        else:
                            store(h, row + o, x)
        for i in range(g0, g1):
            for j in range(packs):
                o = i * D + d0 + min(j * W, n - W)
                store(h_last, o, load(state, ((i - g0) * packs + j) * W, wide))
    if stream:
        settle()


@kernel
def backward(
    grad_h, has_grad_h, grad_last, has_grad_last, a, h, h0, has_h0, reset, has_reset,
    da, da_sum, db, dh0, each_a, sum_a, sizes, strides, reverse, stream,
    i0, i1, d0, d1, wide,
):  # fmt: skip
    """The adjoint pass for one block, against the scan's order.

    ``carry`` holds conj(a) g of the step that follows in scan order. ``each_a`` asks for the
    gradient of every a_t in ``da`` (B, L, D), ``sum_a`` for their sum over time in ``da_sum``
    (B, D), which is in double precision.
    """
    L, D = sizes
    n = d1 - d0
    W = width(a, wide)
    packs = (n + W - 1) // W
    group = GROUP if n <= GROUP_CHANNELS else 1
    lanes = packs * W
    carry = np.empty(group * lanes, a.dtype)
    partial = np.empty(group * lanes, a.dtype)
    total = np.empty(group * lanes, da_sum.dtype)
    nil = zero(a, wide)
    back = D if reverse else -D
    for g0 in range(i0, i1, group):
        g1 = min(g0 + group, i1)
        total[:] = 0
        partial[:] = 0
        carry[:] = 0
        if has_grad_last:
            for i in range(g0, g1):
                for j in range(packs):
                    x = load(grad_last, i * D + d0 + min(j * W, n - W), wide)
                    store(carry, (i - g0) * lanes + j * W, x)
        for k in range(L - 1, -1, -1):
            t = L - 1 - k if reverse else k
            for i in range(g0, g1):
                row = (i * L + t) * D + d0
                row_a = i * strides[0] + t * strides[1] + d0
                s = (i - g0) * lanes
                fresh = k == 0 and not has_h0
                if has_reset:
                    fresh = fresh or reset[i, t]
                for m in range(packs):
                    j = m if reverse else packs - 1 - m
                    o = min(j * W, n - W)
                    g = load(carry, s + j * W, wide)
                    if has_grad_h:
                        g = add(g, load(grad_h, row + o, wide))
                    if stream:
                        store_streaming(db, row + o, g)
                    else:
                        store(db, row + o, g)
                    if fresh:
                        store(carry, s + j * W, nil)
                        if each_a:
                            store(da, row + o, nil)
                    else:
                        store(carry, s + j * W, madd_conj(load(a, row_a + o, wide), g, nil))
                        if each_a or sum_a:
                            if k == 0:
                                p = load(h0, i * D + d0 + o, wide)
                            else:
                                p = load(h, row + back + o, wide)
                            if each_a and stream:
                                store_streaming(da, row + o, madd_conj(p, g, nil))
                            elif each_a:
                                store(da, row + o, madd_conj(p, g, nil))
                            else:
                                q = load(partial, s + j * W, wide)
                                store(partial, s + j * W, madd_conj(p, g, q))
            if sum_a and k % FLUSH == 0:
                for m in range((g1 - g0) * lanes):
                    total[m] += partial[m]
                partial[: (g1 - g0) * lanes] = 0
        for i in range(g0, g1):
            for j in range(packs):
                o = min(j * W, n - W)
                s = (i - g0) * lanes + j * W
                if has_h0:
                    store(dh0, i * D + d0 + o, load(carry, s, wide))
                if sum_a:
                    for m in range(W):
                        da_sum[i, d0 + o + m] = total[s + m]
    if stream:
        settle()
