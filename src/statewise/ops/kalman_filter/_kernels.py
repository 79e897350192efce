"""Numba kernels of the Kalman filter: one series after the other, without allocation.

Symbols are those of README.md; X is [K' | w] with K' = S⁻¹HP.
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
    factor,
    give,
    mirror,
    product,
    solve,
    take,
    take_symmetric,
    transpose,
)

LOG_2PI = math.log(2 * math.pi)
LAG = 16
"""Steps over which a covariance that no longer changes is looked for."""
ROUNDING = (4 * 2.0**-52) ** 2
"""Square of the relative change over so many steps that rounding alone makes."""


@kernel
def note(observed, has_mask, at, index, p):
    """List the observed outputs in ``index`` and count them."""
    count = 0
    for j in range(p):
        if not has_mask or observed[at + j]:
            index[count] = j
            count += 1
    return count


@kernel
def pick(w, places, sizes, index, count):
    """Rows of H, entries of R, and Hᵀ, for the observed outputs alone."""
    H, Ht, R, all_H, all_R = places
    ld, ldp = extent(sizes[2]), extent(sizes[3])
    for i in range(ldp):
        for j in range(ld):
            w[H + i * ld + j] = w[all_H + index[i] * ld + j] if i < count else 0.0
            w[Ht + j * ldp + i] = w[H + i * ld + j]
        for j in range(ldp):
            both = i < count and j < count
            w[R + i * ldp + j] = w[all_R + index[i] * ldp + index[j]] if both else 0.0


@kernel
def predict(w, places, sizes):
    """Turn what is known at m, P into the prediction of the next step, in place."""
    m, P, F, Ft, Q, c, T, spare = places
    n, _, ld, _, _ = sizes
    copy(w, spare, c, ld)
    combine(w, spare, m, ONE, Ft, ld, ld, ld)
    copy(w, m, spare, ld)
    product(w, T, (ld, ld), P, ld, ONE, Ft, (ld, ld, ld), 0, False)
    copy(w, P, Q, extent(ld) * extent(ld))
    product(w, P, (ld, ld), F, ld, ONE, T, (ld, ld, ld), 1, True)
    mirror(w, P, ld, n)


@kernel
def gain(w, places, sizes, index, count, y, at_y, d, at_d, has_d):
    """V = HP, U of S, X and the innovation e, from a prediction; returns Σ log U_kk."""
    m, P, H, Ht, R, V, S, X, e, inverse = places
    _, _, ld, ldp, ldx = sizes
    row, wide = extent(ld), extent(ldx)
    product(w, V, (ld, ld), H, ld, ONE, P, (ldp, ld, ld), 0, False)
    copy(w, S, R, extent(ldp) * extent(ldp))
    product(w, S, (ldp, ldp), V, ld, ONE, Ht, (ldp, ld, ldp), 1, False)
    clear(w, e, ldp)
    combine(w, e, m, ONE, Ht, ldp, ld, ldp)
    for i in range(count):
        offset = d[at_d + index[i]] if has_d else 0.0
        w[e + i] = y[at_y + index[i]] - offset - w[e + i]
        copy(w, X + i * wide, V + i * row, ld)
        w[X + i * wide + row] = w[e + i]
    total = factor(w, S, ldp, count, inverse, 0.0)
    solve(w, S, ldp, count, inverse, X, ldx, ldx)
    return total


@kernel
def update(w, places, sizes, count, W):
    """Turn the prediction at m, P into what is known after the observation, by Joseph's form."""
    m, P, _, Ht, R, V, _, X, _, _ = places
    n, _, ld, ldp, ldx = sizes
    combine(w, m, X + extent(ld), ldx, V, ld, count, ld)
    product(w, P, (ld, ld), X, ONE, ldx, V, (ld, count, ld), -1, False)
    product(w, W, (ldp, ldp), P, ld, ONE, Ht, (ld, ld, ldp), 0, False)
    product(w, W, (ldp, ldp), X, ONE, ldx, R, (ld, count, ldp), -1, False)
    product(w, P, (ld, ldx), W, ldp, ONE, X, (ld, count, ld), -1, True)
    mirror(w, P, ld, n)


@kernel
def settled(w, a, b, ld, n):
    """Whether two covariances are the same but for rounding, in the scale of their states."""
    ld = extent(ld)
    for i in range(n):
        for j in range(i + 1):
            x = w[a + i * ld + j] - w[b + i * ld + j]
            if not x * x <= ROUNDING * (w[a + i * ld + i] * w[a + j * ld + j]):
                return False
    return True


@kernel
def follow(w, moving, seeing, sizes, y, at_y, d, at_d, has_d):
    """Move and update the mean alone, by the gain at hand; returns eᵀS⁻¹e."""
    m, _, _, Ft, _, c, _, spare = moving
    _, _, _, Ht, _, _, S, X, e, inverse = seeing
    _, p, ld, ldp, ldx = sizes
    rowp = extent(ldp)
    copy(w, spare, c, ld)
    combine(w, spare, m, ONE, Ft, ld, ld, ld)
    copy(w, m, spare, ld)
    clear(w, e, ldp)
    combine(w, e, m, ONE, Ht, ldp, ld, ldp)
    for i in range(p):
        offset = d[at_d + i] if has_d else 0.0
        w[e + i] = y[at_y + i] - offset - w[e + i]
    combine(w, m, e, ONE, X, ldx, p, ld)
    squares = 0.0
    for i in range(p):
        x = w[e + i]
        for k in range(i):
            x -= w[S + k * rowp + i] * w[e + k]
        x *= w[inverse + i]
        w[e + i] = x
        squares += x * x
    return squares


