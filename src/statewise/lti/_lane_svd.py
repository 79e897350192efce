"""Singular values and leading vectors of small matrices, eight to a pack, compiled.

A group is eight matrices of one shape in one flat array ``w``, (rows, columns, 8) with rows ≥
columns = n from offset ``M`` on. It is reduced to an upper bidiagonal matrix by reflections; its
singular values come from quotient differences with shifts (Fernando & Parlett, Accurate singular
values and differential qd algorithms, 1994), its leading vectors from twisted factors (Dhillon &
Parlett, Multiple representations to compute orthogonal eigenvectors of symmetric tridiagonal
matrices, 2004) of [0, Bᵀ; B, 0] − σ. Matrices for which a check of the vectors fails are told, for
another method to do.
"""

from __future__ import annotations

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

LANES = 8
"""Matrices of a group: the doubles of a wider pack."""

TINY = 1e-290
"""Stands for 0 where something is divided by it; entries are at most 1."""

CONVERGED = 3e-32
"""Square of what dropping an entry may change a singular value by; the largest is 1 or more."""

ROUNDING = 2e-16
"""Part of a square of a singular value that the last d may be below 0."""

PASSES = 16
"""Quotient differences for each singular value, at most."""

TRIES = 4
"""Shifts that were too large, after which comes a pass without one."""

GONE, FOUND, TRIED, GIVEN, BOUND, SHIFT, LOW = (k * LANES for k in range(7))
STATE = 7
"""Packs of the state of a search: the sum of the shifts, what was found, shifts that were too
large and the next one then, the least d, the shift, and the least d before the last."""

BEHIND = 1e8
"""Stands for what was found: it is above all squares of singular values by far."""


@kernel
def scale(w, M, count, unit):
    """Divide by the largest magnitude, which is stored at ``unit``; matrices of zeros stay."""
    nothing, one = zero(w, WIDER), broadcast(w, 1.0, WIDER)
    top = nothing
    for k in range(count):
        x = load(w, M + k * LANES, WIDER)
        top = less(top, x, x, top)
        x = sub(nothing, x)
        top = less(top, x, x, top)
    top = less(nothing, top, top, one)
    store(w, unit, top)
    inverse = div(one, top)
    for k in range(count):
        store(w, M + k * LANES, mul(load(w, M + k * LANES, WIDER), inverse))


@kernel
def reflector(w, x, step, count, diagonal, factor):
    """Reflection 1 − g v vᵀ of x to (d, 0, …): v stands for x then; d and g are stored."""
    nothing = zero(w, WIDER)
    one, two = nothing, nothing
    for k in range(0, count - 1, 2):
        a, b = load(w, x + k * step, WIDER), load(w, x + (k + 1) * step, WIDER)
        one, two = madd(a, a, one), madd(b, b, two)
    if count % 2 == 1:
        a = load(w, x + (count - 1) * step, WIDER)
        one = madd(a, a, one)
    size = root(add(one, two))
    first = load(w, x, WIDER)
    signed = less(first, nothing, sub(nothing, size), size)
    first = add(first, signed)
    store(w, x, first)
    store(w, diagonal, sub(nothing, signed))
    # g = 1/(‖x‖ |v_1|); a column of zeros is left alone.
    both = mul(signed, first)
    store(w, factor, less(nothing, both, div(broadcast(w, 1.0, WIDER), both), nothing))


