"""Eigensystem realisations of many responses, eight to a pack, compiled."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.lti._lane_svd import (
    FOUND,
    LANES,
    STATE,
    bidiagonal,
    reflect,
    scale,
    singular_values,
)
from statewise.lti._lane_vectors import leading_vectors
from statewise.ops import pool
from statewise.ops.blocks import cut
from statewise.ops.jit import kernel
from statewise.ops.simd import WIDER, broadcast, div, less, load, madd, mul, root, store, zero


@kernel
def _matrices(
    h, g, length, p, m, rows, r, w, sigma, n, U, u_row, u_column, V, v_row, v_column, room, A, B, C
):
    """A = S^{−1/2} Uᵀ H↑ V S^{−1/2}, B = S^{1/2} Vᵀ and C = U S^{1/2}, their first m and p."""
    columns, tall, own = length - rows - 1, rows * p, g * length * p * m * LANES
    nothing, one = zero(w, WIDER), broadcast(w, 1.0, WIDER)
    for k in range(r):
        size = root(load(sigma, (g * n + k) * LANES, WIDER))
        store(w, room + k * LANES, div(one, size))
        for j in range(m):
            x = load(w, V + j * v_row + k * v_column, WIDER)
            store(B, ((g * r + k) * m + j) * LANES, mul(size, x))
        for i in range(p):
            x = load(w, U + i * u_row + k * u_column, WIDER)
            store(C, ((g * p + i) * r + k) * LANES, mul(size, x))
    product = room + r * LANES
    for k in range(r):
        for i in range(r):
            store(w, product + (i * r + k) * LANES, nothing)
        for i0 in range(0, tall, 4):
            # Four rows of the Hankel matrix, one block row later, at once.
            i1, i2, i3 = min(i0 + 1, tall - 1), min(i0 + 2, tall - 1), min(i0 + 3, tall - 1)
            f0 = own + ((i0 // p + 2) * p + i0 % p) * m * LANES
            f1 = own + ((i1 // p + 2) * p + i1 % p) * m * LANES
            f2 = own + ((i2 // p + 2) * p + i2 % p) * m * LANES
            f3 = own + ((i3 // p + 2) * p + i3 % p) * m * LANES
            s0, s1, s2, s3 = nothing, nothing, nothing, nothing
            for j in range(columns):
                for q in range(m):
                    at = (j * p * m + q) * LANES
                    t = load(w, V + (j * m + q) * v_row + k * v_column, WIDER)
                    s0 = madd(t, load(h, f0 + at, WIDER), s0)
                    s1 = madd(t, load(h, f1 + at, WIDER), s1)
                    s2 = madd(t, load(h, f2 + at, WIDER), s2)
                    s3 = madd(t, load(h, f3 + at, WIDER), s3)
            for i in range(r):
                place = product + (i * r + k) * LANES
                here = U + i * u_column
                x = madd(load(w, here + i0 * u_row, WIDER), s0, load(w, place, WIDER))
                if i0 + 1 < tall:
                    x = madd(load(w, here + i1 * u_row, WIDER), s1, x)
                if i0 + 2 < tall:
                    x = madd(load(w, here + i2 * u_row, WIDER), s2, x)
                if i0 + 3 < tall:
                    x = madd(load(w, here + i3 * u_row, WIDER), s3, x)
                store(w, place, x)
        for i in range(r):
            x = load(w, product + (i * r + k) * LANES, WIDER)
            x = mul(x, load(w, room + i * LANES, WIDER))
            x = mul(x, load(w, room + k * LANES, WIDER))
            store(A, ((g * r + i) * r + k) * LANES, x)


@kernel
def realise(h, g0, g1, length, p, m, rows, r, w, sigma, A, B, C, good):
    """The realisation of :func:`statewise.lti.era` for groups of eight responses.

    Args:
        h: Markov parameters, (groups, length, p, m, 8).
        g0: first group.
        g1: behind the last group.
        length: Markov parameters of each response.
        p: outputs.
        m: inputs.
        rows: block rows of the Hankel matrix.
        r: order.
        w: room, see :func:`room_of`.
        sigma: singular values, (groups, k, 8), to be filled.
        A: (groups, r, r, 8), to be filled.
        B: (groups, r, m, 8), to be filled.
        C: (groups, p, r, 8), to be filled.
        good: (groups, 8), 1 where everything converged and passed its check.
    """
    columns = length - rows - 1
    tall, wide = rows * p, columns * m
    turned = tall < wide
    high, n = max(tall, wide), min(tall, wide)
    unit = high * n * LANES
    a = unit + LANES
    b, left, right = a + n * LANES, a + 2 * n * LANES, a + 3 * n * LANES
    values, X = a + 4 * n * LANES, a + 5 * n * LANES
    Y = X + high * n * LANES
    room = Y + n * n * LANES
    apart = len(w) // 2
    down, along = n * LANES, LANES
    to_row, to_column = (along, down) if turned else (down, along)
    nothing, every = zero(w, WIDER), broadcast(w, n - 0.5, WIDER)
    for pair in range(g0, g1, 2):
        for half in range(2):
            M = half * apart
            own = min(pair + half, g1 - 1) * length * p * m * LANES
            for i in range(rows):
                for j in range(columns):
                    at = own + (i + j + 1) * p * m * LANES
                    corner = M + i * p * to_row + j * m * to_column
                    for k in range(p):
                        for q in range(m):
                            x = load(h, at + (k * m + q) * LANES, WIDER)
                            store(w, corner + k * to_row + q * to_column, x)
            scale(w, M, high * n, M + unit)
            bidiagonal(w, M, high, n, M + a, M + b, M + left, M + right)
        singular_values(w, a, b, n, values, room, apart)
        for half in range(min(2, g1 - pair)):
            g, M = pair + half, half * apart
            U, V, top = M + X, M + Y, M + values
            found = load(w, M + room + 4 * n * LANES + FOUND, WIDER)
            fine = leading_vectors(
                w, M + a, M + b, n, top, r, U, down, along, V, along, down, M + room
            )
            store(good, g * LANES, less(every, found, fine, nothing))
            for i in range(n, high):
                for k in range(r):
                    store(w, U + i * down + k * along, nothing)
            for k in range(n - 1, -1, -1):
                corner = M + k * (down + along)
                reflect(w, corner, down, high - k, U + k * down, along, r, M + left + k * LANES)
                if k < n - 1:
                    factor = M + right + k * LANES
                    y = V + (k + 1) * along
                    reflect(w, corner + along, along, n - k - 1, y, down, r, factor)
            back = load(w, M + unit, WIDER)
            for k in range(n):
                x = mul(load(w, top + k * LANES, WIDER), back)
                store(sigma, (g * n + k) * LANES, x)
            # Left vectors of H are the right ones of its transpose.
            if turned:
                _matrices(
                    h,
                    g,
                    length,
                    p,
                    m,
                    rows,
                    r,
                    w,
                    sigma,
                    n,
                    V,
                    along,
                    down,
                    U,
                    down,
                    along,
                    M + room,
                    A,
                    B,
                    C,
                )
            else:
                _matrices(
                    h,
                    g,
                    length,
                    p,
                    m,
                    rows,
                    r,
                    w,
                    sigma,
                    n,
                    U,
                    down,
                    along,
                    V,
                    along,
                    down,
                    M + room,
                    A,
                    B,
                    C,
                )


def room_of(high: int, n: int, r: int) -> int:
    """Numbers that :func:`realise` works on."""
    one = 2 * high * n + n * n + 5 * n + 1 + max(10 * n + STATE, r * r + r)
    return 2 * one * LANES


def realised(h: Tensor, rows: int, r: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Singular values, A, B and C of (S, L, p, m) responses, and which of them are sound, (S,)."""
    from statewise.lti._lanes import _gathered, _spread

    count, length, p, m = h.shape
    tall, wide = rows * p, (length - rows - 1) * m
    high, n = max(tall, wide), min(tall, wide)
    spread = _spread(h)
    groups = len(spread)
    found = [
        torch.empty(groups, *shape, LANES, dtype=torch.float64)
        for shape in ((n,), (r, r), (r, m), (p, r), ())
    ]
    given, out = spread.reshape(-1).numpy(), [x.reshape(-1).numpy() for x in found]

    def call(g0: int, g1: int) -> None:
        room = np.empty(room_of(high, n, r))
        realise(given, g0, g1, length, p, m, rows, r, room, *out)

    blocks = cut(groups, 1, groups * high * n * n)
    pool.run([partial(call, g0, g1) for g0, g1, _, _ in blocks])
    sigma, A, B, C, good = (_gathered(x, count) for x in found)
    return sigma, A, B, C, good > 0.5
