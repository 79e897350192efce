"""Numba kernels of the ParaGRU and ParaLSTM scans: one pass forward, one pass back.

Arrays are contiguous and flat; ``sizes`` is (L, D). A call handles the sequences [i0, i1) and
the channels [d0, d1), in packs of channels (:mod:`statewise.ops.simd`); ``wide`` is their kind.
The last pack of a row overlaps the one before it, each pack owns its lanes of the state, and
overlapping lanes are computed twice with equal results. Packs of one row are independent, which
hides the latency of the exponentials in each.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.newton_scan._packs import slope, tanh
from statewise.ops.simd import add, broadcast, load, madd, mul, store, sub, width, zero
from statewise.ops.simd_math import sigmoid

FLUSH = 64
"""Steps summed at working precision before they join the double-precision total."""


@kernel
def gru_forward(
    pre, a, h0, has_h0, reset, has_reset, h, h_last, sizes, reverse, i0, i1, d0, d1, wide
):  # fmt: skip
    """Fill ``h`` and ``h_last`` for one block; see the module for the arguments."""
    L, D = sizes
    n = d1 - d0
    W = width(a, wide)
    packs = (n + W - 1) // W
    state = np.empty(packs * W, a.dtype)
    for i in range(i0, i1):
        state[:] = 0
        if has_h0:
            for j in range(packs):
                store(state, j * W, load(h0, i * D + d0 + min(j * W, n - W), wide))
        for k in range(L):
            t = L - 1 - k if reverse else k
            row = (i * L + t) * D + d0
            if has_reset and reset[i, t]:
                state[:] = 0
            for j in range(packs):
                o = min(j * W, n - W)
                p = 3 * (row - d0) + d0 + o
                s = load(state, j * W, wide)
                z = sigmoid(madd(load(a, d0 + o, wide), s, load(pre, p, wide)))
                r = sigmoid(madd(load(a, D + d0 + o, wide), s, load(pre, p + D, wide)))
                v = mul(load(a, 2 * D + d0 + o, wide), mul(s, r))
                m = tanh(add(v, load(pre, p + 2 * D, wide)))
                s = madd(z, sub(m, s), s)
                store(state, j * W, s)
                store(h, row + o, s)
        for j in range(packs):
            store(h_last, i * D + d0 + min(j * W, n - W), load(state, j * W, wide))


@kernel
def gru_backward(
    grad_h, has_grad_h, grad_last, has_grad_last, pre, a, h, h0, has_h0, reset, has_reset,
    dpre, da, dh0, sizes, reverse, i0, i1, d0, d1, wide,
):  # fmt: skip
    """The adjoint pass for one block, against the scan's order; ``da`` is (B, 3, D) in double."""
    L, D = sizes
    n = d1 - d0
    W = width(a, wide)
    packs = (n + W - 1) // W
    carry = np.empty(packs * W, a.dtype)
    partial = np.empty(3 * packs * W, a.dtype)
    one, nil = broadcast(a, 1.0, wide), zero(a, wide)
    back = D if reverse else -D
    for i in range(i0, i1):
        carry[:] = 0
        partial[:] = 0
        if has_grad_last:
            for j in range(packs):
                store(carry, j * W, load(grad_last, i * D + d0 + min(j * W, n - W), wide))
        for k in range(L - 1, -1, -1):
            t = L - 1 - k if reverse else k
            row = (i * L + t) * D + d0
            fresh = has_reset and reset[i, t]
            for j in range(packs):
                o = min(j * W, n - W)
                p = 3 * (row - d0) + d0 + o
                g = load(carry, j * W, wide)
                if has_grad_h:
                    g = add(g, load(grad_h, row + o, wide))
                s = nil
                if not fresh:
                    if k > 0:
                        s = load(h, row + back + o, wide)
                    elif has_h0:
                        s = load(h0, i * D + d0 + o, wide)
                az = load(a, d0 + o, wide)
                ar = load(a, D + d0 + o, wide)
                an = load(a, 2 * D + d0 + o, wide)
                z = sigmoid(madd(az, s, load(pre, p, wide)))
                r = sigmoid(madd(ar, s, load(pre, p + D, wide)))
                sr = mul(s, r)
                m = tanh(add(mul(an, sr), load(pre, p + 2 * D, wide)))
                gz = mul(g, z)
                dz = mul(mul(gz, sub(m, s)), sub(one, z))
                dn = mul(gz, sub(one, mul(m, m)))
                dr = mul(mul(dn, an), mul(s, slope(r)))
                store(dpre, p, dz)
                store(dpre, p + D, dr)
                store(dpre, p + 2 * D, dn)
                q = 3 * j * W
                store(partial, q, madd(dz, s, load(partial, q, wide)))
                store(partial, q + W, madd(dr, s, load(partial, q + W, wide)))
                store(partial, q + 2 * W, madd(dn, sr, load(partial, q + 2 * W, wide)))
                if fresh:
                    g = nil
                else:
                    g = madd(dz, az, sub(g, gz))
                    g = madd(dr, ar, madd(mul(dn, an), r, g))
                store(carry, j * W, g)
            if k % FLUSH == 0:
                for j in range(packs):
                    o = min(j * W, n - W)
                    # Lanes that the last pack shares with the one before are counted once.
                    for e in range(j * W - o, W):
                        for gate in range(3):
                            da[i, gate, d0 + o + e] += partial[(3 * j + gate) * W + e]
                partial[:] = 0
        if has_h0:
            for j in range(packs):
                store(dh0, i * D + d0 + min(j * W, n - W), load(carry, j * W, wide))


