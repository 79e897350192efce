"""Triton kernels of the forward pass: summaries of segments, and the scan itself.

A program of one warp owns a block of channels of one sequence and walks a segment of its time
with the states in registers. Rows of the next ``STEPS`` steps are in flight meanwhile, and B and C
of the next step. The compiler moves no load over a store, so a tile's outputs are stored last.
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
from statewise.ops.selective_scan._gpu_math import (
    add,
    conj_times,
    decay,
    device,
    inflow,
    inverse,
    read_out,
    scaled,
    select,
    sigmoid,
    softplus,
    times,
    zeros,
)

SIZES = (
    "length", "channels", "per_group", "groups", "batch", "first", "segments", "segment", "kept",
)  # fmt: skip
"""Arguments whose values a kernel is not compiled anew for."""


@triton.jit(do_not_specialize=SIZES)
def summary_kernel(
    dt, x, z, A, V, bias, reset, ends, decays, cuts,
    length, channels, per_group, groups, first, segments, segment, N: tl.constexpr,
    STATES: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr,
    ADJOINT: tl.constexpr, ZOH: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    VARIES: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESET: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """What a segment of steps does to the state: ``ends`` of a zero state, and ``decays``.

    In the adjoint, the recurrence runs from the segment's last step to its first, on
    w ← conj(e^{ΔA}) (w + C dy'), where dy' = x silu'(z); ``x`` is then the gradient of y, else u,
    and ``V`` is C, else B. Segments ``first``, ``first`` + 1, ... have a program each; ``cuts``
    says where a reset lies in the segment.
    """
    ACC: tl.constexpr = A.dtype.element_ty
    rest, group, _, d, mask = place(per_group, groups, BLOCK)
    count = segments - 1
    k = first + rest % count
    b = tl.cast(rest // count, tl.int64)
    n = tl.arange(0, STATES)
    held = n < N
    offsets = n[:, None] * channels + d[None, :]
    inside = held[:, None] & mask[None, :]
    start = k * segment
    stop = tl.minimum(start + segment, length)

    dynamics = load_tile(A, offsets, inside, PARTS)
    inverted = inverse(dynamics, PARTS) if ZOH else dynamics
    shift = tl.load(bias + d, mask=mask, other=0.0) if HAS_BIAS else 0.0
    if not VARIES:
        v = load_tile(V, offsets, inside, PARTS)
    end = zeros(STATES, BLOCK, ACC, PARTS)
    if PARTS == 2:
        product = (end[0] + 1.0, end[1])
    total = tl.full((BLOCK,), 0, ACC)
    cut = k < 0

    tiles = tl.cdiv(stop - start, STEPS)
    # Steps counted in the order of this walk: the adjoint of a scan walks the other way.
    BACK: tl.constexpr = REVERSE != ADJOINT
    origin = length - stop if ADJOINT else start
    limit = length - start if ADJOINT else stop
    row = b * length + time_of(origin, length, BACK)
    step = -channels if BACK else channels
    at = row * channels + d
    next_dt = rows(dt + at, channels, origin, limit, mask, STEPS, EVEN, BACK)
    next_x = rows(x + at, channels, origin, limit, mask, STEPS, EVEN, BACK)
    if HAS_Z:
        next_z = rows(z + at, channels, origin, limit, mask, STEPS, EVEN, BACK)
    for tile in range(tiles):
        s = origin + tile * STEPS
        row = b * length + time_of(s, length, BACK)
        this_dt = next_dt
        this_x = next_x
        at += STEPS * step
        next_dt = rows(dt + at, channels, s + STEPS, limit, mask, STEPS, EVEN, BACK)
        next_x = rows(x + at, channels, s + STEPS, limit, mask, STEPS, EVEN, BACK)
        if HAS_Z:
            this_z = next_z
            next_z = rows(z + at, channels, s + STEPS, limit, mask, STEPS, EVEN, BACK)
        for i in tl.static_range(STEPS):
            time = row - i if BACK else row + i
            if VARIES:
                there = held if EVEN else until(held, s + i, limit)
                v = vector(V + (time * groups + group) * (N * PARTS), n, there, PARTS)
            delta = this_dt[i].to(ACC) + shift
            if SOFTPLUS:
                delta = softplus(delta)
            if not EVEN:
                delta = tl.where(s + i < limit, delta, 0.0)
            total += delta
            a = decay(delta, dynamics, PARTS)
            value = this_x[i].to(ACC)
            fresh = is_fresh(reset, time, s + i, limit, HAS_RESET)
            if HAS_RESET:
                cut = cut | fresh
            if ADJOINT:
                if HAS_Z:
                    gate = this_z[i].to(ACC)
                    value = value * gate * sigmoid(gate)
                read = scaled(PARTS * value[None, :], v, PARTS)
                if PARTS == 2:
                    read = (read[0], -read[1])
                end = conj_times(a, add(end, read, PARTS), PARTS)
                if HAS_RESET:
                    end = select(fresh, zeros(STATES, BLOCK, ACC, PARTS), end, PARTS)
            else:
                if HAS_RESET:
                    end = select(fresh, zeros(STATES, BLOCK, ACC, PARTS), end, PARTS)
                drive = inflow(delta, value, dynamics, inverted, a, v, ZOH, PARTS)
                end = add(times(a, end, PARTS), drive, PARTS)
            if PARTS == 2:
                product = times(product, a, PARTS)
    place_of = (b * segments + k) * N * channels * PARTS
    store_tile(ends + place_of, offsets, end, inside, PARTS)
    if PARTS == 1:
        # One exponential a segment, where the product would cost a multiplication a step.
        product = decay(total, dynamics, PARTS)
    elif ADJOINT:
        product = (product[0], -product[1])
    store_tile(decays + place_of, offsets, product, inside, PARTS)
    if HAS_RESET:
        tl.store(cuts + b * segments + k, tl.cast(cut, tl.int8))


@device
def carried(
    state, ends, decays, cuts, b, k, segments, channels, offsets, inside, N: tl.constexpr,
    PARTS: tl.constexpr, HAS_RESET: tl.constexpr,
):  # fmt: skip
    """The state carried over segment k, from the segment's summary."""
    at = (b * segments + k) * N * channels * PARTS
    end = load_tile(ends + at, offsets, inside, PARTS)
    moved = add(times(load_tile(decays + at, offsets, inside, PARTS), state, PARTS), end, PARTS)
    if HAS_RESET:
        moved = select(tl.load(cuts + b * segments + k) != 0, end, moved, PARTS)
    return moved


@triton.jit(do_not_specialize=SIZES)
def scan_kernel(
    u, dt, z, A, B, C, D, bias, h0, reset, ends, decays, cuts, y, last, states,
    length, channels, per_group, groups, segments, segment, kept, N: tl.constexpr,
    STATES: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
    PARTS: tl.constexpr, ZOH: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    VARIES_B: tl.constexpr, VARIES_C: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_H0: tl.constexpr, HAS_RESET: tl.constexpr, SPLIT: tl.constexpr,
    KEEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Y over one segment, the state before each chunk of it, and the last state (B, N, D)."""
    ACC: tl.constexpr = A.dtype.element_ty
    rest, group, _, d, mask = place(per_group, groups, BLOCK)
    k = rest % segments
    b = tl.cast(rest // segments, tl.int64)
    n = tl.arange(0, STATES)
    held = n < N
    offsets = n[:, None] * channels + d[None, :]
    inside = held[:, None] & mask[None, :]
    start = k * segment
    stop = tl.minimum(start + segment, length)

    dynamics = load_tile(A, offsets, inside, PARTS)
    inverted = inverse(dynamics, PARTS) if ZOH else dynamics
    shift = tl.load(bias + d, mask=mask, other=0.0) if HAS_BIAS else 0.0
    if HAS_D:
        skip = tl.load(D + d, mask=mask, other=0.0)
    if not VARIES_B:
        drive = load_tile(B, offsets, inside, PARTS)
    if not VARIES_C:
        read = load_tile(C, offsets, inside, PARTS)
    if HAS_H0:
        h = load_tile(h0 + b * N * channels * PARTS, offsets, inside, PARTS)
    else:
        h = zeros(STATES, BLOCK, ACC, PARTS)
    if SPLIT:
        for before in range(k):
            h = carried(
                h, ends, decays, cuts, b, before, segments, channels, offsets, inside, N, PARTS,
                HAS_RESET,
            )  # fmt: skip

    step = -channels if REVERSE else channels
    at = (b * length + time_of(start, length, REVERSE)) * channels + d
    next_u = rows(u + at, channels, start, stop, mask, STEPS, EVEN, REVERSE)
    next_dt = rows(dt + at, channels, start, stop, mask, STEPS, EVEN, REVERSE)
    if HAS_Z:
        next_z = rows(z + at, channels, start, stop, mask, STEPS, EVEN, REVERSE)
    where = ((b * length + time_of(start, length, REVERSE)) * groups + group) * (N * PARTS)
    if VARIES_B:
        next_drive = vector(B + where, n, held, PARTS)
    if VARIES_C:
        next_read = vector(C + where, n, held, PARTS)
    for tile in range(tl.cdiv(stop - start, STEPS)):
        s = start + tile * STEPS
        row = b * length + time_of(s, length, REVERSE)
        out = y + at
        this_u = next_u
        this_dt = next_dt
        at += STEPS * step
        next_u = rows(u + at, channels, s + STEPS, stop, mask, STEPS, EVEN, REVERSE)
        next_dt = rows(dt + at, channels, s + STEPS, stop, mask, STEPS, EVEN, REVERSE)
        if HAS_Z:
            this_z = next_z
            next_z = rows(z + at, channels, s + STEPS, stop, mask, STEPS, EVEN, REVERSE)
        if KEEP:  # noqa: SIM102 - one is decided when compiling, the other when running
            if s % CHUNK == 0:
                chunk = (b * kept + s // CHUNK) * N * channels * PARTS
                store_tile(states + chunk, offsets, h, inside, PARTS)
        outputs = ()
        for i in tl.static_range(STEPS):
            time = row - i if REVERSE else row + i
            later = time - 1 if REVERSE else time + 1
            where = (later * groups + group) * (N * PARTS)
            there = until(held, s + i + 1, stop) if not EVEN or i == STEPS - 1 else held
            if VARIES_B:
                drive = next_drive
                next_drive = vector(B + where, n, there, PARTS)
            if VARIES_C:
                read = next_read
                next_read = vector(C + where, n, there, PARTS)
            value = this_u[i].to(ACC)
            delta = this_dt[i].to(ACC) + shift
            if SOFTPLUS:
                delta = softplus(delta)
            if not EVEN:
                delta = tl.where(s + i < stop, delta, 0.0)
            a = decay(delta, dynamics, PARTS)
            if HAS_RESET:
                fresh = is_fresh(reset, time, s + i, stop, HAS_RESET)
                h = select(fresh, zeros(STATES, BLOCK, ACC, PARTS), h, PARTS)
            flow = inflow(delta, value, dynamics, inverted, a, drive, ZOH, PARTS)
            h = add(times(a, h, PARTS), flow, PARTS)
            found = read_out(read, h, PARTS)
            if HAS_D:
                found += skip * value
            if HAS_Z:
                gate = this_z[i].to(ACC)
                found = found * gate * sigmoid(gate)
            outputs += (found.to(y.dtype.element_ty),)
        for i in tl.static_range(STEPS):
            inner = mask if EVEN else until(mask, s + i, stop)
            tl.store(out + i * step, outputs[i], mask=inner)
    if k == segments - 1:
        store_tile(last + b * N * channels * PARTS, offsets, h, inside, PARTS)
