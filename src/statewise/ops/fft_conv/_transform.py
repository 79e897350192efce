"""The transform on packs of channels: butterflies, and passes over a buffer.

A buffer holds M complex points of W channels, point by point, W real parts before W imaginary
ones. A pass of radix r splits each block of n points in r blocks of m = n / r: it multiplies
point q m + j by e^{iqθ/r} and takes the r-point transform over q. The block fixes the factors,
so they are read once for its m butterflies, and no twist or reordering is left to do: the passes
of the inverse undo those of the transform, one by one.

Butterflies compute Σ_q x_q e^{2πi pq/r}. With real and imaginary parts exchanged on both sides
they compute the conjugate transform.
"""

from __future__ import annotations

import math

from statewise.ops.jit import kernel
from statewise.ops.simd import add, broadcast, load, madd, mul, store, sub

C3 = math.sin(2 * math.pi / 3)
C51, C52 = math.cos(2 * math.pi / 5), math.cos(4 * math.pi / 5)
S51, S52 = math.sin(2 * math.pi / 5), math.sin(4 * math.pi / 5)


@kernel
def get(buf, o, W):
    """The point at offset ``o``."""
    return load(buf, o, True), load(buf, o + W, True)


@kernel
def put(buf, o, W, x):
    """Write a point."""
    store(buf, o, x[0])
    store(buf, o + W, x[1])


@kernel
def swap(x):
    """Real and imaginary part exchanged."""
    return x[1], x[0]


@kernel
def dft2(a, b):
    """Two points."""
    return (add(a[0], b[0]), add(a[1], b[1])), (sub(a[0], b[0]), sub(a[1], b[1]))


@kernel
def dft3(buf, a, b, c):
    """Three points."""
    half, sine = broadcast(buf, -0.5, True), broadcast(buf, C3, True)
    s, d = dft2(b, c)
    m = madd(half, s[0], a[0]), madd(half, s[1], a[1])
    d = mul(sine, d[0]), mul(sine, d[1])
    first = add(a[0], s[0]), add(a[1], s[1])
    return first, (sub(m[0], d[1]), add(m[1], d[0])), (add(m[0], d[1]), sub(m[1], d[0]))


@kernel
def dft4(a, b, c, d):
    """Four points."""
    s, t = dft2(a, c)
    u, v = dft2(b, d)
    first, third = dft2(s, u)
    return first, (sub(t[0], v[1]), add(t[1], v[0])), third, (add(t[0], v[1]), sub(t[1], v[0]))


@kernel
def dft5(buf, a, b, c, d, e):
    """Five points."""
    c1, c2 = broadcast(buf, C51, True), broadcast(buf, C52, True)
    s1, s2 = broadcast(buf, S51, True), broadcast(buf, S52, True)
    p, q = dft2(b, e)
    v, w = dft2(c, d)
    mr, mi = madd(c1, p[0], madd(c2, v[0], a[0])), madd(c1, p[1], madd(c2, v[1], a[1]))
    nr, ni = madd(c2, p[0], madd(c1, v[0], a[0])), madd(c2, p[1], madd(c1, v[1], a[1]))
    xr, xi = madd(s1, q[0], mul(s2, w[0])), madd(s1, q[1], mul(s2, w[1]))
    yr, yi = sub(mul(s2, q[0]), mul(s1, w[0])), sub(mul(s2, q[1]), mul(s1, w[1]))
    return (
        (add(a[0], add(p[0], v[0])), add(a[1], add(p[1], v[1]))),
        (sub(mr, xi), add(mi, xr)),
        (sub(nr, yi), add(ni, yr)),
        (add(nr, yi), sub(ni, yr)),
        (add(mr, xi), sub(mi, xr)),
    )


@kernel
def turn(buf, tw, k, x):
    """``x`` times factor ``k`` of the table."""
    c, s = broadcast(buf, tw[k, 0], True), broadcast(buf, tw[k, 1], True)
    return sub(mul(c, x[0]), mul(s, x[1])), madd(c, x[1], mul(s, x[0]))


@kernel
def turn_back(buf, tw, k, x):
    """``x`` times the conjugate of factor ``k`` of the table."""
    c, s = broadcast(buf, tw[k, 0], True), broadcast(buf, tw[k, 1], True)
    return madd(c, x[0], mul(s, x[1])), sub(mul(c, x[1]), mul(s, x[0]))


@kernel
def pass4(buf, tw, k, start, blocks, m, W):
    """Radix 4 on ``blocks`` blocks from point ``start``; factors from row ``k``."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 4 * m)
        for _ in range(m):
            b = turn(buf, tw, k, get(buf, o + s, W))
            c = turn(buf, tw, k + 1, get(buf, o + 2 * s, W))
            d = turn(buf, tw, k + 2, get(buf, o + 3 * s, W))
            a, b, c, d = dft4(get(buf, o, W), b, c, d)
            put(buf, o, W, a)
            put(buf, o + s, W, b)
            put(buf, o + 2 * s, W, c)
            put(buf, o + 3 * s, W, d)
            o += 2 * W
        k += 3


@kernel
def back4(buf, tw, k, start, blocks, m, W):
    """The inverse of :func:`pass4`, times 4."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 4 * m)
        for _ in range(m):
            a = swap(get(buf, o, W))
            b = swap(get(buf, o + s, W))
            c = swap(get(buf, o + 2 * s, W))
            d = swap(get(buf, o + 3 * s, W))
            a, b, c, d = dft4(a, b, c, d)
            put(buf, o, W, swap(a))
            put(buf, o + s, W, turn_back(buf, tw, k, swap(b)))
            put(buf, o + 2 * s, W, turn_back(buf, tw, k + 1, swap(c)))
            put(buf, o + 3 * s, W, turn_back(buf, tw, k + 2, swap(d)))
            o += 2 * W
        k += 3


