"""Small dense matrices inside numba kernels: products, Cholesky factors and solves, in packs.

All matrices lie in one flat array ``w``, row by row, at flat offsets. Their rows are padded with
zeros to a multiple of four numbers, and their number of rows likewise, so that nothing needs a
remainder; products and solves keep the padding zero.

A length may be given as a number, or by :func:`constant`: it is then known to the compiler, and
loops unroll.
"""

from __future__ import annotations

import math

from numba.core import types
from numba.extending import overload

from statewise.ops.jit import kernel
from statewise.ops.simd import WIDER, add, everywhere, load, madd, mul, store, sub, width, zero

PAD = 4


def constant(n: int) -> tuple[tuple[()], ...]:
    """A length as a constant of compiled code: a tuple of so many empty tuples, which is all type.

    Unlike numbers in a tuple they cost a call nothing.
    """
    return ((),) * n


ONE, FOUR = constant(1), constant(4)
"""Steps in :func:`product` are slow unless one is known."""


def padded(n: int) -> int:
    """``n`` rounded up to whole packs."""
    return -(-n // PAD) * PAD


def extent(size):
    """The length that a number or a tuple stands for."""
    return len(size) if isinstance(size, tuple) else size


@overload(extent)
def _extent(size):
    if isinstance(size, types.BaseTuple):
        count = size.count  # pyright: ignore[reportAttributeAccessIssue]
        return lambda size: count
    return lambda size: size


@kernel
def _tile(w, c, ldc, a, row, step, b, ldb, inner, mode, kind):
    """Four rows and one pack of columns of :func:`product`."""
    p, q, r, s = zero(w, kind), zero(w, kind), zero(w, kind), zero(w, kind)
    for k in range(extent(inner)):
        v = load(w, b + k * extent(ldb), kind)
        x = a + k * extent(step)
        p = madd(everywhere(w, x, kind), v, p)
        q = madd(everywhere(w, x + extent(row), kind), v, q)
        r = madd(everywhere(w, x + 2 * extent(row), kind), v, r)
        s = madd(everywhere(w, x + 3 * extent(row), kind), v, s)
    ld = extent(ldc)
    if mode > 0:
        p = add(load(w, c, kind), p)
        q = add(load(w, c + ld, kind), q)
        r = add(load(w, c + 2 * ld, kind), r)
        s = add(load(w, c + 3 * ld, kind), s)
    elif mode < 0:
        p = sub(load(w, c, kind), p)
        q = sub(load(w, c + ld, kind), q)
        r = sub(load(w, c + 2 * ld, kind), r)
        s = sub(load(w, c + 3 * ld, kind), s)
    store(w, c, p)
    store(w, c + ld, q)
    store(w, c + 2 * ld, r)
    store(w, c + 3 * ld, s)


@kernel
def product(w, c, at, a, row, step, b, shape, mode, lower):
    """C = AB, C + AB or C − AB, as ``mode`` is 0, 1 or −1; C must not overlap A or B.

    Entry (i, k) of A lies at ``a + i*row + k*step``, so that A may be a transpose. ``at`` is the
    step between rows of C and of B; ``shape`` is the padded number of rows, the inner length and
    the padded number of columns. With ``lower`` only what is at or below the diagonal need be
    right.
    """
    ldc, ldb = at
    rows, inner, columns = extent(shape[0]), shape[1], extent(shape[2])
    W = width(w, WIDER)
    for i in range(0, rows, 4):
        end = min(columns, i + 4) if lower else columns
        at_c, at_a = c + i * extent(ldc), a + i * extent(row)
        j = 0
        while j + W <= columns and j < end:
            _tile(w, at_c + j, ldc, at_a, row, step, b + j, ldb, inner, mode, WIDER)
            j += W
        while j < end:
            _tile(w, at_c + j, ldc, at_a, row, step, b + j, ldb, inner, mode, True)
            j += 4


@kernel
def combine(w, y, a, step, x, ldx, count, columns):
    """Add to the row at ``y`` the rows of X, the k-th of them times ``w[a + k*step]``."""
    step, ldx = extent(step), extent(ldx)
    for j in range(0, extent(columns), 4):
        total = load(w, y + j, True)
        for k in range(extent(count)):
            total = madd(everywhere(w, a + k * step, True), load(w, x + k * ldx + j, True), total)
        store(w, y + j, total)


@kernel
def copy(w, to, source, count):
    """Copy a multiple of four numbers."""
    for j in range(0, extent(count), 4):
        store(w, to + j, load(w, source + j, True))


@kernel
def clear(w, at, count):
    """Set a multiple of four numbers to zero."""
    for j in range(0, extent(count), 4):
        store(w, at + j, zero(w, True))


@kernel
def take(w, at, ld, source, offset, rows, columns):
    """Copy a matrix into padded rows."""
    ld = extent(ld)
    if columns == ld:
        for j in range(0, rows * ld, 4):
            store(w, at + j, load(source, offset + j, True))
        return
    for i in range(rows):
        for j in range(columns):
            w[at + i * ld + j] = source[offset + i * columns + j]


@kernel
def take_symmetric(w, at, ld, source, offset, n):
    """Copy the symmetric part of a square matrix into padded rows."""
    ld = extent(ld)
    for i in range(n):
        for j in range(n):
            lower, upper = source[offset + i * n + j], source[offset + j * n + i]
            w[at + i * ld + j] = 0.5 * (lower + upper)


@kernel
def give(w, at, ld, target, offset, rows, columns):
    """Copy out of padded rows."""
    ld = extent(ld)
    if columns == ld:
        for j in range(0, rows * ld, 4):
            store(target, offset + j, load(w, at + j, True))
        return
    for i in range(rows):
        for j in range(columns):
            target[offset + i * columns + j] = w[at + i * ld + j]


@kernel
def mirror(w, a, ld, n):
    """Copy what is below the diagonal above it."""
    ld = extent(ld)
    for i in range(n):
        source, target = a + i * ld, a + i
        for _ in range(i):
            w[target] = w[source]
            source += 1
            target += ld


@kernel
def transpose(w, b, ldb, a, lda, rows, columns):
    """B = Aᵀ for A of so many rows and columns."""
    lda, ldb = extent(lda), extent(ldb)
    for i in range(extent(rows)):
        for j in range(extent(columns)):
            w[b + j * ldb + i] = w[a + i * lda + j]


@kernel
def factor(w, s, ld, n, inverse, tolerance):
    """Turn S in the upper triangle into U with UᵀU = S; leave 1/U_kk at ``inverse``.

    A pivot of no more than ``tolerance`` times what stood there drops its row when the tolerance
    is positive: the factor is then one of a semi-definite matrix.

    Returns:
        Σ log U_kk; NaN where a pivot is not positive and none may be dropped.
    """
    total = 0.0
    ld = extent(ld)
    columns = (n + 3) // 4 * 4
    for k in range(n):
        w[inverse + k] = w[s + k * ld + k]
    for k in range(n):
        row = s + k * ld
        pivot = w[row + k]
        if not pivot > tolerance * w[inverse + k]:
            if tolerance == 0.0 or math.isnan(pivot):
                return math.nan
            for j in range(k, columns):
                w[row + j] = 0.0
            w[inverse + k] = 0.0
            continue
        root = math.sqrt(pivot)
        total += math.log(root)
        w[inverse + k] = 1.0 / root
        scale = everywhere(w, inverse + k, True)
        first = k // 4 * 4
        for j in range(first, columns, 4):
            store(w, row + j, mul(scale, load(w, row + j, True)))
        for i in range(k + 1, n):
            f = everywhere(w, row + i, True)
            other = s + i * ld
            for j in range(i // 4 * 4, columns, 4):
                v = mul(f, load(w, row + j, True))
                store(w, other + j, sub(load(w, other + j, True), v))
    return total


@kernel
def _eliminate(w, x, ldx, columns, f, i, k):
    """Subtract ``w[f]`` times row k of X from row i."""
    columns = extent(columns)
    W = width(w, WIDER)
    target, source = x + i * ldx, x + k * ldx
    j = 0
    if columns >= W:
        v = everywhere(w, f, WIDER)
        while j + W <= columns:
            found = mul(v, load(w, source + j, WIDER))
            store(w, target + j, sub(load(w, target + j, WIDER), found))
            j += W
    if j < columns:
        u = everywhere(w, f, True)
        store(w, target + j, sub(load(w, target + j, True), mul(u, load(w, source + j, True))))


@kernel
def _scale(w, x, columns, f):
    v = everywhere(w, f, True)
    for j in range(0, extent(columns), 4):
        store(w, x + j, mul(v, load(w, x + j, True)))


@kernel
def solve(w, u, ldu, n, inverse, x, ldx, columns):
    """Replace the n rows of X by those of (UᵀU)⁻¹ X; ``columns`` is padded."""
    lu, lx = extent(ldu), extent(ldx)
    for i in range(0, n, 4):
        stop = min(i + 4, n)
        if i > 0:
            product(w, x + i * lx, (ldx, ldx), u + i, ONE, ldu, x, (FOUR, i, columns), -1, False)
        for k in range(i, stop):
            _scale(w, x + k * lx, columns, inverse + k)
            for r in range(k + 1, stop):
                _eliminate(w, x, lx, columns, u + k * lu + r, r, k)
    for i in range((n - 1) // 4 * 4, -1, -4):
        stop = min(i + 4, n)
        if stop < n:
            right, below = u + i * lu + stop, x + stop * lx
            shape = (FOUR, n - stop, columns)
            product(w, x + i * lx, (ldx, ldx), right, ldu, ONE, below, shape, -1, False)
        for k in range(stop - 1, i - 1, -1):
            _scale(w, x + k * lx, columns, inverse + k)
            for r in range(i, k):
                _eliminate(w, x, lx, columns, u + r * lu + k, r, k)