@kernel
def reflect(w, v, inner, count, y, outer, vectors, factor):
    """y_j ← y_j − g v (vᵀ y_j) for all ``vectors``, whose entries lie ``inner`` apart.

    Args:
        w: everything.
        v: offset of v, whose entries lie ``inner`` apart too.
        inner: from one entry of a vector to the next.
        count: entries.
        y: offset of the first vector.
        outer: from one vector to the next.
        vectors: how many.
        factor: offset of g.
    """
    g, nothing = load(w, factor, WIDER), zero(w, WIDER)
    whole = vectors // 4 * 4
    for j in range(0, whole, 4):
        a0 = y + j * outer
        a1, a2, a3 = a0 + outer, a0 + 2 * outer, a0 + 3 * outer
        s0, s1, s2, s3 = nothing, nothing, nothing, nothing
        for i in range(count):
            at = i * inner
            t = load(w, v + at, WIDER)
            s0 = madd(t, load(w, a0 + at, WIDER), s0)
            s1 = madd(t, load(w, a1 + at, WIDER), s1)
            s2 = madd(t, load(w, a2 + at, WIDER), s2)
            s3 = madd(t, load(w, a3 + at, WIDER), s3)
        s0, s1 = sub(nothing, mul(g, s0)), sub(nothing, mul(g, s1))
        s2, s3 = sub(nothing, mul(g, s2)), sub(nothing, mul(g, s3))
        for i in range(count):
            at = i * inner
            t = load(w, v + at, WIDER)
            store(w, a0 + at, madd(t, s0, load(w, a0 + at, WIDER)))
            store(w, a1 + at, madd(t, s1, load(w, a1 + at, WIDER)))
            store(w, a2 + at, madd(t, s2, load(w, a2 + at, WIDER)))
            store(w, a3 + at, madd(t, s3, load(w, a3 + at, WIDER)))
    for j in range(whole, vectors):
        a0 = y + j * outer
        s0, s1 = nothing, nothing
        for i in range(0, count - 1, 2):
            at = i * inner
            s0 = madd(load(w, v + at, WIDER), load(w, a0 + at, WIDER), s0)
            at += inner
            s1 = madd(load(w, v + at, WIDER), load(w, a0 + at, WIDER), s1)
        if count % 2 == 1:
            at = (count - 1) * inner
            s0 = madd(load(w, v + at, WIDER), load(w, a0 + at, WIDER), s0)
        s0 = sub(nothing, mul(g, add(s0, s1)))
        for i in range(count):
            at = i * inner
            store(w, a0 + at, madd(load(w, v + at, WIDER), s0, load(w, a0 + at, WIDER)))


@kernel
def bidiagonal(w, M, rows, n, a, b, left, right):
    """M = U B Vᵀ with the diagonals a and b of B; reflections stand in M, their factors beside."""
    down, along = n * LANES, LANES
    for k in range(n):
        corner = M + (k * n + k) * LANES
        reflector(w, corner, down, rows - k, a + k * LANES, left + k * LANES)
        if k < n - 1:
            reflect(w, corner, down, rows - k, corner + along, along, n - k - 1, left + k * LANES)
            reflector(w, corner + along, along, n - k - 1, b + k * LANES, right + k * LANES)
            reflect(
                w,
                corner + along,
                along,
                n - k - 1,
                corner + along + down,
                down,
                rows - k - 1,
                right + k * LANES,
            )
    store(w, b + (n - 1) * LANES, zero(w, WIDER))


@kernel
def _qd_pass(w, q, e, first, n, state, q_new, e_new, apart):
    """One differential quotient-difference transform with shift, from row ``first`` on.

    The least d before the last one is stored; the last one is the last of q. Two groups take turns,
    since each quotient waits for the one before.
    """
    tiny, nothing = broadcast(w, TINY, WIDER), zero(w, WIDER)
    back = sub(nothing, load(w, state + SHIFT, WIDER))
    back2 = sub(nothing, load(w, state + apart + SHIFT, WIDER))
    d = add(load(w, q + first * LANES, WIDER), back)
    d2 = add(load(w, q + apart + first * LANES, WIDER), back2)
    low = low2 = broadcast(w, BEHIND, WIDER)
    for k in range(first, n - 1):
        at, at2 = k * LANES, k * LANES + apart
        low, low2 = less(d, low, d, low), less(d2, low2, d2, low2)
        # A d of 0 leaves the next one as it is, which d q/(d + e) does not say without an e.
        d, d2 = less(tiny, d, d, tiny), less(tiny, d2, d2, tiny)
        beside, beside2 = load(w, e + at, WIDER), load(w, e + at2, WIDER)
        total, total2 = add(d, beside), add(d2, beside2)
        t = div(load(w, q + at + LANES, WIDER), total)
        t2 = div(load(w, q + at2 + LANES, WIDER), total2)
        store(w, q_new + at, total)
        store(w, q_new + at2, total2)
        store(w, e_new + at, mul(beside, t))
        store(w, e_new + at2, mul(beside2, t2))
        d, d2 = madd(d, t, back), madd(d2, t2, back2)
    store(w, q_new + (n - 1) * LANES, d)
    store(w, q_new + apart + (n - 1) * LANES, d2)
    store(w, state + LOW, low)
    store(w, state + apart + LOW, low2)


