"""Reductions of small matrices to tridiagonal and bidiagonal form, eight to a pack, compiled.

A group is eight matrices of one shape in one flat array ``w``: entry (i, j) is the pack at
M + (j rows + i) 8, column after column. What a step takes from the matrix is taken while the
products for the next reflection are summed, so that each entry is loaded once or twice a step
(Dongarra, Sorensen & Hammarling, Block reduction of matrices to condensed forms for eigenvalue
computations, 1989, with blocks of one).
"""

from __future__ import annotations

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

LANES = 8
"""Matrices of a group: the doubles of a wider pack."""


@kernel
def largest(h, at, count):
    """The largest magnitude of ``count`` packs, or 1 where all are 0."""
    nothing, one = zero(h, WIDER), broadcast(h, 1.0, WIDER)
    top = nothing
    for k in range(count):
        x = load(h, at + k * LANES, WIDER)
        top = less(top, x, x, top)
        x = sub(nothing, x)
        top = less(top, x, x, top)
    return less(nothing, top, top, one)


@kernel
def reflector(w, x, count, diagonal, factor):
    """Reflection 1 − g v vᵀ of x to (d, 0, …): v stands for x then; d and g are stored."""
    nothing = zero(w, WIDER)
    one, two, three, four = nothing, nothing, nothing, nothing
    whole = count // 4 * 4
    for k in range(0, whole, 4):
        at = x + k * LANES
        a, b = load(w, at, WIDER), load(w, at + LANES, WIDER)
        c, d = load(w, at + 2 * LANES, WIDER), load(w, at + 3 * LANES, WIDER)
        one, two = madd(a, a, one), madd(b, b, two)
        three, four = madd(c, c, three), madd(d, d, four)
    for k in range(whole, count):
        a = load(w, x + k * LANES, WIDER)
        one = madd(a, a, one)
    size = root(add(add(one, two), add(three, four)))
    first = load(w, x, WIDER)
    signed = less(first, nothing, sub(nothing, size), size)
    first = add(first, signed)
    store(w, x, first)
    store(w, diagonal, sub(nothing, signed))
    # g = 1/(‖x‖ |v_1|); a column of zeros is left alone.
    both = mul(signed, first)
    store(w, factor, less(nothing, both, div(broadcast(w, 1.0, WIDER), both), nothing))


@kernel
def reflect(w, v, step, count, y, outer, vectors, factor):
    """y_j ← y_j − g v (vᵀ y_j) for all ``vectors``, whose entries lie one after another.

    Args:
        w: everything.
        v: offset of v, whose entries lie ``step`` apart.
        step: from one entry of v to the next.
        count: entries.
        y: offset of the first vector.
        outer: from one vector to the next.
        vectors: how many.
        factor: offset of g.
    """
    g, nothing = load(w, factor, WIDER), zero(w, WIDER)
    for j in range(0, vectors, 4):
        # Behind the last one, the last one is done again and its result left where it was.
        a0, a1 = y + j * outer, y + min(j + 1, vectors - 1) * outer
        a2, a3 = y + min(j + 2, vectors - 1) * outer, y + min(j + 3, vectors - 1) * outer
        s0, s1, s2, s3 = nothing, nothing, nothing, nothing
        for i in range(count):
            at = i * LANES
            t = load(w, v + i * step, WIDER)
            s0 = madd(t, load(w, a0 + at, WIDER), s0)
            s1 = madd(t, load(w, a1 + at, WIDER), s1)
            s2 = madd(t, load(w, a2 + at, WIDER), s2)
            s3 = madd(t, load(w, a3 + at, WIDER), s3)
        s0, s1 = sub(nothing, mul(g, s0)), sub(nothing, mul(g, s1))
        s2, s3 = sub(nothing, mul(g, s2)), sub(nothing, mul(g, s3))
        for i in range(count):
            at = i * LANES
            t = load(w, v + i * step, WIDER)
            b0, b1 = madd(t, s0, load(w, a0 + at, WIDER)), madd(t, s1, load(w, a1 + at, WIDER))
            b2, b3 = madd(t, s2, load(w, a2 + at, WIDER)), madd(t, s3, load(w, a3 + at, WIDER))
            store(w, a0 + at, b0)
            store(w, a1 + at, b1)
            store(w, a2 + at, b2)
            store(w, a3 + at, b3)


