"""Triton kernels of the convolution: passes of a transform, each lane walking time in registers.

A program holds R points of C channels: R rows of C neighbouring numbers each, read and written
whole, one channel a thread. The transform of these points is then arithmetic in registers, and
nothing is transposed, exchanged or kept in shared memory.

Buffers are (items, M, 2, D): for each point the real parts of all channels, then the imaginary
ones. A pass splits blocks of R m points; its program takes points j, j + m, …, j + (R − 1) m of
one block. ``tw`` holds the factors of splits by two as a binary heap, (M, 2): that of node i in
row i, its halves being the nodes 2i and 2i + 1, and the whole the node 1 (see README.md).
``items`` has the columns row, start, first, stop of :class:`~statewise.ops.fft_conv.plan.Piece`.
"""

# Triton compiles no starred tuple.
# ruff: noqa: RUF005
# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _split(re, im, tw, node, R: tl.constexpr, LEVELS: tl.constexpr):
    """Transform R = 2^LEVELS points, the block of heap node ``node``, to R blocks of one point."""
    for level in tl.static_range(LEVELS):
        zr, zi = (), ()
        for block in tl.static_range(2**level):
            c = tl.load(tw + 2 * (node * 2**level + block))
            s = tl.load(tw + 2 * (node * 2**level + block) + 1)
            lr, li, hr, hi = (), (), (), ()
            for i in tl.static_range(
                block * (R >> level), block * (R >> level) + (R >> level) // 2
            ):
                br = re[i + (R >> level) // 2] * c - im[i + (R >> level) // 2] * s
                bi = re[i + (R >> level) // 2] * s + im[i + (R >> level) // 2] * c
                lr = lr + (re[i] + br,)
                li = li + (im[i] + bi,)
                hr = hr + (re[i] - br,)
                hi = hi + (im[i] - bi,)
            zr = zr + lr + hr
            zi = zi + li + hi
        re, im = zr, zi
    return re, im


@triton.jit
def _join(re, im, tw, node, R: tl.constexpr, LEVELS: tl.constexpr):
    """The inverse of :func:`_split`, times R."""
    for step in tl.static_range(LEVELS):
        zr, zi = (), ()
        for block in tl.static_range(R >> (step + 1)):
            c = tl.load(tw + 2 * (node * (R >> (step + 1)) + block))
            s = tl.load(tw + 2 * (node * (R >> (step + 1)) + block) + 1)
            lr, li, hr, hi = (), (), (), ()
            for i in tl.static_range(2 * block * 2**step, 2 * block * 2**step + 2**step):
                dr = re[i] - re[i + 2**step]
                di = im[i] - im[i + 2**step]
                lr = lr + (re[i] + re[i + 2**step],)
                li = li + (im[i] + im[i + 2**step],)
                hr = hr + (dr * c + di * s,)
                hi = hi + (di * c - dr * s,)
            zr = zr + lr + hr
            zi = zi + li + hi
        re, im = zr, zi
    return re, im


@triton.jit
def _read(buf, o, mask, step, D, R: tl.constexpr):
    """R points, ``step`` apart, from ``buf``."""
    re, im = (), ()
    for q in tl.static_range(R):
        p = buf + (q * step).to(tl.int64) * (2 * D)
        re = re + (tl.load(p + o, mask=mask, other=0.0),)
        im = im + (tl.load(p + D + o, mask=mask, other=0.0),)
    return re, im


@triton.jit
def _write(buf, o, mask, step, D, re, im, R: tl.constexpr):
    """The inverse of :func:`_read`."""
    for q in tl.static_range(R):
        p = buf + (q * step).to(tl.int64) * (2 * D)
        tl.store(p + o, re[q], mask=mask)
        tl.store(p + D + o, im[q], mask=mask)


@triton.jit
def _place(D, C: tl.constexpr, rows):
    """(row of the grid within an item, item, channels, mask), channel tiles running fastest."""
    pid = tl.program_id(0)
    tiles = tl.cdiv(D, C)
    o = (pid % tiles) * C + tl.arange(0, C)
    rest = pid // tiles
    return rest % rows, (rest // rows).to(tl.int64), o, o < D


@triton.jit
def load_pass(
    x, state, items, tw, buf, scale, L, K, D, M, PAST: tl.constexpr, BOTH: tl.constexpr,
    REVERSE: tl.constexpr, STATE: tl.constexpr, R: tl.constexpr, LEVELS: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """First pass, from the inputs times ``scale``: of [start, stop), or [first, stop) not PAST."""
    m = M // R
    j, item, o, mask = _place(D, C, m)
    row = tl.load(items + 4 * item)
    start = tl.load(items + 4 * item + 1)
    low = start if PAST else tl.load(items + 4 * item + 2)
    high = tl.load(items + 4 * item + 3)
    dtype = buf.dtype.element_ty
    re, im = (), ()
    for half in tl.static_range(2):
        values = ()
        for q in tl.static_range(R):
            if half == 0 or BOTH:
                t = start + half * M + j + q * m
                time = L - 1 - t if REVERSE else t
                # A number decides for all channels: tl.where on it keeps the mask one comparison.
                inside = o < tl.where((t >= low) & (t >= 0) & (t < high), D, 0)
                value = tl.load(x + (row * L + time) * D + o, mask=inside, other=0.0).to(dtype)
                if STATE:
                    inside = o < tl.where((t >= low) & (t < 0), D, 0)
                    p = state + (row * (K - 1) + K - 1 + t) * D + o
                    value += tl.load(p, mask=inside, other=0.0)
                values = values + (value * scale,)
            else:
                values = values + (tl.zeros([C], dtype),)
        if half == 0:
            re = values
        else:
            im = values
    re, im = _split(re, im, tw, 1, R, LEVELS)
    _write(buf + (item * M + j) * (2 * D), o, mask, m, D, re, im, R)


@triton.jit(do_not_specialize=["m"])
def forward_pass(buf, tw, D, M, m, R: tl.constexpr, LEVELS: tl.constexpr, C: tl.constexpr):
    """A pass in place on blocks of R m points."""
    k, item, o, mask = _place(D, C, M // R)
    block = k // m
    p = buf + (item * M + block * (R * m) + k % m) * (2 * D)
    re, im = _read(p, o, mask, m, D, R)
    re, im = _split(re, im, tw, M // (R * m) + block, R, LEVELS)
    _write(p, o, mask, m, D, re, im, R)


@triton.jit(do_not_specialize=["m"])
def inverse_pass(buf, tw, D, M, m, R: tl.constexpr, LEVELS: tl.constexpr, C: tl.constexpr):
    """The inverse of :func:`forward_pass`, times R."""
    k, item, o, mask = _place(D, C, M // R)
    block = k // m
    p = buf + (item * M + block * (R * m) + k % m) * (2 * D)
    re, im = _read(p, o, mask, m, D, R)
    re, im = _join(re, im, tw, M // (R * m) + block, R, LEVELS)
    _write(p, o, mask, m, D, re, im, R)


@triton.jit
def product_pass(buf, spec, tw, D, M, R: tl.constexpr, LEVELS: tl.constexpr, C: tl.constexpr):
    """The last pass, the product with ``spec`` (M, 2, D), and the inverse of that pass."""
    block, item, o, mask = _place(D, C, M // R)
    p = buf + (item * M + block * R) * (2 * D)
    h = spec + (block * R).to(tl.int64) * (2 * D)
    one = tl.full([], 1, tl.int32)
    re, im = _read(p, o, mask, one, D, R)
    re, im = _split(re, im, tw, M // R + block, R, LEVELS)
    yr, yi = (), ()
    for q in tl.static_range(R):
        c = tl.load(h + q * 2 * D + o, mask=mask, other=0.0)
        s = tl.load(h + q * 2 * D + D + o, mask=mask, other=0.0)
        yr = yr + (re[q] * c - im[q] * s,)
        yi = yi + (re[q] * s + im[q] * c,)
    yr, yi = _join(yr, yi, tw, M // R + block, R, LEVELS)
    _write(p, o, mask, one, D, yr, yi, R)


@triton.jit
def product_back(
    g, x, spec, total, tw, D, M, count, NEED_X: tl.constexpr, NEED_K: tl.constexpr,
    R: tl.constexpr, LEVELS: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """The last pass on the gradients, their product with conj(spec), and the way back.

    Also the last pass on the inputs, and the sum over items of the gradients' spectra times the
    inputs' conjugate ones, into ``total`` (M, 2, D): the items go one after the other.
    """
    block, _, o, mask = _place(D, C, M // R)
    at = (block * R).to(tl.int64) * (2 * D)
    one = tl.full([], 1, tl.int32)
    node = M // R + block
    tr, ti = (), ()
    for _ in tl.static_range(R):
        tr = tr + (tl.zeros([C], g.dtype.element_ty),)
        ti = ti + (tl.zeros([C], g.dtype.element_ty),)
    for item in range(count):
        here = at + tl.cast(item, tl.int64) * M * 2 * D
        re, im = _read(g + here, o, mask, one, D, R)
        re, im = _split(re, im, tw, node, R, LEVELS)
        if NEED_K:
            ur, ui = _read(x + here, o, mask, one, D, R)
            ur, ui = _split(ur, ui, tw, node, R, LEVELS)
            sr, si = (), ()
            for q in tl.static_range(R):
                sr = sr + (tr[q] + re[q] * ur[q] + im[q] * ui[q],)
                si = si + (ti[q] + im[q] * ur[q] - re[q] * ui[q],)
            tr, ti = sr, si
        if NEED_X:
            yr, yi = (), ()
            for q in tl.static_range(R):
                c = tl.load(spec + at + q * 2 * D + o, mask=mask, other=0.0)
                s = tl.load(spec + at + q * 2 * D + D + o, mask=mask, other=0.0)
                yr = yr + (re[q] * c + im[q] * s,)
                yi = yi + (im[q] * c - re[q] * s,)
            yr, yi = _join(yr, yi, tw, node, R, LEVELS)
            _write(g + here, o, mask, one, D, yr, yi, R)
    if NEED_K:
        tr, ti = _join(tr, ti, tw, node, R, LEVELS)
        _write(total + at, o, mask, one, D, tr, ti, R)


@triton.jit
def store_pass(
    buf, y, dstate, x, d, items, tw, scale, L, K, D, M, BOTH: tl.constexpr, SKIP: tl.constexpr,
    REVERSE: tl.constexpr, STATE: tl.constexpr, R: tl.constexpr, LEVELS: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """The inverse of the first pass, times ``scale``, plus d x: positions below ``stop``.

    Positions from 0 on go to ``y``, and those below 0 to ``dstate`` where there is one.
    """
    m = M // R
    j, item, o, mask = _place(D, C, m)
    row = tl.load(items + 4 * item)
    start = tl.load(items + 4 * item + 1)
    stop = tl.load(items + 4 * item + 3)
    re, im = _read(buf + (item * M + j) * (2 * D), o, mask, m, D, R)
    re, im = _join(re, im, tw, 1, R, LEVELS)
    if SKIP:
        weight = tl.load(d + o, mask=mask, other=0.0)
    for q in tl.static_range(R):
        for half in tl.static_range(2 if BOTH else 1):
            t = start + j + q * m + half * M
            value = (im[q] if half else re[q]) * scale
            time = L - 1 - t if REVERSE else t
            at = (row * L + time) * D + o
            inside = o < tl.where((t >= 0) & (t < stop), D, 0)
            if SKIP:
                value += weight * tl.load(x + at, mask=inside, other=0.0).to(value.dtype)
            tl.store(y + at, value, mask=inside)
            if STATE:
                p = dstate + (row * (K - 1) + K - 1 + t) * D + o
                tl.store(p, value, mask=o < tl.where(t < 0, D, 0))
