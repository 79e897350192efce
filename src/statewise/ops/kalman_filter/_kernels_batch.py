"""Numba kernels for series that share their covariances: means alone, many series at a time.

Symbols are those of README.md. Rows of matrices are series; the covariances were found with one
of them.
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.kalman_filter._kernels import LOG_2PI, gain, note, pick, predict
from statewise.ops.kalman_filter._kernels_smooth import backward_gain, unchanged
from statewise.ops.kalman_filter._small import (
    ONE,
    clear,
    copy,
    extent,
    give,
    product,
    take,
    take_symmetric,
    transpose,
)

ROWS = 64
"""Series at a time: so many share the work on a gain, and their means stay in cache."""


@kernel
def _invert(w, S, inverse, found, ld, n):
    """U⁻¹ for the factor U that ``factor`` left in S."""
    row = extent(ld)
    clear(w, found, row * row)
    for j in range(n):
        w[found + j * row + j] = w[inverse + j]
        for i in range(j - 1, -1, -1):
            total = 0.0
            for k in range(i + 1, j + 1):
                total += w[S + i * row + k] * w[found + k * row + j]
            w[found + i * row + j] = -total * w[inverse + i]


@kernel
def _offsets(w, at, ld, c, series, step, i0, many, n):
    """Rows of an offset for so many series."""
    row = extent(ld)
    for k in range(many):
        take(w, at + k * row, ld, c, (i0 + k) * series + step, 1, n)


def room(n: int, p: int) -> int:
    """Numbers of workspace that :func:`filter_means` and :func:`smooth_means` need."""
    ld, ldp = -(-n // 4) * 4, -(-p // 4) * 4
    own = 9 * ld * ld + 6 * ld * ldp + 4 * ldp * ldp + 6 * ldp + 5 * ld
    return own + ROWS * (3 * ld + 2 * ldp)


@kernel
def filter_means(
    y, observed, F, H, Q, R, c, d, m0, P0, P_out, still,
    strides, flags, sizes, T, m_out, ll, w, index, i0, i1,
):  # fmt: skip
    """Means and log-likelihoods of at most ``ROWS`` series from the covariances of the first.

    Arguments are those of the forward kernel; only the offsets and m0 may differ among series.
    """
    has_mask, has_c, has_d, moves_first, stores = flags
    n, p, ld, ldp, ldx = sizes
    row, rowp, wide = extent(ld), extent(ldp), extent(ldx)
    nn, mixed, pp = row * row, row * rowp, rowp * rowp
    P = 0
    wF, wFt, wQ, wT, wH = P + nn, P + 2 * nn, P + 3 * nn, P + 4 * nn, P + 5 * nn
    wHt, all_H, V = wH + mixed, wH + 2 * mixed, wH + 3 * mixed
    X = V + mixed
    wR = X + rowp * wide
    all_R, S, inv_U = wR + pp, wR + 2 * pp, wR + 3 * pp
    m = wR + 4 * pp
    wc, spare = m + row, m + 2 * row
    e = m + 3 * row
    inverse = e + rowp
    means = inverse + rowp
    ahead, errors = means + ROWS * row, means + 2 * ROWS * row
    white = errors + ROWS * rowp
    moving = (m, P, wF, wFt, wQ, wc, wT, spare)
    seeing = (m, P, wH, wHt, wR, V, S, X, e, inverse)
    picked = (wH, wHt, wR, all_H, all_R)
    many = i1 - i0
    rows = (many + 3) // 4 * 4
    clear(w, means, rows * row)
    clear(w, ahead, rows * row)
    clear(w, errors, rows * rowp)
    _offsets(w, means, ld, m0, n, 0, i0, many, n)
    stale, total = True, 0.0
    for t in range(T):
        first = t == 0
        if first or strides[0, 1] != 0:
            take(w, wF, ld, F, t * strides[0, 1], n, n)
            transpose(w, wFt, ld, wF, ld, n, n)
        if first or strides[1, 1] != 0:
            take(w, all_H, ld, H, t * strides[1, 1], p, n)
            stale = True
        if first or strides[2, 1] != 0:
            take_symmetric(w, wQ, ld, Q, t * strides[2, 1], n)
        if first or strides[3, 1] != 0:
            take_symmetric(w, all_R, ldp, R, t * strides[3, 1], p)
            stale = True
        count = note(observed, has_mask, t * p, index, p)
        moves = t > 0 or moves_first
        at_d = t * strides[5, 1]
        if not still[t] and count > 0:
            if stale or count < p:
                pick(w, picked, sizes, index, count)
            stale = count < p
            if first:
                take_symmetric(w, P, ld, P0, 0, n)
            else:
                take(w, P, ld, P_out, (t - 1) * n * n, n, n)
            if moves:
                predict(w, moving, sizes)
            total = gain(w, seeing, sizes, index, count, y, t * p, d, at_d, has_d)
            _invert(w, S, inverse, inv_U, ldp, count)
            for j in range(count, rowp):
                clear(w, X + j * wide, ldx)
        if moves:
            if has_c:
                _offsets(w, ahead, ld, c, strides[4, 0], t * strides[4, 1], i0, many, n)
            mode = 1 if has_c else 0
            product(w, ahead, (ld, ld), means, ld, ONE, wFt, (rows, ld, ld), mode, False)
            means, ahead = ahead, means
        if count > 0:
            for k in range(many):
                at_y, at_e = ((i0 + k) * T + t) * p, errors + k * rowp
                for j in range(count):
                    w[at_e + j] = y[at_y + index[j]]
                if has_d:
                    own = (i0 + k) * strides[5, 0] + at_d
                    for j in range(count):
                        w[at_e + j] -= d[own + index[j]]
                for j in range(count, rowp):
                    w[at_e + j] = 0.0
            shape = (rows, ld, ldp)
            product(w, errors, (ldp, ldp), means, ld, ONE, wHt, shape, -1, False)
            product(w, white, (ldp, ldp), errors, ldp, ONE, inv_U, (rows, ldp, ldp), 0, False)
            product(w, means, (ld, ldx), errors, ldp, ONE, X, (rows, ldp, ld), 1, False)
        for k in range(many):
            squares = 0.0
            for j in range(count):
                squares += w[white + k * rowp + j] * w[white + k * rowp + j]
            at = (i0 + k) * T + t
            ll[at] = -0.5 * (count * LOG_2PI + squares) - total if count > 0 else 0.0
            if stores:
                give(w, means + k * row, ld, m_out, at * n, 1, n)


@kernel
def smooth_means(m_in, P_in, F, Q, c, strides, flags, sizes, T, m_out, w, i0, i1):
    """Smoothed means of at most ``ROWS`` series, whose covariances are those of the first."""
    has_c = flags[0]
    n, ld = sizes
    row = extent(ld)
    nn = row * row
    P, wF, wFt, wQ, Pm, Gt, FP = 0, nn, 2 * nn, 3 * nn, 4 * nn, 5 * nn, 6 * nn
    inverse = 7 * nn
    means = inverse + row
    now, ahead = means + ROWS * row, means + 2 * ROWS * row
    constant = strides[0, 1] == 0 and strides[1, 1] == 0
    places = (P, wF, wFt, wQ, Pm, Gt, FP, inverse)
    many = i1 - i0
    rows = (many + 3) // 4 * 4
    for at in (means, now, ahead):
        clear(w, at, rows * row)
    for t in range(T - 1, -1, -1):
        for k in range(many):
            take(w, now + k * row, ld, m_in, ((i0 + k) * T + t) * n, 1, n)
        if t == T - 1:
            copy(w, means, now, rows * row)
        else:
            last = t == T - 2
            if last or strides[0, 1] != 0:
                take(w, wF, ld, F, (t + 1) * strides[0, 1], n, n)
                transpose(w, wFt, ld, wF, ld, n, n)
            if last or strides[1, 1] != 0:
                take_symmetric(w, wQ, ld, Q, (t + 1) * strides[1, 1], n)
            at_P = t * n * n
            if last or not constant or not unchanged(P_in, at_P, at_P + n * n, n * n):
                take(w, P, ld, P_in, at_P, n, n)
                backward_gain(w, places, ld, n)
            if has_c:
                _offsets(w, ahead, ld, c, strides[2, 0], (t + 1) * strides[2, 1], i0, many, n)
                for j in range(rows * row):
                    w[means + j] -= w[ahead + j]
            product(w, means, (ld, ld), now, ld, ONE, wFt, (rows, ld, ld), -1, False)
            product(w, now, (ld, ld), means, ld, ONE, Gt, (rows, ld, ld), 1, False)
            means, now = now, means
        for k in range(many):
            give(w, means + k * row, ld, m_out, ((i0 + k) * T + t) * n, 1, n)
