"""Numba kernels of a particle filter: all steps of one series after the other."""

from __future__ import annotations

import math

import numpy as np

from statewise.ops.jit import kernel
from statewise.ops.particle_loop._machine import formula, registers
from statewise.ops.particle_step._kernels import (
    ROUND,
    SYSTEMATIC,
    _ancestors,
    _gathered,
    _normalised,
    _weights,
)
from statewise.ops.philox._kernels import normal, scratch, uniform
from statewise.ops.simd import WIDER, apart, load, madd, store, width, zero


@kernel
def formulas(same, varying, room, N, x, z, n, c, y, u, out, q):
    """Outputs (B, N q) of a formula for states and numbers (B, N n)."""
    R, none = registers(room), np.zeros(0, np.bool_)
    for i in range(len(x)):
        mine = c[i if len(c) > 1 else 0]
        formula(same, varying, R, N, x[i], z[i], n, mine, y[i], u[i], none, out[i], q)


@kernel
def _refilled(normals, key, t, i, B, size, steps, numbers, bits):
    """Numbers of the row i for the step t and those behind it, where t begins a block of steps.

    A block of random bits gives one number to a step of the first half, and one to a step of the
    second.
    """
    if t % steps:
        return
    half = steps // 2
    stream = np.uint64(2 * (t // steps) + (0 if normals else 1))
    for s in range(half):
        start = (s * B + i) * size
        first, second = numbers[s], numbers[half + s]
        if normals:
            normal(key, stream, start, start + size, first, second, bits)
        else:
            uniform(key, stream, start, start + size, first, second, bits)


@kernel
def _mean(w, total, x, N, n, mean):
    """Means of x, flat, by weights w with the sum ``total``."""
    apart()
    for k in range(n):
        mean[k] = 0.0
    W = width(w, WIDER)
    whole = N // (2 * W) * 2 * W if n == 1 else 0
    if whole:
        some, more = zero(w, WIDER), zero(w, WIDER)
        for j in range(0, whole, 2 * W):
            some = madd(load(w, j, WIDER), load(x, j, WIDER), some)
            more = madd(load(w, j + W, WIDER), load(x, j + W, WIDER), more)
        parts = np.empty(2 * W)
        store(parts, 0, some)
        store(parts, W, more)
        for k in range(2 * W):
            mean[0] += parts[k]
    # Four sums at a time, because each waits for what it added last.
    fours = N // 4 * 4 if n > 1 else whole
    for k in range(n):
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for j in range(whole, fours, 4):
            at = j * n + k
            s0 += w[j] * x[np.uint64(at)]
            s1 += w[j + 1] * x[np.uint64(at + n)]
            s2 += w[j + 2] * x[np.uint64(at + 2 * n)]
            s3 += w[j + 3] * x[np.uint64(at + 3 * n)]
        for j in range(fours, N):
            s0 += w[j] * x[np.uint64(j * n + k)]
        mean[k] += (s0 + s1) + (s2 + s3)
    for k in range(n):
        mean[k] /= total


@kernel
def _covariance(w, total, x, N, n, mean, cov):
    apart()
    for a in range(n):
        for b in range(a + 1):
            value = 0.0
            for j in range(N):
                value += w[j] * ((x[j * n + a] - mean[a]) * (x[j * n + b] - mean[b]))
            cov[a, b] = cov[b, a] = value / total


@kernel
def filtered(
    key, scheme, least, blocks, n, x0, y, seen, u, ends,
    move_u, move_v, move_r, move_c, weigh_u, weigh_v, weigh_r, weigh_c,
    kept, logs, rows, ll, ess, means, covs, last, last_logs, i0, i1,
):  # fmt: skip
    """Filter the series [i0, i1).

    Args are those of ``cpu.loop``, states flat; ``kept``, ``means`` and ``covs`` are empty where
    they are not wanted, ``logs`` and ``rows`` then of one step.
    """
    T, B, q = len(y), y.shape[1], seen.shape[2]
    M = x0.shape[1]
    N = M // n
    steps, chance_steps = blocks
    width_u = 1 if scheme == SYSTEMATIC else N
    room = max((N + ROUND - 1) // ROUND, 2) * ROUND
    rooms = np.empty((4, room))
    z, w, spare, parts = rooms[0], rooms[1], rooms[2], rooms[3]
    zeros, marks = np.zeros(1), np.empty(N + 1, np.int64)
    states, carried, none = np.empty((2, M)), np.empty(N), np.zeros(0, np.bool_)
    numbers, chances = np.empty((steps, M)), np.empty((chance_steps, width_u))
    bits = scratch()
    R = registers(max(move_r, weigh_r))
    history = len(kept) > 0
    chosen = np.empty(N, np.int64)
    for i in range(i0, i1):
        now = 0
        for j in range(M):
            states[0, j] = x0[i, j]
        for j in range(N):
            carried[j] = -math.log(N)
        for t in range(T):
            if t:
                _refilled(True, key, t - 1, i, B, M, steps, numbers, bits)
                c = move_c[t if len(move_c) > 1 else 0]
                formula(
                    move_u, move_v, R, N, states[now], numbers[(t - 1) % steps], n,
                    c[i if len(c) > 1 else 0], y[t, i], u[t, i], none, states[1 - now], n,
                )  # fmt: skip
                now = 1 - now
            x, seen_now = states[now], seen[t, i]
            any_seen = False
            for d in range(q):
                any_seen = any_seen or seen_now[d]
            for j in range(N):
                z[j] = carried[j]
            if any_seen:
                c = weigh_c[t if len(weigh_c) > 1 else 0]
                formula(
                    weigh_u, weigh_v, R, N, x, x, n,
                    c[i if len(c) > 1 else 0], y[t, i], u[t, i], seen_now, z, q,
                )  # fmt: skip
            level, total, squares = _weights(z, w, N, parts)
            ll[t, i], ess[t, i] = level, total * total / squares
            slot = t if history else 0
            _normalised(z, level, logs[slot, i], carried, N)
            if history:
                to = kept[t, i]
                for j in range(M):
                    to[j] = x[j]
            else:
                _mean(w, total, x, N, n, means[t, i])
                if len(covs):
                    _covariance(w, total, x, N, n, means[t, i], covs[t, i])
            if t == ends[i]:
                for j in range(M):
                    last[i, j] = x[j]
                for j in range(N):
                    last_logs[i, j] = carried[j]
            if t + 1 == T:
                continue
            _refilled(False, key, t, i, B, width_u, chance_steps, chances, bits)
            row = rows[t + 1, i] if history else chosen
            if total * total / squares < least and level > -math.inf:
                chance = chances[t % chance_steps]
                _ancestors(scheme, w, N, total, chance, marks, spare, zeros, row)
                _gathered(x, states[1 - now], row, N, n)
                now = 1 - now
                for j in range(N):
                    carried[j] = -math.log(N)
            elif history:
                for j in range(N):
                    row[j] = j
