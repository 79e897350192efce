"""Numba kernels of particle filters: weigh, and choose ancestors, one series after the other."""

from __future__ import annotations

import math

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.simd import (
    WIDER,
    add,
    apart,
    broadcast,
    less,
    load,
    madd,
    store,
    sub,
    width,
    zero,
)
from statewise.ops.simd_math import exp, log

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

GAIN, SHARED, OWN = 0, 1, 2
"""What is weighed by: densities, normal numbers with one scale for all particles, or with many."""

SYSTEMATIC, STRATIFIED, MULTINOMIAL, RESIDUAL, NONE = 0, 1, 2, 3, 4

ROUND = 32
"""Rows of scratch have room for a multiple of this: four of the widest packs of float64."""

SHORT = 8
"""Rows of up to so many words are moved word by word, which needs no loop for each."""


@kernel
def _densities(form, whole, y, loc, scale, N, z, scratch):
    """Add log-densities of normal outputs y of one series to z; what is NaN is not observed."""
    apart()
    p = len(y)
    if whole:
        for d in range(p):
            if math.isnan(y[d]):
                return
    W = width(scratch, WIDER)
    for d in range(p):
        value = y[d]
        if math.isnan(value):
            continue
        if form == SHARED:
            inside, constant = 1.0 / scale[d], -math.log(scale[d]) - HALF_LOG_2PI
            if p == 1:
                for i in range(N):
                    e = (value - loc[i]) * inside
                    z[i] += constant - 0.5 * e * e
            else:
                for i in range(N):
                    e = (value - loc[i * p + d]) * inside
                    z[i] += constant - 0.5 * e * e
            continue
        for i in range(N):
            scratch[i] = scale[i * p + d]
        for i in range(0, N, W):
            store(scratch, i, log(load(scratch, i, WIDER)))
        for i in range(N):
            o = i * p + d
            e = (value - loc[o]) / scale[o]
            z[i] -= scratch[i] + HALF_LOG_2PI + 0.5 * e * e


@kernel
def _started(carried, gain, N, z):
    """Start from z = carried + gain of one series; without gain where that is empty."""
    apart()
    if len(gain):
        for j in range(N):
            z[j] = carried[j] + gain[j]
    else:
        for j in range(N):
            z[j] = carried[j]


@kernel
def _normalised(z, level, logs, carried, N):
    """Log-weights of one series; all alike where none is above −∞."""
    apart()
    if level > -math.inf:
        for j in range(N):
            value = z[j] - level
            logs[j] = value
            carried[j] = value
    else:
        for j in range(N):
            logs[j] = -math.log(N)
            carried[j] = -math.log(N)


@kernel
def _weights(z, w, N, parts):
    """Weights w = exp(z − max z); the logarithm of Σ exp z, Σ w, and Σ w².

    Where no z is above −∞ weights are 1; the logarithm is then −∞, or NaN.
    """
    apart()
    W = width(z, WIDER)
    end = (N + 4 * W - 1) // (4 * W) * (4 * W)
    for i in range(N, end):
        z[i] = -math.inf
    high = broadcast(z, -math.inf, WIDER)
    other = high
    for i in range(0, end, 2 * W):
        a, b = load(z, i, WIDER), load(z, i + W, WIDER)
        high, other = less(high, a, a, high), less(other, b, b, other)
    store(parts, 0, less(high, other, other, high))
    top = parts[0]
    for k in range(1, W):
        top = max(top, parts[k])
    if top > -math.inf:
        shift = broadcast(z, top, WIDER)
        s0, s1, q0, q1 = zero(z, WIDER), zero(z, WIDER), zero(z, WIDER), zero(z, WIDER)
        for i in range(0, end, 2 * W):
            a = exp(sub(load(z, i, WIDER), shift))
            b = exp(sub(load(z, i + W, WIDER), shift))
            store(w, i, a)
            store(w, i + W, b)
            s0, s1, q0, q1 = add(s0, a), add(s1, b), madd(a, a, q0), madd(b, b, q1)
        store(parts, 0, add(s0, s1))
        store(parts, W, add(q0, q1))
        total, squares = 0.0, 0.0
        for k in range(W):
            total += parts[k]
            squares += parts[W + k]
        if total > 0.0:
            return top + math.log(total), total, squares
        level = total
    else:
        level = -math.inf
        for i in range(N):
            if math.isnan(z[i]):
                level = z[i]
    for i in range(N):
        w[i] = 1.0
    return level, float(N), float(N)


@kernel
def _starts(w, N, total, u, stratified, marks):
    """The numbers of particles at the slots where their copies start, 0 elsewhere; the last one.

    A particle without copies is written over by the next.
    """
    apart()
    last = N - 1
    while last > 0 and w[last] == 0.0:
        last -= 1
    for j in range(N + 1):
        marks[j] = 0
    factor, c, start = N / total, 0.0, 0
    for i in range(last):
        marks[start] = i
        c += w[i]
        point = min(c * factor, float(N))
        if stratified:
            k = min(int(point), N - 1)
            end = k + (1 if u[k] < point - k else 0)
        else:
            end = math.ceil(point - u[0])
        start = max(start, end)
    marks[start] = last
    return last


@kernel
def _filled(marks, N, out):
    best = 0
    for j in range(N):
        best = max(best, marks[j])
        out[j] = best


@kernel
def _searched(w, N, total, u, begin, marks, c, zeros, out):
    """Slots from ``begin`` take the first particle whose sum of weights is above their point."""
    last = _starts(w, N, total, zeros, False, marks)
    best, run, factor = 0, 0.0, N / total
    for j in range(N):
        best = max(best, marks[j])
        marks[j] = best
        run += w[j]
        c[j] = run * factor
    for j in range(begin, N):
        point = u[j] * N
        i = marks[min(int(point), N - 1)]
        while i < last and not c[i] > point:
            i += 1
        out[j] = i