@kernel
def pass2(buf, tw, k, start, blocks, m, W):
    """Radix 2; arguments as for :func:`pass4`."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 2 * m)
        for _ in range(m):
            b = turn(buf, tw, k, get(buf, o + s, W))
            a, b = dft2(get(buf, o, W), b)
            put(buf, o, W, a)
            put(buf, o + s, W, b)
            o += 2 * W
        k += 1


@kernel
def back2(buf, tw, k, start, blocks, m, W):
    """The inverse of :func:`pass2`, times 2."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 2 * m)
        for _ in range(m):
            a = swap(get(buf, o, W))
            b = swap(get(buf, o + s, W))
            a, b = dft2(a, b)
            put(buf, o, W, swap(a))
            put(buf, o + s, W, turn_back(buf, tw, k, swap(b)))
            o += 2 * W
        k += 1


@kernel
def pass3(buf, tw, k, start, blocks, m, W):
    """Radix 3; arguments as for :func:`pass4`."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 3 * m)
        for _ in range(m):
            b = turn(buf, tw, k, get(buf, o + s, W))
            c = turn(buf, tw, k + 1, get(buf, o + 2 * s, W))
            a, b, c = dft3(buf, get(buf, o, W), b, c)
            put(buf, o, W, a)
            put(buf, o + s, W, b)
            put(buf, o + 2 * s, W, c)
            o += 2 * W
        k += 2


@kernel
def back3(buf, tw, k, start, blocks, m, W):
    """The inverse of :func:`pass3`, times 3."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 3 * m)
        for _ in range(m):
            a = swap(get(buf, o, W))
            b = swap(get(buf, o + s, W))
            c = swap(get(buf, o + 2 * s, W))
            a, b, c = dft3(buf, a, b, c)
            put(buf, o, W, swap(a))
            put(buf, o + s, W, turn_back(buf, tw, k, swap(b)))
            put(buf, o + 2 * s, W, turn_back(buf, tw, k + 1, swap(c)))
            o += 2 * W
        k += 2


@kernel
def pass5(buf, tw, k, start, blocks, m, W):
    """Radix 5; arguments as for :func:`pass4`."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 5 * m)
        for _ in range(m):
            b = turn(buf, tw, k, get(buf, o + s, W))
            c = turn(buf, tw, k + 1, get(buf, o + 2 * s, W))
            d = turn(buf, tw, k + 2, get(buf, o + 3 * s, W))
            e = turn(buf, tw, k + 3, get(buf, o + 4 * s, W))
            a, b, c, d, e = dft5(buf, get(buf, o, W), b, c, d, e)
            put(buf, o, W, a)
            put(buf, o + s, W, b)
            put(buf, o + 2 * s, W, c)
            put(buf, o + 3 * s, W, d)
            put(buf, o + 4 * s, W, e)
            o += 2 * W
        k += 4


@kernel
def back5(buf, tw, k, start, blocks, m, W):
    """The inverse of :func:`pass5`, times 5."""
    s = 2 * W * m
    for block in range(blocks):
        o = 2 * W * (start + block * 5 * m)
        for _ in range(m):
            a = swap(get(buf, o, W))
            b = swap(get(buf, o + s, W))
            c = swap(get(buf, o + 2 * s, W))
            d = swap(get(buf, o + 3 * s, W))
            e = swap(get(buf, o + 4 * s, W))
            a, b, c, d, e = dft5(buf, a, b, c, d, e)
            put(buf, o, W, swap(a))
            put(buf, o + s, W, turn_back(buf, tw, k, swap(b)))
            put(buf, o + 2 * s, W, turn_back(buf, tw, k + 1, swap(c)))
            put(buf, o + 3 * s, W, turn_back(buf, tw, k + 2, swap(d)))
            put(buf, o + 4 * s, W, turn_back(buf, tw, k + 3, swap(e)))
            o += 2 * W
        k += 4


@kernel
def forward_pass(buf, tw, radix, k, start, blocks, m, W):
    """One pass of the given radix."""
    if radix == 4:
        pass4(buf, tw, k, start, blocks, m, W)
    elif radix == 2:
        pass2(buf, tw, k, start, blocks, m, W)
    elif radix == 3:
        pass3(buf, tw, k, start, blocks, m, W)
    else:
        pass5(buf, tw, k, start, blocks, m, W)


@kernel
def backward_pass(buf, tw, radix, k, start, blocks, m, W):
    """The inverse of one pass, times its radix."""
    if radix == 4:
        back4(buf, tw, k, start, blocks, m, W)
    elif radix == 2:
        back2(buf, tw, k, start, blocks, m, W)
    elif radix == 3:
        back3(buf, tw, k, start, blocks, m, W)
    else:
        back5(buf, tw, k, start, blocks, m, W)
