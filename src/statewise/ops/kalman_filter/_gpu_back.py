"""The Triton kernel of the adjoint of the Kalman filter; symbols are those of README.md.

``g`` and ``G`` are the gradients of the mean and covariance at hand, XG is K'G. The gradient of a
parameter that does not vary in time is summed in registers, that of one that does is stored.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false
# Kernels are typed by Triton when it compiles them, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.kalman_filter._gpu_kernels import (
    SIZES,
    deleted,
    load_output,
    load_seen,
    load_transition,
    look,
    predict,
    repeated,
)
from statewise.ops.kalman_filter._gpu_small import (
    add,
    load,
    packed,
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


@device
def unsee(g, G, H, L, X, w, m_now, P_now, slope, seen, N: tl.constexpr, P: tl.constexpr,
          PARTIAL: tl.constexpr):  # fmt: skip
    """Equations (5) and (6): g⁻, G⁻, ∂H, ∂R (packed) and ∂d."""
    square, after = unpacked(G, N), unpacked(P_now, N)
    XG = product(X, square, P, N, N)
    kg = product(X, g, P, N, 1)
    XGX = product_t(XG, X, P, N, P)
    one = ()
    for i in tl.static_range(P):
        for j in tl.static_range(P):
            one += (tl.full(slope.shape, 1.0 if i == j else 0.0, tl.float64),)
    inverse = solve(L, one, P, P)
    dR, dd = (), ()
    for i in tl.static_range(P):
        dd += (slope * w[i] - kg[i],)
        for j in tl.static_range(i + 1):
            x = XGX[i * P + j] - 0.5 * (kg[i] * w[j] + w[i] * kg[j])
            dR += (x - 0.5 * slope * (inverse[i * P + j] - w[i] * w[j]),)
    Pg = product(after, g, N, N, 1)
    XGP = product(XG, after, P, N, N)
    full = unpacked(dR, P)
    RH = product(full, H, P, P, N)
    dH, Z = (), ()
    for i in tl.static_range(P):
        for j in tl.static_range(N):
            x = w[i] * Pg[j] + dd[i] * m_now[j] - slope * X[i * N + j]
            dH += (x - 2.0 * XGP[i * N + j],)
            Z += (0.5 * (RH[i * N + j] + w[i] * g[j]) - XG[i * N + j],)
    HZ = t_product(H, Z, N, P, N)
    before = ()
    for i in tl.static_range(N):
        for j in tl.static_range(i + 1):
            before += (G[i * (i + 1) // 2 + j] + HZ[i * N + j] + HZ[j * N + i],)
    pulled = add(g, t_product(H, dd, N, P, 1), N)
    if PARTIAL:
        rows, noise, entered = (), (), ()
        for i in tl.static_range(P):
            entered += (tl.where(seen[i], dd[i], 0.0),)
            for j in tl.static_range(N):
                rows += (tl.where(seen[i], dH[i * N + j], 0.0),)
            for j in tl.static_range(i + 1):
                noise += (tl.where(seen[i] & seen[j], dR[i * (i + 1) // 2 + j], 0.0),)
        dH, dR, dd = rows, noise, entered
    return pulled, before, dH, dR, dd


@device
def unmove(g, G, F, m, cov, N: tl.constexpr):
    """Equations (7): g and G of the step before, and ∂F."""
    T = product(unpacked(G, N), F, N, N, N)
    TP = product(T, unpacked(cov, N), N, N, N)
    dF = ()
    for i in tl.static_range(N):
        for j in tl.static_range(N):
            dF += (2.0 * TP[i * N + j] + g[i] * m[j],)
    before = ()
    for i in tl.static_range(N):
        for j in tl.static_range(i + 1):
            x = F[i] * T[j]
            for k in tl.static_range(1, N):
                x += F[k * N + i] * T[k * N + j]
            before += (x,)
    return t_product(F, g, N, N, 1), before, dF


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    gm, gP, gll, y, observed, lengths, F, H, Q, R, c, d, m0, P0, m_out, P_out, dy, dF, dH, dQ, dR,
    dc, dd, dm0, dP0, batch, length, F_series, F_step, H_series, H_step, Q_series, Q_step,
    R_series, R_step, c_series, c_step, d_series, d_step, N: tl.constexpr, P: tl.constexpr,
    HOLD: tl.constexpr, HAS_MASK: tl.constexpr, HAS_LENGTHS: tl.constexpr, HAS_C: tl.constexpr,
    HAS_D: tl.constexpr, MOVES_FIRST: tl.constexpr, HAS_GM: tl.constexpr, HAS_GP: tl.constexpr,
    HAS_GLL: tl.constexpr, F_VARIES: tl.constexpr, H_VARIES: tl.constexpr, Q_VARIES: tl.constexpr,
    R_VARIES: tl.constexpr, C_VARIES: tl.constexpr, D_VARIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of series, each with gradients of its own for every parameter.

    They have as many steps as the parameter: one, or ``length``.
    """
    NN: tl.constexpr = N * N
    TRIANGLE: tl.constexpr = N * (N + 1) // 2
    CORNER: tl.constexpr = P * (P + 1) // 2
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
    none = tl.zeros((BLOCK,), tl.float64)
    g, G = zeros(none, N), zeros(none, TRIANGLE)
    sum_F, sum_Q, sum_c = zeros(none, NN), zeros(none, TRIANGLE), zeros(none, N)
    sum_H, sum_R, sum_d = zeros(none, P * N), zeros(none, CORNER), zeros(none, P)
    row = i * length + (length - 1)
    for back in range(length):
        t = length - 1 - back
        live = stop > t
        if HAS_GM:
            g = add(g, load(gm + row * N, live, N), N)
        if HAS_GP:
            G = add(G, packed(load(gP + row * NN, live, N * N), N), TRIANGLE)
        slope = none
        if HAS_GLL:
            slope = tl.load(gll + row, mask=live, other=0.0).to(tl.float64)
        if not HOLD:
            motion, noise, offset = load_transition(
                F + t * F_step, Q + t * Q_step, c + t * c_step, live, N, HAS_C
            )
            outputs, error, shift = load_output(
                H + t * H_step, R + t * R_step, d + t * d_step, live, N, P, HAS_D
            )
        begun = i * 0 + t > 0
        first, earlier = i * 0 + t < 1, live & begun
        m = load(m_out + (row - 1) * N, earlier, N)
        cov = packed(load(P_out + (row - 1) * NN, earlier, N * N), N)
        m = add(m, load(m0 + i * N, first, N), N)
        cov = add(cov, packed(load(P0 + i * NN, first, N * N), N), TRIANGLE)
        moved, spread, _ = predict(m, cov, motion, noise, offset, N, HAS_C)
        if not MOVES_FIRST:
            moved = where(begun, moved, m, N)
            spread = where(begun, spread, cov, TRIANGLE)
        if HAS_MASK:
            seen = load_seen(observed + row * P, live, P)
        elif HAS_LENGTHS:
            seen = repeated(live, P)
        else:
            seen = ()
        if PARTIAL:
            rows, around = deleted(outputs, error, seen, N, P)
        else:
            rows, around = outputs, error
        now_y = load(y + row * P, live, P)
        _, L, _, X, w, _ = look(
            moved, spread, rows, around, now_y, shift, seen, N, P, HAS_D, PARTIAL
        )
        m_now = load(m_out + row * N, live, N)
        P_now = packed(load(P_out + row * NN, live, N * N), N)
        g, G, to_H, to_R, to_d = unsee(
            g, G, rows, L, X, w, m_now, P_now, slope, seen, N, P, PARTIAL
        )
        to_y = ()
        for k in tl.static_range(P):
            to_y += (-to_d[k],)
        store(dy + row * P, to_y, inside, P)
        if H_VARIES:
            store(dH + row * (P * N), to_H, inside, P * N)
        else:
            sum_H = add(sum_H, to_H, P * N)
        if R_VARIES:
            store(dR + row * (P * P), unpacked(to_R, P), inside, P * P)
        else:
            sum_R = add(sum_R, to_R, CORNER)
        if HAS_D:
            if D_VARIES:
                store(dd + row * P, to_d, inside, P)
            else:
                sum_d = add(sum_d, to_d, P)
        to_c, to_Q = g, G
        g_before, G_before, to_F = unmove(g, G, motion, m, cov, N)
        if MOVES_FIRST:
            g, G = g_before, G_before
        else:
            # The first step is no transition.
            g, G = where(begun, g_before, g, N), where(begun, G_before, G, TRIANGLE)
            to_F = where(begun, to_F, zeros(none, NN), NN)
            to_Q = where(begun, to_Q, zeros(none, TRIANGLE), TRIANGLE)
            to_c = where(begun, to_c, zeros(none, N), N)
        if F_VARIES:
            store(dF + row * NN, to_F, inside, NN)
        else:
            sum_F = add(sum_F, to_F, NN)
        if Q_VARIES:
            store(dQ + row * NN, unpacked(to_Q, N), inside, N * N)
        else:
            sum_Q = add(sum_Q, to_Q, TRIANGLE)
        if HAS_C:
            if C_VARIES:
                store(dc + row * N, to_c, inside, N)
            else:
                sum_c = add(sum_c, to_c, N)
        row -= 1
    if not F_VARIES:
        store(dF + i * NN, sum_F, inside, NN)
    if not H_VARIES:
        store(dH + i * (P * N), sum_H, inside, P * N)
    if not Q_VARIES:
        store(dQ + i * NN, unpacked(sum_Q, N), inside, N * N)
    if not R_VARIES:
        store(dR + i * (P * P), unpacked(sum_R, P), inside, P * P)
    if HAS_C:  # noqa: SIM102 - a pointer that is not given has no type to be stored to
        if not C_VARIES:
            store(dc + i * N, sum_c, inside, N)
    if HAS_D:  # noqa: SIM102
        if not D_VARIES:
            store(dd + i * P, sum_d, inside, P)
    store(dm0 + i * N, g, inside, N)
    store(dP0 + i * NN, unpacked(G, N), inside, N * N)
