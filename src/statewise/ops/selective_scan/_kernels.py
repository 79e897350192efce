"""Numba drivers of the selective scan: blocks, chunks and rows around the steps.

All arrays are real, contiguous and read by flat offsets; those over states end in an axis
(re, im) of Q = 2 where the states are complex, Q = 1 else. A, h0, the last state, the kept states
and their gradients have the channels after the states, (…, N, D, Q). The number of channels of
each group is a multiple of the width of a pack.

A call handles the tasks [first, stop), each a row (sequence, first channel, channels) of
``tasks``; the channels of a task are in one group. ``s`` is scratch memory, aligned to packs.
``sizes`` is (L, D, N, G). ``pairs``, ``zoh`` and ``packed`` are None or True, read from the type;
``packed`` says that B or C is constant.
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.selective_scan import _pairs, _real
from statewise.ops.selective_scan._shapes import CHUNK
from statewise.ops.simd import (
    WIDER,
    add,
    apart,
    everywhere,
    load,
    madd,
    mul,
    prefetch,
    store,
    width,
)  # fmt: skip
from statewise.ops.simd_math import sigmoid, softplus

TILE = 8
"""Steps prepared at a time in the forward pass; divides the chunk."""

GAP = 3
"""Packs left free after each array of states in scratch memory. Their sizes tend to be multiples
of 4096 bytes, and a cache has only so many places for addresses that far apart."""


def forward_memory(states: int, parts: int, lanes: int, pack: int) -> int:
    """Numbers of scratch memory that the forward pass needs for a block of ``lanes`` channels."""
    return 4 * (states * parts * lanes + GAP * pack) + 3 * TILE * lanes


def backward_memory(states: int, parts: int, width: int, block: int, pack: int) -> int:
    """Likewise for the backward pass, for ``width`` channels in blocks of ``block``."""
    pitch = states * parts * block + GAP * pack
    sums = 4 * (-(-states * parts // pack) * pack + GAP) * pack
    chunk = (CHUNK * parts + 1) * pitch + 4 * block
    blocks = -(-width // block)
    return sums + chunk + blocks * (7 * pitch + 5 * CHUNK * block) + 2 * width


@kernel
def _gather(source, base, s, at, states, channels, d0, packs, parts):
    """States (N, D, Q) at ``base`` into scratch, packs of channels outermost."""
    W = width(s, WIDER)
    for j in range(packs):
        for n in range(states):
            o = base + (n * channels + d0 + j * W) * parts
            m = at + (j * states + n) * parts * W
            if parts == 1:
                store(s, m, load(source, o, WIDER))
            else:
                for w in range(W):
                    for q in range(2):
                        s[m + q * W + w] = source[o + w * 2 + q]


@kernel
def _scatter(s, at, target, base, states, channels, d0, packs, parts):
    """The inverse of :func:`_gather`."""
    W = width(s, WIDER)
    for j in range(packs):
        for n in range(states):
            o = base + (n * channels + d0 + j * W) * parts
            m = at + (j * states + n) * parts * W
            if parts == 1:
                store(target, o, load(s, m, WIDER))
            else:
                for w in range(W):
                    for q in range(2):
                        target[o + w * 2 + q] = s[m + q * W + w]


@kernel
def _spread(source, base, s, at, count):
    """Each of ``count`` numbers into a pack of its own."""
    W = width(s, WIDER)
    for n in range(count):
        store(s, at + n * W, everywhere(source, base + n, WIDER))


@kernel
def _is_fresh(reset, has_reset, has_h0, i, t, k):
    """Whether the step, k-th in scan order and t-th in time, has no predecessor."""
    fresh = k == 0 and not has_h0
    if has_reset:
        fresh = fresh or reset[i, t]
    return fresh


@kernel
def _prepare(u, dt, bias, d0, row, step, s, at_d, at_v, lanes, steps, activate):
    """Δ and Δu of some rows into scratch memory."""
    apart()
    W = width(s, WIDER)
    for o in range(0, steps * lanes, lanes):
        for p in range(0, lanes, W):
            x = add(load(dt, row + p, WIDER), load(bias, d0 + p, WIDER))
            if activate:
                x = softplus(x)
            store(s, at_d + o + p, x)
            store(s, at_v + o + p, mul(x, load(u, row + p, WIDER)))
        row += step


@kernel
def _finish(u, D, z, y, d0, row, step, s, at_y, lanes, steps, has_z, pairs):
    """Some rows of y from the sums over states."""
    apart()
    W = width(s, WIDER)
    for o in range(0, steps * lanes, lanes):
        for p in range(0, lanes, W):
            x = load(s, at_y + o + p, WIDER)
            if pairs is not None:
                x = add(x, x)
            x = madd(load(D, d0 + p, WIDER), load(u, row + p, WIDER), x)
            if has_z:
                gate = load(z, row + p, WIDER)
                x = mul(mul(x, gate), sigmoid(gate))
            store(y, row + p, x)
        row += step


@kernel
def forward(
    u, dt, A, B, C, D, z, bias, h0, reset, y, last, states,
    has_z, has_h0, has_reset, constant, activate, reverse, keep,
    sizes, block, tasks, first, stop, s, pairs, zoh, packed,
):  # fmt: skip
    """Fill y, last and, with ``keep``, states; ``constant`` says which of B, C are (N, D)."""
    L, channels, N, G = sizes
    K = (L + CHUNK - 1) // CHUNK
    W = width(s, WIDER)
    Q = 1 if pairs is None else 2
    for task in range(first, stop):
        i, d0, lanes = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        packs = lanes // W
        group = d0 // (channels // G)
        size = N * lanes * Q
        pitch = size + GAP * W
        at_A, at_h, at_B, at_C = 0, pitch, 2 * pitch, 3 * pitch
        at_d = 4 * pitch
        at_v = at_d + TILE * lanes
        at_y = at_v + TILE * lanes
        strides = (N * Q * W if constant[0] else 0, N * Q * W if constant[1] else 0)
        _gather(A, 0, s, at_A, N, channels, d0, packs, Q)
        if constant[0]:
            _gather(B, 0, s, at_B, N, channels, d0, packs, Q)
        if constant[1]:
            _gather(C, 0, s, at_C, N, channels, d0, packs, Q)
        if has_h0:
            _gather(h0, i * N * channels * Q, s, at_h, N, channels, d0, packs, Q)
        else:
            s[at_h : at_h + size] = 0
        for k0 in range(0, L, TILE):
            steps = min(TILE, L - k0)
            if keep and k0 % CHUNK == 0:
                base = (i * K + k0 // CHUNK) * N * channels * Q
                _scatter(s, at_h, states, base, N, channels, d0, packs, Q)
            row = (i * L + (L - 1 - k0 if reverse else k0)) * channels + d0
            step = -channels if reverse else channels
            _prepare(u, dt, bias, d0, row, step, s, at_d, at_v, lanes, steps, activate)
            for first_lane in range(0, lanes, block):
                few = min(block, lanes - first_lane) // W
                own = first_lane * N * Q
                begun = 0
                for c in range(steps):
                    t = L - 1 - k0 - c if reverse else k0 + c
                    if k0 + c + TILE < L:
                        ahead = (i * L + (t - TILE if reverse else t + TILE)) * channels + d0
                        for e in range(ahead + first_lane, ahead + first_lane + few * W, W):
                            prefetch(u, e)
                            prefetch(dt, e)
                            prefetch(z, e)
                    if c < begun:
                        continue
                    base = ((i * L + t) * G + group) * N * Q
                    from_B, from_C = base, base
                    if packed is not None:
                        from_B = at_B + own if constant[0] else at_B
                        from_C = at_C + own if constant[1] else at_C
                        if not constant[0]:
                            _spread(B, base, s, at_B, N * Q)
                        if not constant[1]:
                            _spread(C, base, s, at_C, N * Q)
                    fresh = _is_fresh(reset, has_reset, has_h0, i, t, k0 + c)
                    o = c * lanes + first_lane
                    at = (at_A + own, at_h + own, from_B, from_C, at_d + o, at_v + o, at_y + o)
                    two = packed is None and c + 1 < steps and not fresh
                    if two:
                        later = t - 1 if reverse else t + 1
                        two = not _is_fresh(reset, has_reset, has_h0, i, later, k0 + c + 1)
                    if pairs is not None:
                        _pairs.forward_step(s, (B, C), at, strides, few, N, fresh, zoh, packed)
                    elif two:
                        begun = c + 2
                        hops = (lanes, -G * N if reverse else G * N)
                        _real.forward_pair(s, (B, C), at, hops, few, N, zoh)
                    else:
                        _real.forward_step(s, (B, C), at, strides, few, N, fresh, zoh, packed)
            _finish(u, D, z, y, d0, row, step, s, at_y, lanes, steps, has_z, pairs)
        _scatter(s, at_h, last, i * N * channels * Q, N, channels, d0, packs, Q)
