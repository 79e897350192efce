"""Triton kernels of the Kalman filter and smoother: a lane a series, its moments in registers.

Symbols are those of README.md; X is K' = S⁻¹HP. Steps follow each other within a program, in
float64 whatever is given; observations of the next step are in flight meanwhile. Behind the end
of a series parameters count as zero where they vary in time, and nothing is observed.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportAttributeAccessIssue=false
# Kernels are typed by Triton when it compiles them, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.kalman_filter._gpu_small import (
    add,
    factor,
    load,
    packed,
    packed_t,
    product,
    product_t,
    solve,
    store,
    t_product,
    unpacked,
    where,
    zeros,
)
from statewise.ops.selective_scan._gpu_math import device

LOG_2PI = tl.constexpr(1.8378770664093453)

SIZES = (
    "batch", "length", "F_series", "F_step", "H_series", "H_step", "Q_series", "Q_step",
    "R_series", "R_step", "c_series", "c_step", "d_series", "d_step",
)  # fmt: skip
"""Arguments whose values a kernel is not compiled anew for."""


@device
def load_transition(F, Q, c, mask, N: tl.constexpr, HAS_C: tl.constexpr):
    """F, the packed Q, and c, from pointers to where they begin."""
    offset = load(c, mask, N) if HAS_C else ()
    return load(F, mask, N * N), packed(load(Q, mask, N * N), N), offset


@device
def load_output(H, R, d, mask, N: tl.constexpr, P: tl.constexpr, HAS_D: tl.constexpr):
    """H, the packed R, and d."""
    offset = load(d, mask, P) if HAS_D else ()
    return load(H, mask, P * N), packed(load(R, mask, P * P), P), offset


@device
def load_seen(observed, mask, P: tl.constexpr):
    """Which outputs are observed."""
    found = ()
    for k in tl.static_range(P):
        found += (tl.load(observed + k, mask=mask, other=0) != 0,)
    return found


@device
def repeated(x, COUNT: tl.constexpr):
    """The same so many times."""
    found = ()
    for _ in tl.static_range(COUNT):
        found += (x,)
    return found


@device
def predict(m, cov, F, Q, c, N: tl.constexpr, HAS_C: tl.constexpr):
    """Equation (1); and F P."""
    mean = product(F, m, N, N, 1)
    if HAS_C:
        mean = add(mean, c, N)
    FP = product(F, unpacked(cov, N), N, N, N)
    return mean, packed_t(Q, FP, F, N, N), FP


@device
def deleted(H, R, seen, N: tl.constexpr, P: tl.constexpr):
    """H and R with what is not observed deleted, as the reference does it."""
    rows, noise = (), ()
    for i in tl.static_range(P):
        for j in tl.static_range(N):
            rows += (tl.where(seen[i], H[i * N + j], 0.0),)
        for j in tl.static_range(i + 1):
            value = tl.where(seen[i] & seen[j], R[i * (i + 1) // 2 + j], 0.0)
            if i == j:
                value = tl.where(seen[i], value, 1.0)
            noise += (value,)
    return rows, noise


@device
def look(m, cov, H, R, y, d, seen, N: tl.constexpr, P: tl.constexpr, HAS_D: tl.constexpr,
         PARTIAL: tl.constexpr):  # fmt: skip
    """Equations (2): V = HP, the factors of S, X, w and the innovation."""
    V = product(H, unpacked(cov, N), P, N, N)
    L, C = factor(packed_t(R, V, H, P, N), P, 0.0)
    e = ()
    for i in tl.static_range(P):
        x = y[i]
        if HAS_D:
            x -= d[i]
        for k in tl.static_range(N):
            x -= H[i * N + k] * m[k]
        if PARTIAL:
            x = tl.where(seen[i], x, 0.0)
        e += (x,)
    return V, L, C, solve(L, V, P, N), solve(L, e, P, 1), e


@device
def update(m, cov, H, R, V, X, w, N: tl.constexpr, P: tl.constexpr):
    """Equations (3), in the form that README.md gives."""
    mean = add(m, t_product(V, w, N, P, 1), N)
    full, noise = unpacked(cov, N), unpacked(R, P)
    fall = t_product(X, V, N, P, N)
    A = ()
    for k in tl.static_range(N * N):
        A += (full[k] - fall[k],)
    W = product_t(A, H, N, N, P)
    XR = t_product(X, noise, N, P, P)
    found = ()
    for i in tl.static_range(N):
        for j in tl.static_range(i + 1):
            x = A[i * N + j]
            for k in tl.static_range(P):
                x -= (W[i * P + k] - XR[i * P + k]) * X[k * N + j]
            found += (x,)
    return mean, found


@triton.jit(do_not_specialize=SIZES)
def filter_kernel(
    y, observed, lengths, F, H, Q, R, c, d, m0, P0, m_out, P_out, ll, failed, batch, length,
    F_series, F_step, H_series, H_step, Q_series, Q_step, R_series, R_step, c_series, c_step,
    d_series, d_step, N: tl.constexpr, P: tl.constexpr, HOLD: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_LENGTHS: tl.constexpr, HAS_C: tl.constexpr, HAS_D: tl.constexpr,
    MOVES_FIRST: tl.constexpr, STORES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Filter a block of series; arrays are contiguous.

    ``HOLD`` keeps parameters, which must not vary in time, in registers. The first step whose S is
    not positive definite goes to ``failed``, counted from 1.
    """
    TRIANGLE: tl.constexpr = N * (N + 1) // 2
    PARTIAL: tl.constexpr = HAS_MASK or HAS_LENGTHS
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < batch
    # Lanes that are left over repeat the last series, and store nothing.
    i = tl.minimum(lane, batch - 1).to(tl.int64)
    stop = tl.load(lengths + i) if HAS_LENGTHS else i * 0 + length
    F += i * F_series
    H += i * H_series
    Q += i * Q_series
    R += i * R_series
    c += i * c_series
    d += i * d_series
    if HOLD:
        motion, noise, offset = load_transition(F, Q, c, stop > 0, N, HAS_C)
        outputs, error, shift = load_output(H, R, d, stop > 0, N, P, HAS_D)
    m = load(m0 + i * N, stop > 0, N)
    cov = packed(load(P0 + i * N * N, stop > 0, N * N), N)
    bad = tl.zeros((BLOCK,), tl.int32)
    live = stop > 0
    row = i * length
    next_y = load(y + row * P, live, P)
    next_seen = ()
    if HAS_MASK:
        next_seen = load_seen(observed + row * P, live, P)
    for t in range(length):
        live = stop > t
        now_y = next_y
        later = stop > t + 1
        next_y = load(y + (row + 1) * P, later, P)
        if HAS_MASK:
            seen = next_seen
            next_seen = load_seen(observed + (row + 1) * P, later, P)
        elif HAS_LENGTHS:
            seen = repeated(live, P)
        else:
            seen = ()
        if not HOLD:
            motion, noise, offset = load_transition(
                F + t * F_step, Q + t * Q_step, c + t * c_step, live, N, HAS_C
            )
            outputs, error, shift = load_output(
                H + t * H_step, R + t * R_step, d + t * d_step, live, N, P, HAS_D
            )
        moved, spread, _ = predict(m, cov, motion, noise, offset, N, HAS_C)
        if not MOVES_FIRST:
            begun = i * 0 + t > 0
            moved = where(begun, moved, m, N)
            spread = where(begun, spread, cov, TRIANGLE)
        if PARTIAL:
            rows, around = deleted(outputs, error, seen, N, P)
        else:
            rows, around = outputs, error
        V, _, C, X, w, e = look(
            moved, spread, rows, around, now_y, shift, seen, N, P, HAS_D, PARTIAL
        )
        m, cov = update(moved, spread, rows, around, V, X, w, N, P)
        value = tl.zeros((BLOCK,), tl.float64)
        fine = tl.zeros((BLOCK,), tl.int32)
        for k in tl.static_range(P):
            pivot = C[k * (k + 1) // 2 + k]
            fine += (pivot > 0.0).to(tl.int32)
            value += e[k] * w[k] + tl.log(pivot)
            if PARTIAL:
                value += seen[k].to(tl.float64) * LOG_2PI
            else:
                value += LOG_2PI
        value *= -0.5
        if PARTIAL:
            value = tl.where(live, value, 0.0)
        bad = tl.where(live & (fine < P) & (bad == 0), t + 1, bad)
        tl.store(ll + row, value.to(ll.dtype.element_ty), mask=inside)
        if STORES:
            if HAS_LENGTHS:
                none = zeros(value, TRIANGLE)
                m = where(live, m, none, N)
                cov = where(live, cov, none, TRIANGLE)
            store(m_out + row * N, m, inside, N)
            store(P_out + row * N * N, unpacked(cov, N), inside, N * N)
        row += 1
    tl.store(failed + i, bad, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def smoother_kernel(
    m_in, P_in, lengths, F, Q, c, m_out, P_out, cross, batch, length, F_series, F_step, Q_series,
    Q_step, c_series, c_step, N: tl.constexpr, HOLD: tl.constexpr, HAS_LENGTHS: tl.constexpr,
    HAS_C: tl.constexpr, HAS_CROSS: tl.constexpr, TOLERANCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Smooth a block of series by equations (8), in the form that README.md gives."""
    TRIANGLE: tl.constexpr = N * (N + 1) // 2
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < batch
    # Lanes that are left over repeat the last series, and store nothing.
    i = tl.minimum(lane, batch - 1).to(tl.int64)
    stop = tl.load(lengths + i) if HAS_LENGTHS else i * 0 + length
    F += i * F_series
    Q += i * Q_series
    c += i * c_series
    if HOLD:
        motion, noise, offset = load_transition(F, Q, c, stop > 0, N, HAS_C)
    none = tl.zeros((BLOCK,), tl.float64)
    m_now, now = zeros(none, N), zeros(none, TRIANGLE)
    row = i * length + (length - 1)
    live = stop >= length
    next_m = load(m_in + row * N, live, N)
    next_P = packed(load(P_in + row * N * N, live, N * N), N)
    for back in range(length):
        t = length - 1 - back
        more = stop > t + 1
        m, cov = next_m, next_P
        earlier = (stop > t - 1) & (i * 0 + t > 0)
        next_m = load(m_in + (row - 1) * N, earlier, N)
        next_P = packed(load(P_in + (row - 1) * N * N, earlier, N * N), N)
        if not HOLD:
            motion, noise, offset = load_transition(
                F + (t + 1) * F_step, Q + (t + 1) * Q_step, c + (t + 1) * c_step, more, N, HAS_C
            )
        ahead, spread, FP = predict(m, cov, motion, noise, offset, N, HAS_C)
        L, _ = factor(spread, N, TOLERANCE)
        Gt = solve(L, FP, N, N)
        if HAS_CROSS:
            between = product(unpacked(now, N), Gt, N, N, N)
            store(cross + (row + 1) * N * N, between, inside & more, N * N)
        e, known = (), ()
        for k in tl.static_range(N):
            e += (m_now[k] - ahead[k],)
        for k in tl.static_range(TRIANGLE):
            known += (now[k] + noise[k],)
        smoothed = add(m, t_product(Gt, e, N, N, 1), N)
        full = unpacked(cov, N)
        fall = t_product(Gt, FP, N, N, N)
        E = ()
        for k in tl.static_range(N * N):
            E += (full[k] - fall[k],)
        gained = t_product(Gt, unpacked(known, N), N, N, N)
        lost = product_t(E, motion, N, N, N)
        rest, triangle = (), ()
        for k in tl.static_range(N * N):
            rest += (gained[k] - lost[k],)
        for a in tl.static_range(N):
            for b in tl.static_range(a + 1):
                x = E[a * N + b]
                for k in tl.static_range(N):
                    x += rest[a * N + k] * Gt[k * N + b]
                triangle += (x,)
        m_now = where(more, smoothed, m, N)
        now = where(more, triangle, cov, TRIANGLE)
        store(m_out + row * N, m_now, inside, N)
        store(P_out + row * N * N, unpacked(now, N), inside, N * N)
        row -= 1
