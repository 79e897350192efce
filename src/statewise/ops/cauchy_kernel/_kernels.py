"""Numba kernels of the Cauchy product: packs of nodes, a tile of nodes at a time.

``t`` is (2, J): each node as a sum of two numbers; J is a multiple of TILE. ``poles`` is
(3, D, N): a, and b as a sum of two. ``alpha`` and ``beta`` are (P, D, N). See terms.py for what
is computed. The reciprocals w of a tile stay in cache while all P products use them.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import add, broadcast, div, load, madd, mul, store, sub, width, zero

TILE = 64
FLUSH = 32
"""Tiles summed at working precision before they join the double-precision total."""


@kernel
def reciprocals(t, a, b, b_low, origin, w):
    """The reciprocals w of the tile from ``origin``: real parts, then imaginary parts."""
    W = width(t, True)
    J = t.shape[1]
    one, two = broadcast(t, 1.0, True), broadcast(t, -2.0 * a, True)
    square = broadcast(t, a * a, True)
    high, low = broadcast(t, b, True), broadcast(t, b_low, True)
    for o in range(0, TILE, W):
        x, y = load(t, origin + o, True), load(t, J + origin + o, True)
        near = add(sub(x, high), sub(y, low))
        far = add(add(x, high), add(y, low))
        real, imag = sub(square, mul(near, far)), mul(two, x)
        scale = div(one, madd(real, real, mul(imag, imag)))
        store(w, o, mul(real, scale))
        store(w, TILE + o, sub(zero(t, True), mul(imag, scale)))


@kernel
def forward(t, poles, alpha, beta, r, tiles, d0, d1):
    """Fill ``r`` (P, D, J, 2) for the channels [d0, d1); ``r`` may have fewer nodes than ``t``."""
    W = width(t, True)
    P, _, N = alpha.shape
    J = r.shape[2]
    w = np.empty((N, 2 * TILE), t.dtype)
    sums = np.empty(2 * TILE, t.dtype)
    for d in range(d0, d1):
        for tile in range(tiles):
            origin = tile * TILE
            for n in range(N):
                reciprocals(t, poles[0, d, n], poles[1, d, n], poles[2, d, n], origin, w[n])
            for p in range(P):
                for o in range(0, TILE, W):
                    ar, ai, br, bi = zero(t, True), zero(t, True), zero(t, True), zero(t, True)
                    for n in range(N):
                        x = broadcast(t, alpha[p, d, n], True)
                        y = broadcast(t, beta[p, d, n], True)
                        wr = load(w, n * 2 * TILE + o, True)
                        wi = load(w, n * 2 * TILE + TILE + o, True)
                        ar, ai = madd(x, wr, ar), madd(x, wi, ai)
                        br, bi = madd(y, wr, br), madd(y, wi, bi)
                    node = load(t, origin + o, True)
                    store(sums, o, sub(zero(t, True), madd(node, ai, br)))
                    store(sums, TILE + o, sub(mul(node, ar), bi))
                for j in range(min(TILE, J - origin)):
                    r[p, d, origin + j, 0] = sums[j]
                    r[p, d, origin + j, 1] = sums[TILE + j]


@kernel
def backward(t, poles, alpha, beta, g, sums, tiles, d0, d1):
    """Fill ``sums`` (2 P + 2, D, N) for the channels [d0, d1) from ``g`` (P, D, J, 2)."""
    W = width(t, True)
    P, _, N = alpha.shape
    J = g.shape[2]
    count = 2 * P + 2
    w = np.empty(2 * TILE, t.dtype)
    grads = np.zeros(P * 4 * TILE, t.dtype)
    into = np.empty(2 * TILE, t.dtype)
    partial = np.empty(N * count * W, t.dtype)
    nil = zero(t, True)
    for d in range(d0, d1):
        partial[:] = 0
        sums[:, d] = 0
        for tile in range(tiles):
            origin = tile * TILE
            for p in range(P):
                o = p * 4 * TILE
                for j in range(TILE):
                    inside = origin + j < J
                    x = g[p, d, origin + j, 0] if inside else 0
                    y = g[p, d, origin + j, 1] if inside else 0
                    node = t[0, origin + j]
                    grads[o + j] = node * y
                    grads[o + TILE + j] = -node * x
                    grads[o + 2 * TILE + j] = -x
                    grads[o + 3 * TILE + j] = -y
            for n in range(N):
                reciprocals(t, poles[0, d, n], poles[1, d, n], poles[2, d, n], origin, w)
                into[:] = 0
                row = n * count * W
                for p in range(P):
                    x, y = broadcast(t, alpha[p, d, n], True), broadcast(t, beta[p, d, n], True)
                    first, second = load(partial, row, True), load(partial, row + W, True)
                    for o in range(0, TILE, W):
                        wr, wi = load(w, o, True), load(w, TILE + o, True)
                        k = p * 4 * TILE + o
                        ar, ai = load(grads, k, True), load(grads, k + TILE, True)
                        br, bi = load(grads, k + 2 * TILE, True), load(grads, k + 3 * TILE, True)
                        first = madd(wr, ar, madd(wi, ai, first))
                        second = madd(wr, br, madd(wi, bi, second))
                        store(into, o, madd(x, ar, madd(y, br, load(into, o, True))))
                        k = TILE + o
                        store(into, k, madd(x, ai, madd(y, bi, load(into, k, True))))
                    store(partial, row, first)
                    store(partial, row + W, second)
                    row += 2 * W
                real, imag = load(partial, row, True), load(partial, row + W, True)
                for o in range(0, TILE, W):
                    wr, wi = load(w, o, True), load(w, TILE + o, True)
                    gr, gi = load(into, o, True), load(into, TILE + o, True)
                    sr, si = sub(mul(wr, wr), mul(wi, wi)), mul(wr, add(wi, wi))
                    real = sub(real, madd(sr, gr, mul(si, gi)))
                    imag = madd(load(t, origin + o, True), sub(mul(si, gr), mul(sr, gi)), imag)
                store(partial, row, real)
                store(partial, row + W, imag)
            if tile % FLUSH == FLUSH - 1 or tile == tiles - 1:
                for n in range(N):
                    for p in range(P):
                        o = (n * count + 2 * p) * W
                        for k in range(W):
                            sums[p, d, n] += partial[o + k]
                            sums[P + p, d, n] += partial[o + W + k]
                    o = (n * count + 2 * P) * W
                    a, b = 2 * poles[0, d, n], 2 * poles[1, d, n]
                    for k in range(W):
                        sums[2 * P, d, n] += a * partial[o + k] - 2 * partial[o + W + k]
                        sums[2 * P + 1, d, n] += b * partial[o + k]
                for o in range(0, N * count * W, W):
                    store(partial, o, nil)
