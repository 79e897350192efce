"""Numba kernels around the recurrence: step sizes, gates, and sums of parts.

They are small beside it, but as torch operators they would start torch's own threads, which then
wait for more work on the cores that the recurrence needs.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import add, broadcast, less, load, madd, mul, store, sub, width, zero
from statewise.ops.simd_math import exp, sigmoid, softplus

FLUSH = 64
"""Steps that are summed in working precision before they join the sums in double."""

_FAR = 20.0


@kernel
def _size(raw, soft, low, high, wide):
    """Δ = clamp(softplus(raw)) for a pack, softplus where ``soft``; and Δ before the clamp."""
    free = raw
    if soft:
        far = broadcast(low, _FAR, wide)
        none = zero(low, wide)
        # From 20 on log(1 + eˣ) = x + e⁻ˣ to rounding.
        free = less(far, raw, add(raw, exp(sub(none, raw))), softplus(raw))
    least, most = load(low, 0, wide), load(high, 0, wide)
    bounded = less(free, least, least, free)
    return less(most, bounded, most, bounded), free


@kernel
def steps(dt, rate, bias, soft, low, high, log_a, delta):
    """Δ = clamp(softplus(dt + bias)) and log_a = Δ · rate for flat dt.

    ``rate`` and ``bias`` are as long as a pattern that repeats over dt; ``low`` and ``high`` are
    packs of equal numbers.
    """
    W = width(dt, True)
    period = rate.size
    rest = np.zeros((3, period), dt.dtype)
    given, found, total = rest[0], rest[1], rest[2]
    for i in range(0, dt.size, period):
        if i + period <= dt.size:
            for q in range(0, period, W):
                raw = add(load(dt, i + q, True), load(bias, q, True))
                size, _ = _size(raw, soft, low, high, True)
                store(delta, i + q, size)
                store(log_a, i + q, mul(size, load(rate, q, True)))
        else:
            count = dt.size - i
            given[:count] = dt[i:]
            for q in range(0, period, W):
                raw = add(load(given, q, True), load(bias, q, True))
                size, _ = _size(raw, soft, low, high, True)
                store(found, q, size)
                store(total, q, mul(size, load(rate, q, True)))
            delta[i:] = found[:count]
            log_a[i:] = total[:count]


@kernel
def _step_gradients(dt, i, rate, bias, soft, low, high, dlog_a, ddelta, ddt, drate, dbias):
    W = width(dt, True)
    none = zero(low, True)
    least, most = load(low, 0, True), load(high, 0, True)
    for q in range(0, rate.size, W):
        raw = add(load(dt, i + q, True), load(bias, q, True))
        size, free = _size(raw, soft, low, high, True)
        through = load(dlog_a, i + q, True)
        gradient = madd(through, load(rate, q, True), load(ddelta, i + q, True))
        gradient = less(free, least, none, less(most, free, none, gradient))
        if soft:
            gradient = mul(gradient, sigmoid(raw))
        store(ddt, i + q, gradient)
        store(drate, q, madd(through, size, load(drate, q, True)))
        store(dbias, q, add(gradient, load(dbias, q, True)))


@kernel
def steps_backward(dt, rate, bias, soft, low, high, dlog_a, ddelta, ddt, drate, dbias):
    """Fill ddt and, of the length of the pattern and in double precision, drate and dbias."""
    period = rate.size
    sums = np.zeros((2, period), dt.dtype)
    done = 0
    whole = dt.size - dt.size % period
    for i in range(0, whole, period):
        _step_gradients(dt, i, rate, bias, soft, low, high, dlog_a, ddelta, ddt, sums[0], sums[1])
        done += 1
        if done == FLUSH:
            drate += sums[0]
            dbias += sums[1]
            sums[:] = 0
            done = 0
    if whole < dt.size:
        rest = np.zeros((4, period), dt.dtype)
        count = dt.size - whole
        rest[0, :count] = dt[whole:]
        rest[1, :count] = dlog_a[whole:]
        rest[2, :count] = ddelta[whole:]
        _step_gradients(
            rest[0], 0, rate, bias, soft, low, high, rest[1], rest[2], rest[3], sums[0], sums[1]
        )
        ddt[whole:] = rest[3, :count]
    drate += sums[0]
    dbias += sums[1]


@kernel
def gate(out, x, z, i0, i1):
    """Set out ← x ⊙ silu(z) for the numbers [i0, i1)."""
    W = width(x, True)
    whole = i1 - (i1 - i0) % W
    for i in range(i0, whole, W):
        gates = load(z, i, True)
        store(out, i, mul(load(x, i, True), mul(gates, sigmoid(gates))))
    for i in range(whole, i1):
        out[i] = x[i] * z[i] / (1 + np.exp(-z[i]))


@kernel
def gate_slope(out, gradient, x, z, i0, i1):
    """Set out ← gradient ⊙ x ⊙ silu′(z) for the numbers [i0, i1); ``out`` may be ``x``."""
    W = width(x, True)
    whole = i1 - (i1 - i0) % W
    for i in range(i0, whole, W):
        gates = load(z, i, True)
        s = sigmoid(gates)
        # s + z s (1 − s)
        rise = sub(s, mul(s, s))
        slope = madd(gates, rise, s)
        store(out, i, mul(mul(load(gradient, i, True), load(x, i, True)), slope))
    for i in range(whole, i1):
        s = 1 / (1 + np.exp(-z[i]))
        out[i] = gradient[i] * x[i] * (s + z[i] * s * (1 - s))


@kernel
def merge(out, x, parts, columns, r0, r1):
    """Row r of ``out`` ← the sum over its parts, rows r · parts on of x, for r in [r0, r1)."""
    W = width(x, True)
    whole = columns - columns % W
    for r in range(r0, r1):
        i = r * parts * columns
        o = r * columns
        for n in range(0, whole, W):
            value = load(x, i + n, True)
            for q in range(1, parts):
                value = add(value, load(x, i + q * columns + n, True))
            store(out, o + n, value)
        for n in range(whole, columns):
            rest = x[i + n]
            for q in range(1, parts):
                rest += x[i + q * columns + n]
            out[o + n] = rest
