"""The numba kernel of all gradients for steps that vary over time; see README.md."""

# Intrinsics are called without their first argument, the typing context.
# pyright: reportCallIssue=false
from __future__ import annotations

import numpy as np

from statewise.ops.diagonal_ssm._bundle import accumulate, count, fill, load, spread
from statewise.ops.diagonal_ssm._tiles import (
    TILE,
    cut_tile,
    enter,
    gather,
    gather_states,
    gather_steps,
    leave,
    scatter,
    scatter_steps,
)
from statewise.ops.diagonal_ssm._varying import (
    _B,
    _C,
    _RE,
    _W,
    COEFFICIENTS,
    GRADIENTS,
    _curvature,
    _growth,
    _pair,
    _product,
    _product_conj,
    _slope,
)
from statewise.ops.jit import kernel
from statewise.ops.simd import add, madd, mul, store, sub


@kernel
def _ahead(
    zoh, table, at, work, x, steps, h, before, growths, cuts, fresh, segments, one, many
):  # fmt: skip
    """Recompute the states h_{t−1} before the steps of a tile, and E of each step."""
    W, GW = count(one), count(many)
    wr, wi = _pair(table, at + _W * W, one, many)
    unit, nil = fill(work, 1.0, many), fill(work, 0.0, many)
    hr, hi = load(work, h, many), load(work, h + GW, many)
    for s in range(segments):
        if fresh[s]:
            hr = hi = nil
        for j in range(cuts[s], cuts[s + 1]):
            step = load(work, steps + j * GW, many)
            er, ei = _growth(zoh, table, at, step, one, many)
            store(work, before + 2 * j * GW, hr)
            store(work, before + (2 * j + 1) * GW, hi)
            store(work, growths + 2 * j * GW, er)
            store(work, growths + (2 * j + 1) * GW, ei)
            v = load(work, x + j * GW, many)
            br, bi = _product(er, ei, mul(wr, v), mul(wi, v))
            if fresh[s] and j == cuts[s]:
                hr, hi = br, bi
            else:
                ar, ai = _product(add(er, unit), ei, hr, hi)
                hr, hi = add(ar, br), add(ai, bi)


@kernel
def _gain(work, o, re, im, many):
    GW = count(many)
    store(work, o, add(load(work, o, many), re))
    store(work, o + GW, add(load(work, o + GW, many), im))


