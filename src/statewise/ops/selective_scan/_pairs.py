"""One time step of the selective scan with complex states, and of its adjoint.

As in :mod:`_real`, with two packs a state, its real and then its imaginary part. A is in natural
units. The output is the real part of Σ C h; its factor 2 is put in with the rows.
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.selective_scan._phi import phi_pairs, phi_slope_pairs
from statewise.ops.simd import (
    WIDER,
    apart,
    everywhere,
    load,
    madd,
    mul,
    pick,
    store,
    sub,
    width,
    zero,
)
from statewise.ops.simd_math import cosine_near, exp, sine_near


@kernel
def _row(s, source, at, n, stride, j, packed):
    """B or C of the n-th state, for the j-th pack of channels, as packs (re, im)."""
    if packed is None:
        return everywhere(source, at + 2 * n, WIDER), everywhere(source, at + 2 * n + 1, WIDER)
    W = width(s, WIDER)
    o = at + j * stride + n * 2 * W
    return load(s, o, WIDER), load(s, o + W, WIDER)


@kernel
def _advance(s, delta, gain, a_at, br, bi, h_at, fresh, zoh):
    """(decay, next state), each as packs (re, im)."""
    W = width(s, WIDER)
    x, y = mul(delta, load(s, a_at, WIDER)), mul(delta, load(s, a_at + W, WIDER))
    size = exp(x)
    e, f = mul(size, cosine_near(y)), mul(size, sine_near(y))
    if zoh is None:
        re, im = mul(gain, br), mul(gain, bi)
    else:
        p, q = phi_pairs(s, x, y, e, f)
        re = mul(gain, sub(mul(p, br), mul(q, bi)))
        im = mul(gain, madd(p, bi, mul(q, br)))
    hr, hi = load(s, h_at, WIDER), load(s, h_at + W, WIDER)
    next_re = pick(fresh, re, sub(madd(e, hr, re), mul(f, hi)))
    next_im = pick(fresh, im, madd(e, hi, madd(f, hr, im)))
    return e, f, next_re, next_im


@kernel
def forward_step(s, rows, at, strides, packs, states, fresh, zoh, packed):
    """H ← Ā h + B̄ u, then Re Σ C h into the row of y.

    ``at`` is (A, h, B, C, Δ, Δu, y).
    """
    apart()
    W = width(s, WIDER)
    A, h, B, C, steps, inputs, y = at
    for j in range(packs):
        delta = load(s, steps + j * W, WIDER)
        gain = load(s, inputs + j * W, WIDER)
        read = zero(s, WIDER)
        for n in range(states):
            m = (j * states + n) * 2 * W
            br, bi = _row(s, rows[0], B, n, strides[0], j, packed)
            cr, ci = _row(s, rows[1], C, n, strides[1], j, packed)
            _, _, re, im = _advance(s, delta, gain, A + m, br, bi, h + m, fresh, zoh)
            store(s, h + m, re)
            store(s, h + m + W, im)
            read = sub(madd(re, cr, read), mul(im, ci))
        store(s, y + j * W, read)


@kernel
def again_step(s, rows, at, strides, packs, states, fresh, zoh, packed):
    """The forward step from one kept state to the next.

    ``at`` is (A, h before, h after, decay, B, Δ, u); the decay, dear to compute, is kept.
    """
    apart()
    W = width(s, WIDER)
    A, before, after, decays, B, steps, inputs = at
    for j in range(packs):
        delta = load(s, steps + j * W, WIDER)
        gain = mul(delta, load(s, inputs + j * W, WIDER))
        for n in range(states):
            m = (j * states + n) * 2 * W
            br, bi = _row(s, rows[0], B, n, strides[0], j, packed)
            e, f, re, im = _advance(s, delta, gain, A + m, br, bi, before + m, fresh, zoh)
            store(s, after + m, re)
            store(s, after + m + W, im)
            store(s, decays + m, e)
            store(s, decays + m + W, f)


@kernel
def backward_step(s, rows, at, strides, packs, states, fresh, zoh, packed):
    """The adjoint of one step; see :func:`_real.backward_step`."""
    apart()
    W = width(s, WIDER)
    A, before, after, decays, B, C, steps, inputs, grads, carry, dA, dB, dC, r1, r2, r3, y = at
    nil = zero(s, WIDER)
    for j in range(packs):
        delta = load(s, steps + j * W, WIDER)
        gain = mul(delta, load(s, inputs + j * W, WIDER))
        grad = load(s, grads + j * W, WIDER)
        more_b, more_c = j > 0 or strides[0] > 0, j > 0 or strides[1] > 0
        s1, s2, s3, read = nil, nil, nil, nil
        for n in range(states):
            m = (j * states + n) * 2 * W
            mb = j * strides[0] + n * 2 * W
            mc = j * strides[1] + n * 2 * W
            ar, ai = load(s, A + m, WIDER), load(s, A + m + W, WIDER)
            br, bi = _row(s, rows[0], B, n, strides[0], j, packed)
            cr, ci = _row(s, rows[1], C, n, strides[1], j, packed)
            e, f = load(s, decays + m, WIDER), load(s, decays + m + W, WIDER)
            xr, xi = load(s, after + m, WIDER), load(s, after + m + W, WIDER)
            gr = madd(cr, grad, load(s, carry + m, WIDER))
            gi = sub(load(s, carry + m + W, WIDER), mul(ci, grad))
            into_r = pick(more_c, load(s, dC + mc, WIDER), nil)
            into_i = pick(more_c, load(s, dC + mc + W, WIDER), nil)
            store(s, dC + mc, madd(xr, grad, into_r))
            store(s, dC + mc + W, sub(into_i, mul(xi, grad)))
            read = sub(madd(xr, cr, read), mul(xi, ci))
            qr = pick(fresh, nil, madd(gr, e, mul(gi, f)))
            qi = pick(fresh, nil, sub(mul(gi, e), mul(gr, f)))
            store(s, carry + m, qr)
            store(s, carry + m + W, qi)
            pr, pi = load(s, before + m, WIDER), load(s, before + m + W, WIDER)
            kr = pick(fresh, nil, madd(qr, pr, mul(qi, pi)))
            ki = pick(fresh, nil, sub(mul(qi, pr), mul(qr, pi)))
            s2 = madd(kr, ar, madd(ki, ai, s2))
            wr, wi = madd(br, gr, mul(bi, gi)), sub(mul(br, gi), mul(bi, gr))
            into_r = pick(more_b, load(s, dB + mb, WIDER), nil)
            into_i = pick(more_b, load(s, dB + mb + W, WIDER), nil)
            if zoh is None:
                s1 = madd(br, gr, madd(bi, gi, s1))
                store(s, dB + mb, madd(gain, gr, into_r))
                store(s, dB + mb + W, madd(gain, gi, into_i))
            else:
                x, y_ = mul(delta, ar), mul(delta, ai)
                p, q = phi_pairs(s, x, y_, e, f)
                t, v = phi_slope_pairs(s, x, y_, e, f, p, q)
                s1 = madd(p, wr, madd(q, wi, s1))
                s3 = madd(e, wr, madd(f, wi, s3))
                back_r, back_i = madd(p, gr, mul(q, gi)), sub(mul(p, gi), mul(q, gr))
                store(s, dB + mb, madd(gain, back_r, into_r))
                store(s, dB + mb + W, madd(gain, back_i, into_i))
                kr = madd(gain, madd(t, wr, mul(v, wi)), kr)
                ki = madd(gain, sub(mul(t, wi), mul(v, wr)), ki)
            store(s, dA + m, madd(delta, kr, load(s, dA + m, WIDER)))
            store(s, dA + m + W, madd(delta, ki, load(s, dA + m + W, WIDER)))
        store(s, r1 + j * W, s1)
        store(s, r2 + j * W, s2)
        store(s, r3 + j * W, s1 if zoh is None else s3)
        store(s, y + j * W, read)
