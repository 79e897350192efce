"""Numba kernels for constant poles: segments of steps by tables of powers.

Within a segment of m ≤ ``SEGMENT`` steps that starts from the state h (README.md),

    y_t   = Re(c a^{t+1} h) + Σ_{k≤t} K_k u_{t−k}          K_k = Re Σ_n c b a^k
    h_end = a^m h + Σ_k b a^k u_{m−1−k}

so a step costs about four multiply-adds a state, none of which waits for the step before.
Segments are cut at resets. A few states at a time walk over a tile of steps, so that their tables
stay in the first-level cache.

Tables have one block of W channels after the other, [block, state, power, (re, im), W], the states
padded to an even number. A call handles the sequences [i0, i1), a multiple of the bundle's
G, and the blocks [p0, p1); ``work`` is its scratch memory, aligned to cache lines, of
:func:`room` elements. States are kept as [block, state, (re, im), G, W].
"""

# Intrinsics are called without their first argument, the typing context.
# pyright: reportCallIssue=false
from __future__ import annotations

import numpy as np

from statewise.ops.diagonal_ssm._bundle import count, fill, load, spread
from statewise.ops.diagonal_ssm._tiles import (
    SEGMENT,
    TILE,
    cut_tile,
    enter,
    gather,
    leave,
    scatter,
    scatter_states,
)
from statewise.ops.jit import kernel
from statewise.ops.simd import add, madd, mul, store, sub

STATES = 4
"""States that walk over a tile together; even."""

MOMENTS = 5
"""Complex sums a state that the gradients of a, b and c are made of, see :func:`collect`."""

_POWER, _TABLE = 2 * (SEGMENT + 1), 2 * SEGMENT


def room(states: int, blocks: int) -> int:
    """Elements of scratch memory for each lane of a bundle."""
    walk = TILE * (2 * MOMENTS + 2 * STATES)
    return blocks * ((states + states % 2) * 4 + 3 * TILE) + walk + SEGMENT


@kernel
def tabulate(a, b, c, d, power, slope, drive, read, response, p0, p1):
    """Fill the tables of the blocks [p0, p1), in double precision until stored.

    a, b and c are (D, N) complex, d is (D,).

    power: a^k, and behind all of them what was lost when they were stored; slope: k a^{k−1};
    drive: b a^k; read: (Re, −Im) of c a^{k+1};
    response: K_k, with d in K_0. Channels beyond D have zeros.
    """
    D, N = a.shape
    W = power.shape[5]
    kern = np.zeros(SEGMENT)
    for i in range(p0 * W, p1 * W):
        p, w = i // W, i % W
        kern[:] = 0.0
        for n in range(power.shape[2]):
            x = y = z = 0j
            if i < D and n < N:
                x, y, z = a[i, n], b[i, n], c[i, n]
            now, before = 1.0 + 0j, 0j
            for k in range(SEGMENT + 1):
                power[0, p, n, k, 0, w], power[0, p, n, k, 1, w] = now.real, now.imag
                power[1, p, n, k, 0, w] = now.real - np.float64(power[0, p, n, k, 0, w])
                power[1, p, n, k, 1, w] = now.imag - np.float64(power[0, p, n, k, 1, w])
                slope[p, n, k, 0, w], slope[p, n, k, 1, w] = k * before.real, k * before.imag
                if k < SEGMENT:
                    driven = y * now
                    kern[k] += (z * driven).real
                    drive[p, n, k, 0, w], drive[p, n, k, 1, w] = driven.real, driven.imag
                before = now
                now = now * x
                if k < SEGMENT:
                    seen = z * now
                    read[p, n, k, 0, w], read[p, n, k, 1, w] = seen.real, -seen.imag
        for k in range(SEGMENT):
            response[p, k, w] = kern[k]
        if i < D:
            response[p, 0, w] = kern[0] + d[i]


@kernel
def respond(response, p, work, x, y, m, adjoint, one, many):
    """y_t = Σ_k K_k x_{t−k} within a segment of m steps at offsets x, y; or x_{t+k}."""
    W, GW = count(one), count(many)
    nil = fill(work, 0.0, many)
    first = p * SEGMENT * W
    for t in range(m):
        # Two sums, because one would wait for itself.
        even = odd = nil
        terms = m - t if adjoint else t + 1
        row, hop = x + t * GW, GW if adjoint else -GW
        for k in range(0, terms - 1, 2):
            o = first + k * W
            even = madd(spread(response, o, one, many), load(work, row, many), even)
            odd = madd(spread(response, o + W, one, many), load(work, row + hop, many), odd)
            row += 2 * hop
        if terms % 2:
            o = first + (terms - 1) * W
            even = madd(spread(response, o, one, many), load(work, row, many), even)
        store(work, y + t * GW, add(even, odd))


