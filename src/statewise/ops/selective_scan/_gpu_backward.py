"""Triton kernel of the backward pass: the adjoint recurrence, fused with all its gradients.

A program of one warp walks one segment of a block of channels back in time, chunk by chunk. In a
chunk it first runs the states forward from the kept one and leaves that before every ``STEPS``
steps in a scratch buffer (small, so that it stays in cache); then, from the last of these to
the first, it holds the states and decays of ``STEPS`` steps in registers and goes back over them.

Gradients of B and C sum over channels, which lie in different lanes. As lane-by-lane exchanges
these sums would cost more than everything else; a product with a matrix of ones costs four
instructions of the matrix unit. A row of the product belongs to one step and state, so that a NaN
stays there. With ``JOIN`` both steps of a tile share a product. The compiler moves no load over a
store, so a tile's gradients are stored last.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false
# Kernels are typed by Triton when it compiles them, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.selective_scan._gpu_access import (
    is_fresh,
    load_tile,
    place,
    rows,
    store_tile,
    time_of,
    until,
    vector,
)
from statewise.ops.selective_scan._gpu_forward import SIZES, carried
from statewise.ops.selective_scan._gpu_math import (
    LN2,
    add,
    conj_times,
    decay,
    device,
    gains,
    inflow,
    inverse,
    scaled,
    select,
    sigmoid,
    softplus,
    softplus_slope,
    times,
    zeros,
)


@device
def _collected(total, x, i, MATRIX: tl.constexpr, PRECISION: tl.constexpr):
    """``total`` with the sums of ``x`` over channels in column i."""
    column = tl.arange(0, total.shape[1])[None, :]
    if MATRIX:
        ones = tl.full((x.shape[1], total.shape[1]), 1.0, tl.float32)
        sums = tl.dot(x, ones, input_precision=PRECISION)
    else:
        sums = tl.sum(x, 1)[:, None]
    return tl.where(column == i, sums, total)


@device
def _both(x, y, PRECISION: tl.constexpr):
    """Sums over channels of two steps' tiles, one under the other."""
    STATES: tl.constexpr = x.shape[0]
    BLOCK: tl.constexpr = x.shape[1]
    stacked = tl.permute(tl.join(x, y), (2, 0, 1))
    stacked = tl.reshape(stacked, (2 * STATES, BLOCK))
    return tl.dot(stacked, tl.full((BLOCK, 8), 1.0, tl.float32), input_precision=PRECISION)


