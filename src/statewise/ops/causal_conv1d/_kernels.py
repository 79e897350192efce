"""Numba kernels of the short causal convolution: one pass forward, one pass back.

Arrays are contiguous and read by flat offsets; ``weight`` is (W, D), tap k for the input k steps
ago. A call handles the sequences [i0, i1) and the channels [d0, d1) in packs of channels
(:mod:`statewise.ops.simd`); the last pack of a row overlaps the one before it. Time indices s count
in scan order.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import (
    add,
    broadcast,
    load,
    madd,
    mul,
    store,
    sub,
    width,
    zero,
)
from statewise.ops.simd_math import sigmoid

FLUSH = 64
"""Steps summed at working precision before they join the double-precision total."""


@kernel
def _ages(reset, has_reset, has_h0, i, length, taps, reverse):
    """For each step, how many of the W − 1 inputs before it count."""
    ages = np.empty(length, np.int64)
    age = taps - 1 if has_h0 else 0
    for s in range(length):
        if has_reset and reset[i, length - 1 - s if reverse else s]:
            age = 0
        ages[s] = min(age, taps - 1)
        age += 1
    return ages


@kernel
def _pack_at(x, h0, i, s, o, length, channels, taps, reverse, wide):
    """The pack of channels at offset ``o`` of the input of step s; before 0, of the window."""
    if s < 0:
        return load(h0, (i * (taps - 1) + taps - 1 + s) * channels + o, wide)
    t = length - 1 - s if reverse else s
    return load(x, (i * length + t) * channels + o, wide)


# A helper that takes arrays counts their references at every call, which costs more than a pack:
# the innermost loops below are therefore written out.
@kernel
def forward(
    x, weight, bias, h0, has_h0, reset, has_reset, y, last, sizes, silu, reverse,
    i0, i1, d0, d1, wide,
):  # fmt: skip
    """Fill ``y`` and ``last`` for one block; see the module for the arguments."""
    length, channels, taps = sizes
    n = d1 - d0
    lanes = width(x, wide)
    packs = (n + lanes - 1) // lanes
    for i in range(i0, i1):
        ages = _ages(reset, has_reset, has_h0, i, length, taps, reverse)
        for s in range(length):
            t = length - 1 - s if reverse else s
            row = (i * length + t) * channels
            back = channels if reverse else -channels
            inside = min(ages[s], s) + 1
            outside = ages[s] + 1
            past = (i * (taps - 1) + taps - 1 + s) * channels
            for m in range(packs):
                o = d0 + min((packs - 1 - m if reverse else m) * lanes, n - lanes)
                total = load(bias, o, wide)
                for k in range(inside):
                    u = load(x, row + k * back + o, wide)
                    total = madd(load(weight, k * channels + o, wide), u, total)
                for k in range(inside, outside):
                    u = load(h0, past - k * channels + o, wide)
                    total = madd(load(weight, k * channels + o, wide), u, total)
                if silu:
                    total = mul(total, sigmoid(total))
                store(y, row + o, total)
        for j in range(taps - 1):
            behind = taps - 2 - j
            row = (i * (taps - 1) + j) * channels
            for m in range(packs):
                o = d0 + min(m * lanes, n - lanes)
                value = zero(x, wide)
                if behind <= ages[length - 1]:
                    s = length - 1 - behind
                    value = _pack_at(x, h0, i, s, o, length, channels, taps, reverse, wide)
                store(last, row + o, value)


@kernel
def backward(
    grad_y, has_grad, grad_last, has_last, x, weight, bias, h0, has_h0, reset, has_reset,
    dx, dweight, dbias, dh0, sizes, silu, reverse, i0, i1, d0, d1, wide,
):  # fmt: skip
    """The adjoint pass for one block, from the last step to the first.

    ``ring`` holds g of the last W steps. ``dweight`` (B, W, D) and ``dbias`` (B, D) are in double
    precision, one share a sequence, so that their sum does not depend on the blocks.
    """
    length, channels, taps = sizes
    n = d1 - d0
    lanes = width(x, wide)
    packs = (n + lanes - 1) // lanes
    span = packs * lanes
    ring = np.empty(taps * span, x.dtype)
    share = np.empty((taps + 1) * span, x.dtype)
    total = np.empty((taps + 1) * span, np.float64)
    for i in range(i0, i1):
        ages = _ages(reset, has_reset, has_h0, i, length, taps, reverse)
        share[:] = 0
        total[:] = 0
        ring[:] = 0
        first = 1 - taps if has_h0 else 0
        for s in range(length - 1, first - 1, -1):
            t = length - 1 - s if reverse else s
            slot = (s % taps) * span
            row = (i * length + t) * channels
            back = channels if reverse else -channels
            past = (i * (taps - 1) + taps - 1 + s) * channels
            outside = ages[s] + 1 if s >= 0 else 0
            inside = min(outside, s + 1)
            for m in range(packs):
                o = d0 + min((m if reverse else packs - 1 - m) * lanes, n - lanes)
                c = m * lanes
                g = zero(x, wide)
                if s >= 0 and has_grad:
                    g = load(grad_y, row + o, wide)
                    if silu:
                        z = load(bias, o, wide)
                        for k in range(inside):
                            u = load(x, row + k * back + o, wide)
                            z = madd(load(weight, k * channels + o, wide), u, z)
                        for k in range(inside, outside):
                            u = load(h0, past - k * channels + o, wide)
                            z = madd(load(weight, k * channels + o, wide), u, z)
                        gate = sigmoid(z)
                        g = mul(g, madd(mul(z, gate), sub(broadcast(x, 1.0, wide), gate), gate))
                store(ring, slot + c, g)
            if s >= 0:
                for m in range(packs):
                    o = d0 + min((m if reverse else packs - 1 - m) * lanes, n - lanes)
                    c = m * lanes
                    g = load(ring, slot + c, wide)
                    store(share, taps * span + c, add(g, load(share, taps * span + c, wide)))
                    for k in range(inside):
                        u = load(x, row + k * back + o, wide)
                        store(share, k * span + c, madd(g, u, load(share, k * span + c, wide)))
                    for k in range(inside, outside):
                        u = load(h0, past - k * channels + o, wide)
                        store(share, k * span + c, madd(g, u, load(share, k * span + c, wide)))
                if s % FLUSH == 0:
                    for m in range((taps + 1) * span):
                        total[m] += share[m]
                    share[:] = 0
            behind = length - 1 - s
            for m in range(packs):
                o = d0 + min((m if reverse else packs - 1 - m) * lanes, n - lanes)
                c = m * lanes
                value = zero(x, wide)
                for k in range(max(0, -s), min(taps - 1, behind) + 1):
                    if k <= ages[s + k]:
                        g = load(ring, ((s + k) % taps) * span + c, wide)
                        value = madd(load(weight, k * channels + o, wide), g, value)
                if has_last and behind < taps - 1 and behind <= ages[length - 1]:
                    row = (i * (taps - 1) + taps - 2 - behind) * channels
                    value = add(value, load(grad_last, row + o, wide))
                if s >= 0:
                    store(dx, (i * length + t) * channels + o, value)
                else:
                    store(dh0, (i * (taps - 1) + taps - 1 + s) * channels + o, value)
        for m in range(packs):
            o = d0 + min((m if reverse else packs - 1 - m) * lanes, n - lanes)
            for lane in range(lanes):
                for k in range(taps):
                    dweight[i, k, o + lane] = total[k * span + m * lanes + lane]
                dbias[i, o + lane] = total[taps * span + m * lanes + lane]
