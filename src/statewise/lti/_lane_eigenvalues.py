"""Eigenvalues of symmetric tridiagonal matrices, eight to a pack, compiled.

The rational form of the QR algorithm (Pal, Walker & Kahan; Parlett, The Symmetric Eigenvalue
Problem, 1980, section 8.15) with one division a row. With d_k on the diagonal, b_k the squares
beside it, s the shift, g = d_1 − s and p = g², a step is

    r = p + b_k,  i = 1/(r p),  N = p (d_{k+1} − s) − b_k g,
    d_k ← g + d_{k+1} − N p i,  b_k ← b_{k+1} p i r of the next row,  g ← N p i,  p ← N² i.

All lanes begin in the first row and end in the last one that is open in theirs.
"""

from __future__ import annotations

from statewise.lti._lane_reduction import LANES
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

CONVERGED = 1e-33
"""Square of what is taken for 0 beside the diagonal; the largest entries are about 1."""

NUDGE = 1e-35
"""Added to d − s, which may be 0."""

SHARE = 1e-20
"""Part of b g, below its rounding, that is taken from N once more, which may be 0."""

PASSES = 8
"""Passes for each eigenvalue, at most."""

DRIFT = 3e-13
"""Change of Σ λ² that is taken for rounding, as a part of it."""

LAST, SHIFT, TAIL, LINK, UP, FURTHER, ABOVE, TWO = (k * LANES for k in range(8))
STATE = 8
"""Packs of the state of a search: the last open row; the shift; from that row upwards what is on
and beside the diagonal in turn; and Σ λ²."""


@kernel
def _begin(w, d, b, n, state):
    """The state before the first pass."""
    two = zero(w, WIDER)
    for k in range(n):
        x, y = load(w, d + k * LANES, WIDER), load(w, b + k * LANES, WIDER)
        two = madd(x, x, add(two, add(y, y)))
    store(w, state + TWO, two)
    store(w, state + LAST, broadcast(w, n - 1.0, WIDER))
    store(w, state + TAIL, load(w, d + (n - 1) * LANES, WIDER))
    for k in range(2):
        link = up = zero(w, WIDER)
        if n > k + 1:
            link = load(w, b + (n - 2 - k) * LANES, WIDER)
            up = load(w, d + (n - 2 - k) * LANES, WIDER)
        store(w, state + LINK + 2 * k * LANES, link)
        store(w, state + UP + 2 * k * LANES, up)


@kernel
def _settle(w, state):
    """Close last rows that stand alone, and set the next shifts by Wilkinson's rule.

    Returns:
        The least and the largest of the last open rows of the lanes; −1 stands for none.
    """
    nothing, half, one = zero(w, WIDER), broadcast(w, 0.5, WIDER), broadcast(w, 1.0, WIDER)
    last, small = load(w, state + LAST, WIDER), broadcast(w, CONVERGED, WIDER)
    tail, link = load(w, state + TAIL, WIDER), load(w, state + LINK, WIDER)
    up = load(w, state + UP, WIDER)
    last = less(small, link, last, sub(last, one))
    # In a lane without open rows nothing is to change any more.
    last = less(last, half, sub(nothing, one), last)
    store(w, state + LAST, last)
    tail = less(small, link, tail, up)
    up = less(small, link, up, load(w, state + ABOVE, WIDER))
    link = less(small, link, link, load(w, state + FURTHER, WIDER))
    apart = mul(half, sub(up, tail))
    size = root(madd(apart, apart, link))
    size = add(apart, less(apart, nothing, sub(nothing, size), size))
    near = less(nothing, mul(size, size), div(link, size), nothing)
    store(w, state + SHIFT, sub(tail, near))
    least = most = w[state + LAST]
    for lane in range(1, LANES):
        least, most = min(least, w[state + LAST + lane]), max(most, w[state + LAST + lane])
    return int(least), int(most)


