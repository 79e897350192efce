"""Numba kernels for steps that vary over time: ā_t and b̄_t are computed where they are used.

Steps follow one another for one state at a time, in bundles of channels and sequences; the tile of
outputs stays in the first-level cache. Both rules give E = ā − 1, and b̄ = E w with w = b/λ.

e^{iy} is taken in turns: the host divides Im λ by 2π in double precision into a high and a low
part, the whole turns of Δ · high drop out exactly in one multiply-add, and what is left is at most
half a turn however large the angle. With s and c the sine and cosine of the half angle, sin y =
2sc and cos y − 1 = −2s², which loses no digits near 0. All series are Taylor's, long enough for
the precision.

A coefficient table is [block, state, coefficient, W]; scratch and states are those of
``_constant``.
"""

# Intrinsics are called without their first argument, the typing context.
# pyright: reportCallIssue=false
from __future__ import annotations

import math

import numpy as np

from statewise.ops.diagonal_ssm import rules
from statewise.ops.diagonal_ssm._bundle import (
    count,
    fill,
    load,
    nearest,
    power_of_two,
    spread,
)
from statewise.ops.diagonal_ssm._tiles import (
    TILE,
    cut_tile,
    enter,
    gather,
    gather_steps,
    leave,
    scatter,
    scatter_states,
)
from statewise.ops.jit import kernel
from statewise.ops.simd import add, div, less, madd, mul, store, sub

COEFFICIENTS = 10
_RE, _IM, _TURNS, _TURNS_LOW, _W, _B, _C = 0, 1, 2, 3, 4, 6, 8

GRADIENTS = 6
"""Real sums a state: of the gradients of λ, b·λ and c."""

_SINE = np.array(
    [(-1) ** j * math.pi ** (2 * j + 1) / math.factorial(2 * j + 1) for j in range(12)]
)
_COSINE = np.array([(-1) ** j * math.pi ** (2 * j) / math.factorial(2 * j) for j in range(13)])
_RISE = np.array([1 / math.factorial(k + 1) for k in range(14)])
_CURVATURE = np.array([(k + 1) / math.factorial(k + 2) for k in range(16)])
_LOG2E = 1 / math.log(2)
# ln 2 in two parts; products of the high one with whole numbers are exact in either precision.
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH
_LOWEST = -800.0
_SMALL = rules.SMALL


def room(states: int, blocks: int) -> int:
    """Elements of scratch memory for each lane of a bundle."""
    return blocks * ((states + states % 2) * 4 + 5 * TILE) + 4 * TILE + GRADIENTS


def away_from_zero(poles: np.ndarray) -> np.ndarray:
    """``rules.away_from_zero`` for an array."""
    return np.where(np.abs(poles) < rules.TINY, rules.TINY, poles)


