"""What the numba kernels share: tiles of steps, and their cutting into segments.

A tile of ``TILE`` steps is copied to a small buffer in the order of the scan, with the sequences
of a bundle side by side: [step, G, W] for G sequences and a block of W channels. Channels beyond
D are zeros there.
"""

# Intrinsics are called without their first argument, the typing context.
# pyright: reportCallIssue=false
from __future__ import annotations

from statewise.ops.diagonal_ssm._bundle import count, load
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
def gather(x, i, k0, m, d0, L, D, reverse, tile, at, one, many):
    """Copy the steps [k0, k0 + m) in scan order of G sequences and W channels to ``tile[at:]``."""
    W, GW = count(one), count(many)
    valid = min(W, D - d0)
    for j in range(m):
        t = L - 1 - k0 - j if reverse else k0 + j
        for g in range(GW // W):
            source, target = ((i + g) * L + t) * D + d0, at + j * GW + g * W
            if valid == W:
                store(tile, target, load(x, source, one))
            else:
                for w in range(valid):
                    tile[target + w] = x.flat[source + w]
                for w in range(valid, W):
                    tile[target + w] = 0


@kernel
def scatter(x, i, k0, m, d0, L, D, reverse, tile, at, one, many):
    """The reverse of :func:`gather`."""
    W, GW = count(one), count(many)
    valid = min(W, D - d0)
    for j in range(m):
        t = L - 1 - k0 - j if reverse else k0 + j
        for g in range(GW // W):
            target, source = ((i + g) * L + t) * D + d0, at + j * GW + g * W
            if valid == W:
                store(x, target, load(tile, source, one))
            else:
                for w in range(valid):
                    x.flat[target + w] = tile[source + w]


@kernel
def gather_states(bounds, i, chunk, n, d0, D, follows, states, at, one, many):
    """Copy the kept states, (B, C, N, 2, D), of G sequences and state ``n`` to [2, G, W]."""
    W, GW = count(one), count(many)
    G = GW // W
    chunks, N = bounds.shape[1], bounds.shape[2]
    for g in range(G):
        for r in range(2):
            source = ((((i + g) * chunks + chunk) * N + n) * 2 + r) * D + d0
            target = at + (r * G + g) * W
            if follows and n < N and d0 + W <= D:
                store(states, target, load(bounds, source, one))
            else:
                for w in range(W):
                    inside = follows and n < N and d0 + w < D
                    states[target + w] = bounds.flat[source + w] if inside else 0


@kernel
def scatter_states(bounds, i, chunk, n, d0, D, states, at, one, many):
    """The reverse of :func:`gather_states`."""
    W, GW = count(one), count(many)
    G = GW // W
    chunks, N = bounds.shape[1], bounds.shape[2]
    if n < N:
        for g in range(G):
            for r in range(2):
                target = ((((i + g) * chunks + chunk) * N + n) * 2 + r) * D + d0
                source = at + (r * G + g) * W
                if d0 + W <= D:
                    store(bounds, target, load(states, source, one))
                else:
                    for w in range(D - d0):
                        bounds.flat[target + w] = states[source + w]


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
