"""The numba kernel of all gradients for constant poles; see README.md for the algebra.

Within a segment that starts from the state h and whose end sends back the adjoint μ, gradients
of a, b and c are products of h and μ with four moments of the inputs and of the gradients of the
outputs,

    V = Σ_k a^k u_{m−1−k},    V' = Σ_k k a^{k−1} u_{m−1−k},
    S = Σ_k a^k ∂y_k,         S' = Σ_k k a^{k−1} ∂y_k,

and of what stays inside the segment, which depends on no state: R_k = Σ_t ∂y_t u_{t−k}. So eight
multiply-adds a step and state replace the walk over h_t and its adjoint. Sums run over a tile in
working precision, and over tiles in double.
"""

# Intrinsics are called without their first argument, the typing context.
# pyright: reportCallIssue=false
from __future__ import annotations

import numpy as np

from statewise.ops.diagonal_ssm._bundle import accumulate, count, fill, load, spread
from statewise.ops.diagonal_ssm._constant import (
    _POWER,
    _TABLE,
    MOMENTS,
    STATES,
    _times,
    observe,
    propagate,
    respond,
)
from statewise.ops.diagonal_ssm._tiles import (
    SEGMENT,
    TILE,
    cut_tile,
    enter,
    gather,
    gather_states,
    leave,
    scatter,
)
from statewise.ops.jit import kernel
from statewise.ops.simd import add, madd, mul, store, sub