def room(n: int, p: int) -> int:
    """Numbers of workspace that :func:`forward` needs."""
    ld, ldp = -(-n // 4) * 4, -(-p // 4) * 4
    return 6 * ld * ld + 6 * ld * ldp + 3 * ldp * ldp + 6 * ldp + 3 * ld


@kernel
def forward(
    y, observed, lengths, F, H, Q, R, c, d, m0, P0,
    strides, flags, sizes, T, m_out, P_out, ll, still, failed, w, index, base, i0, i1,
):  # fmt: skip
    """Filter the series [i0, i1); arrays are flat.

    Moments are stored where flags ask for them, those of series ``base`` first.
    The rows of ``strides`` are those of F, H, Q, R, c and d: numbers from one series, and from one
    step, to the next. ``sizes`` is (n, p, padded n, padded p, padded n + 4), the last three as
    tuples for code of their own. Where S is not positive definite the step goes to ``failed`` and
    the series ends.

    Where nothing but y and offsets varies and all is observed, covariances converge. Once they are
    what they were ``LAG`` steps ago, and the step after again, but for rounding, they and the gain
    stay: what such a step would still add to them is less than the last place of a number. One of
    the two does not do: slow changes pass the second test, and periodic ones the first. ``still``
    takes the steps at which they stayed.
    """
    has_mask, has_lengths, has_c, has_d, moves_first, stores = flags
    n, p = sizes[0], sizes[1]
    ld, ldp, wide = sizes[2], sizes[3], extent(sizes[4])
    nn, mixed, pp = extent(ld) * extent(ld), extent(ld) * extent(ldp), extent(ldp) * extent(ldp)
    P = 0
    wF, wFt, wQ, wT, wH = P + nn, P + 2 * nn, P + 3 * nn, P + 4 * nn, P + 5 * nn
    wHt, all_H, V, W = wH + mixed, wH + 2 * mixed, wH + 3 * mixed, wH + 4 * mixed
    X = W + mixed
    wR = X + extent(ldp) * wide
    all_R, S, m = wR + pp, wR + 2 * pp, wR + 3 * pp
    wc, spare, e = m + extent(ld), m + 2 * extent(ld), m + 3 * extent(ld)
    inverse = e + extent(ldp)
    old = inverse + extent(ldp)
    moving = (m, P, wF, wFt, wQ, wc, wT, spare)
    seeing = (m, P, wH, wHt, wR, V, S, X, e, inverse)
    picked = (wH, wHt, wR, all_H, all_R)
    stale = True
    constant = (
        strides[0, 1] == 0 and strides[1, 1] == 0 and strides[2, 1] == 0 and strides[3, 1] == 0
    )
    for i in range(i0, i1):
        steady, maybe, since, total = False, False, 0, 0.0
        stop = lengths[i] if has_lengths else T
        take(w, m, ld, m0, i * n, 1, n)
        take_symmetric(w, P, ld, P0, i * n * n, n)
        for t in range(stop):
            first = t == 0
            if first or strides[0, 1] != 0:
                take(w, wF, ld, F, i * strides[0, 0] + t * strides[0, 1], n, n)
                transpose(w, wFt, ld, wF, ld, n, n)
            if first or strides[1, 1] != 0:
                take(w, all_H, ld, H, i * strides[1, 0] + t * strides[1, 1], p, n)
                stale = True
            if first or strides[2, 1] != 0:
                take_symmetric(w, wQ, ld, Q, i * strides[2, 0] + t * strides[2, 1], n)
            if first or strides[3, 1] != 0:
                take_symmetric(w, all_R, ldp, R, i * strides[3, 0] + t * strides[3, 1], p)
                stale = True
            if has_c:
                take(w, wc, ld, c, i * strides[4, 0] + t * strides[4, 1], 1, n)
            step = i * T + t
            count = note(observed, has_mask, step * p, index, p)
            if count < p:
                steady, maybe, since = False, False, t + 1
            ll[step] = 0.0
            still[step] = steady
            if steady:
                at_d = i * strides[5, 0] + t * strides[5, 1]
                squares = follow(w, moving, seeing, sizes, y, step * p, d, at_d, has_d)
                ll[step] = -0.5 * (count * LOG_2PI + squares) - total
            elif t > 0 or moves_first:
                predict(w, moving, sizes)
            if count > 0 and not steady:
                if stale or count < p:
                    pick(w, picked, sizes, index, count)
                stale = count < p
                at_d = i * strides[5, 0] + t * strides[5, 1]
                total = gain(w, seeing, sizes, index, count, y, step * p, d, at_d, has_d)
                if math.isnan(total):
                    failed[i] = t + 1
                    break
                squares = 0.0
                for j in range(count):
                    squares += w[e + j] * w[X + j * wide + extent(ld)]
                ll[step] = -0.5 * (count * LOG_2PI + squares) - total
                update(w, seeing, sizes, count, W)
                if maybe:
                    steady, maybe = settled(w, P, old, ld, n), False
                elif constant and (t - since) % LAG == 0:
                    maybe = t > since and settled(w, P, old, ld, n)
                    copy(w, old, P, nn)
            if stores:
                kept = (i - base) * T + t
                give(w, m, ld, m_out, kept * n, 1, n)
                give(w, P, ld, P_out, kept * n * n, n, n)
        for t in range(stop, T):
            ll[i * T + t] = 0.0
            still[i * T + t] = False
            if stores:
                kept = (i - base) * T + t
                for j in range(kept * n, (kept + 1) * n):
                    m_out[j] = 0.0
                for j in range(kept * n * n, (kept + 1) * n * n):
                    P_out[j] = 0.0
