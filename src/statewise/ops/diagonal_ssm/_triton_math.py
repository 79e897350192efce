"""Arithmetic of the Triton kernels of the diagonal bank: complex products, the growth of a step."""

# Triton's conditions on constants and on values are two kinds of statement.
# The types that Triton declares are not those of the language it compiles.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def times(xr, xi, yr, yi):
    """Product x · y."""
    return xr * yr - xi * yi, xr * yi + xi * yr


@triton.jit
def times_conj(xr, xi, yr, yi):
    """Product conj(x) · y."""
    return xr * yr + xi * yi, xr * yi - xi * yr


@triton.jit
def growth(re, im, turns, low, step, ZOH: tl.constexpr, WIDE: tl.constexpr):
    """E = ā − 1 of one step; e^{iy} in turns, see ``_varying``."""
    x = re * step
    if not ZOH:
        y = im * step
        p, q = 1.0 - 0.5 * x, 0.5 * y
        scale = 1.0 / (p * p + q * q)
        return scale * (x * p - y * q), scale * (x * q + y * p)
    TERMS: tl.constexpr = 16 if WIDE else 10
    HALF: tl.constexpr = 12 if WIDE else 7
    near = tl.where(tl.abs(x) < 0.5, x, 0.0)
    rise = near * 0.0 + 1.0
    for j in tl.static_range(TERMS, 1, -1):
        rise = 1.0 + near * (1.0 / j) * rise
    rise = tl.where(tl.abs(x) < 0.5, near * rise, tl.exp(x) - 1.0)
    whole = tl.floor(turns * step + 0.5)
    angle = tl.fma(turns, step, -whole) + low * step
    angle *= 3.141592653589793
    square = angle * angle
    sine, cosine = square * 0.0 + 1.0, square * 0.0 + 1.0
    for j in tl.static_range(HALF, 0, -1):
        sine = 1.0 - square * (1.0 / ((2 * j) * (2 * j + 1))) * sine
        cosine = 1.0 - square * (1.0 / ((2 * j - 1) * (2 * j))) * cosine
    sine *= angle
    fall = -2.0 * sine * sine
    imag = 2.0 * sine * cosine
    return rise + fall + rise * fall, imag + rise * imag


@triton.jit
def curvature(zr, zi, er, ei, fr, fi, ZOH: tl.constexpr, WIDE: tl.constexpr):
    """Ψ = (zF − E)/z², by its series near 0."""
    if not ZOH:
        return 0.5 * fr, 0.5 * fi
    TERMS: tl.constexpr = 16 if WIDE else 9
    size = zr * zr + zi * zi
    near = size < 0.25
    sr, si = size * 0.0 + 1.0, size * 0.0
    for k in tl.static_range(TERMS - 1, 0, -1):
        # Not a variable of its own, which Triton would make single precision.
        pr, pi = times(sr, si, zr, zi)
        sr = 1.0 + pr * ((k + 1.0) / (k * (k + 2.0)))
        si = pi * ((k + 1.0) / (k * (k + 2.0)))
    inverse = 1.0 / tl.where(near, 1.0, size)
    vr, vi = zr * inverse, -zi * inverse
    vr, vi = times(vr, vi, vr, vi)
    pr, pi = times(zr, zi, fr, fi)
    vr, vi = times(pr - er, pi - ei, vr, vi)
    return tl.where(near, 0.5 * sr, vr), tl.where(near, 0.5 * si, vi)