@kernel
def observe(table, at, n_states, work, h, y, m, backwards, one, many):
    """y_t += Σ_n table_re · h_re + table_im · h_im in a segment of m steps.

    ``at`` is the offset of the table's first power of the first state, ``h`` and ``y`` those of
    the states and of the segment; ``backwards`` takes power m − 1 − t at step t, instead of t.
    """
    W, GW = count(one), count(many)
    hop = -2 * W if backwards else 2 * W
    t = 0
    while t < m:
        o = at + 2 * W * (m - 1 - t if backwards else t)
        row = y + t * GW
        y0 = load(work, row, many)
        if t + 4 <= m:
            y1, y2 = load(work, row + GW, many), load(work, row + 2 * GW, many)
            y3 = load(work, row + 3 * GW, many)
            for n in range(n_states):
                q = o + n * _TABLE * W
                re = load(work, h + 2 * n * GW, many)
                im = load(work, h + (2 * n + 1) * GW, many)
                y0 = madd(spread(table, q, one, many), re, y0)
                y0 = madd(spread(table, q + W, one, many), im, y0)
                q += hop
                y1 = madd(spread(table, q, one, many), re, y1)
                y1 = madd(spread(table, q + W, one, many), im, y1)
                q += hop
                y2 = madd(spread(table, q, one, many), re, y2)
                y2 = madd(spread(table, q + W, one, many), im, y2)
                q += hop
                y3 = madd(spread(table, q, one, many), re, y3)
                y3 = madd(spread(table, q + W, one, many), im, y3)
            store(work, row, y0)
            store(work, row + GW, y1)
            store(work, row + 2 * GW, y2)
            store(work, row + 3 * GW, y3)
            t += 4
        else:
            for n in range(n_states):
                q = o + n * _TABLE * W
                y0 = madd(spread(table, q, one, many), load(work, h + 2 * n * GW, many), y0)
                im = load(work, h + (2 * n + 1) * GW, many)
                y0 = madd(spread(table, q + W, one, many), im, y0)
            store(work, row, y0)
            t += 1


@kernel
def _times(table, o, re, im, one, many):
    """The complex product of the number at ``table[o]`` with (re, im)."""
    x = spread(table, o, one, many)
    y = spread(table, o + count(one), one, many)
    return sub(mul(x, re), mul(y, im)), madd(x, im, mul(y, re))


@kernel
def propagate(power, o, re, im, conjugate, one, many):
    """The product of the power at ``power[o]``, or its conjugate, with a state (re, im).

    The power is taken in its two parts: rounded to one, its error would grow with every segment
    that a slow state passes.
    """
    W, low = count(one), power.size // 2
    xr, xi = spread(power, o, one, many), spread(power, o + W, one, many)
    yr, yi = spread(power, o + low, one, many), spread(power, o + low + W, one, many)
    if conjugate:
        lost_re, lost_im = madd(yr, re, mul(yi, im)), sub(mul(yr, im), mul(yi, re))
        return madd(xr, re, madd(xi, im, lost_re)), sub(madd(xr, im, lost_im), mul(xi, re))
    lost_re, lost_im = sub(mul(yr, re), mul(yi, im)), madd(yr, im, mul(yi, re))
    return sub(madd(xr, re, lost_re), mul(xi, im)), madd(xr, im, madd(xi, re, lost_im))


@kernel
def _advance(power, table, at, n_states, work, h, x, m, fresh, adjoint, one, many):
    """Advance states: h = a^m h + Σ table_k x_{m−1−k}, or conj(a^m) h + Σ table_k x_k.

    The second is for the adjoint. ``at`` counts the states of the tables before the first one;
    ``h`` and ``x`` are the offsets of the states and of the segment.
    """
    W, GW = count(one), count(many)
    nil = fill(work, 0.0, many)
    hop = GW if adjoint else -GW
    for n in range(0, n_states, 2):
        o = h + 2 * n * GW
        ar = ai = br = bi = nil
        if not fresh:
            ar, ai = load(work, o, many), load(work, o + GW, many)
            br, bi = load(work, o + 2 * GW, many), load(work, o + 3 * GW, many)
            q = (at + n) * _POWER * W + 2 * W * m
            ar, ai = propagate(power, q, ar, ai, adjoint, one, many)
            br, bi = propagate(power, q + _POWER * W, br, bi, adjoint, one, many)
        f = (at + n) * _TABLE * W
        g = f + _TABLE * W
        row = x if adjoint else x + (m - 1) * GW
        for _ in range(m):
            v = load(work, row, many)
            ar = madd(spread(table, f, one, many), v, ar)
            ai = madd(spread(table, f + W, one, many), v, ai)
            br = madd(spread(table, g, one, many), v, br)
            bi = madd(spread(table, g + W, one, many), v, bi)
            f += 2 * W
            g += 2 * W
            row += hop
        store(work, o, ar)
        store(work, o + GW, ai)
        store(work, o + 2 * GW, br)
        store(work, o + 3 * GW, bi)


