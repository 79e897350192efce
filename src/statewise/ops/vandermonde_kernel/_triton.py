"""Triton kernels of the two-level Vandermonde product, l = r T + s and a^l = (a^T)^r a^s.

Tables of powers are made in double precision by squaring, so that phases are exact, and stored in
the working type. The product itself is an outer product per state, accumulated in registers on
the FMA units: tensor cores would round its factors to ten bits.
"""

# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def power(re, im, exponent, BITS: tl.constexpr):
    """(re, im) to whole powers below 2^BITS, by squaring."""
    pr, pi = exponent.to(re.dtype) * 0.0 + 1.0, exponent.to(re.dtype) * 0.0
    for bit in tl.static_range(BITS):
        odd = ((exponent >> bit) & 1) != 0
        qr, qi = pr * re - pi * im, pr * im + pi * re
        pr, pi = tl.where(odd, qr, pr), tl.where(odd, qi, pi)
        re, im = re * re - im * im, 2.0 * re * im
    return pr, pi


@triton.jit
def powers_kernel(
    base, weight, table, slope, N, count, times, stride_n, stride_e,
    WEIGHTED: tl.constexpr, SLOPE: tl.constexpr, BITS: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Fill table = weight · base^m and slope = m base^{m−1} for m = e · times, e < count.

    ``base`` and ``weight`` are (D, N, 2); a program has one of D N numbers. Elements of the tables
    lie at ``stride_n`` and ``stride_e``, imaginary parts N count later than real ones; channels
    follow each other.
    """
    number = tl.program_id(0).to(tl.int64)
    d, n = number // N, number % N
    e = tl.program_id(1) * BE + tl.arange(0, BE)
    live = e < count
    re = tl.load(base + 2 * number).to(tl.float64)
    im = tl.load(base + 2 * number + 1).to(tl.float64)
    pr, pi = power(re, im, e * times, BITS)
    if WEIGHTED:
        wr = tl.load(weight + 2 * number).to(tl.float64)
        wi = tl.load(weight + 2 * number + 1).to(tl.float64)
        pr, pi = wr * pr - wi * pi, wr * pi + wi * pr
    at = d * (2 * N * count) + n * stride_n + e * stride_e
    tl.store(table + at, pr, mask=live)
    tl.store(table + at + N * count, pi, mask=live)
    if SLOPE:
        before = e * times - 1
        pr, pi = power(re, im, tl.maximum(before, 0), BITS)
        factor = (before + 1).to(tl.float64)
        tl.store(slope + at, factor * pr, mask=live)
        tl.store(slope + at + N * count, factor * pi, mask=live)


@triton.jit
def product_kernel(
    rows, columns, kernel, N, L, R, T: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr
):
    """K[r T + s] = Re Σ_n rows[n, r] · columns[n, s]; tables are (D, 2, N, R) and (D, 2, N, T)."""
    d = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) // (T // BS) * BR + tl.arange(0, BR)
    s = tl.program_id(1) % (T // BS) * BS + tl.arange(0, BS)
    live = r < R
    total = tl.zeros((BR, BS), kernel.dtype.element_ty)
    rows += d * (2 * N * R)
    columns += d * (2 * N * T)
    for n in range(N):
        xr = tl.load(rows + n * R + r, mask=live, other=0.0)
        xi = tl.load(rows + (N + n) * R + r, mask=live, other=0.0)
        yr = tl.load(columns + n * T + s)
        yi = tl.load(columns + (N + n) * T + s)
        total += xr[:, None] * yr[None, :]
        total -= xi[:, None] * yi[None, :]
    l = r[:, None] * T + s[None, :]
    tl.store(kernel + d * L + l, total, mask=live[:, None] & (l < L))


@triton.jit
def gradients_kernel(
    grad, rows, row_slopes, columns, column_slopes, out, N, L, R, T: tl.constexpr,
    BN: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """Σ_l a^l ∂K_l and Σ_l l a^{l−1} ∂K_l, as (D, N, 4).

    Tables are (D, 2, R, N) for rows and (D, 2, N, T) for columns.
    """
    d = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    live = n < N
    zero = tl.zeros((BN,), out.dtype.element_ty)
    cr, ci, ar, ai = zero, zero, zero, zero
    rows += d * (2 * N * R)
    row_slopes += d * (2 * N * R)
    for s0 in range(0, T, BS):
        s = s0 + tl.arange(0, BS)
        pr = tl.zeros((BN, BS), out.dtype.element_ty)
        pi, qr, qi = pr, pr, pr
        for r in range(R):
            g = tl.load(grad + d * L + r * T + s, mask=r * T + s < L, other=0.0)[None, :]
            at = r * N + n
            pr += tl.load(rows + at, mask=live, other=0.0)[:, None] * g
            pi += tl.load(rows + N * R + at, mask=live, other=0.0)[:, None] * g
            qr += tl.load(row_slopes + at, mask=live, other=0.0)[:, None] * g
            qi += tl.load(row_slopes + N * R + at, mask=live, other=0.0)[:, None] * g
        at = d * (2 * N * T) + n[:, None] * T + s[None, :]
        inside = live[:, None] & (s < T)[None, :]
        xr = tl.load(columns + at, mask=inside, other=0.0)
        xi = tl.load(columns + N * T + at, mask=inside, other=0.0)
        yr = tl.load(column_slopes + at, mask=inside, other=0.0)
        yi = tl.load(column_slopes + N * T + at, mask=inside, other=0.0)
        cr += tl.sum(pr * xr - pi * xi, axis=1)
        ci += tl.sum(pr * xi + pi * xr, axis=1)
        ar += tl.sum(qr * xr - qi * xi + pr * yr - pi * yi, axis=1)
        ai += tl.sum(qr * xi + qi * xr + pr * yi + pi * yr, axis=1)
    at = out + (d * N + n) * 4
    tl.store(at, cr, mask=live)
    tl.store(at + 1, ci, mask=live)
    tl.store(at + 2, ar, mask=live)
    tl.store(at + 3, ai, mask=live)