@device
def _walk(
    u, dt, B, dynamics, inverted, shift, reset, scratch, h, b, base, stop, last_tile, length,
    channels, groups, group, d, mask, n, held, constant_B, N: tl.constexpr,
    STATES: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr,
    ZOH: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, VARIES_B: tl.constexpr,
    HAS_RESET: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Leave in ``scratch`` the state before every ``STEPS`` steps of a chunk."""
    ACC: tl.constexpr = h[0].dtype
    local = n[:, None] * BLOCK + tl.multiple_of(tl.arange(0, BLOCK), 1)[None, :]
    everywhere = tl.full((STATES, BLOCK), True, tl.int1)
    step = -channels if REVERSE else channels
    at = (b * length + time_of(base, length, REVERSE)) * channels + d
    next_u = rows(u + at, channels, base, stop, mask, STEPS, EVEN, REVERSE)
    next_dt = rows(dt + at, channels, base, stop, mask, STEPS, EVEN, REVERSE)
    for tile in range(last_tile):
        s = base + tile * STEPS
        row = b * length + time_of(s, length, REVERSE)
        store_tile(scratch + tile * (STATES * BLOCK * PARTS), local, h, everywhere, PARTS)
        this_u = next_u
        this_dt = next_dt
        at += STEPS * step
        next_u = rows(u + at, channels, s + STEPS, stop, mask, STEPS, EVEN, REVERSE)
        next_dt = rows(dt + at, channels, s + STEPS, stop, mask, STEPS, EVEN, REVERSE)
        for i in tl.static_range(STEPS):
            time = row - i if REVERSE else row + i
            drive = (
                vector(B + (time * groups + group) * (N * PARTS), n, held, PARTS)
                if VARIES_B
                else constant_B
            )
            delta = this_dt[i].to(ACC) + shift
            if SOFTPLUS:
                delta = softplus(delta)
            a = decay(delta, dynamics, PARTS)
            if HAS_RESET:
                fresh = is_fresh(reset, time, s + i, stop, HAS_RESET)
                h = select(fresh, zeros(STATES, BLOCK, ACC, PARTS), h, PARTS)
            flow = inflow(delta, this_u[i].to(ACC), dynamics, inverted, a, drive, ZOH, PARTS)
            h = add(times(a, h, PARTS), flow, PARTS)
    store_tile(scratch + last_tile * (STATES * BLOCK * PARTS), local, h, everywhere, PARTS)


@triton.jit(do_not_specialize=SIZES)
def adjoint_kernel(
    grad_y, grad_last, u, dt, z, A, B, C, D, bias, reset, states, ends, decays, cuts, scratch,
    du, ddt, dz, dA, dB, dC, dD, dbias, dh0,
    length, channels, per_group, groups, batch, segments, segment, kept, N: tl.constexpr,
    STATES: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr, PARTS: tl.constexpr, ZOH: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, VARIES_B: tl.constexpr, VARIES_C: tl.constexpr, NEED_B: tl.constexpr,
    NEED_C: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_RESET: tl.constexpr, SPLIT: tl.constexpr, EVEN: tl.constexpr,
    MATRIX: tl.constexpr, PRECISION: tl.constexpr, JOIN: tl.constexpr,
):  # fmt: skip
    """Gradients over one segment; those of A, D, dt_bias, and B and C, as sums of the program."""
    ACC: tl.constexpr = A.dtype.element_ty
    OUT: tl.constexpr = u.dtype.element_ty
    rest, group, slot, d, mask = place(per_group, groups, BLOCK)
    k = rest % segments
    b = tl.cast(rest // segments, tl.int64)
    n = tl.arange(0, STATES)
    held = n < N
    offsets = n[:, None] * channels + d[None, :]
    inside = held[:, None] & mask[None, :]
    tile_size: tl.constexpr = STATES * BLOCK * PARTS
    local = n[:, None] * BLOCK + tl.multiple_of(tl.arange(0, BLOCK), 1)[None, :]
    everywhere = tl.full((STATES, BLOCK), True, tl.int1)
    column = tl.arange(0, COLUMNS)
    scratch += tl.cast(tl.program_id(0), tl.int64) * ((CHUNK // STEPS) * tile_size)
    start = k * segment
    stop = tl.minimum(start + segment, length)
    nothing = zeros(STATES, BLOCK, ACC, PARTS)

    dynamics = load_tile(A, offsets, inside, PARTS)
    inverted = inverse(dynamics, PARTS) if ZOH else dynamics
    shift = tl.load(bias + d, mask=mask, other=0.0) if HAS_BIAS else 0.0
    skip = tl.load(D + d, mask=mask, other=0.0) if HAS_D else 0.0
    constant_B = nothing
    constant_C = nothing
    if not VARIES_B:
        constant_B = load_tile(B, offsets, inside, PARTS)
        sum_B = nothing
    if not VARIES_C:
        constant_C = load_tile(C, offsets, inside, PARTS)
        sum_C = nothing
    sum_A = nothing
    sum_D = tl.full((BLOCK,), 0, ACC)
    sum_bias = tl.full((BLOCK,), 0, ACC)
    w = nothing
    if HAS_LAST:
        w = load_tile(grad_last + b * N * channels * PARTS, offsets, inside, PARTS)
    if SPLIT:
        for later in range(segments - 1 - k):
            w = carried(
                w, ends, decays, cuts, b, segments - 1 - later, segments, channels, offsets,
                inside, N, PARTS, HAS_RESET,
            )  # fmt: skip

    first = start // CHUNK
    step = -channels if REVERSE else channels
    for chunk_back in range(tl.cdiv(stop, CHUNK) - first):
        chunk = tl.cdiv(stop, CHUNK) - 1 - chunk_back
        base = chunk * CHUNK
        last_tile = tl.cdiv(tl.minimum(CHUNK, stop - base), STEPS) - 1
        at = (b * length + time_of(base + last_tile * STEPS, length, REVERSE)) * channels + d
        ahead = base + last_tile * STEPS
        next_grad = rows(grad_y + at, channels, ahead, stop, mask, STEPS, EVEN, REVERSE)
        if HAS_Z:
            next_z = rows(z + at, channels, ahead, stop, mask, STEPS, EVEN, REVERSE)
        where = (b * kept + chunk) * N * channels * PARTS
        _walk(
            u, dt, B, dynamics, inverted, shift, reset, scratch,
            load_tile(states + where, offsets, inside, PARTS), b, base, stop, last_tile, length,
            channels, groups, group, d, mask, n, held, constant_B, N, STATES, BLOCK, STEPS, PARTS,
            ZOH, SOFTPLUS, REVERSE, VARIES_B, HAS_RESET, EVEN,
        )  # fmt: skip
        # Other lanes may read what a lane has stored.
        tl.debug_barrier()
        for tile_back in range(last_tile + 1):
            tile = last_tile - tile_back
            s = base + tile * STEPS
            row = b * length + time_of(s, length, REVERSE)
            at = row * channels + d
            this_u = rows(u + at, channels, s, stop, mask, STEPS, EVEN, REVERSE)
            this_dt = rows(dt + at, channels, s, stop, mask, STEPS, EVEN, REVERSE)
            this_grad = next_grad
            ahead = s - STEPS
            more = until(mask, -tile, 0)
            back = at - STEPS * step
            next_grad = rows(grad_y + back, channels, ahead, stop, more, STEPS, EVEN, REVERSE)
            if HAS_Z:
                this_z = next_z
                next_z = rows(z + back, channels, ahead, stop, more, STEPS, EVEN, REVERSE)
            h = load_tile(scratch + tile * tile_size, local, everywhere, PARTS)
            # Lists over the steps of the tile, in registers.
            before = ()
            decayed = ()
            deltas = ()
            grads = ()
            gates = ()
            pieces = ()
            part = (tl.full((STATES, COLUMNS), 0, ACC), tl.full((STATES, COLUMNS), 0, ACC))
            for i in tl.static_range(STEPS):
                time = row - i if REVERSE else row + i
                there = held if EVEN else until(held, s + i, stop)
                vectors = (time * groups + group) * (N * PARTS)
                drive = vector(B + vectors, n, there, PARTS) if VARIES_B else constant_B
                value = this_u[i].to(ACC)
                delta = this_dt[i].to(ACC) + shift
                if SOFTPLUS:
                    delta = softplus(delta)
                if not EVEN:
                    delta = tl.where(s + i < stop, delta, 0.0)
                a = decay(delta, dynamics, PARTS)
                if HAS_RESET:
                    fresh = is_fresh(reset, time, s + i, stop, HAS_RESET)
                    h = select(fresh, nothing, h, PARTS)
                before += (h,)
                decayed += (a,)
                deltas += (delta,)
                flow = inflow(delta, value, dynamics, inverted, a, drive, ZOH, PARTS)
                h = add(times(a, h, PARTS), flow, PARTS)
                grad = this_grad[i].to(ACC)
                if HAS_Z:
                    read = vector(C + vectors, n, there, PARTS) if VARIES_C else constant_C
                    gate = this_z[i].to(ACC)
                    slope = sigmoid(gate)
                    if PARTS == 1:
                        output = tl.sum(read[0] * h[0], 0) + skip * value
                    else:
                        output = 2.0 * tl.sum(read[0] * h[0] - read[1] * h[1], 0) + skip * value
                    found = grad * output * slope * (1.0 + gate * (1.0 - slope))
                    gates += (found.to(OUT),)
                    grad = grad * gate * slope
                grads += (grad,)
                if NEED_C:
                    g = scaled(PARTS * grad[None, :], h, PARTS)
                    if VARIES_C and JOIN:
                        pieces += (g[0],)
                    elif VARIES_C:
                        real = _collected(part[0], g[0], i, MATRIX, PRECISION)
                        if PARTS == 2:
                            part = (real, _collected(part[1], -g[1], i, MATRIX, PRECISION))
                        else:
                            part = (real, part[1])
                    elif PARTS == 1:
                        sum_C = add(sum_C, g, PARTS)
                    else:
                        sum_C = (sum_C[0] + g[0], sum_C[1] - g[1])
            line = row - column if REVERSE else row + column
            whole = batch * length
            line = (slot * whole + line) * groups + group
            into = line[None, :] * N + n[:, None]
            shown = held[:, None] & ((column < STEPS) & (s + column < stop))[None, :]
            part_C = part
            if JOIN:
                both_C = _both(pieces[0], pieces[1], PRECISION)
            pieces = ()
            part = (tl.full((STATES, COLUMNS), 0, ACC), tl.full((STATES, COLUMNS), 0, ACC))
            values = ()
            steps = ()
            for i in tl.static_range(STEPS - 1, -1, -1):
                time = row - i if REVERSE else row + i
                there = held if EVEN else until(held, s + i, stop)
                vectors = (time * groups + group) * (N * PARTS)
                drive = vector(B + vectors, n, there, PARTS) if VARIES_B else constant_B
                read = vector(C + vectors, n, there, PARTS) if VARIES_C else constant_C
                value = this_u[i].to(ACC)
                delta = deltas[i]
                a = decayed[i]
                g = scaled(PARTS * grads[i][None, :], read, PARTS)
                if PARTS == 2:
                    g = (g[0], -g[1])
                g = add(g, w, PARTS)
                w = conj_times(a, g, PARTS)
                if HAS_RESET:
                    fresh = is_fresh(reset, time, s + i, stop, HAS_RESET)
                    w = select(fresh, nothing, w, PARTS)
                q = conj_times(before[i], w, PARTS)
                ddelta = tl.sum(q[0] * dynamics[0], 0) * LN2
                if PARTS == 2:
                    ddelta += tl.sum(q[1] * dynamics[1], 0)
                slope_A = scaled(delta[None, :], q, PARTS)
                into_B = conj_times(drive, g, PARTS)
                if ZOH:
                    gain, bend = gains(delta, dynamics, inverted, a, PARTS)
                    dgain = scaled(value[None, :], into_B, PARTS)
                    ddelta += tl.sum(conj_times(a, dgain, PARTS)[0], 0)
                    slope_A = add(slope_A, conj_times(bend, dgain, PARTS), PARTS)
                    dvalue = tl.sum(conj_times(gain, into_B, PARTS)[0], 0)
                    g = scaled(value[None, :], conj_times(gain, g, PARTS), PARTS)
                else:
                    total = tl.sum(into_B[0], 0)
                    dvalue = delta * total
                    ddelta += value * total
                    g = scaled((delta * value)[None, :], g, PARTS)
                sum_A = add(sum_A, slope_A, PARTS)
                if NEED_B:
                    if VARIES_B and JOIN:
                        pieces += (g[0],)
                    elif VARIES_B:
                        real = _collected(part[0], g[0], i, MATRIX, PRECISION)
                        if PARTS == 2:
                            part = (real, _collected(part[1], g[1], i, MATRIX, PRECISION))
                        else:
                            part = (real, part[1])
                    else:
                        sum_B = add(sum_B, g, PARTS)
                sum_D += grads[i] * value
                if SOFTPLUS:
                    ddelta *= softplus_slope(this_dt[i].to(ACC) + shift)
                if not EVEN:
                    ddelta = tl.where(s + i < stop, ddelta, 0.0)
                sum_bias += ddelta
                values += ((dvalue + skip * grads[i]).to(OUT),)
                steps += (ddelta.to(OUT),)
            for i in tl.static_range(STEPS):
                inner = mask if EVEN else until(mask, s + i, stop)
                if HAS_Z:
                    tl.store(dz + at + i * step, gates[i], mask=inner)
                tl.store(du + at + i * step, values[STEPS - 1 - i], mask=inner)
                tl.store(ddt + at + i * step, steps[STEPS - 1 - i], mask=inner)
            if JOIN:
                both_B = _both(pieces[1], pieces[0], PRECISION)
                which = tl.arange(0, 2 * STATES)
                since = which // STATES
                moment = row - since if REVERSE else row + since
                to = ((slot * whole + moment) * groups + group) * N + which % STATES
                one = ((which % STATES < N) & (s + since < stop))[:, None] & (column == 0)[None, :]
                spot = to[:, None] + column[None, :]
                tl.store(dC + spot, both_C, mask=one)
                tl.store(dB + spot, both_B, mask=one)
            elif NEED_C and VARIES_C:
                store_tile(dC, into, part_C, shown, PARTS)
            if NEED_B and VARIES_B and not JOIN:
                store_tile(dB, into, part, shown, PARTS)
        tl.debug_barrier()

    sums = (b * segments + k) * N * channels * PARTS
    store_tile(dA + sums, offsets, sum_A, inside, PARTS)
    if NEED_B and not VARIES_B:
        store_tile(dB + sums, offsets, sum_B, inside, PARTS)
    if NEED_C and not VARIES_C:
        store_tile(dC + sums, offsets, sum_C, inside, PARTS)
    if HAS_D:
        tl.store(dD + (b * segments + k) * channels + d, sum_D, mask=mask)
    if HAS_BIAS:
        tl.store(dbias + (b * segments + k) * channels + d, sum_bias, mask=mask)
    if k == 0:
        store_tile(dh0 + b * N * channels * PARTS, offsets, w, inside, PARTS)