@kernel
def tridiagonal(w, M, n, diagonal, beside, factors, room):
    """M = Q T Qᵀ of symmetric matrices, of which only the lower half is read.

    Reflection k stands in column k of M from row k + 1 on.

    Args:
        w: everything.
        M: offset of the matrices.
        n: order.
        diagonal: offset of the n entries on the diagonal of T.
        beside: offset of the n entries beside it, of which the last is 0.
        factors: offset of the n factors of the reflections.
        room: offset of 2 n packs.
    """
    nothing, half = zero(w, WIDER), broadcast(w, 0.5, WIDER)
    x, p = room, room + n * LANES
    for i in range(n):
        store(w, x + i * LANES, nothing)
    for k in range(n):
        # The last reflection is that of column n − 3.
        column, u = M + k * n * LANES, M + max(min(k - 1, n - 3), 0) * n * LANES
        at = k * LANES
        a, b = load(w, u + at, WIDER), load(w, x + at, WIDER)
        a, b = sub(nothing, a), sub(nothing, b)
        for i in range(k, n):
            here = i * LANES
            t = madd(b, load(w, u + here, WIDER), load(w, column + here, WIDER))
            store(w, column + here, madd(a, load(w, x + here, WIDER), t))
        store(w, diagonal + at, load(w, column + at, WIDER))
        store(w, beside + at, nothing)
        store(w, factors + at, nothing)
        if k == n - 1:
            break
        if k == n - 2:
            store(w, beside + at, load(w, column + at + LANES, WIDER))
            continue
        reflector(w, column + at + LANES, n - k - 1, beside + at, factors + at)
        for i in range(k + 1, n):
            store(w, p + i * LANES, nothing)
        for j in range(k + 1, n, 2):
            two = j + 1 < n
            a0 = M + j * n * LANES
            a1 = a0 + n * LANES if two else a0
            j0, j1 = j * LANES, min(j + 1, n - 1) * LANES
            u0, u1 = sub(nothing, load(w, u + j0, WIDER)), sub(nothing, load(w, u + j1, WIDER))
            x0, x1 = sub(nothing, load(w, x + j0, WIDER)), sub(nothing, load(w, x + j1, WIDER))
            v0, v1 = load(w, column + j0, WIDER), load(w, column + j1, WIDER)
            # The corner: (j, j), (j + 1, j) and (j + 1, j + 1).
            b = madd(x0, load(w, u + j0, WIDER), load(w, a0 + j0, WIDER))
            b = madd(u0, load(w, x + j0, WIDER), b)
            store(w, a0 + j0, b)
            s0, s1 = madd(b, v0, load(w, p + j0, WIDER)), load(w, p + j1, WIDER)
            if two:
                b = madd(x0, load(w, u + j1, WIDER), load(w, a0 + j1, WIDER))
                b = madd(u0, load(w, x + j1, WIDER), b)
                store(w, a0 + j1, b)
                s0, s1 = madd(b, v1, s0), madd(b, v0, s1)
                b = madd(x1, load(w, u + j1, WIDER), load(w, a1 + j1, WIDER))
                b = madd(u1, load(w, x + j1, WIDER), b)
                store(w, a1 + j1, b)
                s1 = madd(b, v1, s1)
            for i in range(j + 2, n):
                here = i * LANES
                c, d = load(w, u + here, WIDER), load(w, x + here, WIDER)
                b0 = madd(u0, d, madd(x0, c, load(w, a0 + here, WIDER)))
                b1 = madd(u1, d, madd(x1, c, load(w, a1 + here, WIDER)))
                store(w, a0 + here, b0)
                store(w, a1 + here, b1)
                c = load(w, column + here, WIDER)
                s0, s1 = madd(b0, c, s0), madd(b1, c, s1)
                store(w, p + here, madd(v1, b1, madd(v0, b0, load(w, p + here, WIDER))))
            store(w, p + j0, s0)
            if two:
                store(w, p + j1, s1)
        # x = g p − g² (pᵀ v)/2 v.
        g, s0, s1 = load(w, factors + at, WIDER), nothing, nothing
        for i in range(k + 1, n):
            s0 = madd(load(w, p + i * LANES, WIDER), load(w, column + i * LANES, WIDER), s0)
        s0 = sub(nothing, mul(mul(half, mul(g, g)), s0))
        for i in range(k + 1, n):
            here = i * LANES
            b = mul(g, load(w, p + here, WIDER))
            store(w, x + here, madd(s0, load(w, column + here, WIDER), b))