@kernel
def lstm_forward(
    pre, a, w, c0, h0, has_h0, reset, has_reset, h, c, c_last, h_last, sizes, reverse,
    i0, i1, d0, d1, wide,
):  # fmt: skip
    """Fill ``h``, ``c`` and the last states for one block."""
    L, D = sizes
    n = d1 - d0
    W = width(a, wide)
    packs = (n + W - 1) // W
    state = np.empty(2 * packs * W, a.dtype)
    for i in range(i0, i1):
        state[:] = 0
        if has_h0:
            for j in range(packs):
                at = i * D + d0 + min(j * W, n - W)
                store(state, 2 * j * W, load(c0, at, wide))
                store(state, (2 * j + 1) * W, load(h0, at, wide))
        for k in range(L):
            t = L - 1 - k if reverse else k
            row = (i * L + t) * D + d0
            if has_reset and reset[i, t]:
                state[:] = 0
            for j in range(packs):
                o = min(j * W, n - W)
                p = 3 * (row - d0) + d0 + o
                sc, sh = load(state, 2 * j * W, wide), load(state, (2 * j + 1) * W, wide)
                v = madd(load(w, d0 + o, wide), sc, load(pre, p, wide))
                f = sigmoid(madd(load(a, d0 + o, wide), sh, v))
                g = tanh(madd(load(a, D + d0 + o, wide), sh, load(pre, p + D, wide)))
                sc = madd(f, sub(sc, g), g)
                v = madd(load(w, D + d0 + o, wide), sc, load(pre, p + 2 * D, wide))
                v = sigmoid(madd(load(a, 2 * D + d0 + o, wide), sh, v))
                sh = mul(v, tanh(sc))
                store(state, 2 * j * W, sc)
                store(state, (2 * j + 1) * W, sh)
                store(c, row + o, sc)
                store(h, row + o, sh)
        for j in range(packs):
            at = i * D + d0 + min(j * W, n - W)
            store(c_last, at, load(state, 2 * j * W, wide))
            store(h_last, at, load(state, (2 * j + 1) * W, wide))


