"""What the CPU kernels do to one tile of steps: products, decays, and rows in and out.

Buffers are flat and row-major, their rows padded to whole packs. A pad is never a factor of what
is not itself a pad: every product is given its exact depth.
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.simd import (
    add,
    broadcast,
    load,
    madd,
    mul,
    prefetch,
    store,
    total,
    totals,
    width,
    zero,
)
from statewise.ops.simd_math import exp
from statewise.ops.ssd._panels import MANY, ROWS, WIDE, lower, output, product, transpose, upper

TILE = 16
"""Steps of a tile: the work inside a tile grows with it, the traffic of the state falls."""

HEADS = 4
"""Heads of a group that share one pass over B and C; the parts that ∂B and ∂C are summed from."""

PACKS = 4 if MANY else 2
"""Packs of the largest panel, as its sums fill the registers: 32 of them, or 16."""


@kernel
def near(x, first, count):
    """Ask for ``count`` numbers of x, from ``first`` on."""
    for c in range(0, count, width(x, WIDE)):
        prefetch(x, first + c)


@kernel
def multiply(
    out, o, so, fresh, scale, base, b, left, l, sl, sk, right, r, sr, depth, rows, columns,
    x, ahead, step, lines,
):  # fmt: skip
    """Set out ← scale · base + left · right, or left · right where ``fresh``; see ``product``.

    ``rows`` are rounded up to whole panels, ``columns`` are a multiple of a pack.
    """
    W = width(out, WIDE)
    c = 0
    if PACKS == 4:
        while c + 4 * W <= columns:
            for i in range(0, rows, ROWS):
                d = i * so + c
                if c == 0:
                    near(x, ahead + i // ROWS * step, lines)
                product(
                    out, o + d, so, fresh, scale, base, b + d, left, l + i * sl, sl, sk,
                    right, r + c, sr, depth, 4,
                )  # fmt: skip
            c += 4 * W
    while c + 2 * W <= columns:
        for i in range(0, rows, ROWS):
            d = i * so + c
            if c == 0:
                near(x, ahead + i // ROWS * step, lines)
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
    W = width(out, WIDE)
    for i in range(0, rows, ROWS):
        c = 0
        while c + 2 * W <= columns:
            lower(out, i * so + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, WIDE)
            c += 2 * W
        if c < columns:
            lower(out, i * so + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, 1)


@kernel
def add_upper(out, so, fresh, scale, left, right, r, rows, columns):
    """Set out ← diag(scale) · out + tril(left)ᵀ · right; see ``upper`` and :func:`add_lower`."""
    W = width(out, WIDE)
    for i in range(0, rows, ROWS):
        c = 0
        d = i * so
        while c + 2 * W <= columns:
            upper(out, d + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, rows, WIDE)
            c += 2 * W
        if c < columns:
            upper(out, d + c, so, fresh, scale, i, left, 0, TILE, right, r + c, so, i, rows, 1)


@kernel
def deliver(
    out, o, so, fresh, scale, left, l, sl, right, sr, r, depth, within, inputs, su,
    rows, columns, x, ahead, step,
):  # fmt: skip
    W = width(out, WIDE)
    for i in range(0, rows, ROWS):
        for t in range(i, i + ROWS):
            near(x, ahead + t * step, columns)
        c = 0
        while c + 4 * W <= columns:
            output(
                out,
                o + i * so + c,
                so,
                fresh,
                scale,
                i,
                left,
                l + i * sl,
                sl,
                right,
                r + c,
                sr,
                depth,
                within,
                0,
                TILE,
                inputs,
                c,
                su,
                i,
                4,
            )
            c += 4 * W
        while c + 2 * W <= columns:
            output(
                out,
                o + i * so + c,
                so,
                fresh,
                scale,
                i,
                left,
                l + i * sl,
                sl,
                right,
                r + c,
                sr,
                depth,
                within,
                0,
                TILE,
                inputs,
                c,
                su,
                i,
                WIDE,
            )
            c += 2 * W
        if c < columns:
            output(
                out,
                o + i * so + c,
                so,
                fresh,
                scale,
                i,
                left,
                l + i * sl,
                sl,
                right,
                r + c,
                sr,
                depth,
                within,
                0,
                TILE,
                inputs,
                c,
                su,
                i,
                1,
            )


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
    for c in range(0, count, width(out, WIDE)):
        store(out, c, mul(load(x, c, WIDE), load(y, o + c, WIDE)))


@kernel
def ladder(out, a, eye, rows):
    """Row t of ``out``, lane s ≤ t: the product of a_j over s < j ≤ t; 0 in lanes s > t.

    By products along time, not as exp of a difference of sums: nothing can overflow that is not
    part of the answer, and nothing cancels. a_0 is not read.
    """
    W = width(out, WIDE)
    for c in range(0, TILE, W):
        x = load(eye, c, WIDE)
        store(out, c, x)
        for t in range(1, rows):
            x = madd(broadcast(out, a[t], WIDE), x, load(eye, t * TILE + c, WIDE))
            store(out, t * TILE + c, x)


@kernel
def decays(log_a, first, step, rows, steps, before, after):
    """Decays of a tile: of each step, from the start through it, and from it to the end.

    Returns the decay of the whole tile.
    """
    W = width(steps, WIDE)
    steps[rows:] = 0
    for t in range(rows):
        steps[t] = log_a[first + t * step]
    for c in range(0, TILE, W):
        store(steps, c, exp(load(steps, c, WIDE)))
    through = steps[0]
    before[0] = through
    for t in range(1, rows):
        through = through * steps[t]
        before[t] = through
    after[rows - 1] = 1
    for t in range(rows - 2, -1, -1):
        after[t] = after[t + 1] * steps[t + 1]
    return through


@kernel
def gather(out, so, scale, x, first, step, rows, columns):
    """Row t of ``out`` ← scale_t · x, from the rows at first + t · step."""
    W = width(out, WIDE)
    whole = columns - columns % W
    for t in range(rows):
        i = first + t * step
        factor = broadcast(out, scale[t], WIDE)
        for p in range(0, whole, W):
            store(out, t * so + p, mul(factor, load(x, i + p, WIDE)))
        for p in range(whole, columns):
            out[t * so + p] = scale[t] * x[i + p]


@kernel
def rescale(out, scale, x, stride, rows):
    """Row t of ``out`` ← scale_t · row t of x, pads included."""
    W = width(out, WIDE)
    for t in range(rows):
        factor = broadcast(out, scale[t], WIDE)
        for p in range(0, stride, W):
            store(out, t * stride + p, mul(factor, load(x, t * stride + p, WIDE)))


@kernel
def scatter(out, first, step, scale, x, so, skip, D, d, y, j, jump, rows, columns):
    """Rows of ``out`` at first + t · step ← scale_t · row t of x, and with ``skip`` + D ⊙ y.

    Row t of y is at j + t · jump, D at d.
    """
    W = width(out, WIDE)
    whole = columns - columns % W
    for t in range(rows):
        i = first + t * step
        k = j + t * jump
        factor = broadcast(out, scale[t], WIDE)
        for p in range(0, whole, W):
            value = mul(factor, load(x, t * so + p, WIDE))
            if skip:
                value = madd(load(D, d + p, WIDE), load(y, k + p, WIDE), value)
            store(out, i + p, value)
        for p in range(whole, columns):
            rest = scale[t] * x[t * so + p]
            if skip:
                rest += D[d + p] * y[k + p]
            out[i + p] = rest


@kernel
def dots(out, sums, x, i, si, y, j, sj, rows, columns):
    """Entry r of ``out`` ← Σ x[i + r·si + k] y[j + r·sj + k] over k < columns."""
    W = width(x, WIDE)
    whole = columns - columns % W
    for r in range(rows):
        value = zero(x, WIDE)
        for k in range(0, whole, W):
            value = madd(load(x, i + r * si + k, WIDE), load(y, j + r * sj + k, WIDE), value)
        store(sums, r * W, value)
    for r in range(0, TILE, W):
        store(out, r, totals(sums, r * W, WIDE))
    for r in range(rows):
        for k in range(whole, columns):
            out[r] += x[i + r * si + k] * y[j + r * sj + k]


@kernel
def inner(x, i, y, j, stride, rows, columns):
    """Σ x[i + k] y[j + k] over the first ``columns`` numbers of each row."""
    W = width(x, WIDE)
    whole = columns - columns % W
    even = odd = zero(x, WIDE)
    rest = x[i] * 0
    for r in range(0, rows * stride, stride):
        for k in range(r, r + whole, W):
            even, odd = odd, madd(load(x, i + k, WIDE), load(y, j + k, WIDE), even)
        for k in range(r + whole, r + columns):
            rest += x[i + k] * y[j + k]
    return rest + total(add(even, odd))


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
    W = width(out, WIDE)
    for m in range(tiles):
        first = starts[m] - starts[0]
        rows = starts[m + 1] - starts[m]
        turn(turned, 0, TILE, chunk_b, first * so, so, TILE, (states + W - 1) // W * W)
        multiply(
            out, first * TILE, TILE, True, out[0], out, 0, chunk_c, first * so, so, 1,
            turned, 0, TILE, states, rows, TILE, out, 0, 0, 0,
        )  # fmt: skip
