"""What the CPU kernels do to one tile of steps: products, decays, and rows in and out.

Buffers are flat and row-major, their rows padded to whole packs. A pad is never a factor of what
is not itself a pad: every product is given its exact depth.
"""

from __future__ import annotations

import llvmlite.binding as llvm

from statewise.ops.jit import kernel
from statewise.ops.simd import broadcast, load, madd, mul, store, width, zero
from statewise.ops.ssd._panels import ROWS, lower, product, total, transpose, upper

TILE = 16
"""Steps of a tile: the work inside a tile grows with it, the traffic of the state falls."""

HEADS = 4
"""Heads of a group that share one pass over B and C; the parts that ∂B and ∂C are summed from."""

PACKS = 4 if llvm.get_host_cpu_features().get("avx512vl") else 2
"""Packs of the largest panel, as its sums fill the registers: 32 of them, or 16."""


@kernel
def multiply(
    out, o, so, fresh, scale, base, b, left, l, sl, sk, right, r, sr, depth, rows, columns
):  # fmt: skip
    """Set out ← scale · base + left · right, or left · right where ``fresh``; see ``product``.

    ``rows`` are rounded up to whole panels, ``columns`` are a multiple of a pack.
    """
    W = width(out, True)
    c = 0
    if PACKS == 4:
        while c + 4 * W <= columns:
            for i in range(0, rows, ROWS):
                d = i * so + c
                product(
                    out, o + d, so, fresh, scale, base, b + d, left, l + i * sl, sl, sk,
                    right, r + c, sr, depth, 4,
                )  # fmt: skip
            c += 4 * W
    while c + 2 * W <= columns:
        for i in range(0, rows, ROWS):
            d = i * so + c
            product(
                out, o + d, so, fresh, scale, base, b + d, left, l + i * sl, sl, sk,
                right, r + c, sr, depth, 2,
            )  # fmt: skip
        c += 2 * W
    if c < columns:
        for i in range(0, rows, ROWS):
            d = i * so + c
            product(
                out, o + d, so, fresh, scale, base, b + d, left, l + i * sl, sl, sk,
                right, r + c, sr, depth, 1,
            )  # fmt: skip


@kernel
def add_lower(out, so, fresh, scale, left, right, r, rows, columns):
    """Set out ← diag(scale) · out + tril(left) · right; see ``lower``.

    Rows of ``left`` are TILE apart, those of ``out`` and ``right`` ``so``.
    """
    W = width(out, True)
    for i in range(0, rows, ROWS):
        c = 0
        while c + 2 * W <= columns:
            lower(out, i * so + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, 2)
            c += 2 * W
        if c < columns:
            lower(out, i * so + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, 1)


@kernel
def add_upper(out, so, fresh, scale, left, right, r, rows, columns):
    """Set out ← diag(scale) · out + tril(left)ᵀ · right; see ``upper`` and :func:`add_lower`."""
    W = width(out, True)
    for i in range(0, rows, ROWS):
        c = 0
        d = i * so
        while c + 2 * W <= columns:
            upper(out, d + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, rows, 2)
            c += 2 * W
        if c < columns:
            upper(out, d + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, rows, 1)


@kernel
def turn(out, o, so, x, i, si, rows, columns):
    """Set out ← xᵀ, for whole squares of ``rows`` by ``columns`` of x, rounded up."""
    W = width(out, True)
    for c in range(0, columns, W):
        for p in range(0, rows, W):
            transpose(out, o + c * so + p, so, x, i + p * si + c, si)


@kernel
def hadamard(out, x, y, o, count):
    """Set out ← x ⊙ y, ``count`` numbers from place o of y on."""
    for c in range(0, count, width(out, True)):
        store(out, c, mul(load(x, c, True), load(y, o + c, True)))


