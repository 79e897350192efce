"""The numba kernel of the adjoint of the Kalman filter; symbols are those of README.md.

``g`` and ``G`` are the gradients of the mean and covariance at hand, XG is K'G.
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.kalman_filter._kernels import gain, note, pick, predict
from statewise.ops.kalman_filter._kernels_still import FEW, room_still, unmove
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
    take_symmetric,
    transpose,
)


@kernel
def _add_matrix(w, at, ld, source, offset, n):
    """Add the symmetric part of a square matrix."""
    ld = extent(ld)
    for i in range(n):
        for j in range(n):
            lower, upper = source[offset + i * n + j], source[offset + j * n + i]
            w[at + i * ld + j] += 0.5 * (lower + upper)


@kernel
def _add_row(w, at, source, offset, n):
    for j in range(n):
        w[at + j] += source[offset + j]


@kernel
def _give_more(w, at, ld, target, offset, n, scale):
    """Add to a square matrix outside."""
    ld = extent(ld)
    for i in range(n):
        for j in range(n):
            target[offset + i * n + j] += scale * w[at + i * ld + j]


@kernel
def _unsee(w, places, more, sizes, index, count, slope, P_now, at_P, m_now, at_m):
    """Take g, G from after an observation to before it; leave the gradient of R in M.

    ``slope`` is the gradient of the log-likelihood of the step.
    """
    _, _, H, _, _, V, S, X, _, inverse = places
    g, G, XG, Kt, M, Z, Y, kg, gd, Pg, after = more
    n, _, ld, ldp, ldx = sizes
    row, rowp, wide = extent(ld), extent(ldp), extent(ldx)
    for i in range(count, rowp):
        clear(w, X + i * wide, ldx)
    product(w, XG, (ld, ld), X, ldx, ONE, G, (ldp, ld, ld), 0, False)
    transpose(w, Kt, ldp, X, ldx, ldp, ld)
    product(w, M, (ldp, ldp), XG, ld, ONE, Kt, (ldp, ld, ldp), 0, False)
    clear(w, kg, ldp)
    combine(w, kg, g, ONE, Kt, ldp, ld, ldp)
    clear(w, gd, ldp)
    clear(w, Z, rowp * rowp)
    for i in range(count):
        w[Z + i * rowp + i] = 1.0
        w[gd + i] = slope * w[X + i * wide + row] - w[kg + i]
    solve(w, S, ldp, count, inverse, Z, ldp, ldp)
    for i in range(count):
        wi = w[X + i * wide + row]
        for j in range(count):
            wj = w[X + j * wide + row]
            spread = w[kg + i] * wj + wi * w[kg + j] + slope * (w[Z + i * rowp + j] - wi * wj)
            w[M + i * rowp + j] -= 0.5 * spread
    take(w, after, ld, P_now, at_P, n, n)
    product(w, Y, (ld, ld), XG, ld, ONE, after, (ldp, ld, ld), 0, False)
    clear(w, Pg, ld)
    combine(w, Pg, g, ONE, after, ld, ld, ld)
    for i in range(count):
        wi, di = w[X + i * wide + row], w[gd + i]
        for j in range(n):
            seen = wi * w[Pg + j] + di * m_now[at_m + j] - slope * w[X + i * wide + j]
            w[Y + i * row + j] = seen - 2.0 * w[Y + i * row + j]
    product(w, V, (ld, ld), M, ldp, ONE, H, (ldp, ldp, ld), 0, False)
    for i in range(count):
        wi = w[X + i * wide + row]
        for j in range(row):
            o = i * row + j
            w[V + o] = 0.5 * (w[V + o] + wi * w[g + j]) - w[XG + o]
    product(w, G, (ld, ld), H, ONE, ld, V, (ld, count, ld), 1, True)
    product(w, G, (ld, ld), V, ONE, ld, H, (ld, count, ld), 1, True)
    mirror(w, G, ld, n)
    combine(w, g, gd, ONE, H, ld, count, ld)


@kernel
def _give_seen(w, dH, dR, steps, i, t, places, sizes, index, count):
    """Add to the gradients of H and R."""
    Y, M = places
    n, p, ld, ldp, _ = sizes
    at_H = i * steps[1, 0] + t * steps[1, 1]
    at_R = i * steps[3, 0] + t * steps[3, 1]
    for a in range(count):
        k = index[a]
        for b in range(n):
            dH[at_H + k * n + b] += w[Y + a * extent(ld) + b]
        for b in range(count):
            dR[at_R + k * p + index[b]] += w[M + a * extent(ldp) + b]


def room(n: int, p: int) -> int:
    """Numbers of workspace that :func:`backward` needs."""
    ld, ldp = -(-n // 4) * 4, -(-p // 4) * 4
    own = 9 * ld * ld + 9 * ld * ldp + 5 * ldp * ldp + 8 * ldp + 7 * ld
    return own + room_still(n, p)


@kernel
def backward(
    gm, gP, gll, y, observed, lengths, F, H, Q, R, c, d, m0, P0, m_out, P_out, still,
    strides, steps, flags, sizes, T, dy, dF, dH, dQ, dR, dc, dd, dm0, dP0, w, index,
    base, i0, i1,
):  # fmt: skip
    """Gradients for the series [i0, i1), series by series, added to arrays of zeros.

    ``steps`` holds for F … d the numbers from one series, and from one step, to the next in their
    gradients; the other arguments are those of the forward kernel. Steps at which covariances
    stayed put are taken together, unless a gradient of one of these is asked for.
    """
    has_mask, has_lengths, has_c, has_d, moves_first, has_gm, has_gP, has_gll = flags
    n, p, ld, ldp, ldx = sizes
    row, rowp = extent(ld), extent(ldp)
    nn, mixed, pp = row * row, row * rowp, rowp * rowp
    P = 0
    wF, wFt, wQ, wT, G = P + nn, P + 2 * nn, P + 3 * nn, P + 4 * nn, P + 5 * nn
    sum_F, sum_Q, after, wH = G + nn, G + 2 * nn, G + 3 * nn, G + 4 * nn
    wHt, all_H, V, XG = wH + mixed, wH + 2 * mixed, wH + 3 * mixed, wH + 4 * mixed
    Kt, Y, X = wH + 5 * mixed, wH + 6 * mixed, wH + 7 * mixed
    wR = X + rowp * extent(ldx)
    all_R, S, M, Z = wR + pp, wR + 2 * pp, wR + 3 * pp, wR + 4 * pp
    m = Z + pp
    wc, spare, g, Pg, half = m + row, m + 2 * row, m + 3 * row, m + 4 * row, m + 5 * row
    e = half + row
    inverse, kg, gd = e + rowp, e + 2 * rowp, e + 3 * rowp
    more_room = gd + rowp
    moving = (m, P, wF, wFt, wQ, wc, wT, spare)
    seeing = (m, P, wH, wHt, wR, V, S, X, e, inverse)
    picked = (wH, wHt, wR, all_H, all_R)
    more = (g, G, XG, Kt, M, Z, Y, kg, gd, Pg, after)
    calm = (wF, wFt, wH, wHt, S, X, inverse, P, after)
    sums = (g, G, sum_F, sum_Q, Y, M)
    kinds = (has_c, has_d, has_gm, has_gll)
    stale = True
    for i in range(i0, i1):
        stop = lengths[i] if has_lengths else T
        clear(w, G, nn)
        clear(w, sum_F, nn)
        clear(w, sum_Q, nn)
        clear(w, g, ld)
        t = stop
        while t > 0:
            t -= 1
            last = t == stop - 1
            if last or strides[0, 1] != 0:
                take(w, wF, ld, F, i * strides[0, 0] + t * strides[0, 1], n, n)
                transpose(w, wFt, ld, wF, ld, n, n)
            if last or strides[1, 1] != 0:
                take(w, all_H, ld, H, i * strides[1, 0] + t * strides[1, 1], p, n)
                stale = True
            if last or strides[2, 1] != 0:
                take_symmetric(w, wQ, ld, Q, i * strides[2, 0] + t * strides[2, 1], n)
            if last or strides[3, 1] != 0:
                take_symmetric(w, all_R, ldp, R, i * strides[3, 0] + t * strides[3, 1], p)
                stale = True
            if has_c:
                take(w, wc, ld, c, i * strides[4, 0] + t * strides[4, 1], 1, n)
            step, kept = i * T + t, (i - base) * T + t
            if has_gm:
                _add_row(w, g, gm, step * n, n)
            if has_gP:
                _add_matrix(w, G, ld, gP, step * n * n, n)
            if t > 0:
                take(w, m, ld, m_out, (kept - 1) * n, 1, n)
                take(w, P, ld, P_out, (kept - 1) * n * n, n, n)
            else:
                take(w, m, ld, m0, i * n, 1, n)
                take_symmetric(w, P, ld, P0, i * n * n, n)
            moves = t > 0 or moves_first
            if moves:
                predict(w, moving, sizes)
            count = note(observed, has_mask, step * p, index, p)
            if count > 0:
                if stale or count < p:
                    pick(w, picked, sizes, index, count)
                stale = count < p
                at_d = i * strides[5, 0] + t * strides[5, 1]
                gain(w, seeing, sizes, index, count, y, step * p, d, at_d, has_d)
                begin = t + 1
                while not has_gP and begin > 0 and still[i * T + begin - 1]:
                    begin -= 1
                if t - begin + 1 >= FEW:
                    unmove(
                        w, more_room, calm, sums, sizes, kinds, strides, y, c, d, gm, gll,
                        m_out, P_out, dy, dc, dd, steps, i * T, (i - base) * T, i, begin, t,
                    )  # fmt: skip
                    _give_seen(w, dH, dR, steps, i, t, (Y, M), sizes, index, count)
                    t = begin
                    continue
                slope = gll[step] if has_gll else 0.0
                _unsee(
                    w, seeing, more, sizes, index, count, slope,
                    P_out, kept * n * n, m_out, kept * n,
                )  # fmt: skip
                _give_seen(w, dH, dR, steps, i, t, (Y, M), sizes, index, count)
                at_d = i * steps[5, 0] + t * steps[5, 1]
                for a in range(count):
                    k = index[a]
                    dy[step * p + k] = -w[gd + a]
                    if has_d:
                        dd[at_d + k] += w[gd + a]
            if moves:
                if has_c:
                    at_c = i * steps[4, 0] + t * steps[4, 1]
                    for a in range(n):
                        dc[at_c + a] += w[g + a]
                if t > 0:
                    take(w, m, ld, m_out, (kept - 1) * n, 1, n)
                    take(w, P, ld, P_out, (kept - 1) * n * n, n, n)
                else:
                    take(w, m, ld, m0, i * n, 1, n)
                    take_symmetric(w, P, ld, P0, i * n * n, n)
                for a in range(nn):
                    w[sum_Q + a] += w[G + a]
                product(w, wT, (ld, ld), G, ld, ONE, wF, (ld, ld, ld), 0, False)
                product(w, sum_F, (ld, ld), wT, ld, ONE, P, (ld, ld, ld), 1, False)
                for a in range(n):
                    w[half + a] = 0.5 * w[g + a]
                product(w, sum_F, (ld, ld), half, ONE, ONE, m, (ld, ONE, ld), 1, False)
                product(w, G, (ld, ld), wF, ONE, ld, wT, (ld, ld, ld), 0, True)
                mirror(w, G, ld, n)
                clear(w, spare, ld)
                combine(w, spare, g, ONE, wF, ld, ld, ld)
                copy(w, g, spare, ld)
            if t == 0 or steps[0, 1] != 0:
                _give_more(w, sum_F, ld, dF, i * steps[0, 0] + t * steps[0, 1], n, 2.0)
                clear(w, sum_F, nn)
            if t == 0 or steps[2, 1] != 0:
                _give_more(w, sum_Q, ld, dQ, i * steps[2, 0] + t * steps[2, 1], n, 1.0)
                clear(w, sum_Q, nn)
        _give_more(w, G, ld, dP0, i * n * n, n, 1.0)
        for a in range(n):
            dm0[i * n + a] = w[g + a]