@kernel
def _correlate(work, x, v, total, m, many):
    """R_k += Σ_t v_t x_{t−k} within a segment of m steps."""
    GW = count(many)
    nil = fill(work, 0.0, many)
    for k in range(m):
        # Two sums, because one would wait for itself.
        even, odd = load(work, total + k * GW, many), nil
        here, before = v + k * GW, x
        for _ in range((m - k) // 2):
            even = madd(load(work, here, many), load(work, before, many), even)
            odd = madd(load(work, here + GW, many), load(work, before + GW, many), odd)
            here += 2 * GW
            before += 2 * GW
        if (m - k) % 2:
            even = madd(load(work, here, many), load(work, before, many), even)
        store(work, total + k * GW, add(even, odd))


@kernel
def _moments(power, slope, at, work, x, v, m, out, one, many):
    """Write V, V', S, S' of one state, (re, im) each, to ``out``."""
    W, GW = count(one), count(many)
    # a^0 is 1, and its slope is 0.
    vr, sr = load(work, x + (m - 1) * GW, many), load(work, v, many)
    vi = wr = wi = si = tr = ti = fill(work, 0.0, many)
    for k in range(1, m):
        o = at + 2 * W * k
        before, here = load(work, x + (m - 1 - k) * GW, many), load(work, v + k * GW, many)
        a = spread(power, o, one, many)
        vr, sr = madd(a, before, vr), madd(a, here, sr)
        a = spread(power, o + W, one, many)
        vi, si = madd(a, before, vi), madd(a, here, si)
        a = spread(slope, o, one, many)
        wr, tr = madd(a, before, wr), madd(a, here, tr)
        a = spread(slope, o + W, one, many)
        wi, ti = madd(a, before, wi), madd(a, here, ti)
    store(work, out, vr)
    store(work, out + GW, vi)
    store(work, out + 2 * GW, wr)
    store(work, out + 3 * GW, wi)
    store(work, out + 4 * GW, sr)
    store(work, out + 5 * GW, si)
    store(work, out + 6 * GW, tr)
    store(work, out + 7 * GW, ti)


@kernel
def _pair(work, o, many):
    return load(work, o, many), load(work, o + count(many), many)


@kernel
def _gain(re, im, xr, xi, yr, yi):
    """(re, im) + x · y."""
    return sub(madd(xr, yr, re), mul(xi, yi)), madd(xi, yr, madd(xr, yi, im))


@kernel
def _gain_conj(re, im, xr, xi, yr, yi):
    """(re, im) + x · conj(y)."""
    return madd(xi, yi, madd(xr, yr, re)), sub(madd(xi, yr, im), mul(xr, yi))


@kernel
def _ahead(power, slope, drive, state, work, x, v, h, walk, cuts, fresh, segments, one, many):
    """Walk over the segments of a tile: keep each one's first state and its moments."""
    W, GW = count(one), count(many)
    at, first = state * _POWER * W, state * _TABLE * W
    br, bi = spread(drive, first, one, many), spread(drive, first + W, one, many)
    hr, hi = _pair(work, h, many)
    nil = fill(work, 0.0, many)
    for s in range(segments):
        out = walk + s * 2 * MOMENTS * GW
        o, size = cuts[s] * GW, cuts[s + 1] - cuts[s]
        if fresh[s]:
            hr = hi = nil
        store(work, out, hr)
        store(work, out + GW, hi)
        _moments(power, slope, at, work, x + o, v + o, size, out + 2 * GW, one, many)
        if not fresh[s]:
            hr, hi = propagate(power, at + 2 * W * size, hr, hi, False, one, many)
        vr, vi = _pair(work, out + 2 * GW, many)
        hr = sub(madd(br, vr, hr), mul(bi, vi))
        hi = madd(bi, vr, madd(br, vi, hi))


@kernel
def _back(power, read, state, work, carry, walk, marks, cuts, fresh, segments, one, many):
    """Walk back: mark the adjoint that enters each segment from its end."""
    W, GW = count(one), count(many)
    at, first = state * _POWER * W, state * _TABLE * W
    cr, ci = spread(read, first, one, many), spread(read, first + W, one, many)
    mr, mi = _pair(work, carry, many)
    nil = fill(work, 0.0, many)
    for s in range(segments - 1, -1, -1):
        mark = marks + s * 2 * STATES * GW
        store(work, mark, mr)
        store(work, mark + GW, mi)
        if fresh[s]:
            mr = mi = nil
        else:
            # conj(a^m) μ + conj(c a) conj(S), of which ``read`` holds conj(c a)
            sr, si = _pair(work, walk + (s * 2 * MOMENTS + 6) * GW, many)
            mr, mi = propagate(power, at + 2 * W * (cuts[s + 1] - cuts[s]), mr, mi, True, one, many)
            mr = madd(ci, si, madd(cr, sr, mr))
            mi = sub(madd(ci, sr, mi), mul(cr, si))
    store(work, carry, mr)
    store(work, carry + GW, mi)


@kernel
def _collect_tile(slope, at, work, walk, marks, cuts, segments, sums, out, one, many):
    """Add the products of states, adjoints and moments of a tile to ``sums[out:]``.

    Two sums at a time stay in registers. The state is zero where a segment starts anew.
    """
    W, GW = count(one), count(many)
    ar = ai = br = bi = fill(work, 0.0, many)
    for s in range(segments):
        kept = walk + s * 2 * MOMENTS * GW
        hr, hi = _pair(work, kept, many)
        xr, xi = _pair(work, kept + 6 * GW, many)
        ar, ai = _gain(ar, ai, hr, hi, xr, xi)
        xr, xi = _pair(work, kept + 8 * GW, many)
        br, bi = _gain(br, bi, hr, hi, xr, xi)
    accumulate(sums, out, ar, one)
    accumulate(sums, out + W, ai, one)
    accumulate(sums, out + 6 * W, br, one)
    accumulate(sums, out + 7 * W, bi, one)
    ar = ai = br = bi = fill(work, 0.0, many)
    for s in range(segments):
        kept = walk + s * 2 * MOMENTS * GW
        mr, mi = _pair(work, marks + s * 2 * STATES * GW, many)
        xr, xi = _pair(work, kept + 2 * GW, many)
        ar, ai = _gain_conj(ar, ai, mr, mi, xr, xi)
        xr, xi = _pair(work, kept + 4 * GW, many)
        br, bi = _gain_conj(br, bi, mr, mi, xr, xi)
    accumulate(sums, out + 2 * W, ar, one)
    accumulate(sums, out + 3 * W, ai, one)
    accumulate(sums, out + 4 * W, br, one)
    accumulate(sums, out + 5 * W, bi, one)
    ar = ai = fill(work, 0.0, many)
    for s in range(segments):
        mr, mi = _pair(work, marks + s * 2 * STATES * GW, many)
        hr, hi = _pair(work, walk + s * 2 * MOMENTS * GW, many)
        power = at + 2 * W * (cuts[s + 1] - cuts[s])
        hr, hi = _times(slope, power, hr, hi, one, many)
        ar, ai = _gain_conj(ar, ai, mr, mi, hr, hi)
    accumulate(sums, out + 8 * W, ar, one)
    accumulate(sums, out + 9 * W, ai, one)


@kernel
def backward(
    u, grad_y, grad_last, has_grad_last, bounds, has_h0, reset, has_reset, power, slope, drive,
    read, response, du, dh0, sums, lags, first, reverse, work, i0, i1, p0, p1, one, many,
):  # fmt: skip
    """Fill du, dh0, and the sums that :func:`collect` turns into gradients.

    ``sums`` (bundles, blocks, N2, 2 MOMENTS, W) and ``lags`` (bundles, blocks, SEGMENT, W) are in
    double precision and zero before; ``first`` is the first bundle of this call.
    """
    L, D, N = u.shape[1], u.shape[2], dh0.shape[2]
    W, GW = count(one), count(many)
    N2, blocks = power.shape[2], power.shape[1]
    tiles = (p1 - p0) * TILE * GW
    walk = 3 * tiles
    marks = walk + TILE * 2 * MOMENTS * GW
    lagged = marks + TILE * 2 * STATES * GW
    kept = lagged + SEGMENT * GW
    carries = kept + (p1 - p0) * N2 * 2 * GW
    cuts, fresh = np.empty(TILE + 1, np.int64), np.empty(TILE + 1, np.bool_)
    for i in range(i0, i1, GW // W):
        bundle = first + (i - i0) // (GW // W)
        enter(grad_last, has_grad_last, i, p0, p1, N, work, carries, one, many)
        for tile in range((L + TILE - 1) // TILE - 1, -1, -1):
            k0 = tile * TILE
            m = min(TILE, L - k0)
            follows = k0 > 0 or has_h0
            segments = cut_tile(reset, has_reset, i, L, k0, m, reverse, follows, cuts, fresh)
            gather(u, i, k0, m, p0, p1, L, D, reverse, work, 0, one, many)
            gather(grad_y, i, k0, m, p0, p1, L, D, reverse, work, tiles, one, many)
            gather_states(bounds, i, tile, p0, p1, D, N, follows, work, kept, one, many)
            for p in range(p0, p1):
                x = (p - p0) * TILE * GW
                v, found = x + tiles, x + 2 * tiles
                work[lagged : lagged + SEGMENT * GW] = 0
                for s in range(segments):
                    o, size = cuts[s] * GW, cuts[s + 1] - cuts[s]
                    respond(response, p, work, v + o, found + o, size, True, one, many)
                    _correlate(work, x + o, v + o, lagged, size, many)
                out = (bundle * blocks + p) * SEGMENT * W
                for q in range(SEGMENT):
                    accumulate(lags, out + q * W, load(work, lagged + q * GW, many), one)
                for n0 in range(0, N2, STATES):
                    n_states = min(STATES, N2 - n0)
                    for n in range(n0, n0 + n_states):
                        state = p * N2 + n
                        h = kept + ((p - p0) * N2 + n) * 2 * GW
                        _ahead(power, slope, drive, state, work, x, v, h, walk, cuts, fresh,
                               segments, one, many)  # fmt: skip
                        carry = carries + ((p - p0) * N2 + n) * 2 * GW
                        mark = marks + 2 * (n - n0) * GW
                        _back(power, read, state, work, carry, walk, mark, cuts, fresh, segments,
                              one, many)  # fmt: skip
                        out = ((bundle * blocks + p) * N2 + n) * 2 * MOMENTS * W
                        _collect_tile(slope, state * _POWER * W, work, walk, mark, cuts, segments,
                                      sums, out, one, many)  # fmt: skip
                    for s in range(segments):
                        o, size = cuts[s] * GW, cuts[s + 1] - cuts[s]
                        observe(drive, (p * N2 + n0) * _TABLE * W, n_states, work,
                                marks + s * 2 * STATES * GW, found + o, size, True, one,
                                many)  # fmt: skip
            scatter(du, i, k0, m, p0, p1, L, D, reverse, work, 2 * tiles, one, many)
        if has_h0:
            leave(dh0, i, p0, p1, N, work, carries, one, many)


@kernel
def collect(a, b, c, sums, lags, da, db, dc, dd, d0, d1):
    """Gradients (D, N) of complex a, b, c, and (D,) of d, from the sums of :func:`backward`.

    For the channels [d0, d1).
    """
    N = a.shape[1]
    W = sums.shape[4]
    x = np.empty(MOMENTS, np.complex128)
    r = np.empty(SEGMENT)
    for i in range(d0, d1):
        p, w = i // W, i % W
        r[:] = 0.0
        for bundle in range(lags.shape[0]):
            for k in range(SEGMENT):
                r[k] += lags[bundle, p, k, w]
        dd[i] = r[0]
        for n in range(N):
            x[:] = 0j
            for bundle in range(sums.shape[0]):
                for q in range(MOMENTS):
                    x[q] += complex(sums[bundle, p, n, 2 * q, w], sums[bundle, p, n, 2 * q + 1, w])
            back = np.conj(a[i, n])
            inner = slope = 0j
            # Horner's rule for Σ_k conj(a)^k R_k and its derivative.
            for k in range(SEGMENT - 1, -1, -1):
                slope = slope * back + inner
                inner = inner * back + r[k]
            B, C = np.conj(b[i, n]), np.conj(c[i, n])
            dc[i, n] = back * np.conj(x[0]) + B * inner
            db[i, n] = x[1] + C * inner
            da[i, n] = x[4] + B * x[2] + C * (back * np.conj(x[3]) + np.conj(x[0])) + B * C * slope
