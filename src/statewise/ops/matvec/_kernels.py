"""The numba kernel of the linear map of a few rows."""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.simd import WIDER, add, load, madd, prefetch, store, width, zero

AHEAD = 2048
"""Bytes between the numbers in work and those asked for."""


@kernel
def _dot(x, at, weight, row, share, inner, quads, packs, ahead):
    """The product of a row of the matrix and one of x, both by offset."""
    W = width(x, WIDER)
    a, b, c, d = zero(x, WIDER), zero(x, WIDER), zero(x, WIDER), zero(x, WIDER)
    for j in range(0, quads, 4 * W):
        o, v = row + j, at + j
        prefetch(weight, o + ahead)
        prefetch(weight, o + ahead + W)
        prefetch(weight, o + ahead + 2 * W)
        prefetch(weight, o + ahead + 3 * W)
        a = madd(load(weight, o, WIDER), load(x, v, WIDER), a)
        b = madd(load(weight, o + W, WIDER), load(x, v + W, WIDER), b)
        c = madd(load(weight, o + 2 * W, WIDER), load(x, v + 2 * W, WIDER), c)
        d = madd(load(weight, o + 3 * W, WIDER), load(x, v + 3 * W, WIDER), d)
    for j in range(quads, packs, W):
        a = madd(load(weight, row + j, WIDER), load(x, at + j, WIDER), a)
    store(share, 0, add(add(a, b), add(c, d)))
    total = share[0]
    for k in range(1, W):
        total += share[k]
    for j in range(packs, inner):
        total += weight[row + j] * x[at + j]
    return total


@kernel
def _four_dots(x, at, weight, row, apart, share, inner, packs, ahead):
    """Leave the products of four rows of the matrix, ``apart`` numbers apart, in ``share``."""
    W = width(x, WIDER)
    second, third, fourth = row + apart, row + 2 * apart, row + 3 * apart
    a, b, c, d = zero(x, WIDER), zero(x, WIDER), zero(x, WIDER), zero(x, WIDER)
    for j in range(0, packs, W):
        prefetch(weight, row + j + ahead)
        prefetch(weight, second + j + ahead)
        prefetch(weight, third + j + ahead)
        prefetch(weight, fourth + j + ahead)
        v = load(x, at + j, WIDER)
        a = madd(load(weight, row + j, WIDER), v, a)
        b = madd(load(weight, second + j, WIDER), v, b)
        c = madd(load(weight, third + j, WIDER), v, c)
        d = madd(load(weight, fourth + j, WIDER), v, d)
    store(share, 0, a)
    store(share, W, b)
    store(share, 2 * W, c)
    store(share, 3 * W, d)
    for r in range(4):
        total = share[r * W]
        for k in range(1, W):
            total += share[r * W + k]
        for j in range(packs, inner):
            total += weight[row + r * apart + j] * x[at + j]
        share[r] = total


@kernel
def forward(x, weight, bias, has_bias, y, share, sizes, first, stop):
    """Fill the columns [first, stop) of y; all arrays are flat, ``sizes`` is (B, K, M).

    ``share`` is scratch memory for four packs. Four streams through memory, each a quarter of the
    rows, are read faster than one.
    """
    batch, inner, outer = sizes
    W = width(x, WIDER)
    ahead = AHEAD // x.itemsize
    quads = inner // (4 * W) * (4 * W)
    packs = inner // W * W
    quarter = (stop - first) // 4
    for m in range(first, first + quarter):
        for i in range(batch):
            at = i * inner
            _four_dots(x, at, weight, m * inner, quarter * inner, share, inner, packs, ahead)
            for r in range(4):
                y[i * outer + m + r * quarter] = share[r]
    for m in range(first + 4 * quarter, stop):
        for i in range(batch):
            total = _dot(x, i * inner, weight, m * inner, share, inner, quads, packs, ahead)
            y[i * outer + m] = total
    if has_bias:
        for i in range(batch):
            for m in range(first, stop):
                y[i * outer + m] += bias[m]
