"""Numba kernels of the convolution: pieces are transformed, multiplied and brought back in cache.

Arrays are contiguous and D is a multiple of the W channels of a pack. ``pieces`` has the columns
of :class:`~statewise.ops.fft_conv.plan.Piece`; positions in it are in scan order, and those below
0 are rows of the state. ``tables`` is (factors, first factor of each pass, radices). ``plan`` is
(points of a block that stays in the first cache, packs that are read and written together because
they share cache lines).

Nothing in an inner loop but loads, stores and arithmetic: a call that is not inlined there, or a
branch for each pack, costs more than the transform.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.fft_conv._transform import backward_pass, forward_pass
from statewise.ops.jit import kernel
from statewise.ops.simd import add, load, madd, mul, store, sub, width, zero


@kernel
def outer_passes(radices, points, block):
    """Passes over the whole buffer before blocks of at most ``block`` points are left, and n."""
    count, n = 0, points
    while count < len(radices) and n > block:
        n //= radices[count]
        count += 1
    return count, n


@kernel
def places(sizes, row, lane, reverse):
    """Offset of position 0 in x, the step from a position to the next, and position 0 in state."""
    L, D, K = sizes
    start = (row * L + (L - 1 if reverse else 0)) * D + lane
    return start, -D if reverse else D, (row + 1) * (K - 1) * D + lane


@kernel
def fill(x, state, place, D, origin, low, high, bufs, packs):
    """Put the positions from ``origin`` on of neighbouring packs into their buffers.

    Positions outside [low, high) are zero.
    """
    W = width(bufs, True)
    size = bufs.shape[1]
    points = size // (2 * W)
    nil = zero(bufs, True)
    for half in range(2):
        begin = origin + half * points
        end = begin + points
        first = min(max(low, begin), end)
        last = max(min(high, end), first)
        now = min(max(0, first), last)
        o = half * W
        for t in range(begin, end):
            if t < first or t >= last:
                for p in range(packs):
                    store(bufs, o + p * size, nil)
            elif t < now:
                s = place[2] + t * D
                for p in range(packs):
                    store(bufs, o + p * size, load(state, s + p * W, True))
            else:
                s = place[0] + t * place[1]
                for p in range(packs):
                    store(bufs, o + p * size, load(x, s + p * W, True))
            o += 2 * W


@kernel
def split(buf, tables, first, last, start, n):
    """The passes [first, last) on the ``n`` points at ``start``, one block before the first."""
    tw, offsets, radices = tables
    W = width(buf, True)
    m = n
    for p in range(first, last):
        radix = radices[p]
        blocks, k = n // m, offsets[p] + start // m * (radix - 1)
        m //= radix
        forward_pass(buf, tw, radix, k, start, blocks, m, W)


@kernel
def join(buf, tables, first, last, start, n, m):
    """The inverse of :func:`split`, which left blocks of ``m`` points, times n / m."""
    tw, offsets, radices = tables
    W = width(buf, True)
    for p in range(last - 1, first - 1, -1):
        radix = radices[p]
        blocks, k = n // (m * radix), offsets[p] + start // (m * radix) * (radix - 1)
        backward_pass(buf, tw, radix, k, start, blocks, m, W)
        m *= radix


@kernel
def spectra(k, taps, spec, tables, block, p0, p1):
    """Transforms of the first ``taps`` taps of ``k`` (D, K), divided by M, into ``spec``."""
    W = width(spec, True)
    points = spec.shape[1] // (2 * W)
    outer, n = outer_passes(tables[2], points, block)
    count = len(tables[2])
    scale = spec.dtype.type(1.0 / points)
    for p in range(p0, p1):
        buf = spec[p]
        buf[:] = 0
        for w in range(W):
            row = k[p * W + w]
            for t in range(min(taps, points)):
                buf[2 * t * W + w] = row[t] * scale
            for t in range(points, taps):
                buf[(2 * (t - points) + 1) * W + w] = row[t] * scale
        split(buf, tables, 0, outer, 0, points)
        for start in range(0, points, n):
            split(buf, tables, outer, count, start, n)


@kernel
def multiply(buf, h, start, n):
    """``buf`` times ``h`` at ``n`` points from ``start``."""
    W = width(buf, True)
    for o in range(2 * W * start, 2 * W * (start + n), 2 * W):
        a, b = load(buf, o, True), load(buf, o + W, True)
        c, e = load(h, o, True), load(h, o + W, True)
        store(buf, o, sub(mul(a, c), mul(b, e)))
        store(buf, o + W, madd(a, e, mul(b, c)))


@kernel
def multiply_conj(buf, h, start, n):
    """``buf`` times the conjugate of ``h`` at ``n`` points from ``start``."""
    W = width(buf, True)
    for o in range(2 * W * start, 2 * W * (start + n), 2 * W):
        a, b = load(buf, o, True), load(buf, o + W, True)
        c, e = load(h, o, True), load(h, o + W, True)
        store(buf, o, madd(a, c, mul(b, e)))
        store(buf, o + W, sub(mul(b, c), mul(a, e)))


@kernel
def correlate(total, g, x, start, n):
    """Add ``g`` times the conjugate of ``x`` to ``total`` at ``n`` points from ``start``."""
    W = width(total, True)
    for o in range(2 * W * start, 2 * W * (start + n), 2 * W):
        a, b = load(g, o, True), load(g, o + W, True)
        c, e = load(x, o, True), load(x, o + W, True)
        store(total, o, madd(a, c, madd(b, e, load(total, o, True))))
        store(total, o + W, madd(b, c, sub(load(total, o + W, True), mul(a, e))))


@kernel
def emit(bufs, packs, y, x, d, has_d, place, lane, origin, first, stop):
    """Write the outputs at [first, stop) of neighbouring packs, with the skip."""
    W = width(bufs, True)
    size = bufs.shape[1]
    points = size // (2 * W)
    for half in range(2):
        begin = max(first, origin + half * points)
        end = min(stop, origin + (half + 1) * points)
        o = 2 * W * (begin - origin - half * points) + half * W
        s = place[0] + begin * place[1]
        for _ in range(begin, end):
            for p in range(packs):
                value = load(bufs, o + p * size, True)
                if has_d:
                    value = madd(load(d, lane + p * W, True), load(x, s + p * W, True), value)
                store(y, s + p * W, value)
            o += 2 * W
            s += place[1]


@kernel
def gather(bufs, packs, du, dstate, g, d, has_d, place, D, lane, origin, first, stop):
    """Gradients of the positions [origin, stop) of neighbouring packs.

    Positions from ``first`` on are written, with the skip; those before it, which also had a part
    in earlier pieces, and those of the state, are added to.
    """
    W = width(bufs, True)
    size = bufs.shape[1]
    points = size // (2 * W)
    for half in range(2):
        begin = origin + half * points
        end = min(stop, begin + points)
        o = half * W
        for t in range(begin, end):
            s = place[2] + t * D if t < 0 else place[0] + t * place[1]
            for p in range(packs):
                value = load(bufs, o + p * size, True)
                if t < 0:
                    store(dstate, s + p * W, add(load(dstate, s + p * W, True), value))
                elif t < first:
                    store(du, s + p * W, add(load(du, s + p * W, True), value))
                else:
                    if has_d:
                        value = madd(load(d, lane + p * W, True), load(g, s + p * W, True), value)
                    store(du, s + p * W, value)
            o += 2 * W


@kernel
def forward(x, state, d, has_d, y, spec, pieces, tables, sizes, plan, reverse, i0, i1, p0, p1):
    """Outputs of the pieces [i0, i1) for the packs [p0, p1)."""
    block, group = plan
    W = width(x, True)
    points = spec.shape[1] // (2 * W)
    D = sizes[1]
    bufs = np.empty((group, 2 * W * points), x.dtype)
    outer, n = outer_passes(tables[2], points, block)
    count = len(tables[2])
    for q in range(p0, p1, group):
        packs = min(group, p1 - q)
        for i in range(i0, i1):
            row, origin, first, stop = pieces[i, 0], pieces[i, 1], pieces[i, 2], pieces[i, 3]
            place = places(sizes, row, q * W, reverse)
            fill(x, state, place, D, origin, origin, stop, bufs, packs)
            for p in range(packs):
                buf, h = bufs[p], spec[q + p]
                split(buf, tables, 0, outer, 0, points)
                for start in range(0, points, n):
                    split(buf, tables, outer, count, start, n)
                    multiply(buf, h, start, n)
                    join(buf, tables, outer, count, start, n, 1)
                join(buf, tables, 0, outer, 0, points, n)
            emit(bufs, packs, y, x, d, has_d, place, q * W, origin, first, stop)


@kernel
def backward(
    g, x, state, d, has_d, du, dstate, need_x, dk, need_k, spec, pieces, tables, sizes, plan,
    reverse, part, i0, i1, p0, p1,
):  # fmt: skip
    """Gradients of the pieces [i0, i1) for the packs [p0, p1).

    Those of x are written, that of the state is added to, that of k is written to ``dk[part]``.
    """
    block, group = plan
    W = width(x, True)
    points = spec.shape[1] // (2 * W)
    D = sizes[1]
    bufs = np.empty((group, 2 * W * points), x.dtype)
    others = np.empty((group if need_k else 1, 2 * W * points if need_k else 0), x.dtype)
    totals = np.empty((group if need_k else 1, 2 * W * points if need_k else 0), x.dtype)
    outer, n = outer_passes(tables[2], points, block)
    count = len(tables[2])
    for q in range(p0, p1, group):
        packs = min(group, p1 - q)
        totals[:] = 0
        for i in range(i0, i1):
            row, origin, first, stop = pieces[i, 0], pieces[i, 1], pieces[i, 2], pieces[i, 3]
            place = places(sizes, row, q * W, reverse)
            fill(g, g, place, D, origin, first, stop, bufs, packs)
            if need_k:
                fill(x, state, place, D, origin, origin, stop, others, packs)
            for p in range(packs):
                buf, h = bufs[p], spec[q + p]
                split(buf, tables, 0, outer, 0, points)
                other, total = others[p if need_k else 0], totals[p if need_k else 0]
                if need_k:
                    split(other, tables, 0, outer, 0, points)
                for start in range(0, points, n):
                    split(buf, tables, outer, count, start, n)
                    if need_k:
                        split(other, tables, outer, count, start, n)
                        correlate(total, buf, other, start, n)
                    if need_x:
                        multiply_conj(buf, h, start, n)
                        join(buf, tables, outer, count, start, n, 1)
                if need_x:
                    join(buf, tables, 0, outer, 0, points, n)
            if need_x:
                gather(
                    *(bufs, packs, du, dstate, g, d, has_d, place, D, q * W, origin, first, stop)
                )
        if need_k:
            for p in range(packs):
                take(totals[p], dk[part], (q + p) * W, tables, outer, n)


@kernel
def take(total, dk, lane, tables, outer, n):
    """Bring a summed spectrum back; its first positions are the gradients of the taps."""
    W = width(total, True)
    points = len(total) // (2 * W)
    count = len(tables[2])
    for start in range(0, points, n):
        join(total, tables, outer, count, start, n, 1)
    join(total, tables, 0, outer, 0, points, n)
    taps = dk.shape[1]
    scale = dk.dtype.type(1.0 / points)
    for w in range(W):
        row = dk[lane + w]
        for t in range(min(taps, points)):
            row[t] = total[2 * t * W + w] * scale
        for t in range(points, taps):
            row[t] = total[(2 * (t - points) + 1) * W + w] * scale