@kernel
def _pass(w, d, b, first, count, state, apart):
    """One step in each of two groups, rows 0 to ``count``; no lane ends before ``first`` + 2."""
    nothing, one, half = zero(w, WIDER), broadcast(w, 1.0, WIDER), broadcast(w, 0.5, WIDER)
    nudge, share = broadcast(w, NUDGE, WIDER), broadcast(w, -SHARE, WIDER)
    other = state + apart
    last, last2 = load(w, state + LAST, WIDER), load(w, other + LAST, WIDER)
    end, end2 = add(last, half), add(last2, half)
    s, s2 = load(w, state + SHIFT, WIDER), load(w, other + SHIFT, WIDER)
    tail = up = above = link = further = sine = nothing
    tail2 = up2 = above2 = link2 = further2 = sine2 = nothing
    here, here2 = load(w, d, WIDER), load(w, d + apart, WIDER)
    g, g2 = add(sub(here, s), nudge), add(sub(here2, s2), nudge)
    p, p2, place = mul(g, g), mul(g2, g2), nothing
    for k in range(count + 1):
        at, at2 = k * LANES, k * LANES + apart
        x, x2 = load(w, b + at, WIDER), load(w, b + at2, WIDER)
        if k >= first:
            x, x2 = less(place, last, x, nothing), less(place, last2, x2, nothing)
        r, r2 = add(p, x), add(p2, x2)
        i, i2 = div(one, mul(r, p)), div(one, mul(r2, p2))
        then, then2 = load(w, d + at + LANES, WIDER), load(w, d + at2 + LANES, WIDER)
        edge, edge2 = mul(sine, r), mul(sine2, r2)
        t, t2 = mul(x, g), mul(x2, g2)
        N = sub(mul(p, add(sub(then, s), nudge)), t)
        N2 = sub(mul(p2, add(sub(then2, s2), nudge)), t2)
        N, N2 = madd(share, t, N), madd(share, t2, N2)
        c, c2 = mul(p, i), mul(p2, i2)
        sine, sine2 = mul(x, c), mul(x2, c2)
        old, old2 = g, g2
        g, g2 = mul(N, c), mul(N2, c2)
        p, p2 = mul(mul(N, N), i), mul(mul(N2, N2), i2)
        new, new2 = add(old, sub(then, g)), add(old2, sub(then2, g2))
        if k >= first:
            new, new2 = less(place, end, new, here), less(place, end2, new2, here2)
            above, above2 = less(place, end, up, above), less(place, end2, up2, above2)
            up, up2 = less(place, end, tail, up), less(place, end2, tail2, up2)
            tail, tail2 = less(place, end, new, tail), less(place, end2, new2, tail2)
            further, further2 = less(place, end, link, further), less(place, end2, link2, further2)
            link, link2 = less(place, end, edge, link), less(place, end2, edge2, link2)
        store(w, d + at, new)
        store(w, d + at2, new2)
        if k > 0:
            store(w, b + at - LANES, edge)
            store(w, b + at2 - LANES, edge2)
        here, here2 = then, then2
        place = add(place, one)
    store(w, state + TAIL, tail)
    store(w, other + TAIL, tail2)
    store(w, state + LINK, link)
    store(w, other + LINK, link2)
    store(w, state + UP, up)
    store(w, other + UP, up2)
    store(w, state + FURTHER, further)
    store(w, other + FURTHER, further2)
    store(w, state + ABOVE, above)
    store(w, other + ABOVE, above2)


@kernel
def _sound(w, d, n, state):
    """1 in the lanes where all values were found and their squares have the right sum, else 0."""
    nothing, one, half = zero(w, WIDER), broadcast(w, 1.0, WIDER), broadcast(w, 0.5, WIDER)
    two, expected = nothing, load(w, state + TWO, WIDER)
    for k in range(n):
        x = load(w, d + k * LANES, WIDER)
        two = madd(x, x, two)
    rest = sub(two, expected)
    rest = less(rest, nothing, sub(nothing, rest), rest)
    limit = madd(broadcast(w, DRIFT, WIDER), expected, broadcast(w, CONVERGED, WIDER))
    good = less(load(w, state + LAST, WIDER), half, one, nothing)
    return less(rest, limit, good, nothing)


@kernel
def eigenvalues(w, d, b, n, state, apart):
    """The eigenvalues of two groups of symmetric tridiagonal matrices, in any order.

    Args:
        w: everything.
        d: offset of the diagonals and room for one pack more; the result in the end.
        b: offset of the squares beside them, n − 1 of them and room for one pack more.
        n: order.
        state: offset of ``STATE`` packs. The first holds 1 in the end where the result is sound,
            else 0.
        apart: from each of these offsets to that of the second group.
    """
    other = state + apart
    for o in range(0, 2 * apart, apart):
        store(w, b + o + (n - 1) * LANES, zero(w, WIDER))
        store(w, d + o + n * LANES, zero(w, WIDER))
        _begin(w, d + o, b + o, n, state + o)
    for _ in range(PASSES * n):
        least, most = _settle(w, state)
        least2, most2 = _settle(w, other)
        if max(most, most2) < 0:
            break
        _pass(w, d, b, min(least, least2) - 2, max(most, most2), state, apart)
    for o in range(0, 2 * apart, apart):
        store(w, state + o, _sound(w, d + o, n, state + o))
