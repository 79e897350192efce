"""Small matrices inside Triton kernels: tuples of numbers, a lane a series, every loop unrolled.

A matrix is the tuple of its entries row by row; a symmetric one is packed, which is the tuple of
what is at or below its diagonal. Entries are in float64.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false
# Kernels are typed by Triton when it compiles them, not by annotations.

from __future__ import annotations

import triton.language as tl

from statewise.ops.selective_scan._gpu_math import device


@device
def load(pointer, mask, COUNT: tl.constexpr):
    """Up to 16 numbers that follow each other, zeros outside the mask.

    They are read as one tile, whose lanes the compiler lays along memory: that is faster, and much
    faster to compile, than one load a number.
    """
    WIDTH: tl.constexpr = (
        1 if COUNT == 1 else 2 if COUNT == 2 else 4 if COUNT <= 4 else 8 if COUNT <= 8 else 16
    )
    if WIDTH == 1:
        found = (tl.load(pointer, mask=mask, other=0.0).to(tl.float64),)
    else:
        k = tl.arange(0, WIDTH)
        inside = mask[:, None] & (k < COUNT)[None, :]
        tile = tl.load(pointer[:, None] + k[None, :], mask=inside, other=0.0).to(tl.float64)
        found = _entries(tile, mask.shape[0], COUNT, WIDTH)
    return found


@device
def _entries(tile, LANES: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """The first columns of a tile, by halving it."""
    parts = (tile,)
    for level in tl.static_range(4):
        if WIDTH >> level > 1:
            halves = ()
            for k in tl.static_range(1 << level):
                part = parts[k]
                if WIDTH >> level > 2:
                    part = tl.reshape(part, (LANES, 2, WIDTH >> (level + 1)))
                    part = tl.permute(part, (0, 2, 1))
                first, second = tl.split(part)
                halves += (first, second)
            parts = halves
    found = ()
    for k in tl.static_range(COUNT):
        found += (parts[k],)
    return found


@device
def store(pointer, x, mask, COUNT: tl.constexpr):
    """What :func:`load` loads."""
    WIDTH: tl.constexpr = (
        1 if COUNT == 1 else 2 if COUNT == 2 else 4 if COUNT <= 4 else 8 if COUNT <= 8 else 16
    )
    parts = ()
    for k in tl.static_range(WIDTH):
        parts += (x[k if k < COUNT else 0].to(pointer.dtype.element_ty),)
    if WIDTH == 1:
        tl.store(pointer, parts[0], mask=mask)
    else:
        for level in tl.static_range(4):
            if WIDTH >> level > 1:
                pairs = ()
                for k in tl.static_range(WIDTH >> (level + 1)):
                    both = tl.join(parts[2 * k], parts[2 * k + 1])
                    if level > 0:
                        both = tl.permute(both, (0, 2, 1))
                        both = tl.reshape(both, (mask.shape[0], 2 << level))
                    pairs += (both,)
                parts = pairs
        k = tl.arange(0, WIDTH)
        inside = mask[:, None] & (k < COUNT)[None, :]
        tl.store(pointer[:, None] + k[None, :], parts[0], mask=inside)


@device
def packed(x, N: tl.constexpr):
    """The symmetric part of a matrix, packed."""
    found = ()
    for i in tl.static_range(N):
        for j in tl.static_range(i + 1):
            if i == j:
                found += (x[i * N + j],)
            else:
                found += (0.5 * (x[i * N + j] + x[j * N + i]),)
    return found


@device
def zeros(like, COUNT: tl.constexpr):
    """So many zeros, each shaped as ``like``."""
    found = ()
    for _ in tl.static_range(COUNT):
        found += (tl.zeros(like.shape, tl.float64),)
    return found


@device
def where(condition, a, b, COUNT: tl.constexpr):
    """Entries of a where the condition holds, else of b."""
    found = ()
    for k in tl.static_range(COUNT):
        found += (tl.where(condition, a[k], b[k]),)
    return found


@device
def add(a, b, COUNT: tl.constexpr):
    """Return a + b."""
    found = ()
    for k in tl.static_range(COUNT):
        found += (a[k] + b[k],)
    return found


@device
def unpacked(x, N: tl.constexpr):
    """All entries of a packed matrix."""
    found = ()
    for i in tl.static_range(N):
        for j in tl.static_range(N):
            if i >= j:
                found += (x[i * (i + 1) // 2 + j],)
            else:
                found += (x[j * (j + 1) // 2 + i],)
    return found


@device
def product(A, B, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr):
    """AB."""
    found = ()
    for i in tl.static_range(ROWS):
        for j in tl.static_range(COLUMNS):
            x = A[i * INNER] * B[j]
            for k in tl.static_range(1, INNER):
                x += A[i * INNER + k] * B[k * COLUMNS + j]
            found += (x,)
    return found


@device
def product_t(A, B, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr):
    """A Bᵀ, where B has ``COLUMNS`` rows."""
    found = ()
    for i in tl.static_range(ROWS):
        for j in tl.static_range(COLUMNS):
            x = A[i * INNER] * B[j * INNER]
            for k in tl.static_range(1, INNER):
                x += A[i * INNER + k] * B[j * INNER + k]
            found += (x,)
    return found


@device
def t_product(A, B, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr):
    """AᵀB, where A has ``ROWS`` columns."""
    found = ()
    for i in tl.static_range(ROWS):
        for j in tl.static_range(COLUMNS):
            x = A[i] * B[j]
            for k in tl.static_range(1, INNER):
                x += A[k * ROWS + i] * B[k * COLUMNS + j]
            found += (x,)
    return found


@device
def packed_t(start, A, B, N: tl.constexpr, INNER: tl.constexpr):
    """``start`` + A Bᵀ for a product that is symmetric, packed."""
    found = ()
    for i in tl.static_range(N):
        for j in tl.static_range(i + 1):
            x = start[i * (i + 1) // 2 + j]
            for k in tl.static_range(INNER):
                x += A[i * INNER + k] * B[j * INNER + k]
            found += (x,)
    return found


@device
def factor(S, N: tl.constexpr, TOLERANCE: tl.constexpr):
    """L and D of S = L D Lᵀ, packed: L with 1/D on its diagonal, and L D below the diagonal of D.

    A pivot of no more than a positive tolerance times what stood there drops its direction.
    """
    L, C = (), ()
    for i in tl.static_range(N):
        for j in tl.static_range(i + 1):
            x = S[i * (i + 1) // 2 + j]
            for k in tl.static_range(j):
                x -= C[i * (i + 1) // 2 + k] * L[j * (j + 1) // 2 + k]
            if i != j:
                scaled = x * L[j * (j + 1) // 2 + j]
            elif TOLERANCE > 0:
                gone = x <= TOLERANCE * S[i * (i + 1) // 2 + i]
                scaled = tl.where(gone, 0.0, 1.0 / tl.where(gone, 1.0, x))
            else:
                scaled = 1.0 / x
            C += (x,)
            L += (scaled,)
    return L, C


@device
def solve(L, B, N: tl.constexpr, COLUMNS: tl.constexpr):
    """(L D Lᵀ)⁻¹B, from what :func:`factor` gives."""
    forward = ()
    for i in tl.static_range(N):
        for j in tl.static_range(COLUMNS):
            x = B[i * COLUMNS + j]
            for k in tl.static_range(i):
                x -= L[i * (i + 1) // 2 + k] * forward[k * COLUMNS + j]
            forward += (x,)
    # Rows from the last one on: row i is the (N − 1 − i)-th.
    back = ()
    for r in tl.static_range(N):
        for j in tl.static_range(COLUMNS):
            x = forward[(N - 1 - r) * COLUMNS + j] * L[(N - 1 - r) * (N - r) // 2 + N - 1 - r]
            for q in tl.static_range(r):
                x -= L[(N - 1 - q) * (N - q) // 2 + N - 1 - r] * back[q * COLUMNS + j]
            back += (x,)
    found = ()
    for i in tl.static_range(N):
        for j in tl.static_range(COLUMNS):
            found += (back[(N - 1 - i) * COLUMNS + j],)
    return found