@kernel
def backward(
    u, dt, grad_y, grad_last, has_grad_last, bounds, has_h0, reset, has_reset, zoh, table, direct,
    du, dh0, ddt, sums, straight, first, parameters, reverse, work, i0, i1, p0, p1, one, many,
):  # fmt: skip
    """Fill du, dh0 and, for ``parameters``, ddt (B, L, D) and the sums over sequences and time.

    ``sums`` (bundles, blocks, N, GRADIENTS, W) holds the gradient of λ, Σ conj(E) ∂b̄ and the
    gradient of c, ``straight`` (bundles, blocks, 1, W) that of d; both are zero before.
    """
    L, D, N = u.shape[1], u.shape[2], dh0.shape[2]
    W, GW = count(one), count(many)
    N2, blocks = N + N % 2, table.shape[0]
    tiles = (p1 - p0) * TILE * GW
    before = 5 * tiles
    growths = before + 2 * TILE * GW
    total = growths + 2 * TILE * GW
    bound = total + GRADIENTS * GW
    carries = bound + (p1 - p0) * N2 * 2 * GW
    cuts, fresh = np.empty(TILE + 1, np.int64), np.empty(TILE + 1, np.bool_)
    unit, half = fill(u, 1.0, many), fill(u, 0.5, many)
    nil = fill(u, 0.0, many)
    for i in range(i0, i1, GW // W):
        bundle = first + (i - i0) // (GW // W)
        enter(grad_last, has_grad_last, i, p0, p1, N, work, carries, one, many)
        for tile in range((L + TILE - 1) // TILE - 1, -1, -1):
            k0 = tile * TILE
            m = min(TILE, L - k0)
            follows = k0 > 0 or has_h0
            segments = cut_tile(reset, has_reset, i, L, k0, m, reverse, follows, cuts, fresh)
            gather(u, i, k0, m, p0, p1, L, D, reverse, work, 0, one, many)
            gather_steps(dt, i, k0, m, p0, p1, L, D, reverse, work, tiles, one, many)
            gather(grad_y, i, k0, m, p0, p1, L, D, reverse, work, 2 * tiles, one, many)
            kept = follows and parameters
            gather_states(bounds, i, tile, p0, p1, D, N, kept, work, bound, one, many)
            for p in range(p0, p1):
                x = (p - p0) * TILE * GW
                steps, v = x + tiles, x + 2 * tiles
                found, turned = x + 3 * tiles, x + 4 * tiles
                through = spread(direct, p * W, one, many)
                straightly = nil
                for j in range(m):
                    g = load(work, v + j * GW, many)
                    store(work, found + j * GW, mul(through, g))
                    store(work, turned + j * GW, nil)
                    straightly = madd(g, load(work, x + j * GW, many), straightly)
                accumulate(straight, (bundle * blocks + p) * W, straightly, one)
                for n in range(N):
                    at = (p * N + n) * COEFFICIENTS * W
                    carry = carries + ((p - p0) * N2 + n) * 2 * GW
                    h = bound + ((p - p0) * N2 + n) * 2 * GW
                    _ahead(zoh, table, at, work, x, steps, h, before, growths, cuts, fresh,
                           segments, one, many)  # fmt: skip
                    lr, li = _pair(table, at + _RE * W, one, many)
                    br, bi = _pair(table, at + _B * W, one, many)
                    cr, ci = _pair(table, at + _C * W, one, many)
                    wr, wi = _pair(table, at + _W * W, one, many)
                    mr, mi = load(work, carry, many), load(work, carry + GW, many)
                    work[total : total + GRADIENTS * GW] = 0
                    for s in range(segments - 1, -1, -1):
                        for j in range(cuts[s + 1] - 1, cuts[s] - 1, -1):
                            starts = fresh[s] and j == cuts[s]
                            end, held = load(work, v + j * GW, many), load(work, x + j * GW, many)
                            step = load(work, steps + j * GW, many)
                            er = load(work, growths + 2 * j * GW, many)
                            ei = load(work, growths + (2 * j + 1) * GW, many)
                            gr, gi = madd(cr, end, mr), sub(mi, mul(ci, end))
                            qr, qi = _product(er, ei, wr, wi)
                            seen = madd(qr, gr, load(work, found + j * GW, many))
                            store(work, found + j * GW, madd(qi, gi, seen))
                            if parameters:
                                hr = load(work, before + 2 * j * GW, many)
                                hi = load(work, before + (2 * j + 1) * GW, many)
                                ar, ai, sr, si = nil, nil, mul(qr, held), mul(qi, held)
                                if not starts:
                                    ar, ai = _product_conj(hr, hi, gr, gi)
                                    tr, ti = _product(add(er, unit), ei, hr, hi)
                                    sr, si = add(sr, tr), add(si, ti)
                                # conj(h_t) ∂y_t
                                _gain(
                                    work, total + 4 * GW, mul(sr, end), sub(nil, mul(si, end)), many
                                )
                                pr, pi = mul(gr, held), mul(gi, held)
                                tr, ti = _product_conj(er, ei, pr, pi)
                                _gain(work, total + 2 * GW, tr, ti, many)
                                fr, fi = _slope(zoh, er, ei, unit, half)
                                zr, zi = mul(lr, step), mul(li, step)
                                kr, ki = _curvature(zoh, table, zr, zi, er, ei, fr, fi, many)
                                kr, ki = _product(kr, ki, br, bi)
                                kr, ki = _product_conj(kr, ki, pr, pi)
                                tr, ti = _product_conj(fr, fi, ar, ai)
                                # conj(ΔF) ∂ā + conj(bΔ²Ψ) ∂b̄
                                tr = mul(step, madd(step, kr, tr))
                                ti = mul(step, madd(step, ki, ti))
                                _gain(work, total, tr, ti, many)
                                # Re conj(F) (conj(λ) ∂ā + conj(b) ∂b̄)
                                tr, ti = _product_conj(lr, li, ar, ai)
                                kr, ki = _product_conj(br, bi, pr, pi)
                                tr, ti = add(tr, kr), add(ti, ki)
                                turn = madd(fr, tr, load(work, turned + j * GW, many))
                                store(work, turned + j * GW, madd(fi, ti, turn))
                            if starts:
                                mr = mi = nil
                            else:
                                mr, mi = _product_conj(add(er, unit), ei, gr, gi)
                    store(work, carry, mr)
                    store(work, carry + GW, mi)
                    if parameters:
                        out = ((bundle * blocks + p) * N + n) * GRADIENTS * W
                        for q in range(GRADIENTS):
                            accumulate(sums, out + q * W, load(work, total + q * GW, many), one)
            scatter(du, i, k0, m, p0, p1, L, D, reverse, work, 3 * tiles, one, many)
            if parameters:
                scatter_steps(ddt, i, k0, m, p0, p1, L, D, reverse, work, 4 * tiles, one, many)
        if has_h0:
            leave(dh0, i, p0, p1, N, work, carries, one, many)
