"""One time step of the selective scan with real states, and of its adjoint.

Everything lives in one scratch array ``s`` of the working precision; ``at`` gives where. A state
is stored pack by pack of channels: offset (j N + n) W holds state n of the j-th pack, so that a
step walks straight through memory. A is kept times log2(e), so that its exponential is an exp2.

Where B and C vary over time, ``packed`` is None and they are read from their arrays ``rows``, one
number for all channels. Else they are packs in scratch memory, and ``strides`` says how far each
moves with j: 0 where one row serves all channels.

``fresh`` marks a step that has no predecessor; what came before is then not looked at, whatever
it holds. ``zoh`` is None for the Euler rule.
"""

from __future__ import annotations

import math

from statewise.ops.jit import kernel
from statewise.ops.selective_scan._phi import phi, phi_slope
from statewise.ops.simd import (
    WIDER,
    apart,
    broadcast,
    everywhere,
    load,
    madd,
    mul,
    pick,
    store,
    width,
    zero,
)
from statewise.ops.simd_math import exp2

LN2 = math.log(2)


@kernel
def _row(s, source, at, n, stride, j, packed):
    """B or C of the n-th state, for the j-th pack of channels."""
    if packed is None:
        return everywhere(source, at + n, WIDER)
    return load(s, at + j * stride + n * width(s, WIDER), WIDER)


@kernel
def forward_step(s, rows, at, strides, packs, states, fresh, zoh, packed):
    """H ← Ā h + B̄ u, then Σ C h into the row of y.

    ``at`` is (A, h, B, C, Δ, Δu, y).
    """
    apart()
    W = width(s, WIDER)
    A, h, B, C, steps, inputs, y = at
    ln2 = broadcast(s, LN2, WIDER)
    for j in range(packs):
        delta = load(s, steps + j * W, WIDER)
        gain = load(s, inputs + j * W, WIDER)
        read = zero(s, WIDER)
        for n in range(states):
            m = (j * states + n) * W
            power = mul(delta, load(s, A + m, WIDER))
            decay = exp2(power)
            b = _row(s, rows[0], B, n, strides[0], j, packed)
            if zoh is None:
                inflow = mul(gain, b)
            else:
                inflow = mul(mul(gain, phi(s, mul(power, ln2), decay)), b)
            x = pick(fresh, inflow, madd(decay, load(s, h + m, WIDER), inflow))
            store(s, h + m, x)
            read = madd(x, _row(s, rows[1], C, n, strides[1], j, packed), read)
        store(s, y + j * W, read)


@kernel
def _advance(s, h, a, delta, gain, b, c, read, zoh):
    """The next state of a pack of channels, and the sum for y with it."""
    power = mul(delta, a)
    decay = exp2(power)
    if zoh is None:
        inflow = mul(gain, b)
    else:
        inflow = mul(mul(gain, phi(s, mul(power, broadcast(s, LN2, WIDER)), decay)), b)
    x = madd(decay, h, inflow)
    return x, madd(x, c, read)


@kernel
def forward_pair(s, rows, at, strides, packs, states, zoh):
    """Two of :func:`forward_step` where B and C vary and both steps have predecessors.

    The state between the two is not stored, and two exponentials are on their way at a time.
    ``strides`` says how far Δ, Δu and y, and B and C, move from one step to the next.
    """
    apart()
    W = width(s, WIDER)
    A, h, B, C, steps, inputs, y = at
    lanes, row = strides
    for j in range(packs):
        p = j * W
        delta, late_delta = load(s, steps + p, WIDER), load(s, steps + lanes + p, WIDER)
        gain, late_gain = load(s, inputs + p, WIDER), load(s, inputs + lanes + p, WIDER)
        read, late_read = zero(s, WIDER), zero(s, WIDER)
        for n in range(states):
            m = (j * states + n) * W
            a = load(s, A + m, WIDER)
            b, c = everywhere(rows[0], B + n, WIDER), everywhere(rows[1], C + n, WIDER)
            x, read = _advance(s, load(s, h + m, WIDER), a, delta, gain, b, c, read, zoh)
            b = everywhere(rows[0], B + row + n, WIDER)
            c = everywhere(rows[1], C + row + n, WIDER)
            x, late_read = _advance(s, x, a, late_delta, late_gain, b, c, late_read, zoh)
            store(s, h + m, x)
        store(s, y + p, read)
        store(s, y + lanes + p, late_read)


