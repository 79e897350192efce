"""Eigensystem realisations of many responses, eight to a pack, compiled."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.lti._lane_eigenvalues import eigenvalues
from statewise.lti._lane_reduction import LANES, bidiagonal, largest, reflect, tridiagonal
from statewise.lti._lane_values import STATE, sort, squares
from statewise.lti._lane_vectors import leading_vectors
from statewise.ops import pool
from statewise.ops.blocks import cut
from statewise.ops.jit import kernel
from statewise.ops.simd import (
    WIDER,
    add,
    broadcast,
    div,
    less,
    load,
    madd,
    mul,
    root,
    store,
    sub,
    zero,
)

GONE = 1e-50
"""Square of what stands for a singular value of 0, where the largest entry is 1."""


@kernel
def _hankel(h, own, p, m, rows, columns, w, M, i_step, j_step, inverse, half):
    """Write H, times a factor; of symmetric ones the lower half."""
    for j in range(columns):
        for i in range(j if half else 0, rows):
            at, to = own + (i + j + 1) * p * m * LANES, M + i * p * i_step + j * m * j_step
            for q in range(m):
                for k in range(p):
                    x = load(h, at + (k * m + q) * LANES, WIDER)
                    store(w, to + k * i_step + q * j_step, mul(x, inverse))


@kernel
def _give(w, room, x, out, at, step, lanes):
    """Each lane to its own place, ``step`` apart."""
    store(w, room, x)
    for lane in range(lanes):
        out[at + lane * step] = w[room + lane]


@kernel
def _matrices(
    h, own, first, lanes, p, m, rows, columns, r, w, sigma, U, high, V, wide, room, A, B, C
):
    """A = S^{−1/2} Uᵀ H↑ V S^{−1/2}, B = S^{1/2} Vᵀ and C = U S^{1/2}, their first m and p.

    All block columns of H↑ but the last are those of H, of which Uᵀ H = S Vᵀ.

    Returns:
        1 in the lanes where A is finite, else 0.
    """
    nothing, one = zero(w, WIDER), broadcast(w, 1.0, WIDER)
    tall, across = rows * p, columns * m
    to, roots, last = room, room + LANES, room + (1 + 2 * r) * LANES
    for k in range(r):
        size = root(load(w, sigma + k * LANES, WIDER))
        store(w, roots + 2 * k * LANES, size)
        store(w, roots + (2 * k + 1) * LANES, div(one, size))
        for j in range(m):
            x = load(w, V + k * wide + j * LANES, WIDER)
            _give(w, to, mul(size, x), B, (first * r + k) * m + j, r * m, lanes)
        for i in range(p):
            x = load(w, U + k * high + i * LANES, WIDER)
            _give(w, to, mul(size, x), C, (first * p + i) * r + k, p * r, lanes)
        for q in range(m):
            s0 = nothing
            f, step = own + ((columns + 1) * p * m + q) * LANES, m * LANES
            for i in range(tall):
                s0 = madd(
                    load(w, U + k * high + i * LANES, WIDER), load(h, f + i * step, WIDER), s0
                )
            store(w, last + (k * m + q) * LANES, s0)
    finite = nothing
    for i in range(r):
        size = load(w, roots + 2 * i * LANES, WIDER)
        inverse = load(w, roots + (2 * i + 1) * LANES, WIDER)
        for k in range(r):
            own_v, shifted = V + k * wide, V + i * wide + m * LANES
            s0, s1, s2 = nothing, nothing, nothing
            whole = (across - m) // 2 * 2
            for j in range(0, whole, 2):
                at = j * LANES
                s0 = madd(load(w, shifted + at, WIDER), load(w, own_v + at, WIDER), s0)
                at += LANES
                s1 = madd(load(w, shifted + at, WIDER), load(w, own_v + at, WIDER), s1)
            if whole < across - m:
                at = whole * LANES
                s0 = madd(load(w, shifted + at, WIDER), load(w, own_v + at, WIDER), s0)
            for q in range(m):
                x = load(w, own_v + (across - m + q) * LANES, WIDER)
                s2 = madd(x, load(w, last + (i * m + q) * LANES, WIDER), s2)
            x = madd(size, add(s0, s1), mul(inverse, s2))
            x = mul(x, load(w, roots + (2 * k + 1) * LANES, WIDER))
            _give(w, to, x, A, (first * r + i) * r + k, r * r, lanes)
            finite = madd(nothing, x, finite)
    return less(finite, one, one, nothing)


@kernel
def realise(h, g0, g1, count, length, p, m, rows, r, symmetric, w, sigma, A, B, C, good):
    """The realisation of :func:`statewise.lti.era` for groups of eight responses.

    Args:
        h: Markov parameters, (groups, length, p, m, 8).
        g0: first group.
        g1: behind the last group.
        count: responses; those of the last group may be fewer than eight.
        length: Markov parameters of each response.
        p: outputs.
        m: inputs.
        rows: block rows of the Hankel matrix.
        r: order.
        symmetric: whether the Hankel matrices are.
        w: room, see :func:`room_of`.
        sigma: singular values, (count, k), to be filled.
        A: (count, r, r), to be filled.
        B: (count, r, m), to be filled.
        C: (count, p, r), to be filled.
        good: (count,), to be filled with 1 where all numbers are sound, else 0.
    """
    columns = length - rows - 1
    tall, across = rows * p, columns * m
    turned = tall < across
    high, n = max(tall, across), min(tall, across)
    parts = 1 if symmetric else 2
    size = parts * n
    left, right, unit = high * n * LANES, (high + 1) * n * LANES, (high + 2) * n * LANES
    d, e = unit + LANES, unit + (1 + size) * LANES
    values, beside = e + size * LANES, e + (size + n + 1) * LANES
    state = beside + (n + 1) * LANES
    X = state + STATE * LANES
    Y = X + r * high * LANES
    room = Y + r * n * LANES
    apart = len(w) // 2
    i_step, j_step = (high * LANES, LANES) if turned else (LANES, high * LANES)
    nothing, one, gone = zero(w, WIDER), broadcast(w, 1.0, WIDER), broadcast(w, GONE, WIDER)
    for pair in range(g0, g1, 2):
        for half in range(2):
            M = half * apart
            own = min(pair + half, g1 - 1) * length * p * m * LANES
            top = largest(h, own + p * m * LANES, (length - 2) * p * m)
            store(w, M + unit, top)
            _hankel(h, own, p, m, rows, columns, w, M, i_step, j_step, div(one, top), symmetric)
            if symmetric:
                tridiagonal(w, M, n, M + d, M + e, M + left, M + room)
                for k in range(n):
                    x = load(w, M + e + k * LANES, WIDER)
                    store(w, M + values + k * LANES, load(w, M + d + k * LANES, WIDER))
                    store(w, M + beside + k * LANES, mul(x, x))
            else:
                for k in range(size):
                    store(w, M + d + k * LANES, nothing)
                bidiagonal(w, M, high, n, M + e, M + e + LANES, M + left, M + right, M + room)
                for k in range(n):
                    x, y = M + e + 2 * k * LANES, M + beside + k * LANES
                    b, c = load(w, x, WIDER), load(w, x + LANES, WIDER)
                    store(w, M + values + k * LANES, mul(b, b))
                    store(w, y, mul(c, c))
        if symmetric:
            eigenvalues(w, values, beside, n, state, apart)
        else:
            squares(w, values, beside, n, state, apart)
        for half in range(min(2, g1 - pair)):
            M, own = half * apart, (pair + half) * length * p * m * LANES
            first = (pair + half) * LANES
            lanes = min(LANES, count - first)
            U, V, top = M + X, M + Y, M + values
            for k in range(n):
                x = load(w, top + k * LANES, WIDER)
                if not symmetric:
                    x = root(less(nothing, x, x, nothing))
                x = less(mul(x, x), gone, nothing, x)
                store(w, top + k * LANES, x)
            sort(w, top, n)
            fine = leading_vectors(w, M + d, M + e, n, parts, top, r, U, high * LANES, V, M + room)
            fine = mul(fine, load(w, M + state, WIDER))
            if symmetric:
                for k in range(n - 3, -1, -1):
                    at = (k + 1) * LANES
                    v = M + k * high * LANES + at
                    reflect(w, v, LANES, n - k - 1, U + at, high * LANES, r, M + left + k * LANES)
                # An eigenvalue below 0 has opposite vectors on its two sides.
                for k in range(r):
                    x = load(w, top + k * LANES, WIDER)
                    sign = less(x, nothing, sub(nothing, one), one)
                    for i in range(n):
                        x = load(w, U + (k * n + i) * LANES, WIDER)
                        store(w, V + (k * n + i) * LANES, mul(sign, x))
            else:
                for k in range(r):
                    for i in range(n, high):
                        store(w, U + (k * high + i) * LANES, nothing)
                for k in range(n - 1, -1, -1):
                    at = k * LANES
                    v, f = M + k * high * LANES + at, M + left + at
                    reflect(w, v, LANES, high - k, U + at, high * LANES, r, f)
                    if k < n - 1:
                        v, f = v + high * LANES, M + right + at
                        reflect(w, v, high * LANES, n - k - 1, V + at + LANES, n * LANES, r, f)
            unscaled = load(w, M + unit, WIDER)
            for k in range(n):
                x = load(w, top + k * LANES, WIDER)
                x = mul(less(x, nothing, sub(nothing, x), x), unscaled)
                store(w, top + k * LANES, x)
                _give(w, M + room, x, sigma, first * n + k, n, lanes)
            # Left vectors of H are the right ones of its transpose.
            U_step, V_step = high * LANES, n * LANES
            if turned:
                U, V, U_step, V_step = V, U, V_step, U_step
            finite = _matrices(
                h,
                own,
                first,
                lanes,
                p,
                m,
                rows,
                columns,
                r,
                w,
                top,
                U,
                U_step,
                V,
                V_step,
                M + room,
                A,
                B,
                C,
            )
            _give(w, M + room, mul(fine, finite), good, first, 1, lanes)


def room_of(high: int, n: int, r: int, m: int, symmetric: bool) -> int:
    """Numbers that :func:`realise` works on."""
    size = n if symmetric else 2 * n
    most = max(high + 2 * n, 5 * size, (2 + m) * r + 1)
    return 2 * LANES * (high * n + 4 * n + 3 + 2 * size + STATE + r * (high + n) + most)


def aligned(count: int) -> np.ndarray:
    """Numbers that begin where a pack does, so that none lies across two cache lines."""
    given = np.empty(count + LANES)
    first = -given.ctypes.data // given.itemsize % LANES
    return given[first : first + count]


def realised(h: Tensor, rows: int, r: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Singular values, A, B and C of (S, L, p, m) responses, and which of them are sound, (S,)."""
    from statewise.lti._lanes import _spread

    count, length, p, m = h.shape
    columns = length - rows - 1
    high, n = max(rows * p, columns * m), min(rows * p, columns * m)
    symmetric = rows == columns and p == m and (p == 1 or torch.equal(h, h.mT))
    spread = _spread(h)
    groups = len(spread)
    found = [h.new_empty(count, *shape) for shape in ((n,), (r, r), (r, m), (p, r), ())]
    given, out = spread.view(-1).numpy(), [x.view(-1).numpy() for x in found]

    def call(g0: int, g1: int) -> None:
        room = aligned(room_of(high, n, r, m, symmetric))
        realise(given, g0, g1, count, length, p, m, rows, r, symmetric, room, *out)

    blocks = cut(groups, 1, groups * high * n * n)
    pool.run([partial(call, g0, g1) for g0, g1, _, _ in blocks])
    sigma, A, B, C, good = found
    return sigma, A, B, C, good > 0.5