@kernel
def _shift(w, q, e, n, bound):
    """Near the least eigenvalue of B Bᵀ, mostly below: that of the last two rows, less a bound."""
    nothing, half = zero(w, WIDER), broadcast(w, 0.5, WIDER)
    corner, beside = (n - 1) * LANES, (n - 2) * LANES
    tail, up = load(w, q + corner, WIDER), load(w, q + corner - LANES, WIDER)
    link, further = load(w, e + beside, WIDER), nothing
    if n > 2:
        further = load(w, e + beside - LANES, WIDER)
    tiny = broadcast(w, TINY, WIDER)
    middle = mul(half, add(add(up, link), tail))
    product = mul(up, tail)
    inside = sub(mul(middle, middle), product)
    large = add(middle, root(less(nothing, inside, inside, nothing)))
    mu = div(product, less(tiny, large, large, tiny))
    # The share of the second row in the eigenvector, and what is left when the others are.
    apart = sub(tail, mu)
    square, couple = mul(apart, apart), mul(link, tail)
    whole = add(square, couple)
    rest = div(mul(mul(up, further), square), less(tiny, whole, whole, tiny))
    near = sub(mu, div(rest, less(tiny, mu, mu, tiny)))
    far = sub(mu, root(rest))
    third = mul(less(bound, mu, bound, mu), broadcast(w, 0.3, WIDER))
    far = less(far, third, third, far)
    s = less(mul(mul(mu, mu), broadcast(w, 1e-3, WIDER)), rest, far, near)
    return less(nothing, s, s, nothing)


@kernel
def _take(w, q, e, n, sigma, state, first):
    """Take away what stands alone at the end, which is an answer, and move what is above down.

    Returns:
        The first row that some lane still has.
    """
    nothing, behind = zero(w, WIDER), broadcast(w, BEHIND, WIDER)
    half, one = broadcast(w, 0.5, WIDER), broadcast(w, 1.0, WIDER)
    small = broadcast(w, CONVERGED, WIDER)
    all_but_one, all_of_them = broadcast(w, n - 1.5, WIDER), broadcast(w, n - 0.5, WIDER)
    corner, beside = (n - 1) * LANES, (n - 2) * LANES
    gone, found = load(w, state + GONE, WIDER), load(w, state + FOUND, WIDER)
    while first < n:
        tail, alone = load(w, q + corner, WIDER), one
        if n > 1:
            link, up = load(w, e + beside, WIDER), load(w, q + corner - LANES, WIDER)
            small_up, small_tail = mul(small, add(gone, up)), mul(small, add(gone, tail))
            alone = less(small_tail, mul(link, tail), nothing, one)
            alone = less(small_up, mul(link, link), nothing, alone)
            alone = less(all_but_one, found, one, alone)
        alone = less(all_of_them, found, nothing, alone)
        if not any_less(half, alone):
            break
        found = add(found, alone)
        store(w, state + FOUND, found)
        store(w, state + TRIED, less(half, alone, nothing, load(w, state + TRIED, WIDER)))
        for k in range(n - 1, 0, -1):
            here, above = k * LANES, (k - 1) * LANES
            x, y = load(w, sigma + here, WIDER), load(w, sigma + above, WIDER)
            store(w, sigma + here, less(half, alone, y, x))
            if k > first:
                x, y = load(w, q + here, WIDER), load(w, q + above, WIDER)
                store(w, q + here, less(half, alone, y, x))
                x, y = load(w, e + here, WIDER), load(w, e + above, WIDER)
                store(w, e + here, less(half, alone, y, x))
        store(w, sigma, less(half, alone, add(gone, tail), load(w, sigma, WIDER)))
        here = first * LANES
        store(w, q + here, less(half, alone, behind, load(w, q + here, WIDER)))
        store(w, e + here, less(half, alone, nothing, load(w, e + here, WIDER)))
        store(w, e + corner, nothing)
        first = n
        for lane in range(LANES):
            first = min(first, int(w[state + FOUND + lane]))
    return first