@kernel
def ladder(out, a, eye, rows):
    """Row t of ``out``, lane s ≤ t: the product of a_j over s < j ≤ t; 0 in lanes s > t.

    By products along time, not as exp of a difference of sums: nothing can overflow that is not
    part of the answer, and nothing cancels. a_0 is not read.
    """
    W = width(out, True)
    for c in range(0, TILE, W):
        x = load(eye, c, True)
        store(out, c, x)
        for t in range(1, rows):
            x = madd(broadcast(out, a[t], True), x, load(eye, t * TILE + c, True))
            store(out, t * TILE + c, x)


@kernel
def decays(a, first, step, rows, steps, before, after):
    """Decays of a tile: of each step, from the start through it, and from it to the end.

    Returns the decay of the whole tile.
    """
    through = a[first]
    for t in range(rows):
        steps[t] = a[first + t * step]
        through = steps[t] if t == 0 else through * steps[t]
        before[t] = through
    after[rows - 1] = 1
    for t in range(rows - 2, -1, -1):
        after[t] = after[t + 1] * steps[t + 1]
    return through


@kernel
def gather(out, so, scale, x, first, step, rows, columns):
    """Row t of ``out`` ← scale_t · x, from the rows at first + t · step."""
    W = width(out, True)
    whole = columns - columns % W
    for t in range(rows):
        i = first + t * step
        factor = broadcast(out, scale[t], True)
        for p in range(0, whole, W):
            store(out, t * so + p, mul(factor, load(x, i + p, True)))
        for p in range(whole, columns):
            out[t * so + p] = scale[t] * x[i + p]


@kernel
def rescale(out, scale, x, stride, rows):
    """Row t of ``out`` ← scale_t · row t of x, pads included."""
    W = width(out, True)
    for t in range(rows):
        factor = broadcast(out, scale[t], True)
        for p in range(0, stride, W):
            store(out, t * stride + p, mul(factor, load(x, t * stride + p, True)))


@kernel
def scatter(out, first, step, scale, x, so, skip, D, d, y, j, jump, rows, columns):
    """Rows of ``out`` at first + t · step ← scale_t · row t of x, and with ``skip`` + D ⊙ y.

    Row t of y is at j + t · jump, D at d.
    """
    W = width(out, True)
    whole = columns - columns % W
    for t in range(rows):
        i = first + t * step
        k = j + t * jump
        factor = broadcast(out, scale[t], True)
        for p in range(0, whole, W):
            value = mul(factor, load(x, t * so + p, True))
            if skip:
                value = madd(load(D, d + p, True), load(y, k + p, True), value)
            store(out, i + p, value)
        for p in range(whole, columns):
            rest = scale[t] * x[t * so + p]
            if skip:
                rest += D[d + p] * y[k + p]
            out[i + p] = rest


@kernel
def dot(x, i, y, j, count):
    """Σ x[i + k] y[j + k] over k < count."""
    W = width(x, True)
    whole = count - count % W
    sums = zero(x, True)
    for k in range(0, whole, W):
        sums = madd(load(x, i + k, True), load(y, j + k, True), sums)
    value = total(x, sums)
    for k in range(whole, count):
        value += x[i + k] * y[j + k]
    return value


@kernel
def cut(starts, k0, k1, reset, has_reset, i, length, reverse):
    """Write where the tiles of the steps [k0, k1) start, in scan order, and k1; their number."""
    count = 0
    k = k0
    while k < k1:
        starts[count] = k
        count += 1
        end = min(k + TILE, k1)
        k += 1
        while k < end and not (has_reset and reset[i, length - 1 - k if reverse else k]):
            k += 1
    starts[count] = k1
    return count


@kernel
def similarities(out, chunk_c, chunk_b, so, turned, starts, tiles, states):
    """C_t · B_s for the steps of each tile, rows of TILE, from the rows of one chunk."""
    W = width(out, True)
    for m in range(tiles):
        first = starts[m] - starts[0]
        rows = starts[m + 1] - starts[m]
        turn(turned, 0, TILE, chunk_b, first * so, so, TILE, (states + W - 1) // W * W)
        multiply(
            out, first * TILE, TILE, True, out[0], out, 0, chunk_c, first * so, so, 1,
            turned, 0, TILE, states, rows, TILE,
        )  # fmt: skip