@kernel
def _residual(w, N, total, u, marks, c, zeros, out):
    factor, j = N / total, 0
    rest = 0.0
    for i in range(N):
        share = w[i] * factor
        copies = min(int(share), N - j)
        for _ in range(copies):
            out[j] = i
            j += 1
        w[i] = share - int(share)
        rest += w[i]
    if j < N:
        _searched(w, N, rest, u, j, marks, c, zeros, out)


@kernel
def _ancestors(scheme, w, N, total, u, marks, c, zeros, out):
    if scheme == MULTINOMIAL:
        _searched(w, N, total, u, 0, marks, c, zeros, out)
    elif scheme == RESIDUAL:
        _residual(w, N, total, u, marks, c, zeros, out)
    else:
        _starts(w, N, total, u, scheme == STRATIFIED, marks)
        _filled(marks, N, out)


@kernel
def _gathered(x, taken, rows, N, n):
    if n == 1:
        for j in range(N):
            taken[j] = x[rows[j]]
    elif n == 2:
        for j in range(N):
            to, at = 2 * j, 2 * rows[j]
            taken[to], taken[to + 1] = x[at], x[at + 1]
    elif n == 4:
        for j in range(N):
            to, at = 4 * j, 4 * rows[j]
            first, second, third, fourth = x[at], x[at + 1], x[at + 2], x[at + 3]
            taken[to], taken[to + 1], taken[to + 2], taken[to + 3] = first, second, third, fourth
    elif n <= SHORT:
        for k in range(n):
            for j in range(N):
                taken[j * n + k] = x[rows[j] * n + k]
    else:
        for j in range(N):
            to, at = j * n, rows[j] * n
            for k in range(n):
                taken[to + k] = x[at + k]


@kernel
def gather(x, taken, rows, N, n, i0, i1):
    """Rows of n words of the series [i0, i1) at their ancestors."""
    for i in range(i0, i1):
        a, b = i * N * n, (i + 1) * N * n
        _gathered(x[a:b], taken[a:b], rows[i * N : (i + 1) * N], N, n)


@kernel
def averages(logs, x, out, w, N, n, i0, i1):
    """Means (B, n) of x, flat, by normalised log-weights, flat, for the series [i0, i1)."""
    W = width(w, WIDER)
    end = (N + W - 1) // W * W
    for i in range(i0, i1):
        mine, values, mean = logs[i * N : (i + 1) * N], x[i * N * n : (i + 1) * N * n], out[i]
        for j in range(N):
            w[j] = mine[j]
        for j in range(N, end):
            w[j] = -math.inf
        for j in range(0, end, W):
            store(w, j, exp(load(w, j, WIDER)))
        whole = N // W * W if n == 1 else 0
        total = zero(w, WIDER)
        for j in range(0, whole, W):
            total = madd(load(w, j, WIDER), load(values, j, WIDER), total)
        for k in range(n):
            mean[k] = 0.0
        for j in range(whole, N):
            for k in range(n):
                mean[k] += w[j] * values[j * n + k]
        if whole:
            store(w, 0, total)
            for k in range(W):
                mean[0] += w[k]


@kernel
def step(
    form, whole, gain, y, loc, scale, carried, logs, ll, ess,
    scheme, least, u, ahead, x, taken, rows, scratch, marks, N, i0, i1,
):  # fmt: skip
    """Weigh and choose for the series [i0, i1); arrays but y are flat, those without use empty.

    Without ``logs`` nothing is weighed, with NONE nothing chosen. Ancestors go to ``rows``, moved
    particles to ``taken``, if there are any. ``scratch`` is four rows of N numbers and as many
    more as :data:`ROUND` asks for, ``marks`` N + 1 whole numbers. Series are cut out as arrays,
    because an index that is a sum may be negative, and such loops are not done in packs. The
    number of series that took ancestors is given back.
    """
    z, w, spare, parts = scratch[0], scratch[1], scratch[2], scratch[3]
    zeros = np.zeros(1)
    even, n, width_u = -math.log(N), len(x) // max(len(carried), 1), len(u) // (len(carried) // N)
    p = y.shape[1]
    moved = 0
    for i in range(i0, i1):
        o, e = i * N, (i + 1) * N
        mine, row = carried[o:e], rows[o:e]
        total, squares = 0.0, 0.0
        if len(logs):
            _started(mine, gain[o:e], N, z)
            if form == SHARED:
                _densities(form, whole, y[i], loc[o * p : e * p], scale, N, z, spare)
            elif form == OWN:
                means, spreads = loc[o * p : e * p], scale[o * p : e * p]
                _densities(form, whole, y[i], means, spreads, N, z, spare)
            level, total, squares = _weights(z, w, N, parts)
            ll[i], ess[i] = level, total * total / squares
            _normalised(z, level, logs[o:e], mine, N)
        if scheme == NONE:
            continue
        level, eta = 0.0, ahead[o:e]
        if len(ahead) or not len(logs):
            _started(mine, eta, N, z)
            level, total, squares = _weights(z, w, N, parts)
        if level > -math.inf and total * total / squares < least:
            moved += 1
            _ancestors(scheme, w, N, total, u[i * width_u :], marks, spare, zeros, row)
            for j in range(N):
                mine[j] = level + even
            if len(ahead):
                for j in range(N):
                    mine[j] -= eta[row[j]]
        else:
            for j in range(N):
                row[j] = j
    if moved and len(taken):
        gather(x, taken, rows, N, n, i0, i1)
    return moved
