"""The numba kernel of the Rauch–Tung–Striebel smoother; symbols are those of README.md."""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.kalman_filter._kernels import LAG, settled
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

EPSILON = 2.0**-52


def room(n: int) -> int:
    """Numbers of workspace that :func:`smooth` needs."""
    ld = -(-n // 4) * 4
    return 11 * ld * ld + 4 * ld


@kernel
def unchanged(P, one, two, count):
    """Whether two matrices are the same, bit for bit."""
    for j in range(count):  # noqa: SIM110 - compiled
        if P[one + j] != P[two + j]:
            return False
    return True


@kernel
def backward_gain(w, places, ld, n):
    """The transpose of G, and FP, from a filtered covariance."""
    P, wF, wFt, wQ, Pm, Gt, FP, inverse = places
    nn = extent(ld) * extent(ld)
    product(w, FP, (ld, ld), wF, ld, ONE, P, (ld, ld, ld), 0, False)
    copy(w, Pm, wQ, nn)
    product(w, Pm, (ld, ld), FP, ld, ONE, wFt, (ld, ld, ld), 1, False)
    copy(w, Gt, FP, nn)
    factor(w, Pm, ld, n, inverse, 4 * n * EPSILON)
    solve(w, Pm, ld, n, inverse, Gt, ld, ld)


@kernel
def smooth(m_in, P_in, F, Q, c, lengths, strides, flags, sizes, T, m_out, P_out, cross, w, i0, i1):
    """Smooth the filtered moments of the series [i0, i1); arrays are flat.

    The rows of ``strides`` are those of F, Q and c. ``cross`` takes Cov(x_t, x_{t−1}). Where
    neither F and Q nor the filter's covariances change from step to step the gain stays, and so
    do the covariances once they are the same but for rounding; see the filter.
    """
    has_lengths, has_c, has_cross = flags
    n, ld = sizes
    row = extent(ld)
    nn = row * row
    P, wF, wFt, wQ, Pm = 0, nn, 2 * nn, 3 * nn, 4 * nn
    Gt, FP, now, EFt = 5 * nn, 6 * nn, 7 * nn, 8 * nn
    pair, old, m = 9 * nn, 10 * nn, 11 * nn
    pm, inverse, m_now = m + row, m + 2 * row, m + 3 * row
    square = (ld, ld)
    cube = (ld, ld, ld)
    constant = strides[0, 1] == 0 and strides[1, 1] == 0
    for i in range(i0, i1):
        stop = lengths[i] if has_lengths else T
        steady, maybe, since = False, False, 0
        for t in range(stop - 1, -1, -1):
            step = i * T + t
            take(w, m, ld, m_in, step * n, 1, n)
            if t == stop - 1:
                copy(w, m_now, m, ld)
                take(w, now, ld, P_in, step * n * n, n, n)
            else:
                alike = (
                    constant
                    and t < stop - 2
                    and unchanged(P_in, step * n * n, (step + 1) * n * n, n * n)
                )
                if not alike:
                    steady, maybe, since = False, False, t
                    take(w, P, ld, P_in, step * n * n, n, n)
                    if t == stop - 2 or strides[0, 1] != 0:
                        take(w, wF, ld, F, i * strides[0, 0] + (t + 1) * strides[0, 1], n, n)
                        transpose(w, wFt, ld, wF, ld, n, n)
                    if t == stop - 2 or strides[1, 1] != 0:
                        at_Q = i * strides[1, 0] + (t + 1) * strides[1, 1]
                        take_symmetric(w, wQ, ld, Q, at_Q, n)
                    backward_gain(w, (P, wF, wFt, wQ, Pm, Gt, FP, inverse), ld, n)
                    # Joseph's form: P − GFP, and what G, were it not quite optimal, adds to that.
                    product(w, P, square, Gt, ONE, ld, FP, cube, -1, False)
                    product(w, EFt, square, P, ld, ONE, wFt, cube, 0, False)
                clear(w, pm, ld)
                if has_c:
                    take(w, pm, ld, c, i * strides[2, 0] + (t + 1) * strides[2, 1], 1, n)
                combine(w, pm, m, ONE, wFt, ld, ld, ld)
                for j in range(row):
                    w[pm + j] = w[m_now + j] - w[pm + j]
                combine(w, m, pm, ONE, Gt, ld, ld, ld)
                copy(w, m_now, m, ld)
                if not steady:
                    if has_cross:
                        product(w, pair, square, now, ld, ONE, Gt, cube, 0, False)
                    for j in range(nn):
                        w[now + j] += w[wQ + j]
                    product(w, Pm, square, Gt, ONE, ld, now, cube, 0, False)
                    for j in range(nn):
                        w[Pm + j] -= w[EFt + j]
                    copy(w, now, P, nn)
                    product(w, now, square, Pm, ld, ONE, Gt, cube, 1, True)
                    mirror(w, now, ld, n)
                    if maybe:
                        steady, maybe = settled(w, now, old, ld, n), False
                    elif (since - t) % LAG == 0:
                        maybe = t < since and settled(w, now, old, ld, n)
                        copy(w, old, now, nn)
                if has_cross:
                    give(w, pair, ld, cross, (step + 1) * n * n, n, n)
            give(w, m_now, ld, m_out, step * n, 1, n)
            give(w, now, ld, P_out, step * n * n, n, n)
        if has_cross:
            for j in range(i * T * n * n, (i * T + 1) * n * n):
                cross[j] = 0.0
        for t in range(stop, T):
            step = i * T + t
            for j in range(step * n, (step + 1) * n):
                m_out[j] = 0.0
            for j in range(step * n * n, (step + 1) * n * n):
                P_out[j] = 0.0
                if has_cross:
                    cross[j] = 0.0