@kernel
def again_step(s, rows, at, strides, packs, states, fresh, zoh, packed):
    """The forward step from one kept state to the next.

    ``at`` is (A, h before, h after, decay, B, Δ, u); the decay is not kept, because it takes
    less time to compute than to fetch.
    """
    apart()
    W = width(s, WIDER)
    A, before, after, _, B, steps, inputs = at
    ln2 = broadcast(s, LN2, WIDER)
    for j in range(packs):
        delta = load(s, steps + j * W, WIDER)
        gain = mul(delta, load(s, inputs + j * W, WIDER))
        for n in range(states):
            m = (j * states + n) * W
            power = mul(delta, load(s, A + m, WIDER))
            decay = exp2(power)
            b = _row(s, rows[0], B, n, strides[0], j, packed)
            if zoh is None:
                inflow = mul(gain, b)
            else:
                inflow = mul(mul(gain, phi(s, mul(power, ln2), decay)), b)
            x = pick(fresh, inflow, madd(decay, load(s, before + m, WIDER), inflow))
            store(s, after + m, x)


@kernel
def backward_step(s, rows, at, strides, packs, states, fresh, zoh, packed):
    """The adjoint of one step; README.md names the quantities.

    ``at`` is (A, h before, h after, decay, B, C, Δ, u, ō, carry, ∂A, ∂B, ∂C, S1, S2, S3, y).
    ∂A is added to; so are ∂B and ∂C, by every pack with a row of its own over time and by the
    packs that share a row within the step. S1 = Σ φ w, S2 = Σ A p, S3 = Σ Ā w and y are rows.
    """
    apart()
    W = width(s, WIDER)
    A, before, after, _, B, C, steps, inputs, grads, carry, dA, dB, dC, r1, r2, r3, y = at
    ln2, nil = broadcast(s, LN2, WIDER), zero(s, WIDER)
    for j in range(packs):
        delta = load(s, steps + j * W, WIDER)
        gain = mul(delta, load(s, inputs + j * W, WIDER))
        grad = load(s, grads + j * W, WIDER)
        more_b, more_c = j > 0 or strides[0] > 0, j > 0 or strides[1] > 0
        s1, s2, s3, read = nil, nil, nil, nil
        for n in range(states):
            m = (j * states + n) * W
            mb = j * strides[0] + n * W
            mc = j * strides[1] + n * W
            a = load(s, A + m, WIDER)
            b = _row(s, rows[0], B, n, strides[0], j, packed)
            c = _row(s, rows[1], C, n, strides[1], j, packed)
            power = mul(delta, a)
            decay = exp2(power)
            x = load(s, after + m, WIDER)
            g = madd(c, grad, load(s, carry + m, WIDER))
            store(s, dC + mc, madd(x, grad, pick(more_c, load(s, dC + mc, WIDER), nil)))
            read = madd(x, c, read)
            q = pick(fresh, nil, mul(g, decay))
            store(s, carry + m, q)
            p = pick(fresh, nil, mul(q, load(s, before + m, WIDER)))
            s2 = madd(p, a, s2)
            into_b = pick(more_b, load(s, dB + mb, WIDER), nil)
            if zoh is None:
                s1 = madd(b, g, s1)
                store(s, dB + mb, madd(gain, g, into_b))
            else:
                power = mul(power, ln2)
                ratio = phi(s, power, decay)
                w = mul(b, g)
                s1 = madd(ratio, w, s1)
                s3 = madd(decay, w, s3)
                store(s, dB + mb, madd(mul(gain, ratio), g, into_b))
                p = madd(mul(gain, phi_slope(s, power, decay, ratio)), w, p)
            store(s, dA + m, madd(delta, p, load(s, dA + m, WIDER)))
        store(s, r1 + j * W, s1)
        store(s, r2 + j * W, mul(s2, ln2))
        store(s, r3 + j * W, s1 if zoh is None else s3)
        store(s, y + j * W, read)
