"""What the Triton kernels of ``ssd`` share: places in time, decays inside a block, masked sums.

A block is ``Q`` consecutive steps in scan order; row i of block c is step c·Q + i of the scan,
which is time L − 1 − (c·Q + i) where the scan runs from the end. Rows past the sequence load
zeros: no decay, no input, no reset.

Four operand types: bfloat16 multiplies as it is; float16 widens to float32 and multiplies in
TF32, which holds every float16 and does not overflow where products of float16 would; float32
multiplies in three TF32 products, which keep about 21 bits; float64 in float64.
"""

# Triton's annotations would have flags be constexpr objects.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def rows_of(c, i, L, Q: tl.constexpr, REVERSE: tl.constexpr):
    """Time of the first row of block ``c`` (int64), the rows' distance from it, which exist."""
    ok = c * Q + i < L
    first = L - 1 - c * Q if REVERSE else c * Q
    return tl.cast(first, tl.int64), -i if REVERSE else i, ok


@triton.jit
def finite(x):
    """Whether each number is neither infinite nor NaN."""
    return tl.abs(x) < float("inf")


@triton.jit
def broken(l):
    """Whether log a is no decay at all: NaN or +∞. −∞ is one, to zero."""
    return (l < float("inf")) == 0


@triton.jit
def _add_from_reset(sum_0, reset_0, sum_1, reset_1):
    """Combine two stretches of a sum that starts anew at each reset."""
    return tl.where(reset_1 > 0, sum_1, sum_0 + sum_1), reset_0 | reset_1


@triton.jit
def _sums(l, reset, HAS_RESET: tl.constexpr):
    """Cumulative sums of ``l`` since the last reset, and the sum at the last row."""
    if HAS_RESET:
        cum, _ = tl.associative_scan((l, reset), 0, _add_from_reset)
        row = tl.arange(0, l.shape[0])
        total = tl.sum(tl.where(row == l.shape[0] - 1, cum, 0.0), 0)
    else:
        cum = tl.cumsum(l, 0)
        total = tl.sum(l, 0)
    return cum, total


@triton.jit
def block_decay(l, reset, late, ACC: tl.constexpr, PRECISE: tl.constexpr, HAS_RESET: tl.constexpr):
    """Base-2 logarithms of the decays inside a block.

    The exponents are differences of cumulative sums. A decay that underflows is raised to the
    largest one that still does, so that log a = −∞ gives no ∞ − ∞; and ``PRECISE`` sums in
    float64 and keeps the sum as a float32 and a rest, because a difference of two large float32
    sums would lose the digits that float32 results need.

    ``l`` is log a of the rows, 0 where a decay is not used. Sums start anew where ``reset``, so
    that nothing before a reset reaches what is after it, not even by rounding; ``late`` says
    which rows come after the last reset.

    Returns:
        cum, rest: cum + rest = Σ_{j ≤ t} log₂ a_j since the last reset; tail = Σ_{j > t} log₂ a_j,
        −∞ where not ``late``; total, that of all late rows.
    """
    lowest: tl.constexpr = -746.0 if tl.float64 == ACC else -104.0
    l = tl.where(l < lowest, lowest, l)
    if HAS_RESET:
        l = tl.where(broken(l), 0.0, l)
    if PRECISE:
        wide, total = _sums(l.to(tl.float64) * LOG2E, reset, HAS_RESET)
        cum = wide.to(ACC)
        rest = (wide - cum.to(tl.float64)).to(ACC)
        tail = (total - wide).to(ACC)
        total = total.to(ACC)
    else:
        cum, total = _sums(l.to(ACC) * LOG2E, reset, HAS_RESET)
        rest = cum
        tail = total - cum
    if HAS_RESET:
        tail = tl.where(late, tail, float("-inf"))
    return cum, rest, tail, total


@triton.jit
def pair_decay(cum, rest, allowed, LOWER: tl.constexpr, PRECISE: tl.constexpr):
    """Π_{s < j ≤ t} a_j where ``allowed``, else 0; axes (t, s) where ``LOWER``, else (s, t).

    The exponent is masked before exp2: outside the mask it may be large and positive.
    """
    if LOWER:
        gap = cum[:, None] - cum[None, :]
        if PRECISE:
            gap += rest[:, None] - rest[None, :]
    else:
        gap = cum[None, :] - cum[:, None]
        if PRECISE:
            gap += rest[None, :] - rest[:, None]
    return tl.exp2(tl.where(allowed, gap, float("-inf")))


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """Product a b + acc by the matrix units, accumulated in the type of ``acc``."""
    if acc.dtype == tl.float64:
        # Triton chooses how a float64 operand is laid out by the narrowest type among the
        # elementwise operations before it, a mask's for one, and then cannot load it. A sum over
        # an axis of length one ends that search.
        a = tl.sum(a[:, :, None], 2)
        b = tl.sum(b[:, :, None], 2)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def guarded_dot(
    m, v, allowed, sick, acc, PRECISION: tl.constexpr, OPERAND: tl.constexpr, GUARD: tl.constexpr
):
    """Product m v + acc for an ``m`` that is 0 where not ``allowed``, even where v is not finite.

    A matrix product multiplies those zeros too, and 0 · NaN would cross a reset. So numbers that
    are not finite, and rows of v that are ``sick`` for another reason, are left out and counted
    by a second product: what they may reach becomes NaN.
    """
    if GUARD:
        bad = (finite(v) == 0) | sick[:, None]
        product = dot(m, tl.where(bad, 0.0, v.to(acc.dtype)).to(OPERAND), acc, PRECISION)
        count = dot(allowed.to(OPERAND), bad.to(OPERAND), tl.zeros_like(acc), PRECISION)
        result = tl.where(count > 0, float("nan"), product)
    else:
        result = dot(m, v, acc, PRECISION)
    return result