@kernel
def _settle(w, q, e, n, state, start, q_new, e_new):
    """After a pass: lanes whose shift was too large go back, and have the next one set."""
    nothing, half, one = zero(w, WIDER), broadcast(w, 0.5, WIDER), broadcast(w, 1.0, WIDER)
    corner = (n - 1) * LANES
    s, gone = load(w, state + SHIFT, WIDER), load(w, state + GONE, WIDER)
    low, end = load(w, state + LOW, WIDER), load(w, q_new + corner, WIDER)
    failed = less(end, mul(broadcast(w, -ROUNDING, WIDER), add(s, gone)), one, nothing)
    failed = less(low, nothing, one, failed)
    failed = less(nothing, s, failed, nothing)
    last = less(nothing, end, end, nothing)
    store(w, q_new + corner, last)
    store(w, e_new + corner, nothing)
    store(w, state + GONE, less(half, failed, gone, add(gone, s)))
    least = less(low, last, low, last)
    least = less(nothing, least, least, nothing)
    store(w, state + BOUND, less(half, failed, load(w, state + BOUND, WIDER), least))
    if not any_less(half, failed):
        store(w, state + TRIED, nothing)
        return
    tried = less(half, failed, add(load(w, state + TRIED, WIDER), one), nothing)
    store(w, state + TRIED, tried)
    # With only the last one below 0, s plus it is a lower bound.
    late = mul(add(s, end), broadcast(w, 1.0 - 2.0 * ROUNDING, WIDER))
    late = less(nothing, late, late, nothing)
    early = mul(s, broadcast(w, 0.25, WIDER))
    nearly = less(tried, broadcast(w, 1.5, WIDER), add(s, add(low, low)), early)
    early = less(mul(broadcast(w, -0.3, WIDER), s), low, nearly, early)
    given = less(low, nothing, early, late)
    store(w, state + GIVEN, less(tried, broadcast(w, TRIES, WIDER), given, nothing))
    for k in range(start, n):
        here = k * LANES
        x, y = load(w, q + here, WIDER), load(w, q_new + here, WIDER)
        store(w, q_new + here, less(half, failed, x, y))
        x, y = load(w, e + here, WIDER), load(w, e_new + here, WIDER)
        store(w, e_new + here, less(half, failed, x, y))


@kernel
def singular_values(w, a, b, n, sigma, room, apart):
    """All singular values of two groups of bidiagonal matrices, falling.

    The matrices stand with their last rows at the end: what was found is taken from there, and the
    rows above move down, so that all lanes have their shifts from the same place.

    Args:
        w: everything.
        a: offset of the diagonals.
        b: offset of what is above them, n entries of which the last is 0.
        n: order.
        sigma: offset of the result, n packs.
        room: offset of 4 n + 7 packs.
        apart: from each of these offsets to that of the second group. How many values were found
            stands at ``FOUND`` behind the first 4 n packs of the room.
    """
    q, e = room, room + n * LANES
    q_new, e_new = room + 2 * n * LANES, room + 3 * n * LANES
    state = room + 4 * n * LANES
    nothing, half = zero(w, WIDER), broadcast(w, 0.5, WIDER)
    for group in range(2):
        o = group * apart
        for k in range(n):
            x, y = load(w, a + o + k * LANES, WIDER), load(w, b + o + k * LANES, WIDER)
            store(w, q + o + k * LANES, mul(x, x))
            store(w, e + o + k * LANES, mul(y, y))
            store(w, sigma + o + k * LANES, nothing)
        for k in range(STATE):
            store(w, state + o + k * LANES, nothing)
        store(w, state + o + BOUND, broadcast(w, BEHIND, WIDER))
    first = second = 0
    for _ in range(PASSES * n):
        first = _take(w, q, e, n, sigma, state, first)
        second = _take(w, q + apart, e + apart, n, sigma + apart, state + apart, second)
        if min(first, second) >= n:
            break
        for group in range(2):
            o = group * apart
            s = _shift(w, q + o, e + o, n, load(w, state + o + BOUND, WIDER))
            tried, given = load(w, state + o + TRIED, WIDER), load(w, state + o + GIVEN, WIDER)
            store(w, state + o + SHIFT, less(half, tried, given, s))
        start = max(0, min(first, second, n - 3))
        _qd_pass(w, q, e, start, n, state, q_new, e_new, apart)
        for group in range(2):
            o = group * apart
            _settle(w, q + o, e + o, n, state + o, start, q_new + o, e_new + o)
        q, q_new = q_new, q
        e, e_new = e_new, e
    for group in range(2):
        o = sigma + group * apart
        for k in range(n):
            x = load(w, o + k * LANES, WIDER)
            x = root(less(nothing, x, x, nothing))
            for j in range(k, 0, -1):
                y = load(w, o + (j - 1) * LANES, WIDER)
                store(w, o + j * LANES, less(x, y, x, y))
                x = less(x, y, y, x)
            store(w, o, x)
