"""The numba driver of the selective scan's adjoint; see :mod:`_kernels` for the arrays.

A task is a panel of channels of one sequence and group, as wide as possible: rows of memory are
far apart, each on pages of its own, and to visit them for a few channels at a time costs more
than the arithmetic. A panel prepares the rows of one chunk, works on them block by block, and
writes all results of the chunk. A block has few enough channels for its states of a chunk to
stay in cache.
"""

from __future__ import annotations

from statewise.ops.jit import kernel
from statewise.ops.selective_scan import _pairs, _real
from statewise.ops.selective_scan._kernels import GAP, _gather, _is_fresh, _scatter, _spread
from statewise.ops.selective_scan._shapes import CHUNK
from statewise.ops.simd import (
    WIDER,
    add,
    apart,
    broadcast,
    less,
    load,
    madd,
    mul,
    prefetch,
    store,
    sub,
    totals,
    width,
    zero,
)  # fmt: skip
from statewise.ops.simd_math import PASS, sigmoid, softplus

AHEAD = 2
"""Rows between the one that is prepared and the one that is asked for."""


@kernel
def _reduce(s, at, target, base, count, opens):
    """The sums of ``count`` packs, added to what is in ``target`` unless the block opens it."""
    W = width(s, WIDER)
    for n in range(0, count, W):
        x = totals(s, at + n * W, WIDER)
        if n + W <= count:
            if not opens:
                x = add(x, load(target, base + n, WIDER))
            store(target, base + n, x)
        else:
            store(s, at, x)
            for w in range(count - n):
                y = s[at + w]
                target[base + n + w] = y if opens else target[base + n + w] + y


@kernel
def _flush(s, at, sums, to, count):
    """Add a chunk's sum, in working precision, to the total in double, and clear it."""
    sums[to : to + count] += s[at : at + count]
    s[at : at + count] = 0


