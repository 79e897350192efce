"""What the numba kernels share: tiles of steps, and their cutting into segments.

A tile of ``TILE`` steps is copied to a small buffer in the order of the scan, with the sequences
of a bundle side by side: [step, G, W] for G sequences and a block of W channels. Channels beyond
D are zeros there.
"""

# Intrinsics are called without their first argument, the typing context.
# pyright: reportCallIssue=false
from __future__ import annotations

from statewise.ops.diagonal_ssm._bundle import count, fill, load
from statewise.ops.diagonal_ssm.reference import BOUNDARY
from statewise.ops.jit import kernel
from statewise.ops.simd import store

SEGMENT = 16
TILE = BOUNDARY


@kernel
def cut_tile(reset, has_reset, i, L, k0, m, reverse, follows, cuts, fresh):
    """Cut the steps [k0, k0 + m) of sequence ``i`` into segments; returns how many.

    Segment s is [cuts[s], cuts[s + 1]), counted from k0; ``fresh[s]`` says that no state enters.
    ``follows`` says that a state enters the first step, unless it is reset.
    """
    n = 0
    cuts[0] = 0
    for j in range(m):
        zeroed = False
        if has_reset:
            zeroed = reset[i, L - 1 - k0 - j if reverse else k0 + j]
        if j == 0:
            fresh[0] = zeroed or not follows
        elif zeroed or j - cuts[n] == SEGMENT:
            n += 1
            cuts[n] = j
            fresh[n] = zeroed
    cuts[n + 1] = m
    return n + 1


@kernel
def gather(x, i, k0, m, p0, p1, L, D, reverse, tile, at, one, many):
    """Copy the steps [k0, k0 + m) in scan order of G sequences and some blocks to ``tile[at:]``.

    Blocks lie TILE steps apart there. All are copied row by row, because two of them share a cache
    line, and rows that are a power of two apart drive each other out of the caches.
    """
    W, GW = count(one), count(many)
    for j in range(m):
        t = L - 1 - k0 - j if reverse else k0 + j
        for g in range(GW // W):
            row, target = ((i + g) * L + t) * D, at + j * GW + g * W
            for p in range(p0, p1):
                if (p + 1) * W <= D:
                    store(tile, target, load(x, row + p * W, one))
                else:
                    for w in range(W):
                        inside = p * W + w < D
                        tile[target + w] = x.flat[row + p * W + w] if inside else 0
                target += TILE * GW


@kernel
def gather_steps(dt, i, k0, m, p0, p1, L, D, reverse, tile, at, one, many):
    """:func:`gather` of steps (B, L, D), or of those that all channels share, (B, L, 1)."""
    W, GW = count(one), count(many)
    if dt.shape[2] == D:
        gather(dt, i, k0, m, p0, p1, L, D, reverse, tile, at, one, many)
    else:
        for j in range(m):
            t = L - 1 - k0 - j if reverse else k0 + j
            for g in range(GW // W):
                value = fill(tile, dt[i + g, t, 0], one)
                target = at + j * GW + g * W
                for _ in range(p0, p1):
                    store(tile, target, value)
                    target += TILE * GW


@kernel
def scatter_steps(x, i, k0, m, p0, p1, L, D, reverse, tile, at, one, many):
    """The reverse of :func:`gather`, or sums over the channels of each block to (B, L, blocks)."""
    W, GW = count(one), count(many)
    if x.shape[2] == D:
        scatter(x, i, k0, m, p0, p1, L, D, reverse, tile, at, one, many)
    else:
        for j in range(m):
            t = L - 1 - k0 - j if reverse else k0 + j
            for g in range(GW // W):
                source = at + j * GW + g * W
                for p in range(p0, p1):
                    value = tile[source]
                    for w in range(1, min(W, D - p * W)):
                        value += tile[source + w]
                    x[i + g, t, p] = value
                    source += TILE * GW


@kernel
def scatter(x, i, k0, m, p0, p1, L, D, reverse, tile, at, one, many):
    """The reverse of :func:`gather`."""
    W, GW = count(one), count(many)
    for j in range(m):
        t = L - 1 - k0 - j if reverse else k0 + j
        for g in range(GW // W):
            row, source = ((i + g) * L + t) * D, at + j * GW + g * W
            for p in range(p0, p1):
                if (p + 1) * W <= D:
                    store(x, row + p * W, load(tile, source, one))
                else:
                    for w in range(D - p * W):
                        x.flat[row + p * W + w] = tile[source + w]
                source += TILE * GW


@kernel
def gather_states(bounds, i, chunk, p0, p1, D, N, follows, states, at, one, many):
    """Copy the kept states, (B, C, N, 2, D), of G sequences and some blocks to ``states[at:]``.

    There they are [block, state, 2, G, W], padded by zeros; all are zero unless ``follows``.
    """
    W, GW = count(one), count(many)
    chunks = bounds.shape[1]
    N2 = N + N % 2
    if not follows or N % 2:
        states[at : at + (p1 - p0) * N2 * 2 * GW] = 0
    if follows:
        for g in range(GW // W):
            for k in range(2 * N):
                row = (((i + g) * chunks + chunk) * N * 2 + k) * D
                target = at + k * GW + g * W
                for p in range(p0, p1):
                    if (p + 1) * W <= D:
                        store(states, target, load(bounds, row + p * W, one))
                    else:
                        for w in range(W):
                            inside = p * W + w < D
                            states[target + w] = bounds.flat[row + p * W + w] if inside else 0
                    target += N2 * 2 * GW


@kernel
def scatter_states(bounds, i, chunk, p0, p1, D, states, at, one, many):
    """The reverse of :func:`gather_states`."""
    W, GW = count(one), count(many)
    chunks, N = bounds.shape[1], bounds.shape[2]
    N2 = N + N % 2
    for g in range(GW // W):
        for k in range(2 * N):
            row = (((i + g) * chunks + chunk) * N * 2 + k) * D
            source = at + k * GW + g * W
            for p in range(p0, p1):
                if (p + 1) * W <= D:
                    store(bounds, row + p * W, load(states, source, one))
                else:
                    for w in range(D - p * W):
                        bounds.flat[row + p * W + w] = states[source + w]
                source += N2 * 2 * GW


@kernel
def enter(h, has_h, i, p0, p1, N, states, at, one, many):
    """Copy states (B, D, N, 2) of G sequences to [block, state, 2, G, W], padded by zeros."""
    W, GW = count(one), count(many)
    N2 = N + N % 2
    states[at : at + (p1 - p0) * N2 * 2 * GW] = 0
    if has_h:
        for g in range(GW // W):
            for d in range(p0 * W, min(p1 * W, h.shape[1])):
                o = at + (d // W - p0) * N2 * 2 * GW + g * W + d % W
                for n in range(N):
                    states[o + 2 * n * GW] = h[i + g, d, n, 0]
                    states[o + (2 * n + 1) * GW] = h[i + g, d, n, 1]


@kernel
def leave(h, i, p0, p1, N, states, at, one, many):
    """The reverse of :func:`enter`."""
    W, GW = count(one), count(many)
    N2 = N + N % 2
    for g in range(GW // W):
        for d in range(p0 * W, min(p1 * W, h.shape[1])):
            o = at + (d // W - p0) * N2 * 2 * GW + g * W + d % W
            for n in range(N):
                h[i + g, d, n, 0] = states[o + 2 * n * GW]
                h[i + g, d, n, 1] = states[o + (2 * n + 1) * GW]