def tabulate(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, blocks: int, width: int,
    dtype: type,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The coefficient table of (D, N) complex a, b, c, and the direct term, [block, W].

    The first six are ``rules.step_columns``; torch would start its threads for them.
    """
    D, N = a.shape
    poles = away_from_zero(a)
    turns = np.imag(poles) / (2 * math.pi)
    high = turns.astype(dtype).astype(np.float64)
    ratio = b / poles
    columns = (np.real(poles), np.imag(poles), high, turns - high, np.real(ratio), np.imag(ratio))
    columns = (*columns, np.real(b), np.imag(b), np.real(c), np.imag(c))
    table = np.zeros((blocks * width, N, COEFFICIENTS), dtype)
    table[:D] = np.stack(columns, -1)
    direct = np.zeros(blocks * width, dtype)
    direct[:D] = d
    table = table.reshape(blocks, width, N, COEFFICIENTS).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(table), direct


@kernel
def _series(x, coefficients, terms, z, many):
    """Σ_k coefficients_k z^k."""
    total = fill(x, coefficients[terms - 1], many)
    for k in range(terms - 2, -1, -1):
        total = madd(total, z, fill(x, coefficients[k], many))
    return total


@kernel
def _growth(zoh, table, at, step, one, many):
    """E = ā − 1 of a bundle of steps."""
    W = count(one)
    single = table.itemsize == 4
    re = spread(table, at + _RE * W, one, many)
    x = mul(re, step)
    unit = fill(table, 1.0, many)
    if not zoh:
        # z/(1 − z/2) = z (1 − conj z/2) / |1 − z/2|²
        y = mul(spread(table, at + _IM * W, one, many), step)
        half = fill(table, 0.5, many)
        p, q = sub(unit, mul(half, x)), mul(half, y)
        scale = div(unit, madd(p, p, mul(q, q)))
        return mul(scale, sub(mul(x, p), mul(y, q))), mul(scale, madd(x, q, mul(y, p)))
    low = fill(table, _LOWEST, many)
    x = less(x, low, low, x)
    k = nearest(mul(x, fill(table, _LOG2E, many)))
    rest = madd(k, fill(table, -_LN2_HIGH, many), x)
    rest = madd(k, fill(table, -_LN2_LOW, many), rest)
    rise = mul(rest, _series(table, _RISE, 7 if single else 14, rest, many))
    scale = power_of_two(k)
    rise = madd(scale, rise, sub(scale, unit))
    turns = spread(table, at + _TURNS * W, one, many)
    whole = nearest(mul(turns, step))
    angle = madd(turns, step, mul(whole, fill(table, -1.0, many)))
    angle = madd(spread(table, at + _TURNS_LOW * W, one, many), step, angle)
    square = mul(angle, angle)
    sine = mul(angle, _series(table, _SINE, 7 if single else 12, square, many))
    cosine = _series(table, _COSINE, 8 if single else 13, square, many)
    two = fill(table, 2.0, many)
    fall = mul(fill(table, -2.0, many), mul(sine, sine))
    imag = mul(mul(two, sine), cosine)
    return add(rise, madd(rise, fall, fall)), madd(rise, imag, imag)


@kernel
def _product(xr, xi, yr, yi):
    return sub(mul(xr, yr), mul(xi, yi)), madd(xr, yi, mul(xi, yr))


@kernel
def _product_conj(xr, xi, yr, yi):
    """conj(x) · y."""
    return madd(xr, yr, mul(xi, yi)), sub(mul(xr, yi), mul(xi, yr))


@kernel
def _pair(table, o, one, many):
    return spread(table, o, one, many), spread(table, o + count(one), one, many)


@kernel
def forward(
    u, dt, h0, has_h0, reset, has_reset, zoh, table, direct, y, last, bounds, keep, reverse, work,
    i0, i1, p0, p1, one, many,
):  # fmt: skip
    """Fill y (B, L, D), last (B, D, N, 2) and, to ``keep`` them, bounds (B, C, N, 2, D)."""
    L, D, N = u.shape[1], u.shape[2], last.shape[2]
    W, GW = count(one), count(many)
    N2 = N + N % 2
    tiles = (p1 - p0) * TILE * GW
    states = 3 * tiles
    cuts, fresh = np.empty(TILE + 1, np.int64), np.empty(TILE + 1, np.bool_)
    unit = fill(u, 1.0, many)
    for i in range(i0, i1, GW // W):
        enter(h0, has_h0, i, p0, p1, N, work, states, one, many)
        for k0 in range(0, L, TILE):
            m = min(TILE, L - k0)
            follows = k0 > 0 or has_h0
            segments = cut_tile(reset, has_reset, i, L, k0, m, reverse, follows, cuts, fresh)
            if keep:
                scatter_states(bounds, i, k0 // TILE, p0, p1, D, work, states, one, many)
            gather(u, i, k0, m, p0, p1, L, D, reverse, work, 0, one, many)
            gather_steps(dt, i, k0, m, p0, p1, L, D, reverse, work, tiles, one, many)
            for p in range(p0, p1):
                x = (p - p0) * TILE * GW
                steps, found = x + tiles, x + 2 * tiles
                through = spread(direct, p * W, one, many)
                for j in range(m):
                    store(work, found + j * GW, mul(through, load(work, x + j * GW, many)))
                for n in range(N):
                    h = states + ((p - p0) * N2 + n) * 2 * GW
                    at = (p * N + n) * COEFFICIENTS * W
                    cr, ci = _pair(table, at + _C * W, one, many)
                    wr, wi = _pair(table, at + _W * W, one, many)
                    hr, hi = load(work, h, many), load(work, h + GW, many)
                    for s in range(segments):
                        for j in range(cuts[s], cuts[s + 1]):
                            step = load(work, steps + j * GW, many)
                            er, ei = _growth(zoh, table, at, step, one, many)
                            v = load(work, x + j * GW, many)
                            br, bi = _product(er, ei, mul(wr, v), mul(wi, v))
                            if fresh[s] and j == cuts[s]:
                                hr, hi = br, bi
                            else:
                                ar, ai = _product(add(er, unit), ei, hr, hi)
                                hr, hi = add(ar, br), add(ai, bi)
                            seen = madd(cr, hr, load(work, found + j * GW, many))
                            store(work, found + j * GW, sub(seen, mul(ci, hi)))
                    store(work, h, hr)
                    store(work, h + GW, hi)
            scatter(y, i, k0, m, p0, p1, L, D, reverse, work, 2 * tiles, one, many)
        leave(last, i, p0, p1, N, work, states, one, many)


@kernel
def _slope(zoh, er, ei, unit, half):
    """F = dā/dz."""
    if zoh:
        return add(er, unit), ei
    p, q = madd(half, er, unit), mul(half, ei)
    return _product(p, q, p, q)


@kernel
def _curvature(zoh, table, zr, zi, er, ei, fr, fi, many):
    """Ψ = (zF − E)/z², by its series near 0."""
    half = fill(table, 0.5, many)
    if not zoh:
        return mul(half, fr), mul(half, fi)
    size = madd(zr, zr, mul(zi, zi))
    unit = fill(table, 1.0, many)
    small = fill(table, _SMALL, many)
    terms = 9 if table.itemsize == 4 else 16
    sr, si = fill(table, _CURVATURE[terms - 1], many), fill(table, 0.0, many)
    for k in range(terms - 2, -1, -1):
        sr, si = _product(sr, si, zr, zi)
        sr = add(sr, fill(table, _CURVATURE[k], many))
    inverse = div(unit, less(size, small, unit, size))
    # 1/z² = (conj z / |z|²)²
    vr, vi = mul(zr, inverse), mul(mul(zi, inverse), fill(table, -1.0, many))
    vr, vi = _product(vr, vi, vr, vi)
    pr, pi = _product(zr, zi, fr, fi)
    vr, vi = _product(sub(pr, er), sub(pi, ei), vr, vi)
    return less(size, small, sr, vr), less(size, small, si, vi)
