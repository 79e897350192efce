"""Arithmetic of the Triton kernels: step sizes, decays, input gains.

A number is a tuple of tiles, ``(re,)`` or ``(re, im)``; ``PARTS`` says which. Tiles over states
are (N, D): a warp's 32 lanes lie along 32 channels and every lane holds all states of its
channel, so that sums over states stay inside a lane. Dynamics come with their real part times
log2 e, for the hardware's only exponential is 2^x.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false
# Kernels are typed by Triton when it compiles them, not by annotations.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from statewise.ops.gpu import interpreting

# The interpreter takes milliseconds to enter a jitted function; a plain one does the same there.
device: Callable[..., Any] = (lambda function: function) if interpreting() else triton.jit
"""Decorator of functions that kernels call."""

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
THRESHOLD = tl.constexpr(20.0)
"""Above this, softplus passes its argument through."""


@device
def sigmoid(x):
    """1 / (1 + e^{−x})."""
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@device
def softplus(x):
    """log(1 + e^x), to full relative precision where it is tiny."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    if x.dtype == tl.float64:
        w = 1.0 + e
        tail = tl.log(w) + (e - (w - 1.0)) / w
    else:
        # log(1 + e) / e on [0, 1], fitted to 5e-9: a division would keep the unit of the
        # exponentials busy, which is the one that limits these kernels.
        series = 0.01954252743780671 - 0.0031760570527694654 * e
        series = series * e - 0.056373613209643736
        series = series * e + 0.10543623839523661
        series = series * e - 0.15269667104466478
        series = series * e + 0.19663274269437397
        series = series * e - 0.2495161626572586
        series = series * e + 0.33329710499262943
        series = series * e - 0.49999892648080163
        series = series * e + 0.9999999946562934
        tail = e * series
    return tl.where(x > THRESHOLD, x, tl.maximum(x, 0.0) + tail)


@device
def softplus_slope(x):
    """The derivative of softplus."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    return tl.where(x > THRESHOLD, 1.0, tl.where(x < 0.0, e, 1.0) / (1.0 + e))


@device
def add(a, b, PARTS: tl.constexpr):
    """Return a + b."""
    return (a[0] + b[0],) if PARTS == 1 else (a[0] + b[0], a[1] + b[1])


@device
def times(a, b, PARTS: tl.constexpr):
    """Return the product a b."""
    return (a[0] * b[0],) if PARTS == 1 else (a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0])


@device
def conj_times(a, b, PARTS: tl.constexpr):
    """Return conj(a) b."""
    return (a[0] * b[0],) if PARTS == 1 else (a[0] * b[0] + a[1] * b[1], a[0] * b[1] - a[1] * b[0])


@device
def scaled(s, a, PARTS: tl.constexpr):
    """Return s a with a real s."""
    return (s * a[0],) if PARTS == 1 else (s * a[0], s * a[1])


@device
def select(condition, a, b, PARTS: tl.constexpr):
    """Return a where the condition holds, else b."""
    return (
        (tl.where(condition, a[0], b[0]),)
        if PARTS == 1
        else (tl.where(condition, a[0], b[0]), tl.where(condition, a[1], b[1]))
    )


@device
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr, PARTS: tl.constexpr):
    """A number of tiles of zeros."""
    zero = tl.full((ROWS, COLUMNS), 0, ACC)
    return (zero,) if PARTS == 1 else (zero, zero)


@device
def decay(delta, A, PARTS: tl.constexpr):
    """e^{ΔA}, with ``delta`` (D) and ``A`` scaled as the module says."""
    modulus = tl.exp2(delta[None, :] * A[0])
    if PARTS == 1:
        found = (modulus,)
    else:
        angle = delta[None, :] * A[1]
        found = (modulus * tl.cos(angle), modulus * tl.sin(angle))
    return found


@device
def inverse(A, PARTS: tl.constexpr):
    """1/A, of dynamics scaled as the module says; where A is zero, a number that is not used."""
    real = A[0] * LN2
    if PARTS == 1:
        found = (1.0 / tl.where(real == 0.0, 1.0, real),)
    else:
        square = real * real + A[1] * A[1]
        size = 1.0 / tl.where(square == 0.0, 1.0, square)
        found = (real * size, -A[1] * size)
    return found


@device
def _shifted(a, s, PARTS: tl.constexpr):
    return (a[0] + s,) if PARTS == 1 else (a[0] + s, a[1])


@device
def gains(delta, A, inverted, a, PARTS: tl.constexpr):
    """(e^{ΔA} − 1)/A and its derivative by A.

    With x = ΔA and ψ = Σ_k x^k/(k+2)! they are Δ(1 + xψ) and Δ²(1 + xψ − ψ) for |x| < 1/2, and
    beyond (a − 1)/A and (Δa − (a − 1)/A)/A, where a = e^x.
    """
    row = delta[None, :]
    if PARTS == 1:
        x = (row * (A[0] * LN2),)
        near = tl.abs(x[0]) < 0.5
        x = (tl.where(near, x[0], 0.0),)
    else:
        x = (row * (A[0] * LN2), row * A[1])
        near = x[0] * x[0] + x[1] * x[1] < 0.25
        x = (tl.where(near, x[0], 0.0), tl.where(near, x[1], 0.0))
    TOP: tl.constexpr = 16 if x[0].dtype == tl.float64 else 9
    # One over TOP factorial; a plain number in a kernel would be float32.
    LAST: tl.constexpr = 4.779477332387385e-14 if TOP == 16 else 2.7557319223985893e-06
    coefficient = tl.full((), LAST, x[0].dtype)
    psi = _shifted(scaled(0.0, x, PARTS), coefficient, PARTS)
    for k in tl.static_range(TOP, 2, -1):
        coefficient = coefficient * k
        psi = _shifted(times(psi, x, PARTS), coefficient, PARTS)
    level = _shifted(times(x, psi, PARTS), 1.0, PARTS)
    far = times(_shifted(a, -1.0, PARTS), inverted, PARTS)
    gain = select(near, scaled(row, level, PARTS), far, PARTS)
    bend = scaled(row * row, add(level, scaled(-1.0, psi, PARTS), PARTS), PARTS)
    steep = add(scaled(row, a, PARTS), scaled(-1.0, far, PARTS), PARTS)
    return gain, select(near, bend, times(steep, inverted, PARTS), PARTS)


@device
def inflow(delta, u, A, inverted, a, B, ZOH: tl.constexpr, PARTS: tl.constexpr):
    """B̄ u: Δ B u, or (e^{ΔA} − 1)/A B u."""
    if ZOH:
        gain, _ = gains(delta, A, inverted, a, PARTS)
        drive = times(gain, scaled(u[None, :], B, PARTS), PARTS)
    else:
        drive = scaled((delta * u)[None, :], B, PARTS)
    return drive


@device
def read_out(C, h, PARTS: tl.constexpr):
    """Σ_n C_n h_n over the states, twice its real part when complex."""
    return tl.sum(C[0] * h[0] if PARTS == 1 else 2.0 * (C[0] * h[0] - C[1] * h[1]), 0)