@kernel
def bidiagonal(w, M, rows, n, a, b, left, right, room):
    """M = U B Vᵀ with the diagonals a and b of B, whose last b is 0.

    Left reflection k stands in column k of M from row k on, right reflection k in row k from column
    k + 1 on.

    Args:
        w: everything.
        M: offset of the matrices.
        rows: their rows, n or more.
        n: columns.
        a: offset of the diagonal, whose entries lie two packs apart.
        b: as a.
        left: offset of the factors of the left reflections.
        right: offset of those of the right ones.
        room: offset of rows + 2 n packs.
    """
    nothing = zero(w, WIDER)
    x, y, v = room, room + rows * LANES, room + (rows + n) * LANES
    for i in range(rows + 2 * n):
        store(w, room + i * LANES, nothing)
    for k in range(n):
        column, u = M + k * rows * LANES, M + max(k - 1, 0) * rows * LANES
        at = k * LANES
        c, d = sub(nothing, load(w, y + at, WIDER)), sub(nothing, load(w, v + at, WIDER))
        for i in range(k, rows):
            here = i * LANES
            t = madd(c, load(w, u + here, WIDER), load(w, column + here, WIDER))
            store(w, column + here, madd(d, load(w, x + here, WIDER), t))
        reflector(w, column + at, rows - k, a + 2 * at, left + at)
        store(w, b + 2 * at, nothing)
        if k == n - 1:
            break
        g = load(w, left + at, WIDER)
        for j in range(k + 1, n, 2):
            two = j + 1 < n
            a0 = M + j * rows * LANES
            a1 = a0 + rows * LANES if two else a0
            j0, j1 = j * LANES, min(j + 1, n - 1) * LANES
            y0, y1 = sub(nothing, load(w, y + j0, WIDER)), sub(nothing, load(w, y + j1, WIDER))
            v0, v1 = sub(nothing, load(w, v + j0, WIDER)), sub(nothing, load(w, v + j1, WIDER))
            s0, s1 = nothing, nothing
            for i in range(k, rows):
                here = i * LANES
                c, d = load(w, u + here, WIDER), load(w, x + here, WIDER)
                b0 = madd(v0, d, madd(y0, c, load(w, a0 + here, WIDER)))
                b1 = madd(v1, d, madd(y1, c, load(w, a1 + here, WIDER)))
                store(w, a0 + here, b0)
                store(w, a1 + here, b1)
                c = load(w, column + here, WIDER)
                s0, s1 = madd(b0, c, s0), madd(b1, c, s1)
            store(w, y + j0, mul(g, s0))
            store(w, y + j1, mul(g, s1))
        # Row k less what the left reflection takes is what the right one is made of.
        c = sub(nothing, load(w, column + at, WIDER))
        for j in range(k + 1, n):
            t = madd(c, load(w, y + j * LANES, WIDER), load(w, M + (j * rows + k) * LANES, WIDER))
            store(w, v + j * LANES, t)
        reflector(w, v + at + LANES, n - k - 1, b + 2 * at, right + at)
        s0 = nothing
        for i in range(k + 1, rows):
            store(w, x + i * LANES, nothing)
        for j in range(k + 1, n):
            t = load(w, v + j * LANES, WIDER)
            s0 = madd(t, load(w, y + j * LANES, WIDER), s0)
            store(w, M + (j * rows + k) * LANES, t)
        g, s0 = load(w, right + at, WIDER), sub(nothing, s0)
        whole = k + 1 + (n - k - 1) // 4 * 4
        for j in range(k + 1, whole, 4):
            a0 = M + j * rows * LANES
            a1, a2, a3 = a0 + rows * LANES, a0 + 2 * rows * LANES, a0 + 3 * rows * LANES
            j0 = v + j * LANES
            v0, v1 = load(w, j0, WIDER), load(w, j0 + LANES, WIDER)
            v2, v3 = load(w, j0 + 2 * LANES, WIDER), load(w, j0 + 3 * LANES, WIDER)
            for i in range(k + 1, rows):
                here = i * LANES
                c = madd(v0, load(w, a0 + here, WIDER), load(w, x + here, WIDER))
                d = madd(v3, load(w, a3 + here, WIDER), mul(v2, load(w, a2 + here, WIDER)))
                c = madd(v1, load(w, a1 + here, WIDER), c)
                store(w, x + here, add(c, d))
        for j in range(whole, n):
            a0, v0 = M + j * rows * LANES, load(w, v + j * LANES, WIDER)
            for i in range(k + 1, rows):
                here = i * LANES
                c = madd(v0, load(w, a0 + here, WIDER), load(w, x + here, WIDER))
                store(w, x + here, c)
        for i in range(k + 1, rows):
            here = i * LANES
            c = madd(s0, load(w, column + here, WIDER), load(w, x + here, WIDER))
            store(w, x + here, mul(g, c))
