"""Singular values of bidiagonal matrices, eight to a pack, compiled.

A step of the QR algorithm of Golub & Kahan (Calculating the singular values and pseudo-inverse of
a matrix, 1965) in squares: no roots are needed and one division a row. With q_k and e_k the squares
of the entries on and above the diagonal, σ² the shift, x and y what the rotation before has left of
q_k and e_k, and tan² = x y/f² of the angle of the next one, from f = q_1 − σ² on

    h = f + y,  D = f² + x y,  W = h² + y q_{k+1},  K = f q_{k+1} − h σ²,
    q_k ← x W/D,  e_k ← y (K² + q_{k+1} e_{k+1} D)/(W D),
    f ← h K/W,  x ← q_{k+1} D/W,  y ← e_{k+1} h²/W.

In exact numbers f is x − σ². Carried on like this, rounded rotations fit each other too, and the
shift is not lost where q falls by many orders. All lanes begin in the first row and end in the last
one that is open in theirs.
"""

from __future__ import annotations

from statewise.lti._lane_reduction import LANES
from statewise.ops.jit import kernel
from statewise.ops.simd import (
    WIDER,
    add,
    any_less,
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

CONVERGED = 1e-31
"""Square of what is taken for 0 above the diagonal; the largest entries are about 1."""

VANISHED = 1e-32
"""Square on the diagonal, or shift, below which steps are without shift."""

COUPLED = 1e-24
"""Square beside a square that has vanished, above which the matrix is left to another method."""

SMALL = 1e-6
"""Square above the diagonal, below which it is one of the small ones for that."""

DUST = 1e-34
"""Added to squares on the diagonal before a step; a root of it is below rounding."""

FLOOR = 1e-60
"""Added to squares on the diagonal; without shifts also while they are carried on."""

NUDGE = 1e-70
"""Added to f with shifts: it may be 0 together with y."""

APART = 1e-20
"""Share of y that is added to h, which may be 0."""

PASSES = 8
"""Passes for each singular value, at most."""

DRIFT = 3e-13
"""Relative change of Σ σ² and Σ σ⁴ that is taken for rounding."""

LAST, SHIFT, TAIL, LINK, UP, FURTHER, ABOVE, LOW, TWO, FOUR = (k * LANES for k in range(10))
STATE = 10
"""Packs of the state of a search: the last open row; σ²; the last squares on and above the diagonal
in turn; the least one on it of the last block; and the sums Σ σ² and Σ σ⁴."""


@kernel
def _sums(w, q, e, n):
    """Σ σ² and Σ σ⁴: the trace of BᵀB and the sum of its squared entries."""
    two, four, before = zero(w, WIDER), zero(w, WIDER), zero(w, WIDER)
    for k in range(n):
        x, y = load(w, q + k * LANES, WIDER), load(w, e + k * LANES, WIDER)
        here = add(x, before)
        two, four = add(two, here), madd(here, here, four)
        if k < n - 1:
            x = mul(x, y)
            four, before = add(four, add(x, x)), y
    return two, four


@kernel
def _begin(w, q, e, n, state):
    """The state before the first pass."""
    two, four = _sums(w, q, e, n)
    # Where a zero stands beside one that is none and small ones are about, no sum would tell what
    # becomes of small values.
    nothing, one, small = zero(w, WIDER), broadcast(w, 1.0, WIDER), broadcast(w, CONVERGED, WIDER)
    limit, coupled = broadcast(w, VANISHED, WIDER), broadcast(w, COUPLED, WIDER)
    odd, least, wide = nothing, one, nothing
    for k in range(n):
        x, y = load(w, q + k * LANES, WIDER), nothing
        if k < n - 1:
            y = load(w, e + k * LANES, WIDER)
        wide = less(wide, y, y, wide)
        odd = less(x, limit, less(coupled, wide, one, odd), odd)
        least = less(small, y, less(y, least, y, least), least)
        wide = y
    two = less(nothing, odd, less(least, broadcast(w, SMALL, WIDER), sub(nothing, one), two), two)
    store(w, state + TWO, two)
    store(w, state + FOUR, four)
    store(w, state + LAST, broadcast(w, n - 1.0, WIDER))
    store(w, state + TAIL, load(w, q + (n - 1) * LANES, WIDER))
    for k in range(2):
        link = up = zero(w, WIDER)
        if n > k + 1:
            link = load(w, e + (n - 2 - k) * LANES, WIDER)
            up = load(w, q + (n - 2 - k) * LANES, WIDER)
        store(w, state + LINK + 2 * k * LANES, link)
        store(w, state + UP + 2 * k * LANES, up)
    small, low = broadcast(w, CONVERGED, WIDER), load(w, q, WIDER)
    for k in range(1, n):
        x, y = load(w, q + k * LANES, WIDER), load(w, e + (k - 1) * LANES, WIDER)
        low = less(small, y, less(x, low, x, low), x)
    store(w, state + LOW, low)


@kernel
def _settle(w, state):
    """Close last rows that stand alone, and set the next shifts.

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
    # The squared singular value of the last two rows that is nearer to the last square.
    apart, both = mul(half, sub(add(up, link), tail)), mul(tail, link)
    size = root(madd(apart, apart, both))
    size = add(apart, less(apart, nothing, sub(nothing, size), size))
    near = sub(tail, less(nothing, mul(size, size), div(both, size), nothing))
    limit, low = broadcast(w, VANISHED, WIDER), load(w, state + LOW, WIDER)
    store(w, state + SHIFT, less(limit, low, less(limit, near, near, nothing), nothing))
    least = most = w[state + LAST]
    for lane in range(1, LANES):
        least, most = min(least, w[state + LAST + lane]), max(most, w[state + LAST + lane])
    return int(least), int(most)


@kernel
def _pass(w, q, e, first, count, state, apart):
    """One step in each of two groups, rows 0 to ``count``; no lane ends before ``first`` + 2."""
    nothing, one, half = zero(w, WIDER), broadcast(w, 1.0, WIDER), broadcast(w, 0.5, WIDER)
    floor, share = broadcast(w, FLOOR, WIDER), broadcast(w, APART, WIDER)
    dust = broadcast(w, DUST, WIDER)
    nudge, small = broadcast(w, NUDGE, WIDER), broadcast(w, CONVERGED, WIDER)
    other = state + apart
    last, last2 = load(w, state + LAST, WIDER), load(w, other + LAST, WIDER)
    s, s2 = load(w, state + SHIFT, WIDER), load(w, other + SHIFT, WIDER)
    to_x, to_x2 = less(nothing, s, nothing, floor), less(nothing, s2, nothing, floor)
    to_f, to_f2 = less(nothing, s, nudge, floor), less(nothing, s2, nudge, floor)
    tail = up = above = link = further = nothing
    tail2 = up2 = above2 = link2 = further2 = nothing
    low = low2 = big = broadcast(w, 1e300, WIDER)
    x, x2 = add(load(w, q, WIDER), dust), add(load(w, q + apart, WIDER), dust)
    y = less(nothing, last, load(w, e, WIDER), nothing)
    y2 = less(nothing, last2, load(w, e + apart, WIDER), nothing)
    f, f2 = add(sub(x, s), to_f), add(sub(x2, s2), to_f2)
    place = nothing
    for k in range(count + 1):
        at, at2 = k * LANES, k * LANES + apart
        then, then2 = load(w, q + at + LANES, WIDER), load(w, q + at2 + LANES, WIDER)
        beside, beside2 = load(w, e + at + LANES, WIDER), load(w, e + at2 + LANES, WIDER)
        then, then2 = add(then, dust), add(then2, dust)
        if k >= first:
            after = add(place, one)
            beside, beside2 = (
                less(after, last, beside, nothing),
                less(after, last2, beside2, nothing),
            )
        h, h2 = madd(share, y, add(f, y)), madd(share, y2, add(f2, y2))
        D, D2 = madd(f, f, mul(x, y)), madd(f2, f2, mul(x2, y2))
        W, W2 = madd(h, h, mul(y, then)), madd(h2, h2, mul(y2, then2))
        i, i2 = div(one, mul(W, D)), div(one, mul(W2, D2))
        K, K2 = sub(mul(f, then), mul(h, s)), sub(mul(f2, then2), mul(h2, s2))
        tD, tD2 = mul(then, D), mul(then2, D2)
        G, G2 = madd(K, K, mul(beside, tD)), madd(K2, K2, mul(beside2, tD2))
        c, c2 = mul(D, i), mul(D2, i2)
        new, new2 = mul(mul(x, W), mul(W, i)), mul(mul(x2, W2), mul(W2, i2))
        edge, edge2 = mul(mul(y, G), i), mul(mul(y2, G2), i2)
        old, old2 = x, x2
        f, f2 = madd(mul(h, K), c, to_f), madd(mul(h2, K2), c2, to_f2)
        x, x2 = madd(tD, c, to_x), madd(tD2, c2, to_x2)
        y, y2 = mul(mul(beside, mul(h, h)), c), mul(mul(beside2, mul(h2, h2)), c2)
        if k < first:
            store(w, q + at, new)
            store(w, q + at2, new2)
            store(w, e + at, edge)
            store(w, e + at2, edge2)
            low, low2 = less(new, low, new, low), less(new2, low2, new2, low2)
            low, low2 = less(small, edge, low, big), less(small, edge2, low2, big)
        else:
            end, end2 = add(last, half), add(last2, half)
            # The last open row has what is left, and rows behind it stay.
            now, now2 = load(w, q + at, WIDER), load(w, q + at2, WIDER)
            new, new2 = less(place, last, new, old), less(place, last2, new2, old2)
            new, new2 = less(place, end, new, now), less(place, end2, new2, now2)
            edge, edge2 = less(place, last, edge, nothing), less(place, last2, edge2, nothing)
            store(w, q + at, new)
            store(w, q + at2, new2)
            store(w, e + at, edge)
            store(w, e + at2, edge2)
            above, above2 = less(place, end, up, above), less(place, end2, up2, above2)
            up, up2 = less(place, end, tail, up), less(place, end2, tail2, up2)
            tail, tail2 = less(place, end, new, tail), less(place, end2, new2, tail2)
            further, further2 = (
                less(place, last, link, further),
                less(place, last2, link2, further2),
            )
            link, link2 = less(place, last, edge, link), less(place, last2, edge2, link2)
            least, least2 = less(new, low, new, low), less(new2, low2, new2, low2)
            low, low2 = less(place, end, least, low), less(place, end2, least2, low2)
            least, least2 = less(small, edge, low, big), less(small, edge2, low2, big)
            low, low2 = less(place, last, least, low), less(place, last2, least2, low2)
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
    store(w, state + LOW, low)
    store(w, other + LOW, low2)


@kernel
def _sound(w, q, n, state):
    """1 in the lanes where all values were found and their sums are those of the matrix, else 0."""
    nothing, one, half = zero(w, WIDER), broadcast(w, 1.0, WIDER), broadcast(w, 0.5, WIDER)
    good = less(load(w, state + LAST, WIDER), half, one, nothing)
    two, four, drift = nothing, nothing, broadcast(w, DRIFT, WIDER)
    for k in range(n):
        # Matrices of zeros have got squares from DUST.
        x = less(nothing, load(w, state + FOUR, WIDER), load(w, q + k * LANES, WIDER), nothing)
        store(w, q + k * LANES, x)
        two, four = add(two, x), madd(x, x, four)
    for found, at in ((two, TWO), (four, FOUR)):
        expected = load(w, state + at, WIDER)
        rest = sub(found, expected)
        rest = less(rest, nothing, sub(nothing, rest), rest)
        limit = madd(drift, expected, broadcast(w, VANISHED, WIDER))
        good = less(rest, limit, good, nothing)
    return good


@kernel
def squares(w, q, e, n, state, apart):
    """The squares of the singular values of two groups of bidiagonal matrices, in any order.

    Args:
        w: everything.
        q: offset of the squares on the diagonal and room for one pack more; the result in the end.
        e: offset of the squares above it, n − 1 of them and room for two packs more.
        n: order.
        state: offset of ``STATE`` packs. The first holds 1 in the end where the result is sound,
            else 0.
        apart: from each of these offsets to that of the second group.
    """
    other = state + apart
    for o in range(0, 2 * apart, apart):
        for k in range(n - 1, n + 1):
            store(w, e + o + k * LANES, zero(w, WIDER))
        store(w, q + o + n * LANES, zero(w, WIDER))
        _begin(w, q + o, e + o, n, state + o)
    for _ in range(PASSES * n):
        least, most = _settle(w, state)
        least2, most2 = _settle(w, other)
        if max(most, most2) < 0:
            break
        _pass(w, q, e, min(least, least2) - 2, max(most, most2), state, apart)
    for o in range(0, 2 * apart, apart):
        store(w, state + o, _sound(w, q + o, n, state + o))


@kernel
def sort(w, values, n):
    """By falling magnitude."""
    nothing = zero(w, WIDER)
    for k in range(1, n):
        x = load(w, values + k * LANES, WIDER)
        size = less(x, nothing, sub(nothing, x), x)
        for j in range(k, 0, -1):
            y = load(w, values + (j - 1) * LANES, WIDER)
            other = less(y, nothing, sub(nothing, y), y)
            if not any_less(other, size):
                store(w, values + j * LANES, x)
                break
            store(w, values + j * LANES, less(other, size, y, x))
            x, size = less(other, size, x, y), less(other, size, size, other)
            if j == 1:
                store(w, values, x)
