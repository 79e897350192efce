"""Leading singular vectors of bidiagonal matrices, eight to a pack, compiled.

Of T = [0, Bᵀ; B, 0] in the order v_1, u_1, v_2, u_2, …, which is tridiagonal with zeros on the
diagonal and a_1, b_1, a_2, … beside, T − σ is factored from above and from below; where the two
factors meet with the least rest, the vector starts.
"""

from __future__ import annotations

from statewise.lti._lane_svd import LANES, TINY
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

RESIDUAL = 2e-14
"""Largest entry of B v − σ u and Bᵀ u − σ v that is taken; the largest entry of M is 1."""

LEFT_OVER = 0.01
"""Share of a vector, squared, that must be left when others are taken from it."""


@kernel
def _beside(w, a, b, j):
    """Entry j beside the diagonal of T."""
    if j % 2 == 0:
        return load(w, a + j // 2 * LANES, WIDER)
    return load(w, b + j // 2 * LANES, WIDER)


@kernel
def _guarded(w, x):
    tiny = broadcast(w, TINY, WIDER)
    return less(sub(zero(w, WIDER), tiny), x, less(x, tiny, tiny, x), x)


@kernel
def _twisted(w, a, b, n, sigma, z, room):
    """Solve T z = σ z up to the least rest, with 2 n packs at z and 8 n packs of room."""
    size = 2 * n
    above, below = room, room + size * LANES
    down, up = room + 2 * size * LANES, room + 3 * size * LANES
    nothing, one = zero(w, WIDER), broadcast(w, 1.0, WIDER)
    minus = sub(nothing, sigma)
    p = m = minus
    for j in range(size - 1):
        i = size - 2 - j
        store(w, above + j * LANES, p)
        store(w, below + (i + 1) * LANES, m)
        c, d = _beside(w, a, b, j), _beside(w, a, b, i)
        t = div(sub(nothing, c), _guarded(w, p))
        s = div(sub(nothing, d), _guarded(w, m))
        store(w, down + j * LANES, t)
        store(w, up + i * LANES, s)
        p, m = madd(c, t, minus), madd(d, s, minus)
    store(w, above + (size - 1) * LANES, p)
    store(w, below, m)
    least, at, place = broadcast(w, 1e300, WIDER), nothing, nothing
    for j in range(size):
        rest = add(add(load(w, above + j * LANES, WIDER), load(w, below + j * LANES, WIDER)), sigma)
        rest = less(rest, nothing, sub(nothing, rest), rest)
        at = less(rest, least, place, at)
        least = less(rest, least, rest, least)
        place = add(place, one)
    half = broadcast(w, 0.5, WIDER)
    here = sub(at, half)
    x = nothing
    for j in range(size - 1, -1, -1):
        place = sub(place, one)
        if j < size - 1:
            x = mul(x, load(w, down + j * LANES, WIDER))
        # One at the start, behind it nothing.
        x = less(here, place, less(at, sub(place, half), nothing, one), x)
        store(w, z + j * LANES, x)
    x = nothing
    for j in range(size):
        if j > 0:
            x = mul(x, load(w, up + (j - 1) * LANES, WIDER))
        before = load(w, z + j * LANES, WIDER)
        x = less(at, sub(place, half), x, before)
        store(w, z + j * LANES, x)
        place = add(place, one)


@kernel
def _orthonormal(w, x, inner, outer, n, k, good):
    """Vector k less what it has of the vectors before, with length 1."""
    one, two, nothing = broadcast(w, 1.0, WIDER), zero(w, WIDER), zero(w, WIDER)
    own = x + k * outer
    before, after = nothing, nothing
    for i in range(n):
        t = load(w, own + i * inner, WIDER)
        before = madd(t, t, before)
    for j in range(k):
        other, first, two = x + j * outer, nothing, nothing
        for i in range(0, n - 1, 2):
            at = i * inner
            first = madd(load(w, own + at, WIDER), load(w, other + at, WIDER), first)
            at += inner
            two = madd(load(w, own + at, WIDER), load(w, other + at, WIDER), two)
        if n % 2 == 1:
            at = (n - 1) * inner
            first = madd(load(w, own + at, WIDER), load(w, other + at, WIDER), first)
        share = sub(nothing, add(first, two))
        for i in range(n):
            at = i * inner
            store(w, own + at, madd(share, load(w, other + at, WIDER), load(w, own + at, WIDER)))
    for i in range(n):
        t = load(w, own + i * inner, WIDER)
        after = madd(t, t, after)
    enough = less(mul(before, broadcast(w, LEFT_OVER, WIDER)), after, good, nothing)
    length = div(one, root(less(nothing, after, after, one)))
    for i in range(n):
        at = own + i * inner
        store(w, at, mul(load(w, at, WIDER), length))
    return enough


@kernel
def leading_vectors(w, a, b, n, sigma, r, u, u_inner, u_outer, v, v_inner, v_outer, room):
    """The vectors of the first r singular values.

    Args:
        w: everything.
        a: offset of the diagonals.
        b: offset of what is above them.
        n: order.
        sigma: offset of the singular values, falling.
        r: how many vectors.
        u: offset of the left ones; their entries lie ``u_inner`` apart.
        u_inner: see u.
        u_outer: from one left vector to the next.
        v: offset of the right ones.
        v_inner: see u.
        v_outer: see u.
        room: offset of 10 n packs.

    Returns:
        1 in the lanes where all vectors passed the check, else 0.
    """
    nothing, limit = zero(w, WIDER), broadcast(w, RESIDUAL, WIDER)
    good = broadcast(w, 1.0, WIDER)
    z = room + 8 * n * LANES
    for k in range(r):
        value = load(w, sigma + k * LANES, WIDER)
        _twisted(w, a, b, n, value, z, room)
        right, left = v + k * v_outer, u + k * u_outer
        for i in range(n):
            store(w, right + i * v_inner, load(w, z + 2 * i * LANES, WIDER))
            store(w, left + i * u_inner, load(w, z + (2 * i + 1) * LANES, WIDER))
        good = _orthonormal(w, u, u_inner, u_outer, n, k, good)
        good = _orthonormal(w, v, v_inner, v_outer, n, k, good)
        further, before = nothing, nothing
        for i in range(n):
            x, y = load(w, right + i * v_inner, WIDER), load(w, left + i * u_inner, WIDER)
            if i < n - 1:
                further = load(w, right + (i + 1) * v_inner, WIDER)
            c, d = load(w, a + i * LANES, WIDER), load(w, b + i * LANES, WIDER)
            one = sub(madd(c, x, mul(d, further)), mul(value, y))
            two = sub(madd(c, y, before), mul(value, x))
            before = mul(d, y)
            one = less(one, nothing, sub(nothing, one), one)
            two = less(two, nothing, sub(nothing, two), two)
            good = less(one, limit, less(two, limit, good, nothing), nothing)
    return good
