"""Numba kernels of what lies between the two large products of a layer's step.

Arrays are contiguous and read by flat offsets. Scratch arrays and those that are read in packs of
channels have room for a whole last pack. ``wide`` is the kind of pack over the N states, whose
number is a multiple of its width.
"""

from __future__ import annotations

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.matvec._kernels import forward
from statewise.ops.simd import (
    WIDER,
    broadcast,
    elements,
    load,
    madd,
    mul,
    prefetch,
    store,
    totals,
    width,
    zero,
)
from statewise.ops.simd_math import exp, sigmoid, softplus


def fullest(states: int, itemsize: int) -> int | bool | None:
    """The widest kind of pack that the states fill."""
    pack = elements(itemsize)
    if states % (WIDER * pack) == 0:
        return WIDER
    return True if states % pack == 0 else None


@kernel
def _convolve(entered, at, window, row, taps, bias, has_bias, x, last, channels, count):
    """Convolution of ``channels`` inputs at ``at``, then silu, into x; and the next window."""
    W = width(x, WIDER)
    past = count - 1
    for d in range(channels):
        total = entered[at + d] * taps[d * count + past]
        for k in range(past):
            total += window[row + k * channels + d] * taps[d * count + k]
        if has_bias:
            total += bias[d]
        x[d] = total
    for d in range(0, channels, W):
        v = load(x, d, WIDER)
        store(x, d, mul(v, sigmoid(v)))
    if past:
        for k in range((past - 1) * channels):
            last[row + k] = window[row + channels + k]
        for d in range(channels):
            last[row + (past - 1) * channels + d] = entered[at + d]


@kernel
def _advance(h, after, at, decay, step, x, d, rows, B, C, share, sums, states, wide):
    """Rows of N states, h ← decay h + step x_d B, and their products with C in ``sums``.

    There are at most as many rows as a pack has elements: one tree of sums is for all of them.
    """
    W = width(h, wide)
    a = broadcast(h, decay, wide)
    for r in range(rows):
        g, read = broadcast(h, step * x[d + r], wide), zero(h, wide)
        for n in range(0, states, W):
            value = madd(a, load(h, at + n, wide), mul(g, load(x, B + n, wide)))
            store(after, at + n, value)
            read = madd(value, load(x, C + n, wide), read)
        store(share, r * W, read)
        at += states
    store(sums, 0, totals(share, 0, wide))


@kernel
def mamba(
    entered, window, h, taps, bias, has_bias, x_weight, dt_weight, dt_bias, A_log, D,
    scale, has_scale, y, last, after, sizes, wide,
):  # fmt: skip
    """From W_in u (B, 2 I) to the input of W_out (B, I), the next window and the next states."""
    batch, channels, states, rank, count = sizes
    W, V = width(h, WIDER), width(h, wide)
    room = (channels + W - 1) // W * W
    x, delta, gate = np.zeros(room, h.dtype), np.zeros(room, h.dtype), np.zeros(room, h.dtype)
    drawn, share = np.empty(rank + 2 * states, h.dtype), np.zeros(W * W, h.dtype)
    sums = np.empty(W, h.dtype)
    for i in range(batch):
        _convolve(
            entered, i * 2 * channels, window, i * (count - 1) * channels, taps, bias, has_bias,
            x, last, channels, count,
        )  # fmt: skip
        rows = rank + 2 * states
        forward(x, x_weight, x, False, drawn, (1, channels, rows), 0, rows)
        packs = rank // W * W
        for first in range(0, channels, W):
            few = min(W, channels - first)
            for w in range(few):
                total, o = zero(h, WIDER), (first + w) * rank
                for r in range(0, packs, W):
                    total = madd(load(dt_weight, o + r, WIDER), load(drawn, r, WIDER), total)
                store(share, w * W, total)
            # One tree of sums for W rows of packs, instead of a chain for each row.
            store(delta, first, totals(share, 0, WIDER))
            for d in range(first, first + few):
                total = delta[d] + dt_bias[d]
                for r in range(packs, rank):
                    total += dt_weight[d * rank + r] * drawn[r]
                delta[d] = total
                gate[d] = entered[(2 * i + 1) * channels + d]
        for d in range(0, channels, W):
            store(delta, d, softplus(load(delta, d, WIDER)))
            v = load(gate, d, WIDER)
            store(gate, d, mul(v, sigmoid(v)))
        for first in range(0, channels, V):
            few = min(V, channels - first)
            for v in range(few):
                d = first + v
                step = delta[d] * scale[i] if has_scale else delta[d]
                gain = broadcast(h, step * x[d], wide)
                rate, read = broadcast(h, -step, wide), zero(h, wide)
                at = (i * channels + d) * states
                for n in range(0, states, V):
                    decay = exp(mul(rate, exp(load(A_log, d * states + n, wide))))
                    prefetch(h, at + n + 16 * states)
                    prefetch(A_log, (d + 16) * states + n)
                    value = mul(gain, load(drawn, rank + n, wide))
                    value = madd(decay, load(h, at + n, wide), value)
                    store(after, at + n, value)
                    read = madd(value, load(drawn, rank + states + n, wide), read)
                store(share, v * V, read)
            store(sums, 0, totals(share, 0, wide))
            for v in range(few):
                d = first + v
                y[i * channels + d] = (sums[v] + D[d] * x[d]) * gate[d]


