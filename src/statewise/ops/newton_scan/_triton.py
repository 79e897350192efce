"""What the Triton kernels of both cells share.

A program owns channels of one sequence and holds a tile [C, BD]: C stretches of time, T steps
each in scan order, advance together, one step of every stretch at a time. With C = 1 that is the
plain sequential walk. Otherwise the states before the stretches are unknown at first, and are
found by Newton's method on them alone: see README.md, "Stretches".

Where a sequence has fewer than C·T steps, steps past its end leave a stretch as it is.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
HUGE: tl.constexpr = tl.constexpr(1e30)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(x * (-LOG2_E)))


@triton.jit
def tanh(x):
    """2 σ(2x) − 1, which needs no branch and is exact to rounding relative to 1."""
    return 2.0 * sigmoid(2.0 * x) - 1.0


@triton.jit
def _last_two(last1, before1, count1, last2, before2, count2):
    """The last two values of a run of ``count`` values, for two runs in a row."""
    return last2, tl.where(count2 == 1, last1, before2), count1 + count2


@triton.jit
def earlier(x, C: tl.constexpr, BD: tl.constexpr):
    """Row c − 1 of a tile in row c; row 0 stays.

    A scan, because tl.gather would choose a layout for its operands that every step of the walk
    then pays for in conversions.
    """
    ones = tl.full((C, BD), 1, tl.int32)
    _, before, _ = tl.associative_scan((x, x, ones), 0, _last_two)
    return before


@triton.jit
def later(x, C: tl.constexpr, BD: tl.constexpr):
    """Row c + 1 of a tile in row c; the last row stays."""
    ones = tl.full((C, BD), 1, tl.int32)
    _, after, _ = tl.associative_scan((x, x, ones), 0, _last_two, reverse=True)
    return after


@triton.jit
def mismatch(end, start_after):
    """How far the end of a stretch is from the start assumed for the next, relative to max(1, |x|).

    Equal values agree, infinite and NaN ones too; NaN beside a number is a mismatch.
    """
    off = tl.abs(end - start_after) / tl.maximum(tl.abs(end), 1.0)
    same = (end == start_after) | ((end != end) & (start_after != start_after))
    return tl.where(same, 0.0, tl.where(off == off, off, HUGE))


@triton.jit
def bounded_slope(m):
    """A derivative clamped to [−1, 1], 0 for NaN.

    Any number here leaves the fixed point as it is; bounded ones keep the corrections finite where
    the stretch amplifies.
    """
    return tl.where(m == m, tl.minimum(tl.maximum(m, -1.0), 1.0), 0.0)


@triton.jit
def finite(x):
    return tl.where(tl.abs(x) < HUGE, x, 0.0)


@triton.jit
def times(m, x):
    """The product m · x, and 0 where either is 0 whatever the other."""
    return tl.where((m == 0.0) | (x == 0.0), 0.0, m * x)


@triton.jit
def combine_scalar(m1, q1, m2, q2):
    """The map x ↦ m₁ x + q₁, then x ↦ m₂ x + q₂."""
    return m1 * m2, m2 * q1 + q2


@triton.jit
def combine_scalar_breaking(m1, q1, f1, m2, q2, f2):
    """As :func:`combine_scalar`; a map with a flag ignores its argument, NaN included."""
    cut = f2 != 0
    return tl.where(cut, 0.0, m1 * m2), tl.where(cut, q2, m2 * q1 + q2), f1 | f2


@triton.jit
def combine_pair(a1, b1, c1, d1, p1, q1, a2, b2, c2, d2, p2, q2):
    """Maps x ↦ M x + v of pairs, M = [[a, b], [c, d]], v = (p, q): the first, then the second."""
    return (
        a2 * a1 + b2 * c1,
        a2 * b1 + b2 * d1,
        c2 * a1 + d2 * c1,
        c2 * b1 + d2 * d1,
        a2 * p1 + b2 * q1 + p2,
        c2 * p1 + d2 * q1 + q2,
    )


@triton.jit
def combine_pair_breaking(a1, b1, c1, d1, p1, q1, f1, a2, b2, c2, d2, p2, q2, f2):
    """As :func:`combine_pair`; a map with a flag ignores its argument, NaN included."""
    a, b, c, d, p, q = combine_pair(a1, b1, c1, d1, p1, q1, a2, b2, c2, d2, p2, q2)
    cut = f2 != 0
    return (
        tl.where(cut, 0.0, a),
        tl.where(cut, 0.0, b),
        tl.where(cut, 0.0, c),
        tl.where(cut, 0.0, d),
        tl.where(cut, p2, p),
        tl.where(cut, q2, q),
        f1 | f2,
    )


@triton.jit
def place(first, n, i, L, D, REVERSE: tl.constexpr):
    """Whether step ``first + n`` of each stretch exists, and its row (i, t) in (B, L)."""
    step = first + n
    valid = (step >= 0) & (step < L)
    step = tl.minimum(tl.maximum(step, 0), L - 1)
    t = L - 1 - step if REVERSE else step
    return valid, i * L + t
