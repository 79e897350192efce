"""φ(x) = (e^x − 1)/x and its derivative on packs, for the zero-order hold; real and complex.

Near 0 both come from their series, elsewhere from e^x, which the caller has at hand:

    φ(x)  = Σ_k x^k / (k+1)!          or  (e^x − 1)/x
    φ'(x) = Σ_k (k+1) x^k / (k+2)!    or  (e^x − φ(x))/x
"""

from __future__ import annotations

import math

from statewise.ops.jit import kernel
from statewise.ops.simd import WIDER, broadcast, div, less, madd, mul, sub

NEAR = 0.25
"""Square of the modulus below which the series are used."""

TERMS = 14
"""Enough for double precision at modulus 1/2."""

PHI = tuple(1 / math.factorial(k + 1) for k in reversed(range(TERMS)))
PHI_SLOPE = tuple((k + 1) / math.factorial(k + 2) for k in reversed(range(TERMS)))


@kernel
def _safe(s, x, square):
    """x, and 1 near 0 where nothing may be divided by it."""
    return less(square, broadcast(s, NEAR, WIDER), broadcast(s, 1.0, WIDER), x)


@kernel
def phi(s, x, e):
    """φ(x) of a pack x with e = e^x; ``s`` is any array of its type."""
    series = broadcast(s, PHI[0], WIDER)
    for c in PHI[1:]:
        series = madd(series, x, broadcast(s, c, WIDER))
    square = mul(x, x)
    far = div(sub(e, broadcast(s, 1.0, WIDER)), _safe(s, x, square))
    return less(square, broadcast(s, NEAR, WIDER), series, far)


@kernel
def phi_slope(s, x, e, p):
    """φ'(x) of a pack x with e = e^x and p = φ(x)."""
    series = broadcast(s, PHI_SLOPE[0], WIDER)
    for c in PHI_SLOPE[1:]:
        series = madd(series, x, broadcast(s, c, WIDER))
    square = mul(x, x)
    far = div(sub(e, p), _safe(s, x, square))
    return less(square, broadcast(s, NEAR, WIDER), series, far)


@kernel
def _combine(s, x, y, top, low, re, im):
    """The series (re, im) near 0, elsewhere (top + i low) / (x + iy)."""
    near = broadcast(s, NEAR, WIDER)
    square = madd(x, x, mul(y, y))
    scale = div(broadcast(s, 1.0, WIDER), _safe(s, square, square))
    far_re = mul(madd(top, x, mul(low, y)), scale)
    far_im = mul(sub(mul(low, x), mul(top, y)), scale)
    return less(square, near, re, far_re), less(square, near, im, far_im)


@kernel
def phi_pairs(s, x, y, e, f):
    """φ(x + iy) with e + if = e^(x + iy), as packs (re, im)."""
    re, im = broadcast(s, PHI[0], WIDER), broadcast(s, 0.0, WIDER)
    for c in PHI[1:]:
        re, im = (
            sub(madd(re, x, broadcast(s, c, WIDER)), mul(im, y)),
            madd(re, y, mul(im, x)),
        )
    return _combine(s, x, y, sub(e, broadcast(s, 1.0, WIDER)), f, re, im)


@kernel
def phi_slope_pairs(s, x, y, e, f, p, q):
    """φ'(x + iy) with e + if = e^(x + iy) and p + iq = φ(x + iy), as packs (re, im)."""
    re, im = broadcast(s, PHI_SLOPE[0], WIDER), broadcast(s, 0.0, WIDER)
    for c in PHI_SLOPE[1:]:
        re, im = (
            sub(madd(re, x, broadcast(s, c, WIDER)), mul(im, y)),
            madd(re, y, mul(im, x)),
        )
    return _combine(s, x, y, sub(e, p), sub(f, q), re, im)