@kernel
def mamba2(
    entered, window, h, taps, bias, has_bias, dt_bias, A_log, D, norm, has_norm,
    scale, has_scale, y, last, after, before_gate, eps, limits, sizes, wide,
):  # fmt: skip
    """From W_in u to the input of W_out (B, J + S), the next window and the next states."""
    batch, heads, P, states, groups, beside, mixed, count = sizes
    W, V = width(h, WIDER), width(h, wide)
    S = heads * P
    rows = 2 * beside + S + mixed + heads
    x = np.zeros((mixed + W - 1) // W * W, h.dtype)
    z = np.zeros((S + W - 1) // W * W, h.dtype)
    free = np.zeros((beside + W - 1) // W * W, h.dtype)
    delta, decay = np.zeros((heads + W - 1) // W * W, h.dtype), np.zeros(heads, h.dtype)
    share, sums = np.zeros(V * V, h.dtype), np.empty(V, h.dtype)
    low, high = limits
    each = D.size == heads
    for i in range(batch):
        start, out = i * rows, i * (beside + S)
        for d in range(beside):
            free[d] = entered[start + d]
        for d in range(0, beside, W):
            v = load(free, d, WIDER)
            store(free, d, mul(v, sigmoid(v)))
        for d in range(beside):
            y[out + d] = free[d] * entered[start + beside + d]
        start += 2 * beside
        for d in range(S):
            z[d] = entered[start + d]
        for d in range(0, S, W):
            v = load(z, d, WIDER)
            store(z, d, mul(v, sigmoid(v)))
        start, out = start + S, out + beside
        _convolve(
            entered, start, window, i * (count - 1) * mixed, taps, bias, has_bias, x, last,
            mixed, count,
        )  # fmt: skip
        start += mixed
        for j in range(heads):
            delta[j] = entered[start + j] + dt_bias[j]
        for j in range(0, heads, W):
            store(delta, j, softplus(load(delta, j, WIDER)))
        for j in range(heads):
            step = min(max(delta[j], low), high)
            delta[j] = step * scale[i] if has_scale else step
            decay[j] = np.exp(-delta[j] * np.exp(A_log[j]))
        for j in range(heads):
            B = S + j // (heads // groups) * states
            C = B + groups * states
            for p in range(0, P, V):
                d, few = j * P + p, min(V, P - p)
                at = (i * heads * P + d) * states
                _advance(
                    h, after, at, decay[j], delta[j], x, d, few, B, C, share, sums, states, wide
                )
                for r in range(few):
                    total = sums[r] + D[j if each else d + r] * x[d + r]
                    y[out + d + r] = total if has_norm and before_gate else total * z[d + r]
        if has_norm:
            few = S // groups
            for g in range(groups):
                squares = 0.0
                for d in range(out + g * few, out + (g + 1) * few):
                    squares += y[d] * y[d]
                factor = 1 / np.sqrt(squares / few + eps)
                for d in range(g * few, (g + 1) * few):
                    value = y[out + d] * factor * norm[d]
                    y[out + d] = value * z[d] if before_gate else value
