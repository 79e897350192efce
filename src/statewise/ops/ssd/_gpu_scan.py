"""Triton kernels that walk over blocks of time and carry the state, or its adjoint.

One program owns a head, a tile of P and a segment of consecutive blocks. The state stays in
registers, transposed, (N, P), so that x and y cross memory once and no state does, but those
that are kept.
"""

# Triton's annotations would have flags be constexpr objects.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

from statewise.ops.ssd._gpu_common import (
    block_decay,
    broken,
    dot,
    guarded_dot,
    pair_decay,
    rows_of,
)


@triton.jit
def scan_kernel(
    v_ptr,
    log_a_ptr,
    w_ptr,
    in_ptr,
    out_ptr,
    d_ptr,
    z_ptr,
    reset_ptr,
    start_ptr,
    other_ptr,
    y_ptr,
    states_ptr,
    end_ptr,
    total_ptr,
    through_ptr,
    L,
    H,
    HEADS_PER_GROUP,
    BLOCKS,
    SEGMENTS,
    PER,
    KEPT,
    EVERY,
    v_batch,
    v_time,
    in_batch,
    in_time,
    out_batch,
    out_time,
    z_batch,
    z_time,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    PB: tl.constexpr,
    NB: tl.constexpr,
    HAS_W: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_START: tl.constexpr,
    FRESH: tl.constexpr,
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
    OUTPUT: tl.constexpr,
    STORE: tl.constexpr,
    SUMMARY: tl.constexpr,
    END: tl.constexpr,
    THROUGH: tl.constexpr,
    OPERAND: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    PRECISE: tl.constexpr,
):
    """The scan over the blocks of a segment, or its adjoint, from the state S it starts from.

    Inside a block, e_t = Π_{j≤t} a_j, f_s = Π_{j>s} a_j and E_ts = Π_{s<j≤t} a_j for t ≥ s
    without a reset between, else 0. Forward, v = x, in = B, out = C:

        y = (((C Bᵀ) ⊙ E) diag(w) x + diag(e) C Sᵀ + D x) ⊙ silu(z),
        S ← e_Q S + (diag(f w) x)ᵀ B.

    The adjoint is the same scan run backward, B and C exchanged: v = y̅, in = C, out = B and, with
    o̅ = y̅ ⊙ silu(z) and S the adjoint of the state after the block, what it writes to y is

        x̅ = diag(w) (((B Cᵀ) ⊙ Eᵀ) o̅ + diag(f) B Sᵀ) + D o̅,    S ← e_Q S + (diag(e) o̅)ᵀ C.

    A segment starts from start[b, segment, h] or from zero. ``OUTPUT`` writes y; ``STORE`` the S
    before its update of every block c that ``EVERY`` divides to states[b, c / EVERY, h];
    ``SUMMARY`` the S at the end of each segment to end[b, segment, h] and its total decay to
    total[b, segment, h]; ``END`` that of the segment that ends the scan to end[b, h]; ``THROUGH``
    what flows through each block, e_Q ⟨S, other[b, c, h]⟩, or 0 where a reset is, to
    through[b, c, h, tile]. ``FRESH``: the first step of the scan has no predecessor, and its
    log a is not read.
    """
    TILES: tl.constexpr = (P + PB - 1) // PB
    pid = tl.program_id(0)
    tile = pid % TILES
    h = (pid // TILES) % H
    segment = (pid // (TILES * H)) % SEGMENTS
    batch = (pid // (TILES * H * SEGMENTS)).to(tl.int64)
    i = tl.arange(0, Q)
    p = tile * PB + tl.arange(0, PB)
    n = tl.arange(0, NB)
    p_ok = p < P
    n_ok = n < N
    inside = p[None, :] * N + n[:, None]
    inside_ok = p_ok[None, :] & n_ok[:, None]
    causal = i[:, None] <= i[None, :] if ADJOINT else i[:, None] >= i[None, :]

    state = tl.zeros((NB, PB), ACC)
    if HAS_START:
        at = ((batch * SEGMENTS + segment) * H + h) * (P * N)
        state = tl.load(start_ptr + at + inside, mask=inside_ok, other=0.0).to(ACC)
    if OUTPUT and HAS_D:
        skip = tl.load(d_ptr + h * P + p, mask=p_ok, other=0.0).to(ACC)
    exponent = tl.zeros((), ACC)
    cut = tl.zeros((), tl.int32)

    v_ptr += batch * v_batch + h * P
    z_ptr += batch * z_batch + h * P
    y_ptr += h * P
    in_ptr += batch * in_batch + (h // HEADS_PER_GROUP) * N
    out_ptr += batch * out_batch + (h // HEADS_PER_GROUP) * N
    first = segment * PER
    count = tl.minimum(BLOCKS - first, PER)
    for k in range(count):
        block = first + count - 1 - k if ADJOINT else first + k
        t0, r, ok = rows_of(block, i, L, Q, REVERSE)
        row = batch * L + t0
        tile_ok = ok[:, None] & p_ok[None, :]
        wide_ok = ok[:, None] & n_ok[None, :]
        if STORE:  # noqa: SIM102 - one is decided when compiling, the other when running
            if block % EVERY == 0:
                at = ((batch * KEPT + block // EVERY) * H + h) * (P * N)
                kept = state.to(states_ptr.dtype.element_ty)
                tl.store(states_ptr + at + inside, kept, mask=inside_ok)
        in_at = in_ptr + t0 * in_time + (r * in_time)[:, None] + n[None, :]
        b = tl.load(in_at, mask=wide_ok, other=0.0).to(OPERAND)
        v_at = v_ptr + t0 * v_time + (r * v_time)[:, None] + p[None, :]
        v = tl.load(v_at, mask=tile_ok, other=0.0).to(ACC)

        has_decay = ok
        seg = i
        reset = i
        resets = tl.zeros((), tl.int32)
        allowed = causal
        if FRESH:
            has_decay = has_decay & (block * Q + i > 0)
        if HAS_RESET:
            reset = (tl.load(reset_ptr + row + r, mask=ok, other=0) != 0).to(tl.int32)
            seg = tl.cumsum(reset, 0)
            resets = tl.sum(reset, 0)
            has_decay = has_decay & (reset == 0)
            allowed = causal & (seg[:, None] == seg[None, :])
        l = tl.load(log_a_ptr + row * H + h + r * H, mask=has_decay, other=0.0)
        sick = broken(l)
        cum, rest, tail, total = block_decay(l, reset, seg == resets, ACC, PRECISE, HAS_RESET)
        if ADJOINT:
            weight = tl.exp2(cum)
            reach = tl.exp2(tail)
            enters = seg == 0
            leaves = seg == resets
        else:
            weight = tl.exp2(tail)
            reach = tl.exp2(cum)
            enters = seg == resets
            leaves = seg == 0
        if HAS_W:
            w = tl.load(w_ptr + row * H + h + r * H, mask=ok, other=0.0).to(ACC)
        else:
            # Not the constant 1: a load that the matrix units take as it is, and registers
            # too, is not prefetched by Triton's pipeliner.
            w = tl.where(ok, 1.0, 0.0).to(ACC)
        if HAS_Z:
            z_at = z_ptr + t0 * z_time + (r * z_time)[:, None] + p[None, :]
            z = tl.load(z_at, mask=tile_ok, other=0.0).to(ACC)
            gate = z / (1.0 + tl.exp(-z))
        if ADJOINT:
            if HAS_Z:
                v *= gate
            u = v * tl.where(ok, 1.0, 0.0)[:, None]
        else:
            u = v * w[:, None]

        narrow = state.to(OPERAND)
        if THROUGH:
            # ⟨S, other⟩ is the trace of a product: the matrix units need neither in registers.
            at = ((batch * BLOCKS + block) * H + h) * (P * N)
            other_at = other_ptr + at + p[:, None] * N + n[None, :]
            other = tl.load(other_at, mask=p_ok[:, None] & n_ok[None, :], other=0.0).to(OPERAND)
            inner = dot(other, narrow, tl.zeros((PB, PB), ACC), PRECISION)
            diagonal = tl.arange(0, PB)[:, None] == tl.arange(0, PB)[None, :]
            inner = tl.where(diagonal, inner, 0.0)
            flows = tl.where(resets > 0, 0.0, tl.sum(tl.sum(inner, 1), 0) * tl.exp2(total))
            tl.store(through_ptr + ((batch * BLOCKS + block) * H + h) * TILES + tile, flows)
        if OUTPUT:
            out_at = out_ptr + t0 * out_time + (r * out_time)[:, None] + n[None, :]
            c = tl.load(out_at, mask=wide_ok, other=0.0).to(OPERAND)
            mixed = dot(c, tl.trans(b), tl.zeros((Q, Q), ACC), PRECISION)
            mixed = mixed * pair_decay(cum, rest, allowed, not ADJOINT, PRECISE)
            y = dot(c, narrow, tl.zeros((Q, PB), ACC), PRECISION) * reach[:, None]
            if HAS_RESET:
                # What lies beyond a reset is left out, not multiplied by zero: it may be NaN.
                mixed = tl.where(allowed, mixed, 0.0)
                y = tl.where(leaves[:, None], y, 0.0)
            mixed = mixed.to(OPERAND)
            uo = u.to(OPERAND)
            y = guarded_dot(mixed, uo, allowed, sick, y, PRECISION, OPERAND, HAS_RESET)
            if ADJOINT and HAS_W:
                y = y * w[:, None]
            if HAS_D:
                y += skip[None, :] * v
            if HAS_Z and not ADJOINT:
                y *= gate
            y_at = y_ptr + row * (H * P) + (r * (H * P))[:, None] + p[None, :]
            tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=tile_ok)

        scaled = u * weight[:, None]
        if HAS_RESET:
            scaled = tl.where(enters[:, None], scaled, 0.0)
            b = tl.where(enters[:, None], b.to(ACC), 0.0).to(OPERAND)
            lost = tl.max((enters & sick).to(tl.int32), 0)
            state = tl.where(resets > 0, 0.0, tl.exp2(total) * state)
            state = dot(tl.trans(b), scaled.to(OPERAND), state, PRECISION)
            state = tl.where(lost > 0, float("nan"), state)
            cut += resets
        else:
            state = dot(tl.trans(b), scaled.to(OPERAND), tl.exp2(total) * state, PRECISION)
        exponent += total
    if SUMMARY:
        at = (batch * SEGMENTS + segment) * H + h
        tl.store(end_ptr + at * (P * N) + inside, state, mask=inside_ok)
        tl.store(total_ptr + at, tl.where(cut > 0, 0.0, tl.exp2(exponent)))
    if END:
        final = 0 if ADJOINT else SEGMENTS - 1
        if segment == final:
            tl.store(end_ptr + (batch * H + h) * (P * N) + inside, state, mask=inside_ok)


@triton.jit
def chain_kernel(
    ends_ptr,
    total_ptr,
    start_ptr,
    H,
    SEGMENTS,
    SIZE,
    WIDTH: tl.constexpr,
    HAS_START: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """Replace the end of each segment, reached from zero, by the state that it starts from.

    With d the total decay of a segment: start of the next = d · start + end, from start[b, h] or
    zero; from the last segment to the first where ``ADJOINT``. A decay of exactly 0 stops NaN.
    """
    batch = tl.program_id(1).to(tl.int64) // H
    h = tl.program_id(1) % H
    at = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    ok = at < SIZE
    state = tl.zeros((WIDTH,), ends_ptr.dtype.element_ty)
    if HAS_START:
        state = tl.load(start_ptr + (batch * H + h) * SIZE + at, mask=ok, other=0.0)
    for k in range(SEGMENTS):
        segment = SEGMENTS - 1 - k if ADJOINT else k
        index = (batch * SEGMENTS + segment) * H + h
        place = ends_ptr + index * SIZE + at
        end = tl.load(place, mask=ok, other=0.0)
        decay = tl.load(total_ptr + index)
        tl.store(place, state, mask=ok)
        state = tl.where(decay == 0.0, end, decay * state + end)
