"""The numba kernel of the linear map of a few rows.

Nothing is prefetched by hand: the machine sees streams this plain by itself, and asking for every
cache line once more costs a tenth of the rate at which it reads. No function is called for each
row either, because that counts references to every array.
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.simd import WIDER, add, load, madd, total, width, zero


@kernel
def _dot(x, at, weight, row, inner):
    """The product of a row of the matrix and one of x, both by offset."""
    W = width(x, WIDER)
    quads, packs = inner // (4 * W) * (4 * W), inner // W * W
    a, b, c, d = zero(x, WIDER), zero(x, WIDER), zero(x, WIDER), zero(x, WIDER)
    for j in range(0, quads, 4 * W):
        o, v = row + j, at + j
        a = madd(load(weight, o, WIDER), load(x, v, WIDER), a)
        b = madd(load(weight, o + W, WIDER), load(x, v + W, WIDER), b)
        c = madd(load(weight, o + 2 * W, WIDER), load(x, v + 2 * W, WIDER), c)
        d = madd(load(weight, o + 3 * W, WIDER), load(x, v + 3 * W, WIDER), d)
    for j in range(quads, packs, W):
        a = madd(load(weight, row + j, WIDER), load(x, at + j, WIDER), a)
    found = total(add(add(a, b), add(c, d)))
    for j in range(packs, inner):
        found += weight[row + j] * x[at + j]
    return found


@kernel
def forward(x, weight, bias, has_bias, y, sizes, first, stop):
    """Fill the columns [first, stop) of y; all arrays are flat, ``sizes`` is (B, K, M).

    Four streams through memory, each a quarter of the rows, are read faster than one. Two rows of
    x at a time meet what is loaded of the matrix.
    """
    batch, inner, outer = sizes
    W = width(x, WIDER)
    packs = inner // W * W
    quarter = (stop - first) // 4
    apart = quarter * inner
    for m in range(first, first + quarter):
        one = m * inner
        two, three, four = one + apart, one + 2 * apart, one + 3 * apart
        for i in range(0, batch - 1, 2):
            at, to = i * inner, i * outer + m
            a, b, c, d = zero(x, WIDER), zero(x, WIDER), zero(x, WIDER), zero(x, WIDER)
            e, f, g, h = zero(x, WIDER), zero(x, WIDER), zero(x, WIDER), zero(x, WIDER)
            for j in range(0, packs, W):
                v, u = load(x, at + j, WIDER), load(x, at + inner + j, WIDER)
                w = load(weight, one + j, WIDER)
                a, e = madd(w, v, a), madd(w, u, e)
                w = load(weight, two + j, WIDER)
                b, f = madd(w, v, b), madd(w, u, f)
                w = load(weight, three + j, WIDER)
                c, g = madd(w, v, c), madd(w, u, g)
                w = load(weight, four + j, WIDER)
                d, h = madd(w, v, d), madd(w, u, h)
            y[to], y[to + quarter] = total(a), total(b)
            y[to + 2 * quarter], y[to + 3 * quarter] = total(c), total(d)
            to += outer
            y[to], y[to + quarter] = total(e), total(f)
            y[to + 2 * quarter], y[to + 3 * quarter] = total(g), total(h)
        if batch % 2:
            at, to = (batch - 1) * inner, (batch - 1) * outer + m
            a, b, c, d = zero(x, WIDER), zero(x, WIDER), zero(x, WIDER), zero(x, WIDER)
            for j in range(0, packs, W):
                v = load(x, at + j, WIDER)
                a = madd(load(weight, one + j, WIDER), v, a)
                b = madd(load(weight, two + j, WIDER), v, b)
                c = madd(load(weight, three + j, WIDER), v, c)
                d = madd(load(weight, four + j, WIDER), v, d)
            y[to], y[to + quarter] = total(a), total(b)
            y[to + 2 * quarter], y[to + 3 * quarter] = total(c), total(d)
        for j in range(packs, inner):
            for i in range(batch):
                v, to = x[i * inner + j], i * outer + m
                y[to] += weight[one + j] * v
                y[to + quarter] += weight[two + j] * v
                y[to + 2 * quarter] += weight[three + j] * v
                y[to + 3 * quarter] += weight[four + j] * v
    for m in range(first + 4 * quarter, stop):
        for i in range(batch):
            y[i * outer + m] = _dot(x, i * inner, weight, m * inner, inner)
    if has_bias:
        for i in range(batch):
            for m in range(first, stop):
                y[i * outer + m] += bias[m]
