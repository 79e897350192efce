"""Numba kernels of hidden Markov models: one series after the other, in logarithms."""

from __future__ import annotations

import math

import numpy as np

from statewise.ops.jit import kernel

TINY = 1e-280
"""Sums of probabilities above this have lost nothing to underflow."""


@kernel
def ahead(before, logs, P, weight, sums, z):
    """Log-probabilities z of the next state, before its observation.

    ``weight`` takes the probabilities over their largest one and ``sums`` their weighted sums,
    which are negative where too small to trust.
    """
    K = len(before)
    top = -math.inf
    for i in range(K):
        top = max(top, before[i])
    for i in range(K):
        weight[i] = math.exp(before[i] - top) if top > -math.inf else 0.0
        sums[i] = 0.0
    for i in range(K):
        if weight[i] != 0.0:
            for j in range(K):
                sums[j] += weight[i] * P[i, j]
    for j in range(K):
        if not sums[j] <= TINY:
            z[j] = top + math.log(sums[j])
            continue
        sums[j] = -1.0
        high = -math.inf
        for i in range(K):
            high = max(high, before[i] + logs[i, j])
        z[j] = high
        if high > -math.inf:
            total = 0.0
            for i in range(K):
                total += math.exp(before[i] + logs[i, j] - high)
            z[j] += math.log(total)


@kernel
def forward(initial, logs, P, emission, lengths, begins, filtered, ll, failed, i0, i1):
    """Filter the series [i0, i1); a step that no state can have given goes to ``failed``."""
    _, T, K = emission.shape
    weight, sums, z = np.empty(K), np.empty(K), np.empty(K)
    for i in range(i0, i1):
        series = min(i, logs.shape[0] - 1)
        stop = lengths[i] if len(lengths) else T
        for t in range(stop):
            if t == 0 and begins:
                z[:] = initial[i]
            else:
                before = filtered[i, t - 1] if t else initial[i]
                step = min(t, logs.shape[1] - 1)
                ahead(before, logs[series, step], P[series, step], weight, sums, z)
            high = -math.inf
            for j in range(K):
                z[j] += emission[i, t, j]
                high = max(high, z[j])
            if high == -math.inf:
                failed[i] = t + 1
                break
            total = 0.0
            for j in range(K):
                total += math.exp(z[j] - high)
            total = high + math.log(total)
            ll[i, t] = total
            for j in range(K):
                filtered[i, t, j] = z[j] - total
        for t in range(stop, T):
            ll[i, t] = 0.0
            filtered[i, t] = 0.0


@kernel
def backward(
    gf, gl, initial, logs, P, filtered, lengths, begins, d_initial, d_logs, d_emission, i0, i1
):
    """Add the gradients of the series [i0, i1) to outputs that are zero; see reference.py."""
    _, T, K = filtered.shape
    weight, sums, z = np.empty(K), np.empty(K), np.empty(K)
    g, carry = np.empty(K), np.empty(K)
    for i in range(i0, i1):
        series = min(i, logs.shape[0] - 1)
        stop = lengths[i] if len(lengths) else T
        carry[:] = 0.0
        for t in range(stop - 1, -1, -1):
            total = 0.0
            for j in range(K):
                g[j] = carry[j] + (gf[i, t, j] if gf.size else 0.0)
                total += g[j]
            rest = (gl[i, t] if gl.size else 0.0) - total
            for j in range(K):
                g[j] += math.exp(filtered[i, t, j]) * rest
                d_emission[i, t, j] = g[j]
            carry[:] = 0.0
            if t == 0 and begins:
                d_initial[i] = g
                break
            before = filtered[i, t - 1] if t else initial[i]
            step, slot = min(t, logs.shape[1] - 1), min(t, d_logs.shape[1] - 1)
            log, moves, out = logs[series, step], P[series, step], d_logs[i, slot]
            ahead(before, log, moves, weight, sums, z)
            for j in range(K):
                if z[j] == -math.inf or g[j] == 0.0:
                    continue
                if sums[j] > 0.0:
                    scale = g[j] / sums[j]
                    for i_before in range(K):
                        share = scale * weight[i_before] * moves[i_before, j]
                        out[i_before, j] += share
                        carry[i_before] += share
                else:
                    for i_before in range(K):
                        share = g[j] * math.exp(before[i_before] + log[i_before, j] - z[j])
                        out[i_before, j] += share
                        carry[i_before] += share
        if not begins:
            d_initial[i] = carry
