"""Leading eigenvectors of symmetric tridiagonal matrices, eight to a pack, compiled.

T − λ is factored from above and from below; where the two factors meet with the least rest, the
vector starts (Dhillon & Parlett, Multiple representations to compute orthogonal eigenvectors of
symmetric tridiagonal matrices, 2004). Singular vectors of a bidiagonal matrix B are those of
[0, Bᵀ; B, 0] in the order v_1, u_1, v_2, u_2, …, which is tridiagonal with zeros on the diagonal.
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

TINY = 1e-290
"""Added to pivots, which may be 0 and are divided by."""

RESIDUAL = 2e-14
"""Largest entry of T z − λ z that is taken, as a part of the largest |λ|."""

LEFT_OVER = 0.01
"""Share of a vector, squared, that must be left when others are taken from it."""


@kernel
def _twisted(w, d, e, size, value, z, room):
    """Solve T z = λ z up to the least rest, with ``size`` packs at z and 4 ``size`` at room."""
    above, below = room, room + size * LANES
    down, up = room + 2 * size * LANES, room + 3 * size * LANES
    nothing, one, tiny = zero(w, WIDER), broadcast(w, 1.0, WIDER), broadcast(w, TINY, WIDER)
    end = (size - 1) * LANES
    p, m = sub(load(w, d, WIDER), value), sub(load(w, d + end, WIDER), value)
    for j in range(size - 1):
        i = size - 2 - j
        store(w, above + j * LANES, p)
        store(w, below + (i + 1) * LANES, m)
        b, c = load(w, e + j * LANES, WIDER), load(w, e + i * LANES, WIDER)
        t, s = div(b, sub(tiny, p)), div(c, sub(tiny, m))
        store(w, down + j * LANES, t)
        store(w, up + i * LANES, s)
        p = madd(b, t, sub(load(w, d + (j + 1) * LANES, WIDER), value))
        m = madd(c, s, sub(load(w, d + i * LANES, WIDER), value))
    store(w, above + end, p)
    store(w, below, m)
    least, at, place = broadcast(w, 1e300, WIDER), nothing, nothing
    for j in range(size):
        rest = add(load(w, above + j * LANES, WIDER), load(w, below + j * LANES, WIDER))
        rest = sub(rest, sub(load(w, d + j * LANES, WIDER), value))
        rest = less(rest, nothing, sub(nothing, rest), rest)
        at = less(rest, least, place, at)
        least = less(rest, least, rest, least)
        place = add(place, one)
    # From one at the start upwards and downwards; the ways lie where the factors were.
    half, x, y = broadcast(w, 0.5, WIDER), nothing, nothing
    start, behind, back = sub(at, half), add(at, half), place
    place = nothing
    for j in range(size):
        i = size - 1 - j
        back = sub(back, one)
        if j > 0:
            x = mul(x, load(w, down + i * LANES, WIDER))
            y = mul(y, load(w, up + (j - 1) * LANES, WIDER))
        x = less(start, back, less(back, behind, one, nothing), x)
        y = less(place, behind, less(start, place, one, nothing), y)
        store(w, above + i * LANES, x)
        store(w, below + j * LANES, y)
        place = add(place, one)
    place = nothing
    for j in range(size):
        x, y = load(w, above + j * LANES, WIDER), load(w, below + j * LANES, WIDER)
        store(w, z + j * LANES, less(place, behind, x, y))
        place = add(place, one)


@kernel
def _orthonormal(w, x, n, outer, k, good):
    """Vector k less what it has of the vectors before, with length 1."""
    own, nothing = x + k * outer, zero(w, WIDER)
    before, after = nothing, nothing
    for i in range(n):
        t = load(w, own + i * LANES, WIDER)
        before = madd(t, t, before)
    for j in range(k):
        other, one, two = x + j * outer, nothing, nothing
        for i in range(0, n - 1, 2):
            at = i * LANES
            one = madd(load(w, own + at, WIDER), load(w, other + at, WIDER), one)
            at += LANES
            two = madd(load(w, own + at, WIDER), load(w, other + at, WIDER), two)
        if n % 2 == 1:
            at = (n - 1) * LANES
            one = madd(load(w, own + at, WIDER), load(w, other + at, WIDER), one)
        share = sub(nothing, add(one, two))
        for i in range(n):
            at = i * LANES
            store(w, own + at, madd(share, load(w, other + at, WIDER), load(w, own + at, WIDER)))
    for i in range(n):
        t = load(w, own + i * LANES, WIDER)
        after = madd(t, t, after)
    enough = less(mul(before, broadcast(w, LEFT_OVER, WIDER)), after, good, nothing)
    one = broadcast(w, 1.0, WIDER)
    length = div(one, root(less(nothing, after, after, one)))
    for i in range(n):
        at = own + i * LANES
        store(w, at, mul(load(w, at, WIDER), length))
    return enough


@kernel
def _residual(w, d, e, size, value, z, top, good):
    """``good`` where T z = λ z holds, else 0."""
    nothing, limit = zero(w, WIDER), mul(top, broadcast(w, RESIDUAL, WIDER))
    largest, before, x = nothing, nothing, load(w, z, WIDER)
    for j in range(size):
        b, further = nothing, nothing
        if j < size - 1:
            b, further = load(w, e + j * LANES, WIDER), load(w, z + (j + 1) * LANES, WIDER)
        rest = madd(sub(load(w, d + j * LANES, WIDER), value), x, madd(b, further, before))
        before, x = mul(b, x), further
        rest = less(rest, nothing, sub(nothing, rest), rest)
        largest = less(largest, rest, rest, largest)
        # A number that is none is never the larger one.
        good = less(rest, limit, good, nothing)
    return less(largest, limit, good, nothing)


@kernel
def leading_vectors(w, d, e, n, parts, values, r, x, x_outer, y, room):
    """The vectors of the first r eigenvalues, or the pairs of those of r singular values.

    Args:
        w: everything.
        d: offset of the diagonals of T, ``parts`` n entries.
        e: offset of what is beside them.
        n: entries of a vector.
        parts: 1; or 2 for [0, Bᵀ; B, 0].
        values: offset of the eigenvalues of T, or singular values, by falling magnitude.
        r: how many vectors.
        x: offset of the vectors, or of the left ones.
        x_outer: from one of these to the next.
        y: offset of the right ones, n packs each.
        room: offset of 5 ``parts`` n packs.

    Returns:
        1 in the lanes where all vectors passed the check, else 0.
    """
    nothing, good, size = zero(w, WIDER), broadcast(w, 1.0, WIDER), parts * n
    z, top = room + 4 * size * LANES, load(w, values, WIDER)
    # Matrices of zeros have residuals of 0.
    top = add(less(top, nothing, sub(nothing, top), top), broadcast(w, TINY, WIDER))
    for k in range(r):
        value = load(w, values + k * LANES, WIDER)
        own, right = x + k * x_outer, y + k * n * LANES
        _twisted(w, d, e, size, value, z, room)
        for part in range(parts):
            # The left vector is the last one of the parts.
            to = own if part == parts - 1 else right
            first = x if part == parts - 1 else y
            outer = x_outer if part == parts - 1 else n * LANES
            for i in range(n):
                store(w, to + i * LANES, load(w, z + (i * parts + part) * LANES, WIDER))
            good = _orthonormal(w, first, n, outer, k, good)
            for i in range(n):
                store(w, z + (i * parts + part) * LANES, load(w, to + i * LANES, WIDER))
        good = _residual(w, d, e, size, value, z, top, good)
    return good