@kernel
def lstm_backward(
    grad_h, has_grad_h, grad_c, has_grad_c, last_c, last_h, has_grad_last, pre, a, w, h, c,
    c0, h0, has_h0, reset, has_reset, dpre, da, dc0, dh0, sizes, reverse, i0, i1, d0, d1, wide,
):  # fmt: skip
    """The adjoint pass; ``da`` is (B, 5, D) in double: rows f, g, o of a, then f, o of w."""
    L, D = sizes
    n = d1 - d0
    W = width(a, wide)
    packs = (n + W - 1) // W
    carry = np.empty(2 * packs * W, a.dtype)
    partial = np.empty(5 * packs * W, a.dtype)
    one, nil = broadcast(a, 1.0, wide), zero(a, wide)
    back = D if reverse else -D
    for i in range(i0, i1):
        carry[:] = 0
        partial[:] = 0
        if has_grad_last:
            for j in range(packs):
                at = i * D + d0 + min(j * W, n - W)
                store(carry, 2 * j * W, load(last_c, at, wide))
                store(carry, (2 * j + 1) * W, load(last_h, at, wide))
        for k in range(L - 1, -1, -1):
            t = L - 1 - k if reverse else k
            row = (i * L + t) * D + d0
            fresh = has_reset and reset[i, t]
            for j in range(packs):
                o = min(j * W, n - W)
                p = 3 * (row - d0) + d0 + o
                gc, gh = load(carry, 2 * j * W, wide), load(carry, (2 * j + 1) * W, wide)
                if has_grad_h:
                    gh = add(gh, load(grad_h, row + o, wide))
                if has_grad_c:
                    gc = add(gc, load(grad_c, row + o, wide))
                sc = nil
                sh = nil
                if not fresh:
                    if k > 0:
                        sc, sh = load(c, row + back + o, wide), load(h, row + back + o, wide)
                    elif has_h0:
                        at = i * D + d0 + o
                        sc, sh = load(c0, at, wide), load(h0, at, wide)
                af, wf = load(a, d0 + o, wide), load(w, d0 + o, wide)
                ag = load(a, D + d0 + o, wide)
                ao, wo = load(a, 2 * D + d0 + o, wide), load(w, D + d0 + o, wide)
                f = sigmoid(madd(af, sh, madd(wf, sc, load(pre, p, wide))))
                g = tanh(madd(ag, sh, load(pre, p + D, wide)))
                new = madd(f, sub(sc, g), g)
                u = sigmoid(madd(ao, sh, madd(wo, new, load(pre, p + 2 * D, wide))))
                y = tanh(new)
                do = mul(mul(gh, y), slope(u))
                dnew = madd(mul(gh, u), sub(one, mul(y, y)), madd(do, wo, gc))
                df = mul(mul(dnew, sub(sc, g)), slope(f))
                dg = mul(mul(dnew, sub(one, f)), sub(one, mul(g, g)))
                store(dpre, p, df)
                store(dpre, p + D, dg)
                store(dpre, p + 2 * D, do)
                q = 5 * j * W
                store(partial, q, madd(df, sh, load(partial, q, wide)))
                store(partial, q + W, madd(dg, sh, load(partial, q + W, wide)))
                store(partial, q + 2 * W, madd(do, sh, load(partial, q + 2 * W, wide)))
                store(partial, q + 3 * W, madd(df, sc, load(partial, q + 3 * W, wide)))
                store(partial, q + 4 * W, madd(do, new, load(partial, q + 4 * W, wide)))
                if fresh:
                    gc = nil
                    gh = nil
                else:
                    gc = madd(df, wf, mul(dnew, f))
                    gh = madd(df, af, madd(dg, ag, mul(do, ao)))
                store(carry, 2 * j * W, gc)
                store(carry, (2 * j + 1) * W, gh)
            if k % FLUSH == 0:
                for j in range(packs):
                    o = min(j * W, n - W)
                    # Lanes that the last pack shares with the one before are counted once.
                    for e in range(j * W - o, W):
                        for gate in range(5):
                            da[i, gate, d0 + o + e] += partial[(5 * j + gate) * W + e]
                partial[:] = 0
        if has_h0:
            for j in range(packs):
                at = i * D + d0 + min(j * W, n - W)
                store(dc0, at, load(carry, 2 * j * W, wide))
                store(dh0, at, load(carry, (2 * j + 1) * W, wide))