@kernel
def forward(
    u, h0, has_h0, reset, has_reset, power, drive, read, response, y, last, bounds, keep,
    reverse, work, i0, i1, p0, p1, one, many,
):  # fmt: skip
    """Fill y (B, L, D), last (B, D, N, 2) and, to ``keep`` them, bounds (B, C, N, 2, D)."""
    L, D, N = u.shape[1], u.shape[2], last.shape[2]
    W, GW = count(one), count(many)
    N2 = power.shape[2]
    tiles = (p1 - p0) * TILE * GW
    states = 2 * tiles
    cuts, fresh = np.empty(TILE + 1, np.int64), np.empty(TILE + 1, np.bool_)
    for i in range(i0, i1, GW // W):
        enter(h0, has_h0, i, p0, p1, N, work, states, one, many)
        for k0 in range(0, L, TILE):
            m = min(TILE, L - k0)
            follows = k0 > 0 or has_h0
            segments = cut_tile(reset, has_reset, i, L, k0, m, reverse, follows, cuts, fresh)
            if keep:
                scatter_states(bounds, i, k0 // TILE, p0, p1, D, work, states, one, many)
            gather(u, i, k0, m, p0, p1, L, D, reverse, work, 0, one, many)
            for p in range(p0, p1):
                given = (p - p0) * TILE * GW
                found = tiles + given
                for s in range(segments):
                    o = cuts[s] * GW
                    size = cuts[s + 1] - cuts[s]
                    respond(response, p, work, given + o, found + o, size, False, one, many)
                for n in range(0, N2, STATES):
                    n_states = min(STATES, N2 - n)
                    h = states + ((p - p0) * N2 + n) * 2 * GW
                    at = p * N2 + n
                    for s in range(segments):
                        o, size = cuts[s] * GW, cuts[s + 1] - cuts[s]
                        if not fresh[s]:
                            observe(read, at * _TABLE * W, n_states, work, h, found + o, size,
                                    False, one, many)  # fmt: skip
                        _advance(power, drive, at, n_states, work, h, given + o, size, fresh[s],
                                 False, one, many)  # fmt: skip
            scatter(y, i, k0, m, p0, p1, L, D, reverse, work, tiles, one, many)
        leave(last, i, p0, p1, N, work, states, one, many)


@kernel
def adjoint(
    grad_y, grad_last, has_grad_last, has_h0, reset, has_reset, power, drive, read, response, du,
    dh0, reverse, work, i0, i1, p0, p1, one, many,
):  # fmt: skip
    """The gradients of u and h0 alone: the transposed bank, against the scan's order.

    ``read`` holds conj(c a^{k+1}) as the pairs (re, im) that drive it.
    """
    L, D, N = grad_y.shape[1], grad_y.shape[2], dh0.shape[2]
    W, GW = count(one), count(many)
    N2 = power.shape[2]
    tiles = (p1 - p0) * TILE * GW
    states = 2 * tiles
    cuts, fresh = np.empty(TILE + 1, np.int64), np.empty(TILE + 1, np.bool_)
    for i in range(i0, i1, GW // W):
        enter(grad_last, has_grad_last, i, p0, p1, N, work, states, one, many)
        for tile in range((L + TILE - 1) // TILE - 1, -1, -1):
            k0 = tile * TILE
            m = min(TILE, L - k0)
            follows = k0 > 0 or has_h0
            segments = cut_tile(reset, has_reset, i, L, k0, m, reverse, follows, cuts, fresh)
            gather(grad_y, i, k0, m, p0, p1, L, D, reverse, work, 0, one, many)
            for p in range(p0, p1):
                given = (p - p0) * TILE * GW
                found = tiles + given
                for s in range(segments):
                    o, size = cuts[s] * GW, cuts[s + 1] - cuts[s]
                    respond(response, p, work, given + o, found + o, size, True, one, many)
                for n in range(0, N2, STATES):
                    n_states = min(STATES, N2 - n)
                    h = states + ((p - p0) * N2 + n) * 2 * GW
                    at = p * N2 + n
                    for s in range(segments - 1, -1, -1):
                        o, size = cuts[s] * GW, cuts[s + 1] - cuts[s]
                        observe(drive, at * _TABLE * W, n_states, work, h, found + o, size, True,
                                one, many)  # fmt: skip
                        if fresh[s]:
                            work[h : h + 2 * n_states * GW] = 0
                        else:
                            _advance(power, read, at, n_states, work, h, given + o, size, False,
                                     True, one, many)  # fmt: skip
            scatter(du, i, k0, m, p0, p1, L, D, reverse, work, tiles, one, many)
        if has_h0:
            leave(dh0, i, p0, p1, N, work, states, one, many)
