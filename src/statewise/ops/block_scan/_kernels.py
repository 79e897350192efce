"""Numba kernels of the block scan: one pass forward, one pass back.

Arrays are contiguous and flat; ``sizes`` is (L, D, k) and ``strides`` the steps of ``A`` in
elements over (batch, time), 0 where ``A`` does not vary. A call handles the sequences [i0, i1)
and the channels [d0, d1).

``packed_*`` serve k = 2, 3 and 4 in groups of packs (:mod:`._packs`) of G lanes; the last group
of a row overlaps the one before it, each group owns its lanes of the state, and overlapping
lanes are computed twice with equal results. ``dense_*`` serve every other size: a row of A times
the state is summed over the lanes of a pack, and Aᵀ g is a sum of rows.

A pass that walks down in time walks down in each row too: processors fetch memory ahead of a
steady walk in either direction, and a mixed one is several times slower.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.block_scan._packs import (
    clear,
    copy,
    matvec_add,
    matvec_transposed,
    outer,
    plus,
)
from statewise.ops.jit import kernel
from statewise.ops.simd import broadcast, load, madd, mul, store, width, zero

FLUSH = 64
"""Steps summed at working precision before they join the double-precision total."""


@kernel
def packed_forward(
    A, b, h0, has_h0, reset, has_reset, h, h_last, sizes, strides, reverse, i0, i1, d0, d1,
    G, size,
):  # fmt: skip
    """Fill ``h`` and ``h_last`` for one block; see the module for the arguments."""
    L, D, k = sizes
    n = (d1 - d0) * k
    groups = (n + G - 1) // G
    state = np.empty(groups * G, b.dtype)
    for i in range(i0, i1):
        base = (i * D + d0) * k
        if has_h0:
            for j in range(groups):
                copy(h0, base + min(j * G, n - G), state, j * G, size)
        for step in range(L):
            t = L - 1 - step if reverse else step
            row = ((i * L + t) * D + d0) * k
            row_A = i * strides[0] + t * strides[1] + d0 * k * k
            fresh = step == 0 and not has_h0
            if has_reset:
                fresh = fresh or reset[i, t]
            for m in range(groups):
                j = groups - 1 - m if reverse else m
                o = min(j * G, n - G)
                if fresh:
                    copy(b, row + o, h, row + o, size)
                else:
                    matvec_add(A, row_A + o * k, state, j * G, b, row + o, h, row + o, size)
                copy(h, row + o, state, j * G, size)
        for j in range(groups):
            copy(state, j * G, h_last, base + min(j * G, n - G), size)


@kernel
def packed_backward(
    grad_h, has_grad_h, grad_last, has_grad_last, A, h, h0, has_h0, reset, has_reset,
    dA, dA_sum, db, dh0, each_A, sum_A, sizes, strides, reverse, i0, i1, d0, d1, G, size,
):  # fmt: skip
    """The adjoint pass for one block, against the scan's order.

    ``carry`` holds Aᵀ g of the step that follows in scan order. ``each_A`` asks for the gradient
    of every A_t in ``dA`` (B, L, D, k, k), ``sum_A`` for their sum over time in ``dA_sum``
    (B, D, k, k), which is in double precision.
    """
    L, D, k = sizes
    n = (d1 - d0) * k
    groups = (n + G - 1) // G
    carry = np.empty(groups * G, h.dtype)
    partial = np.empty(groups * G * k, h.dtype)
    back = D * k if reverse else -D * k
    for i in range(i0, i1):
        base = (i * D + d0) * k
        partial[:] = 0
        carry[:] = 0
        if has_grad_last:
            for j in range(groups):
                copy(grad_last, base + min(j * G, n - G), carry, j * G, size)
        for step in range(L - 1, -1, -1):
            t = L - 1 - step if reverse else step
            row = ((i * L + t) * D + d0) * k
            row_A = i * strides[0] + t * strides[1] + d0 * k * k
            fresh = step == 0 and not has_h0
            if has_reset:
                fresh = fresh or reset[i, t]
            for m in range(groups):
                j = m if reverse else groups - 1 - m
                o = min(j * G, n - G)
                if has_grad_h:
                    plus(carry, j * G, grad_h, row + o, db, row + o, size)
                else:
                    copy(carry, j * G, db, row + o, size)
                if fresh:
                    clear(carry, j * G, None, size)
                    if each_A:
                        clear(dA, (row + o) * k, True, size)
                    continue
                matvec_transposed(A, row_A + o * k, db, row + o, carry, j * G, size)
                if each_A and step == 0:
                    outer(db, row + o, h0, base + o, dA, (row + o) * k, None, size)
                elif each_A:
                    outer(db, row + o, h, row + back + o, dA, (row + o) * k, None, size)
                elif sum_A and step == 0:
                    outer(db, row + o, h0, base + o, partial, j * G * k, True, size)
                elif sum_A:
                    outer(db, row + o, h, row + back + o, partial, j * G * k, True, size)
            if sum_A and step % FLUSH == 0:
                for j in range(groups):
                    o = min(j * G, n - G)
                    # Lanes that the last group shares with the one before are counted once.
                    for m in range((j * G - o) * k, G * k):
                        dA_sum[(base + o) * k + m] += partial[j * G * k + m]
                partial[:] = 0
        if has_h0:
            for j in range(groups):
                copy(carry, j * G, dh0, base + min(j * G, n - G), size)


@kernel
def dense_forward(
    A, b, h0, has_h0, reset, has_reset, h, h_last, sizes, strides, reverse, i0, i1, d0, d1
):  # fmt: skip
    """As :func:`packed_forward`, for any k."""
    L, D, k = sizes
    W = width(b, True)
    wide = k // W * W
    n = (d1 - d0) * k
    state = np.zeros(n, b.dtype)
    lanes = np.empty(W, b.dtype)
    for i in range(i0, i1):
        base = (i * D + d0) * k
        if has_h0:
            for m in range(n):
                state[m] = h0[base + m]
        for step in range(L):
            t = L - 1 - step if reverse else step
            row = ((i * L + t) * D + d0) * k
            row_A = i * strides[0] + t * strides[1] + d0 * k * k
            fresh = step == 0 and not has_h0
            if has_reset:
                fresh = fresh or reset[i, t]
            for d in range(d1 - d0):
                for r in range(k):
                    x = b[row + d * k + r]
                    if not fresh:
                        o = row_A + (d * k + r) * k
                        if wide:
                            total = zero(b, True)
                            for c in range(0, wide, W):
                                s = load(state, d * k + c, True)
                                total = madd(load(A, o + c, True), s, total)
                            store(lanes, 0, total)
                            for c in range(W):
                                x += lanes[c]
                        for c in range(wide, k):
                            x += A[o + c] * state[d * k + c]
                    h[row + d * k + r] = x
            for m in range(n):
                state[m] = h[row + m]
        for m in range(n):
            h_last[base + m] = state[m]


@kernel
def dense_backward(
    grad_h, has_grad_h, grad_last, has_grad_last, A, h, h0, has_h0, reset, has_reset,
    dA, dA_sum, db, dh0, each_A, sum_A, sizes, strides, reverse, i0, i1, d0, d1,
):  # fmt: skip
    """As :func:`packed_backward`, for any k."""
    L, D, k = sizes
    W = width(h, True)
    wide = k // W * W
    n = (d1 - d0) * k
    carry = np.empty(n, h.dtype)
    before = np.empty(n, h.dtype)
    partial = np.zeros(n * k if sum_A else 0, h.dtype)
    back = D * k if reverse else -D * k
    for i in range(i0, i1):
        base = (i * D + d0) * k
        for m in range(n):
            carry[m] = grad_last[base + m] if has_grad_last else 0
        for step in range(L - 1, -1, -1):
            t = L - 1 - step if reverse else step
            row = ((i * L + t) * D + d0) * k
            row_A = i * strides[0] + t * strides[1] + d0 * k * k
            fresh = step == 0 and not has_h0
            if has_reset:
                fresh = fresh or reset[i, t]
            for m in range(n):
                db[row + m] = carry[m] + grad_h[row + m] if has_grad_h else carry[m]
                carry[m] = 0
            if fresh and each_A:
                dA[row * k : (row + n) * k] = 0
            if not fresh:
                for m in range(n):
                    before[m] = h0[base + m] if step == 0 else h[row + back + m]
                for m in range(n):
                    r = m if reverse else n - 1 - m
                    o = r // k * k
                    x = db[row + r]
                    g = broadcast(h, x, True)
                    for m_c in range(0, wide, W):
                        c = m_c if reverse else wide - W - m_c
                        y = load(A, row_A + r * k + c, True)
                        store(carry, o + c, madd(y, g, load(carry, o + c, True)))
                    for c in range(wide, k):
                        carry[o + c] += A[row_A + r * k + c] * x
                    if each_A:
                        for c in range(0, wide, W):
                            store(dA, (row + r) * k + c, mul(load(before, o + c, True), g))
                        for c in range(wide, k):
                            dA[(row + r) * k + c] = x * before[o + c]
                    elif sum_A:
                        for c in range(0, wide, W):
                            y = madd(load(before, o + c, True), g, load(partial, r * k + c, True))
                            store(partial, r * k + c, y)
                        for c in range(wide, k):
                            partial[r * k + c] += x * before[o + c]
            if sum_A and step % FLUSH == 0:
                for m in range(n * k):
                    dA_sum[base * k + m] += partial[m]
                partial[:] = 0
        if has_h0:
            for m in range(n):
                dh0[base + m] = carry[m]