@kernel
def _prepare(
    u, dt, bias, z, grad_y, has_z, has_grad_y, activate,
    row, step, ahead, d0, lanes, block, s, rows, area, c,
):  # fmt: skip
    """Δ, u, its slope, ō and ȳ silu'(z) of one row into the areas of a panel, block by block."""
    apart()
    W = width(s, WIDER)
    nil, one, limit = zero(s, WIDER), broadcast(s, 1.0, WIDER), broadcast(s, PASS, WIDER)
    for b in range((lanes + block - 1) // block):
        first = b * block
        o = rows + (b * CHUNK + c) * block
        for p in range(0, min(block, lanes - first), W):
            e = row + first + p
            if ahead:
                prefetch(u, e + step)
                prefetch(dt, e + step)
                prefetch(grad_y, e + step)
                prefetch(z, e + step)
            raw = add(load(dt, e, WIDER), load(bias, d0 + first + p, WIDER))
            delta, slope = raw, one
            if activate:
                delta, slope = softplus(raw), less(limit, raw, one, sigmoid(raw))
            g = nil
            if has_grad_y:
                g = load(grad_y, e, WIDER)
            if has_z:
                x = load(z, e, WIDER)
                gate = sigmoid(x)
                change = mul(gate, madd(x, sub(one, gate), one))
                store(s, o + p + 4 * area, mul(g, change))
                g = mul(g, mul(x, gate))
            store(s, o + p, delta)
            store(s, o + p + area, load(u, e, WIDER))
            store(s, o + p + 2 * area, slope)
            store(s, o + p + 3 * area, g)


@kernel
def _finish(s, o, area, at_rows, D, d0, packs, lanes, at_skip, at_bias, has_z, pairs):
    """Gradients of one row in the places of u, the slope and ȳ silu'(z)."""
    apart()
    W = width(s, WIDER)
    for j in range(packs):
        p = j * W
        v = load(s, o + area + p, WIDER)
        g = load(s, o + 3 * area + p, WIDER)
        read = load(s, at_rows + 3 * lanes + p, WIDER)
        if pairs is not None:
            g = mul(g, broadcast(s, 0.5, WIDER))
            read = add(read, read)
        skip = load(D, d0 + p, WIDER)
        if has_z:
            read = madd(skip, v, read)
            store(s, o + 4 * area + p, mul(read, load(s, o + 4 * area + p, WIDER)))
        x = madd(load(s, o + p, WIDER), load(s, at_rows + p, WIDER), mul(g, skip))
        store(s, o + area + p, x)
        x = madd(v, load(s, at_rows + 2 * lanes + p, WIDER), load(s, at_rows + lanes + p, WIDER))
        x = mul(x, load(s, o + 2 * area + p, WIDER))
        store(s, o + 2 * area + p, x)
        store(s, at_bias + p, add(load(s, at_bias + p, WIDER), x))
        store(s, at_skip + p, madd(g, v, load(s, at_skip + p, WIDER)))


@kernel
def _write(s, rows, area, c, lanes, block, target, row):
    """One row of a panel from its area to memory."""
    W = width(s, WIDER)
    for b in range((lanes + block - 1) // block):
        first = b * block
        o = rows + area + (b * CHUNK + c) * block
        for p in range(0, min(block, lanes - first), W):
            store(target, row + first + p, load(s, o + p, WIDER))


@kernel
def backward(
    grad_y, grad_last, u, dt, A, B, C, D, z, bias, reset, states,
    has_grad_y, has_grad_last, has_z, has_h0, has_reset, constant, activate, reverse,
    du, ddt, dz, dA, dB, dC, sum_B, sum_C, dD, dbias, dh0,
    sizes, block, depth, tasks, first, stop, s, sums, pairs, zoh, packed,
):  # fmt: skip
    """Fill the gradients, chunk by chunk against the scan's order.

    Gradients summed over time are in double precision: dA, and sum_B or sum_C where B or C is
    constant, (B, N, D, Q); dD, dbias (B, D). Else dB and dC are sums over teams, each of ``depth``
    blocks of ``block`` channels of a group: (teams, B, L, G, N, Q). A task has whole teams.
    ``sums`` is scratch memory in double precision.
    """
    L, channels, N, G = sizes
    batch = dD.size // channels
    K = (L + CHUNK - 1) // CHUNK
    W = width(s, WIDER)
    Q = 1 if pairs is None else 2
    size = N * block * Q
    pitch = size + GAP * W
    row_sums = ((N * Q + W - 1) // W * W + GAP) * W
    back = channels if reverse else -channels
    for task in range(first, stop):
        i, d0, lanes = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        group = d0 // (channels // G)
        begin = group * (channels // G)
        blocks = (lanes + block - 1) // block
        area = blocks * CHUNK * block
        at_h = 4 * row_sums
        at_a = at_h + (CHUNK + 1) * pitch
        at_rows = at_a + (CHUNK * pitch if pairs is not None else 0)
        at_blocks = at_rows + 4 * block
        rows = at_blocks + blocks * 7 * pitch
        at_skip = rows + 5 * area
        at_bias = at_skip + lanes
        strides = (N * Q * W if constant[0] else 0, N * Q * W if constant[1] else 0)
        s[:at_h] = 0
        s[at_skip : at_skip + 2 * lanes] = 0
        sums[: 3 * blocks * size + 2 * lanes] = 0
        for b in range(blocks):
            e = d0 + b * block
            packs = min(block, lanes - b * block) // W
            own = at_blocks + b * 7 * pitch
            s[own : own + 7 * pitch] = 0
            _gather(A, 0, s, own, N, channels, e, packs, Q)
            if has_grad_last:
                base = i * N * channels * Q
                _gather(grad_last, base, s, own + pitch, N, channels, e, packs, Q)
            if constant[0]:
                _gather(B, 0, s, own + 3 * pitch, N, channels, e, packs, Q)
            if constant[1]:
                _gather(C, 0, s, own + 4 * pitch, N, channels, e, packs, Q)
        for chunk in range(K - 1, -1, -1):
            k0 = chunk * CHUNK
            steps = min(CHUNK, L - k0)
            for c in range(steps - 1, -1, -1):
                t = L - 1 - k0 - c if reverse else k0 + c
                row = (i * L + t) * channels + d0
                _prepare(
                    u, dt, bias, z, grad_y, has_z, has_grad_y, activate,
                    row, AHEAD * back, k0 + c >= AHEAD, d0, lanes, block, s, rows, area, c,
                )  # fmt: skip
            for b in range(blocks):
                e = d0 + b * block
                packs = min(block, lanes - b * block) // W
                own, mine = at_blocks + b * 7 * pitch, rows + b * CHUNK * block
                at_A, at_carry, at_dA = own, own + pitch, own + 2 * pitch
                at_B = own + 3 * pitch if constant[0] else 0
                at_C = own + 4 * pitch if constant[1] else row_sums
                at_dB = own + 5 * pitch if constant[0] else 2 * row_sums
                at_dC = own + 6 * pitch if constant[1] else 3 * row_sums
                base = (i * K + chunk) * N * channels * Q
                _gather(states, base, s, at_h, N, channels, e, packs, Q)
                for c in range(steps):
                    t = L - 1 - k0 - c if reverse else k0 + c
                    from_B = ((i * L + t) * G + group) * N * Q
                    if packed is not None:
                        if not constant[0]:
                            _spread(B, from_B, s, at_B, N * Q)
                        from_B = at_B
                    fresh = _is_fresh(reset, has_reset, has_h0, i, t, k0 + c)
                    o, h = mine + c * block, at_h + c * pitch
                    at = (at_A, h, h + pitch, at_a + c * pitch, from_B, o, o + area)
                    if pairs is None:
                        _real.again_step(s, (B, C), at, strides, packs, N, fresh, zoh, packed)
                    else:
                        _pairs.again_step(s, (B, C), at, strides, packs, N, fresh, zoh, packed)
                team = (e - begin) // block // depth
                opens = (e - begin) // block % depth == 0
                for c in range(steps - 1, -1, -1):
                    t = L - 1 - k0 - c if reverse else k0 + c
                    base = ((i * L + t) * G + group) * N * Q
                    from_B, from_C = base, base
                    if packed is not None:
                        if not constant[0]:
                            _spread(B, base, s, at_B, N * Q)
                        if not constant[1]:
                            _spread(C, base, s, at_C, N * Q)
                        from_B, from_C = at_B, at_C
                    fresh = _is_fresh(reset, has_reset, has_h0, i, t, k0 + c)
                    o, h = mine + c * block, at_h + c * pitch
                    g = o + 3 * area
                    if pairs is not None:
                        for j in range(packs):
                            x = load(s, g + j * W, WIDER)
                            store(s, g + j * W, add(x, x))
                    at = (
                        at_A, h, h + pitch, at_a + c * pitch, from_B, from_C, o, o + area, g,
                        at_carry, at_dA, at_dB, at_dC, at_rows,
                        at_rows + block, at_rows + 2 * block, at_rows + 3 * block,
                    )  # fmt: skip
                    if pairs is None:
                        _real.backward_step(s, (B, C), at, strides, packs, N, fresh, zoh, packed)
                    else:
                        _pairs.backward_step(s, (B, C), at, strides, packs, N, fresh, zoh, packed)
                    skip, shift = at_skip + b * block, at_bias + b * block
                    _finish(s, o, area, at_rows, D, e, packs, block, skip, shift, has_z, pairs)
                    out = (((team * batch + i) * L + t) * G + group) * N * Q
                    if not constant[0]:
                        _reduce(s, at_dB, dB, out, N * Q, opens)
                    if not constant[1]:
                        _reduce(s, at_dC, dC, out, N * Q, opens)
                to = b * 3 * size
                _flush(s, at_dA, sums, to, packs * N * Q * W)
                if constant[0]:
                    _flush(s, at_dB, sums, to + size, packs * N * Q * W)
                if constant[1]:
                    _flush(s, at_dC, sums, to + 2 * size, packs * N * Q * W)
            _flush(s, at_skip, sums, 3 * blocks * size, 2 * lanes)
            for c in range(steps - 1, -1, -1):
                t = L - 1 - k0 - c if reverse else k0 + c
                row = (i * L + t) * channels + d0
                _write(s, rows, area, c, lanes, block, du, row)
                _write(s, rows, 2 * area, c, lanes, block, ddt, row)
                if has_z:
                    _write(s, rows, 4 * area, c, lanes, block, dz, row)
        base = i * N * channels * Q
        for b in range(blocks):
            e = d0 + b * block
            packs = min(block, lanes - b * block) // W
            to = b * 3 * size
            _export(sums, to, dA, base, N, channels, e, packs, Q, W)
            if constant[0]:
                _export(sums, to + size, sum_B, base, N, channels, e, packs, Q, W)
            if constant[1]:
                _export(sums, to + 2 * size, sum_C, base, N, channels, e, packs, Q, W)
            if has_h0:
                own = at_blocks + b * 7 * pitch
                _scatter(s, own + pitch, dh0, base, N, channels, e, packs, Q)
        for w in range(lanes):
            dD[i * channels + d0 + w] = sums[3 * blocks * size + w]
            dbias[i * channels + d0 + w] = sums[3 * blocks * size + lanes + w]


@kernel
def _export(sums, at, target, base, states, channels, d0, packs, parts, W):
    """:func:`_kernels._scatter` for the totals."""
    for j in range(packs):
        for n in range(states):
            o = base + (n * channels + d0 + j * W) * parts
            m = at + (j * states + n) * parts * W
            for q in range(parts):
                for w in range(W):
                    target[o + w * parts + q] = sums[m + q * W + w]
