"""The adjoint of the Kalman filter over steps at which its covariance stayed put.

Symbols and equation numbers are those of README.md. Rows of matrices are steps: ``BLOCK`` of them
at a time, so that all but one product a step is one of matrices.
"""

from __future__ import annotations

import math

from statewise.ops.jit import kernel
from statewise.ops.kalman_filter._small import (
    ONE,
    clear,
    combine,
    copy,
    extent,
    mirror,
    product,
    solve,
    take,
    transpose,
)

BLOCK = 16
"""Steps at a time."""
FEW = 32
"""A shorter run of steps is not worth what this costs before and after."""
BITS = 40
"""A power of Ψ is nothing once it is below 2 to minus this, in the scale of the states."""


def room_still(n: int, p: int) -> int:
    """Numbers of workspace that :func:`unmove` needs."""
    ld, ldp = -(-n // 4) * 4, -(-p // 4) * 4
    rows = (4 * BLOCK + 2) * ld + 4 * BLOCK * ldp
    return 9 * ld * ld + 5 * ld * ldp + 3 * ldp * ldp + rows + 2 * ld


@kernel
def _congruence(w, C, T, X, A, ld, n, mode):
    """C = AᵀXA for a symmetric X, or C + AᵀXA where ``mode`` is 1; T is left as XA."""
    square, cube = (ld, ld), (ld, ld, ld)
    product(w, T, square, X, ld, ONE, A, cube, 0, False)
    product(w, C, square, A, ONE, ld, T, cube, mode, True)
    mirror(w, C, ld, n)


@kernel
def _forgotten(w, power, spare, Psi, P, ld, n, steps):
    """After how many steps, of ``steps`` at most, Ψ has forgotten what was before.

    ``P`` is a covariance whose diagonal gives the scale of the states, where it is not zero.
    """
    row = extent(ld)
    nn = row * row
    clear(w, power, nn)
    for i in range(n):
        for j in range(n):
            a, b = w[P + i * row + i], w[P + j * row + j]
            scale = math.sqrt((b if b > 0.0 else 1.0) / (a if a > 0.0 else 1.0))
            w[power + i * row + j] = w[Psi + i * row + j] * scale
    found, m = steps, 1
    while m < found:
        size = 0.0
        for j in range(nn):
            size += w[power + j] * w[power + j]
        if not size < 1e40:
            break
        if size < 0.99:
            times = 1
            if size > 0.0:
                times = math.ceil(-2.0 * BITS / math.log2(size))
            found = min(found, m * max(times, 1))
            if times <= 2:
                break
        product(w, spare, (ld, ld), power, ld, ONE, power, (ld, ld, ld), 0, False)
        copy(w, power, spare, nn)
        m *= 2
    return found


@kernel
def _summed(w, X, power, spare, T, Psi, ld, n, steps):
    """Replace X by Σ_j (Ψʲ)ᵀ X Ψʲ over at least so many steps, by doubling."""
    nn = extent(ld) * extent(ld)
    copy(w, power, Psi, nn)
    m = 1
    while m < steps:
        _congruence(w, X, T, X, power, ld, n, 1)
        m *= 2
        if m < steps:
            product(w, spare, (ld, ld), power, ld, ONE, power, (ld, ld, ld), 0, False)
            copy(w, power, spare, nn)


@kernel
def _ready(w, places, room, sizes):
    """K, S⁻¹, J = I − KH, Ψ = FJ, (HF)ᵀ and HᵀS⁻¹H from what ``gain`` left."""
    F, Ft, H, Ht, S, X, inverse, _, _ = places
    K, inv_S, J, Psi, HFt, HSH, mixed = room
    n, p, ld, ldp, ldx = sizes
    row, rowp, wide = extent(ld), extent(ldp), extent(ldx)
    for i in range(p, rowp):
        clear(w, X + i * wide, ldx)
    transpose(w, K, ldp, X, ldx, ldp, ld)
    clear(w, inv_S, rowp * rowp)
    for i in range(p):
        w[inv_S + i * rowp + i] = 1.0
    solve(w, S, ldp, p, inverse, inv_S, ldp, ldp)
    clear(w, J, row * row)
    for i in range(n):
        w[J + i * row + i] = 1.0
    product(w, J, (ld, ld), K, ldp, ONE, H, (ld, ldp, ld), -1, False)
    product(w, Psi, (ld, ld), F, ld, ONE, J, (ld, ld, ld), 0, False)
    product(w, HFt, (ldp, ldp), Ft, ld, ONE, Ht, (ld, ld, ldp), 0, False)
    product(w, mixed, (ld, ld), inv_S, ldp, ONE, H, (ldp, ldp, ld), 0, False)
    product(w, HSH, (ld, ld), H, ONE, ld, mixed, (ld, ldp, ld), 0, False)


@kernel
def _look(w, rows, model, sizes, y, at_y, c, d, places, varies, start, many):
    """Innovations of a block of steps, S⁻¹e and HᵀS⁻¹e, from the means before them."""
    means, e, white, seen, drift, small = rows
    H, Ht, HFt, inv_S = model
    at_c, step_c, at_d, step_d = places
    has_c, has_d = varies
    n, p, ld, ldp = sizes
    rowp = extent(ldp)
    clear(w, e, BLOCK * rowp)
    for k in range(many):
        for j in range(p):
            w[e + k * rowp + j] = y[at_y + k * p + j]
        if has_d:
            for j in range(p):
                w[e + k * rowp + j] -= d[at_d + (start + k) * step_d + j]
        if has_c:
            take(w, drift, ld, c, at_c + (start + k) * step_c, 1, n)
            clear(w, small, ldp)
            combine(w, small, drift, ONE, Ht, ldp, ld, ldp)
            for j in range(p):
                w[e + k * rowp + j] -= w[small + j]
    product(w, e, (ldp, ldp), means, ld, ONE, HFt, (BLOCK, ld, ldp), -1, False)
    clear(w, e + many * rowp, (BLOCK - many) * rowp)
    product(w, white, (ldp, ldp), e, ldp, ONE, inv_S, (BLOCK, ldp, ldp), 0, False)
    product(w, seen, (ld, ld), white, ldp, ONE, H, (BLOCK, ldp, ld), 0, False)


@kernel
def _finish(w, places, more, sums, X, sizes, known, slopes, whole):
    """Gradients of F, Q, H and R from what was summed over the steps, and G before them."""
    F, H, P, K, inv_S, J, Psi, HSH = places
    total, G_end, wg, dm, ww, moved, power, spare, T, some, small = more
    G, sum_F, sum_Q, Y, M = sums
    n, p, ld, ldp, ldx = sizes
    row, rowp, wide = extent(ld), extent(ldp), extent(ldx)
    nn, square, cube = row * row, (ld, ld), (ld, ld, ld)
    if not whole:
        product(w, some, square, wg, ld, ONE, J, (ldp, ld, ld), 0, False)
        for j in range(rowp * rowp):
            w[small + j] = 0.5 * w[ww + j]
        product(w, some, square, small, ldp, ONE, H, (ldp, ldp, ld), 1, False)
        product(w, T, square, H, ONE, ld, some, (ld, ldp, ld), 0, False)
        for a in range(n):
            for b in range(n):
                both = w[T + a * row + b] + w[T + b * row + a]
                w[total + a * row + b] += 0.5 * (both - slopes * w[HSH + a * row + b])
        _congruence(w, power, T, G, Psi, ld, n, 0)
        for j in range(nn):
            w[total + j] -= w[power + j]
        _summed(w, total, power, spare, T, Psi, ld, n, known)
    for j in range(nn):
        w[spare + j] = w[total + j] - w[G + j]
        w[sum_Q + j] += w[total + j]
        w[sum_F + j] += 0.5 * w[moved + j]
    _congruence(w, G_end, T, spare, F, ld, n, 1)
    product(w, T, square, total, ld, ONE, F, cube, 0, False)
    product(w, sum_F, square, T, ld, ONE, P, cube, 1, False)
    product(w, some, square, X, ldx, ONE, G_end, (ldp, ld, ld), 0, False)
    product(w, M, (ldp, ldp), some, ld, ONE, K, (ldp, ld, ldp), 0, False)
    product(w, small, (ldp, ldp), wg, ld, ONE, K, (ldp, ld, ldp), 0, False)
    for a in range(p):
        for b in range(p):
            o = a * rowp + b
            spread = w[small + o] + w[small + b * rowp + a] + slopes * w[inv_S + o] - w[ww + o]
            w[M + o] -= 0.5 * spread
    for j in range(rowp * row):
        w[wg + j] -= 2.0 * w[some + j]
    product(w, Y, square, wg, ld, ONE, P, (ldp, ld, ld), 0, False)
    for a in range(p):
        for b in range(n):
            w[Y + a * row + b] += w[dm + a * row + b] - slopes * w[X + a * wide + b]
    _congruence(w, G, T, G, F, ld, n, 0)


@kernel
def unmove(
    w, at, places, sums, sizes, flags, strides, y, c, d, gm, gll, m_out, P_out, dy, dc, dd,
    steps, first, kept, i, begin, end,
):  # fmt: skip
    """Take g, G from after step ``end`` to before step ``begin``, between which P stays.

    ``places`` hold what ``gain`` left at step ``end``. Gradients of F and Q are added to those in
    ``sums``, half of that of F as there; of H and R they are left there. Steps of all arrays count
    from ``first``, in moments that are stored from ``kept``.
    """
    F, _, H, Ht, _, X, _, ahead, P = places
    g, G, sum_F, sum_Q, Y, M = sums
    n, p, ld, ldp, _ = sizes
    has_c, has_d, has_gm, has_gll = flags
    row, rowp = extent(ld), extent(ldp)
    nn, mixed, pp = row * row, row * rowp, rowp * rowp
    square = (ld, ld)
    J = at
    Psi, HSH, total, G_end = J + nn, J + 2 * nn, J + 3 * nn, J + 4 * nn
    power, spare, T, moved = J + 5 * nn, J + 6 * nn, J + 7 * nn, J + 8 * nn
    K = J + 9 * nn
    HFt, wg, dm, some = K + mixed, K + 2 * mixed, K + 3 * mixed, K + 4 * mixed
    inv_S = K + 5 * mixed
    ww, small = inv_S + pp, inv_S + 2 * pp
    means = inv_S + 3 * pp
    before = means + (BLOCK + 1) * row
    after = before + (BLOCK + 1) * row
    seen = after + BLOCK * row
    e = seen + BLOCK * row
    white, sloped, gd = e + BLOCK * rowp, e + 2 * BLOCK * rowp, e + 3 * BLOCK * rowp
    half = e + 4 * BLOCK * rowp
    drift = half + row
    _ready(w, places, (K, inv_S, J, Psi, HFt, HSH, some), sizes)
    clear(w, P, nn)
    take(w, P, ld, P_out, (kept + begin - 1) * n * n, n, n)
    count = end - begin + 1
    known = _forgotten(w, power, spare, Psi, ahead, ld, n, count)
    whole = known == count
    copy(w, G_end, G, nn)
    _congruence(w, total, T, G, J, ld, n, 0)
    clear(w, G, nn)
    if whole:
        copy(w, G, total, nn)
        clear(w, total, nn)
    clear(w, moved, nn)
    clear(w, wg, 2 * mixed)
    clear(w, ww, pp)
    clear(w, means, (2 * BLOCK + 2) * row)
    clear(w, drift, ld)
    at_dc, at_dd = i * steps[4, 0], i * steps[5, 0]
    slopes = 0.0
    stop = end + 1
    while stop > begin:
        start = max(begin, stop - BLOCK)
        many = stop - start
        step = first + start
        for k in range(many + 1):
            take(w, means + k * row, ld, m_out, (kept + start + k - 1) * n, 1, n)
        at_c, at_d = i * strides[4, 0], i * strides[5, 0]
        _look(
            w, (means, e, white, seen, drift, small), (H, Ht, HFt, inv_S), (n, p, ld, ldp),
            y, step * p, c, d, (at_c, strides[4, 1], at_d, strides[5, 1]), (has_c, has_d),
            start, many,
        )  # fmt: skip
        clear(w, before + many * row, (BLOCK - many) * row)
        for k in range(BLOCK):
            slope = gll[step + k] if has_gll and k < many else 0.0
            slopes += slope
            for j in range(rowp):
                w[sloped + k * rowp + j] = slope * w[white + k * rowp + j]
            for j in range(row):
                w[before + k * row + j] = slope * w[seen + k * row + j]
        clear(w, after, BLOCK * row)
        if has_gm:
            # That of the last step is in g by now.
            for k in range(many - 1):
                take(w, after + k * row, ld, gm, (step + k) * n, 1, n)
            product(w, before, square, after, ld, ONE, J, (BLOCK, ld, ld), 1, False)
        top = (many - 1) * row
        combine(w, before + top, g, ONE, J, ld, ld, ld)
        for k in range(many - 2, -1, -1):
            combine(w, before + k * row, before + (k + 1) * row, ONE, Psi, ld, ld, ld)
        product(w, after, square, before + row, ld, ONE, F, (BLOCK, ld, ld), 1, False)
        copy(w, after + top, g, ld)
        copy(w, gd, sloped, BLOCK * rowp)
        product(w, gd, (ldp, ldp), after, ld, ONE, K, (BLOCK, ld, ldp), -1, False)
        product(w, moved, square, before, ONE, ld, means, (ld, BLOCK, ld), 1, False)
        product(w, wg, square, white, ONE, ldp, after, (ldp, BLOCK, ld), 1, False)
        product(w, dm, square, gd, ONE, ldp, means + row, (ldp, BLOCK, ld), 1, False)
        product(w, ww, (ldp, ldp), sloped, ONE, ldp, white, (ldp, BLOCK, ldp), 1, False)
        for k in range(many):
            for j in range(p):
                dy[(step + k) * p + j] = -w[gd + k * rowp + j]
            if has_d:
                for j in range(p):
                    dd[at_dd + (start + k) * steps[5, 1] + j] += w[gd + k * rowp + j]
            if has_c:
                for j in range(n):
                    dc[at_dc + (start + k) * steps[4, 1] + j] += w[before + k * row + j]
        for k in range(many - 1, -1, -1):
            if start + k >= begin + known:
                continue
            if not whole or start + k < end:
                _congruence(w, G, T, G, Psi, ld, n, 0)
            slope = gll[step + k] if has_gll else 0.0
            row_h = seen + k * row
            for j in range(row):
                w[half + j] = 0.5 * w[before + k * row + j] - 0.25 * slope * w[row_h + j]
            product(w, G, square, half, ONE, ONE, row_h, (ld, ONE, ld), 1, False)
            product(w, G, square, row_h, ONE, ONE, half, (ld, ONE, ld), 1, False)
            for j in range(nn):
                w[G + j] -= 0.5 * slope * w[HSH + j]
            if whole:
                for j in range(nn):
                    w[total + j] += w[G + j]
        clear(w, g, ld)
        combine(w, g, before, ONE, F, ld, ld, ld)
        if has_gm and start > begin:
            for j in range(n):
                w[g + j] += gm[(step - 1) * n + j]
        stop = start
    _finish(
        w, (F, H, P, K, inv_S, J, Psi, HSH),
        (total, G_end, wg, dm, ww, moved, power, spare, T, some, small),
        (G, sum_F, sum_Q, Y, M), X, sizes, known, slopes, whole,
    )  # fmt: skip
